"""The AUC: scikit-learn's number, and an interval that also covers where ranks hardly overlap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, norm, rankdata, t
from sklearn.metrics import roc_auc_score

from expunge.errors import BadInput
from expunge.measure.ranks import _ranks, auc

SCORES = st.lists(st.integers(-4, 4), min_size=2, max_size=30)


@given(SCORES, SCORES)
@settings(max_examples=100, deadline=None)
def test_the_value_is_scikit_learns_and_lies_in_its_interval(members, others):
    found = auc(members, others)
    assert found.value == pytest.approx(roc_auc_score([1] * len(members) + [0] * len(others), members + others))
    assert 0 <= found.interval.lower <= found.value <= found.interval.upper <= 1
    assert found.interval.lower < found.interval.upper
    assert found.n == min(len(members), len(others))


@given(SCORES, SCORES)
@settings(max_examples=50, deadline=None)
def test_only_the_order_counts_and_swapping_the_groups_mirrors_it(members, others):
    found, swapped = auc(members, others), auc(others, members)
    stretched = auc(np.exp(np.array(members, float)), np.exp(np.array(others, float)))
    assert stretched == found
    assert (swapped.value, swapped.interval.lower, swapped.interval.upper) == pytest.approx(
        (1 - found.value, 1 - found.interval.upper, 1 - found.interval.lower))


@given(st.lists(st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.1, 1e300, np.inf]) | st.floats(allow_nan=False), max_size=60))
def test_ranks_are_scipys_to_the_bit(values):
    values = np.array(values)
    assert (_ranks(values) == rankdata(values)).all()


def test_an_infinite_score_is_only_the_last_in_order():
    assert auc([3.0, np.inf], [-np.inf, 1.0]) == auc([3.0, 4.0], [0.0, 1.0])


def test_groups_that_do_not_overlap_are_still_uncertain():
    few, many = (auc(np.arange(n) + n, np.arange(n)).interval for n in (5, 100))
    assert few.upper == many.upper == 1
    assert few.lower < 0.6 < 0.95 < many.lower


@pytest.mark.parametrize(("m", "k"), [(5, 3), (4, 200), (30, 20)])
def test_the_interval_is_what_a_table_of_all_pairs_gives(m, k):
    rng = np.random.default_rng(m)
    members, others = rng.integers(0, 9, m) + 1.0, rng.integers(0, 9, k) + 0.0

    def table(x, y):
        return (x[:, None] > y[None, :]) + (x[:, None] == y[None, :]) / 2

    ends = [-1e9, 1e9]
    padded = table(np.append(members, ends), np.append(others, ends))
    one, two = padded.mean(1).var(ddof=1) / (m + 2), padded.mean(0).var(ddof=1) / (k + 2)
    freedom = (one + two) ** 2 / (one**2 / (m + 1) + two**2 / (k + 1))
    size = padded.mean() * (1 - padded.mean()) / (one + two) * (norm.ppf(0.95) / t.ppf(0.95, freedom)) ** 2
    size, share = max(size, 1), table(members, others).mean()
    assert 0 < share < 1
    found = auc(members, others, 0.9).interval
    assert found.lower == pytest.approx(beta.ppf(0.05, share * size, size - share * size + 1))
    assert found.upper == pytest.approx(beta.ppf(0.95, share * size + 1, size - share * size))


def test_on_many_scores_it_is_as_wide_as_delongs():
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 2_000), rng.normal(0, 1, 1_000)
    found = auc(members, others)
    above = (members[:, None] > others[None, :]).astype(float)  # DeLong's variance, from the whole table
    error = np.sqrt(above.mean(1).var(ddof=1) / 2_000 + above.mean(0).var(ddof=1) / 1_000)
    assert found.interval.upper - found.interval.lower == pytest.approx(2 * norm.ppf(0.975) * error, rel=0.02)


@pytest.mark.parametrize("true", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("wide", [0.2, 1, 5])
@pytest.mark.parametrize(("m", "k"), [(5, 5), (10, 100), (50, 50)])
def test_it_covers_normal_scores_of_any_width_and_any_overlap(true, wide, m, k):
    rng, runs = np.random.default_rng([m, k]), 150
    shift = norm.ppf(true) * np.sqrt(1 + wide**2)
    found = [auc(rng.normal(shift, wide, m), rng.normal(0, 1, k), 0.9).interval for _ in range(runs)]
    covered = np.mean([interval.lower <= true <= interval.upper for interval in found])
    assert covered >= 0.9 - 3 * np.sqrt(0.09 / runs)


@pytest.mark.parametrize("memorised", [0.05, 0.5, 0.95])
def test_it_covers_where_only_some_members_stand_out(memorised):
    rng, runs, true = np.random.default_rng(2), 300, 0.5 + memorised / 2
    covered = 0
    for _ in range(runs):
        members = rng.normal(size=40) + 100 * (rng.random(40) < memorised)
        interval = auc(members, rng.normal(size=40), 0.9).interval
        covered += interval.lower <= true <= interval.upper
    assert covered / runs >= 0.9 - 3 * np.sqrt(0.09 / runs)


@pytest.mark.parametrize(
    ("members", "others", "said"),
    [
        ([1.0, np.nan], [0.0, 1.0], "members: 1 of 2 scores are NaN"),
        ([1.0, 2.0], [np.nan, np.nan], "others: 2 of 2"),
        ([1.0], [0.0, 1.0], "members"),
        ([], [0.0, 1.0], "members"),
        ([[1.0, 2.0]], [0.0, 1.0], "members"),
        ([1.0, 2.0], [0.0], "others"),
    ],
)
def test_scores_that_say_nothing_are_refused(members, others, said):
    with pytest.raises(BadInput, match=said):
        auc(members, others)


def test_a_confidence_in_percent_is_refused():
    with pytest.raises(BadInput, match="confidence"):
        auc([1, 2], [0, 1], 95)
