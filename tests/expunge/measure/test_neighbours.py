import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from expunge.contracts import Measurement, Rule
from expunge.errors import BadInput
from expunge.measure.neighbours import K, neighbours
from expunge.measure.policy import judge_rule

NAMES = ("precision", "recall", "density", "coverage")


def cloud(n, d, seed, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + shift


def by_loops(x, y, k):
    """The four numbers as the papers write them."""

    def far(a, b):
        return np.array([[np.sqrt(((u - v) ** 2).sum()) for v in b] for u in a])

    x_radius, y_radius = (np.sort(far(z, z), axis=1)[:, k] for z in (x, y))
    apart = far(x, y)
    in_real, in_generated = apart <= y_radius[None, :], apart <= x_radius[:, None]
    return {
        "precision": in_real.any(axis=1).mean(), "recall": in_generated.any(axis=0).mean(),
        "density": in_real.sum() / (k * len(x)), "coverage": in_real.any(axis=0).mean(),
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(7, 40), st.integers(7, 40), st.integers(1, 6), st.floats(-2, 2), st.integers(0, 10**6))
def test_the_four_agree_with_plain_loops(n, m, d, shift, seed):
    x, y = cloud(n, d, [seed, 1], shift), cloud(m, d, [seed, 2])
    found, expected = neighbours(x, y), by_loops(x, y, K)
    for name in NAMES:
        assert getattr(found, name).value == pytest.approx(expected[name], abs=1e-12), name


def test_samples_at_exactly_the_radius_are_inside():
    grid = np.arange(12.0)[:, None] + 1e6
    found = neighbours(grid, grid, k=2)
    assert (found.precision.value, found.recall.value, found.coverage.value) == (1, 1, 1)
    assert found.density.value == pytest.approx(3 / 2)  # every ball holds its centre and two neighbours


@pytest.mark.parametrize("far", [0.0, 1e5])
def test_a_set_beside_itself_is_all_ties_and_every_one_counts(far):
    same = cloud(300, 12, 5) + far
    same[0] += 1e7  # an outlier, beside which the others' distances are lost in rounding
    found = neighbours(same, same)
    assert found.density.value == pytest.approx((K + 1) / K, abs=1e-12)
    assert found.precision.value == found.recall.value == found.coverage.value == 1


def test_what_collapsed_onto_one_image_is_precise_and_covers_next_to_nothing():
    real = cloud(200, 6, 1)
    found = neighbours(np.tile(real[:1], (300, 1)), real)
    assert found.precision.value == 1
    assert found.recall.value <= 0.01
    assert found.coverage.value < 0.1
    assert found.density.interval.lower < found.density.value < found.density.interval.upper


def test_noise_far_away_is_neither_precise_nor_dense_and_the_intervals_say_how_surely():
    found = neighbours(cloud(300, 6, 1, shift=50), cloud(200, 6, 2))
    assert [getattr(found, name).value for name in NAMES] == [0, 0, 0, 0]
    assert found.precision.interval.upper == pytest.approx(binomtest(0, 300).proportion_ci(0.95).high)
    assert found.recall.interval.upper == pytest.approx(binomtest(0, 200).proportion_ci(0.95).high)
    assert found.density.interval.upper > 0
    assert found.coverage.interval.upper > 0


def test_five_neighbours_cover_as_much_as_the_paper_expects():
    values = [neighbours(cloud(150, 3, [1, s]), cloud(150, 3, [2, s])).coverage.value for s in range(60)]
    assert np.mean(values) == pytest.approx(1 - 2**-5, abs=3 * np.std(values) / np.sqrt(60))


def test_beyond_the_limit_a_part_is_used_and_the_result_says_so():
    x, y = cloud(400, 3, 1), cloud(90, 3, 2)
    found = neighbours(x, y, most=100)
    assert (found.generated_used, found.generated, found.reals_used, found.reals) == (100, 400, 90, 90)
    assert found.precision.n == 100
    assert "100 of 400 generated samples" in found.coverage.interval.method
    assert "real images" not in found.coverage.interval.method.partition(";")[2]
    assert found == neighbours(x, y, most=100)
    assert "of" not in neighbours(x, y).precision.interval.method.split()


def test_a_rule_on_precision_is_decided_by_its_exact_counts():
    found = neighbours(cloud(300, 3, 1, shift=0.5), cloud(200, 3, 2)).precision
    measured = Measurement(name="precision", estimate=found.value, interval=found.interval, n=found.n)
    rule = Rule(metric="precision", side="at least", limit=0.1, confidence=0.9, one_sided=True, reason="test")
    assert judge_rule(rule, (measured,)).outcome == "PASS"


@pytest.mark.parametrize(("n", "m", "d", "shift", "scale"), [
    (120, 80, 3, 0.0, 1.0), (120, 80, 3, 1.0, 0.5), (60, 90, 8, 0.5, 1.0), (300, 60, 2, 0.0, 0.4),
])
def test_the_intervals_cover_given_the_other_set(n, m, d, shift, scale):
    runs, confidence = 250, 0.9
    real, generated = cloud(m, d, 1), cloud(n, d, 2, shift, scale)
    fresh = [neighbours(cloud(n, d, [3, s], shift, scale), real, confidence=confidence) for s in range(runs)]
    beside = [neighbours(generated, cloud(m, d, [4, s]), confidence=confidence) for s in range(runs)]
    for name in NAMES:
        found = [getattr(each, name) for each in (beside if name == "recall" else fresh)]
        truth = np.mean([each.value for each in found])
        covered = np.mean([each.interval.lower <= truth <= each.interval.upper for each in found])
        assert covered >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / runs), name


@pytest.mark.parametrize("call", [
    lambda x: neighbours(x[:5], x),
    lambda x: neighbours(x, x[:5]),
    lambda x: neighbours(x, x[:, :2]),
    lambda x: neighbours(x, np.full((9, 4), np.nan)),
    lambda x: neighbours(x, x, k=0),
])
def test_what_has_no_neighbours_is_refused(call):
    with pytest.raises(BadInput):
        call(cloud(20, 4, 1))
