import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from expunge.errors import BadInput
from expunge.measure.proportions import (
    PairedCounts,
    decides,
    exact_bounds,
    paired_ratio,
    pul,
    rate,
    samples_to_decide,
    sides_of,
)
from expunge.measure.sequential import SEQUENCE, decided_at, sequence_bounds
from expunge.measure.shares import kept_shares

COUNTS = st.integers(1, 3_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def ever_excluded(true: float, most: int, confidence: float, sides: str) -> float:
    """P(some interval among the first `most` excludes the true rate), by forward recursion over (n, hits).

    The bounds are asked for, one count after the other, where the walk can be; how they are made is not used.
    """
    alive, lost = np.ones(1), 0.0  # alive[h]: nothing excluded so far, h hits
    low, high = 0, 0  # hits outside of [low, high] exclude the truth
    for n in range(1, most + 1):
        alive = np.append(alive, 0.0) * (1 - true) + np.append(0.0, alive) * true
        high = min(high + 1, n)
        while low <= n and sequence_bounds(low, n, confidence, sides)[1] < true:
            low += 1
        while high >= 0 and sequence_bounds(high, n, confidence, sides)[0] > true:
            high -= 1
        lost += alive[:low].sum() + alive[high + 1 :].sum()
        alive[:low] = alive[high + 1 :] = 0.0
    return lost


@pytest.mark.parametrize(
    ("true", "most", "confidence", "sides"),
    [
        (0.01, 2_000, 0.95, "two-sided"),
        (0.05, 1_000, 0.95, "upper"),
        (0.05, 1_000, 0.8, "lower"),
        (0.5, 400, 0.9, "two-sided"),
        (0.97, 1_000, 0.9, "two-sided"),
    ],
)
def test_the_truth_is_ever_excluded_with_at_most_alpha(true, most, confidence, sides):
    assert 0 < ever_excluded(true, most, confidence, sides) <= 1 - confidence


def test_exact_intervals_that_are_looked_at_again_and_again_do_not_hold():
    rng = np.random.default_rng(5)
    found = np.cumsum(rng.random((200, 2_000)) < 0.05, axis=1)
    looks = np.arange(100, 2_001, 100)

    def excluded(bounds) -> float:
        wrong = [
            any(not low <= 0.05 <= up for low, up in (bounds(int(run[n - 1]), int(n), 0.95) for n in looks))
            for run in found
        ]
        return np.mean(wrong)

    assert excluded(exact_bounds) > 0.1
    assert excluded(sequence_bounds) <= 0.05


@given(COUNTS, st.sampled_from([0.8, 0.95, 0.999]))
@settings(max_examples=60, deadline=None)
def test_it_contains_the_observed_rate_and_the_exact_interval(counts, confidence):
    hits, n = counts
    lower, upper = sequence_bounds(hits, n, confidence)
    assert 0 <= lower <= hits / n <= upper <= 1
    exact = binomtest(hits, n).proportion_ci(confidence, "exact")
    assert lower <= exact.low + 1e-9
    assert upper >= exact.high - 1e-9


@given(COUNTS)
@settings(max_examples=60, deadline=None)
def test_more_misses_lower_both_bounds_and_more_hits_raise_them(counts):
    hits, n = counts
    now, missed, hit = (sequence_bounds(h, m, 0.95) for h, m in ((hits, n), (hits, n + 1), (hits + 1, n + 1)))
    assert missed[0] <= now[0] + 1e-12
    assert missed[1] <= now[1] + 1e-12
    assert hit[0] >= now[0] - 1e-12
    assert hit[1] >= now[1] - 1e-12


@pytest.mark.parametrize(("sides", "side"), [("upper", 1), ("lower", 0)])
def test_a_one_sided_sequence_is_one_side_of_the_two_sided_one_with_twice_the_error(sides, side):
    found = sequence_bounds(7, 400, 0.95, sides)
    assert found[side] == pytest.approx(sequence_bounds(7, 400, 0.9)[side], abs=1e-14)
    assert found[1 - side] == (0.0 if sides == "upper" else 1.0)


def test_at_the_bound_the_mixture_is_what_ville_allows():
    """The bound of no hit at all, written out: every likelihood is that of misses alone."""
    from expunge.measure.sequential import _LOWER_ALTERNATIVES

    n, upper = 500, sequence_bounds(0, 500, 0.95)[1]
    weights = np.exp(_LOWER_ALTERNATIVES.log_weights[:, 0])
    odds = upper / (1 - upper) * np.exp(-_LOWER_ALTERNATIVES.shifts[:, 0])
    alternatives = odds / (1 + odds)
    assert weights.sum() == pytest.approx(1)
    assert np.sum(weights * ((1 - alternatives) / (1 - upper)) ** n) == pytest.approx(40, rel=1e-9)


@given(
    st.floats(0.0, 0.3),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.sampled_from(["two-sided", "upper", "lower"]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_decided_at_is_the_first_sample_whose_interval_is_on_one_side(true, limit, sides, seed):
    outcomes = np.random.default_rng(seed).random(1_500) < true
    found = decided_at(outcomes, limit, 0.95, sides)
    hits = np.cumsum(outcomes)
    asked = range(1, (found or 1_500) + 1)
    # Asked at every hit, at every last miss before one, and at the end: nowhere else is anything new decided.
    near = [n for n in asked if n > len(asked) - 40 or outcomes[n - 1] or outcomes[min(n, 1_499)]]
    first = next((n for n in near if decides(int(hits[n - 1]), n, limit, 0.95, sides, bounds=sequence_bounds)), None)
    assert found == first


def test_a_decision_may_lie_far_behind_a_million_samples():
    rng = np.random.default_rng(1)
    outcomes = rng.random(1_000_000) < 0.0101
    outcomes[500_000:] |= rng.random(500_000) < 0.001
    found = decided_at(outcomes, 0.01)
    assert found is not None
    assert found > 500_000
    assert decides(int(outcomes[:found].sum()), found, 0.01, 0.95, bounds=sequence_bounds)
    assert not decides(int(outcomes[: found - 1].sum()), found - 1, 0.01, 0.95, bounds=sequence_bounds)


def test_a_borderline_candidate_is_passed_wrongly_in_at_most_half_of_alpha():
    rng, runs = np.random.default_rng(11), 1_000
    passed = 0
    for _ in range(runs):
        outcomes = rng.random(3_000) < 0.05
        at = decided_at(outcomes, 0.05)
        passed += at is not None and outcomes[:at].mean() < 0.05
    assert 0 < passed / runs <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / runs)


def test_the_intervals_of_rate_pul_and_kept_shares_say_by_which_method():
    hits = np.arange(1_000) < 12
    found = rate(hits, bounds=sequence_bounds)
    assert (found.interval.lower, found.interval.upper) == sequence_bounds(12, 1_000, 0.95)
    assert found.interval.method == SEQUENCE == "confidence sequence"
    one_sided = rate(hits, 0.95, "upper", bounds=sequence_bounds).interval
    assert (one_sided.method, sides_of(one_sided)) == ("confidence sequence, one-sided upper", "upper")
    counts = PairedCounts(stayed=20, left=980, gained=4, never=8_996)
    assert paired_ratio(counts, bounds=sequence_bounds).interval.method == "paired confidence sequence"
    assert pul(counts, sides="lower", bounds=sequence_bounds).interval.method == (
        "paired confidence sequence, one-sided lower"
    )
    before = np.repeat([0, 1, 2], 400)
    kept = kept_shares(before, before, (1, 2), 3, bounds=sequence_bounds).smallest.interval
    assert kept.method == "smallest of 2 classes, paired confidence sequence, Bonferroni over classes"


def test_pul_and_its_sequence_by_hand():
    found = pul(PairedCounts(stayed=20, left=980, gained=4, never=8_996), bounds=sequence_bounds).interval
    stay, gain = sequence_bounds(20, 1_000, 0.975), sequence_bounds(4, 9_000, 0.975)
    assert found.lower == pytest.approx(1 - stay[1] - gain[1] * 9, abs=1e-12)
    assert found.upper == pytest.approx(1 - stay[0] - gain[0] * 9, abs=1e-12)


def test_pul_covers_whenever_one_stops():
    """At every look, rho = p + q (n - B)/B with the B of that look; wrong if any look of a run is."""
    rng, runs, wrong = np.random.default_rng(2), 150, 0
    stay, gain = 0.05, 0.002
    for _ in range(runs):
        before = rng.random(3_000) < 0.1
        after = rng.random(3_000) < np.where(before, stay, gain)
        for n in (200, 400, 800, 1_600, 3_000):
            counts = PairedCounts.of(before[:n], after[:n])
            found = pul(counts, 0.8, bounds=sequence_bounds).interval
            truth = 1 - stay - gain * (n - counts.before) / counts.before
            if not found.lower <= truth <= found.upper:
                wrong += 1
                break
    assert wrong / runs <= 0.2 + 3 * np.sqrt(0.16 / runs)


@pytest.mark.parametrize("sides", ["two-sided", "upper"])
def test_samples_to_decide_is_the_first_count_of_no_hits_that_decides(sides):
    total = 50 + samples_to_decide(0, 50, 0.01, 0.95, sides, bounds=sequence_bounds)
    assert decided_at(np.zeros(2_000, bool), 0.01, 0.95, sides) == total
    assert total > 50 + samples_to_decide(0, 50, 0.01, 0.95, sides)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sequence_bounds(3, 2, 0.95),
        lambda: sequence_bounds(0, 0, 0.95),
        lambda: sequence_bounds(float("nan"), 3, 0.95),
        lambda: sequence_bounds(1, 2, 95),
        lambda: decided_at(np.array([0.2]), 0.01),
        lambda: decided_at(np.zeros(3, bool), 1.0),
        lambda: decided_at(np.zeros(3, bool), 0.01, 95),
    ],
)
def test_counts_that_cannot_be_are_refused(call):
    with pytest.raises(BadInput):
        call()
