"""The median of a few repeats: exact whatever the distribution, and honest about repeats that never got there."""

from statistics import median

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from expunge.errors import BadInput
from expunge.measure.medians import ended_at, fewest, median_interval

CONFIDENCES = [0.5, 0.8, 0.9, 0.95, 0.99]


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_it_covers_at_every_number_of_repeats_and_the_next_pair_inwards_would_not(confidence):
    for repeats in range(fewest(confidence), 300):
        interval = median_interval(np.arange(1, repeats + 1), confidence).interval
        low, high = int(interval.lower), int(interval.upper)
        assert low + high == repeats + 1
        # The true median lies between the two ranks if at least `low` and fewer than `high` values are below it.
        assert binom.cdf(high - 1, repeats, 0.5) - binom.cdf(low - 1, repeats, 0.5) >= confidence - 1e-12
        narrower = binom.cdf(high - 2, repeats, 0.5) - binom.cdf(low, repeats, 0.5)
        assert narrower < confidence


@pytest.mark.parametrize(("confidence", "repeats"), [(0.5, 2), (0.9, 5), (0.95, 6), (0.99, 8)])
def test_too_few_repeats_are_refused_and_the_number_is_named(confidence, repeats):
    assert fewest(confidence) == repeats
    assert 1 - 2 * 0.5**repeats >= confidence > 1 - 2 * 0.5 ** (repeats - 1)
    with pytest.raises(BadInput, match=f"needs {repeats}$"):
        median_interval(np.arange(repeats - 1), confidence)


@given(st.lists(st.integers(0, 50), min_size=6, max_size=60))
@settings(max_examples=100, deadline=None)
def test_the_value_is_the_sample_median_and_lies_in_its_interval(values):
    found = median_interval(values)
    assert found.value == median(values)
    assert min(values) <= found.interval.lower <= found.value <= found.interval.upper <= max(values)
    assert (found.n, ended_at(found.interval)) == (len(values), None)


def test_repeats_that_never_got_there_need_not_be_noticed():
    values = [3.0, 1, 4, 1, 5, 9, 2, 6, 5]
    late = [np.inf if value == 9 else value for value in values]
    assert median_interval(late) == median_interval(values) == median_interval(late, budget=20)


@given(st.lists(st.integers(1, 40), min_size=6, max_size=30), st.integers(2, 39), st.integers(1, 39))
@settings(max_examples=200, deadline=None)
def test_below_the_budget_a_cut_off_interval_decides_as_the_whole_one_does(values, budget, limit):
    assume(limit < budget)
    whole = median_interval(values)
    cut = median_interval([value if value <= budget else np.inf for value in values], budget=budget)
    for name in ("lower", "upper"):
        assert (getattr(cut.interval, name) <= limit) == (getattr(whole.interval, name) <= limit)
    assert (cut.value <= limit) == (whole.value <= limit)
    assert ended_at(cut.interval) == (budget if whole.interval.upper > budget else None)
    assert cut.interval.lower <= cut.value <= cut.interval.upper <= max(budget, whole.interval.upper)


def test_an_interval_that_was_cut_off_says_so():
    found = median_interval([np.inf] * 5 + [80.0], budget=100)
    assert (found.value, found.interval.lower, found.interval.upper) == (100, 80, 100)
    assert found.interval.method.endswith("at least: repeats ended at 100")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, 2, 3, 4, 5, np.nan], "NaN"),
        ([1, 2, 3, 4, 5, -np.inf], "-inf"),
        ([[1, 2, 3, 4, 5, 6]], "array"),
        ([], "0 repeats"),
        ([7], "1 repeats"),
        ([1, 2, 3, 4, 5, np.inf], "budget"),
    ],
)
def test_repeats_without_a_median_are_refused(values, said):
    with pytest.raises(BadInput, match=said):
        median_interval(values)


def test_a_confidence_in_percent_is_refused():
    with pytest.raises(BadInput, match="confidence"):
        median_interval(range(9), 95)
