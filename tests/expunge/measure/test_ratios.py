import numpy as np
import pytest

from expunge.errors import BadInput
from expunge.measure.ratios import fieller, relative_change


def test_bounds_are_where_the_difference_is_just_significant():
    covariance = np.array([[0.04, 0.01], [0.01, 0.02]])
    for bound in fieller(3.0, 2.0, covariance, 1.96):
        line = np.array([1.0, -bound])
        assert abs(3.0 - bound * 2.0) == pytest.approx(1.96 * np.sqrt(line @ covariance @ line))


def test_a_known_lower_number_gives_the_plain_interval():
    assert fieller(3.0, 2.0, np.array([[0.04, 0.0], [0.0, 0.0]]), 2.0) == pytest.approx((1.3, 1.7))


@pytest.mark.parametrize("bottom", [0.1, 0.0, -1.0])
def test_a_ratio_to_what_may_be_zero_is_refused(bottom):
    with pytest.raises(BadInput, match="cannot be told from zero"):
        fieller(3.0, bottom, np.eye(2), 1.96)


def test_the_change_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1_000):
        before = rng.gamma(20, 0.2, 60)
        found = relative_change(before, before * 1.02 + 0.05 * rng.standard_normal(60))
        hits += found.interval.lower <= 0.02 <= found.interval.upper
    assert 0.93 <= hits / 1_000 <= 0.97


def test_what_did_not_change_changed_by_nothing():
    values = np.linspace(1, 2, 9)
    found = relative_change(values, values)
    assert found.value == 0
    assert (found.interval.lower, found.interval.upper) == pytest.approx((0, 0), abs=1e-12)


@pytest.mark.parametrize(("before", "after"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]),
                                               ([1.0, -1.0], [1.0, 2.0])])
def test_what_has_no_ratio_is_refused(before, after):
    with pytest.raises(BadInput):
        relative_change(before, after)
