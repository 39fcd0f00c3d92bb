"""Means of one number per image."""

import numpy as np
import pytest
from scipy import stats

from expunge.errors import BadInput
from expunge.measure.means import mean_of


def test_the_interval_is_students_t():
    values = np.random.default_rng(0).gamma(2, 0.1, 60)
    found = mean_of(values, 0.9)
    low, high = stats.t.interval(0.9, 59, values.mean(), stats.sem(values))
    assert (found.value, found.n) == (pytest.approx(values.mean()), 60)
    assert (found.interval.lower, found.interval.upper) == pytest.approx((low, high))


@pytest.mark.parametrize("values", [[1.0], [1.0, np.nan], [1.0, np.inf], [[1.0, 2.0]], []])
def test_what_has_no_mean_with_an_interval_is_refused(values):
    with pytest.raises(BadInput, match="holdout"):
        mean_of(values)
