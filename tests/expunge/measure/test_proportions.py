import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, multinomial

from expunge.errors import BadInput
from expunge.measure.proportions import (
    PairedCounts,
    clopper_pearson,
    exact_bounds,
    highest,
    paired_difference,
    paired_ratio,
    pul,
    rate,
    samples_to_decide,
    sides_of,
)


@given(
    st.integers(1, 3_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.8, 0.95, 0.99]),
)
@settings(max_examples=60, deadline=None)
def test_two_sided_bounds_are_scipys_exact_ones(counts, confidence):
    hits, n = counts
    found, other = clopper_pearson(hits, n, confidence), binomtest(hits, n).proportion_ci(confidence, "exact")
    assert (found.lower, found.upper) == pytest.approx((other.low, other.high), abs=1e-10)


@pytest.mark.parametrize(("sides", "alternative"), [("upper", "less"), ("lower", "greater")])
def test_one_sided_bounds_are_scipys_and_say_so(sides, alternative):
    found = clopper_pearson(7, 400, 0.95, sides)
    other = binomtest(7, 400, alternative=alternative).proportion_ci(0.95, "exact")
    assert (found.lower, found.upper) == pytest.approx((other.low, other.high), abs=1e-10)
    assert sides_of(found) == sides
    assert sides_of(clopper_pearson(7, 400)) == "two-sided"


def test_zero_hits_have_the_closed_form():
    assert clopper_pearson(0, 368).upper == pytest.approx(1 - 0.025 ** (1 / 368), rel=1e-12)
    assert clopper_pearson(0, 368).upper <= 0.01 < clopper_pearson(0, 367).upper


@pytest.mark.parametrize("n", [1, 5, 40, 200, 368, 2_000])
def test_the_exact_interval_covers_at_every_rate(n):
    bounds = np.array([exact_bounds(hits, n, 0.95) for hits in range(n + 1)])
    for true in np.linspace(0.001, 0.999, 97):
        inside = (bounds[:, 0] <= true) & (true <= bounds[:, 1])
        assert binom.pmf(np.arange(n + 1), n, true)[inside].sum() >= 0.95 - 1e-9


@pytest.mark.parametrize(
    ("hits", "n", "sides", "total"),
    [(0, 50, "two-sided", 368), (0, 50, "upper", 299), (0, 1, "two-sided", 368)],
)
def test_samples_to_decide_at_zero_hits(hits, n, sides, total):
    assert n + samples_to_decide(hits, n, 0.01, 0.95, sides) == total


def test_samples_to_decide_is_the_first_n_that_decides():
    total = 400 + samples_to_decide(2, 400, 0.01, 0.95)
    by_hand = next(
        n for n in range(200, 20_000, 200) if binomtest(n // 200, n).proportion_ci(0.95, "exact").high <= 0.01
    )
    assert by_hand - 200 < total <= by_hand


@given(st.integers(0, 30), st.integers(30, 2_000))
@settings(max_examples=40, deadline=None)
def test_one_sample_less_would_not_have_decided(hits, n):
    more = samples_to_decide(hits, n, 0.01, 0.95)
    if more is None:
        assert hits / n == pytest.approx(0.01, abs=2e-5)  # nearer than 100 million samples can tell
    elif more:
        for total, wanted in ((n + more, True), (n + more - 1, False)):
            lower, upper = exact_bounds(hits / n * total, total, 0.95)
            assert (upper <= 0.01 or lower > 0.01) is wanted


def test_a_rate_on_the_limit_is_never_decided():
    assert samples_to_decide(1, 100, 0.01, 0.95) is None


def test_a_one_sided_rule_can_also_find_that_the_rate_is_too_high():
    more = samples_to_decide(3, 100, 0.01, 0.95, "upper")
    assert more is not None
    assert (
        binomtest(round(0.03 * (100 + more)), 100 + more, alternative="greater").proportion_ci(0.95).low
        > 0.009
    )


def test_paired_counts_are_the_four_cells():
    before = np.array([True, True, True, False, False, False, False])
    after = np.array([True, False, False, True, False, False, False])
    counts = PairedCounts.of(before, after)
    assert (counts.stayed, counts.left, counts.gained, counts.never) == (1, 2, 1, 3)
    assert (counts.before, counts.after, counts.n) == (3, 2, 7)


def test_pul_and_its_interval_by_hand():
    found = pul(PairedCounts(stayed=20, left=980, gained=4, never=8_996))
    stay, gain = (binomtest(k, n).proportion_ci(0.975, "exact") for k, n in ((20, 1_000), (4, 9_000)))
    assert found.value == pytest.approx(1 - 24 / 1_000)
    assert found.interval.lower == pytest.approx(1 - stay.high - gain.high * 9, abs=1e-9)
    assert found.interval.upper == pytest.approx(1 - stay.low - gain.low * 9, abs=1e-9)
    assert found.n == 1_000


def test_new_hits_count_against_pul():
    assert pul(PairedCounts(0, 100, 200, 700)).value == -1.0
    assert pul(PairedCounts(0, 100, 0, 900)).interval.lower > pul(PairedCounts(0, 100, 5, 895)).interval.lower


def test_nobody_left_and_nothing_else_there():
    found = paired_ratio(PairedCounts(10, 0, 0, 0))
    assert (found.value, found.interval.upper) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("sides", "stay", "gain"),
    [("two-sided", 0.03, 0.0005), ("two-sided", 0.7, 0.02), ("lower", 0.05, 0.001), ("upper", 0.05, 0.001)],
)
def test_pul_covers_the_truth_given_how_many_were_unwanted(sides, stay, gain):
    rng, before, others = np.random.default_rng(7), 120, 1_080
    truth = 1 - stay - gain * others / before
    stayed, gained = rng.binomial(before, stay, 1_500), rng.binomial(others, gain, 1_500)
    covered = 0
    for s, g in zip(stayed, gained, strict=True):
        interval = pul(PairedCounts(int(s), before - int(s), int(g), others - int(g)), 0.9, sides).interval
        covered += (sides == "upper" or interval.lower <= truth) and (
            sides == "lower" or truth <= interval.upper
        )
    assert covered / 1_500 >= 0.9 - 3 * np.sqrt(0.09 / 1_500)


def test_a_paired_difference_and_its_interval_by_hand():
    found = paired_difference(PairedCounts(stayed=450, left=12, gained=4, never=19))
    gained, lost = (binomtest(k, 485).proportion_ci(0.975, "exact") for k in (4, 12))
    assert found.value == pytest.approx(-8 / 485)
    assert found.interval.lower == pytest.approx(gained.low - lost.high, abs=1e-9)
    assert found.interval.upper == pytest.approx(gained.high - lost.low, abs=1e-9)
    assert found.n == 485


def test_the_interval_of_a_paired_difference_depends_on_what_changed_alone():
    assert paired_difference(PairedCounts(100, 3, 2, 0)) == paired_difference(PairedCounts(0, 3, 2, 100))
    unchanged = paired_difference(PairedCounts(300, 0, 0, 200))
    assert unchanged.value == 0
    assert unchanged.interval.upper == -unchanged.interval.lower == pytest.approx(1 - 0.0125 ** (1 / 500))


@pytest.mark.parametrize(("n", "most"), [(1, 1), (7, 7), (40, 40), (480, 70)])
def test_a_paired_difference_covers_at_every_pair_of_rates_and_errs_evenly(n, most):
    """Every outcome with up to `most` answers gained and as many lost; the rest is counted as missed."""
    gained, lost = np.meshgrid(np.arange(min(n, most) + 1), np.arange(min(n, most) + 1), indexing="ij")
    within = gained + lost <= n
    gained, lost = gained[within], lost[within]
    ends = [exact_bounds(k, n, 0.975) for k in range(min(n, most) + 1)]
    assert paired_difference(PairedCounts(n - 1, 1, 0, 0), 0.95).interval.lower == ends[0][0] - ends[1][1]
    low, high = np.array(ends)[gained, 0] - np.array(ends)[lost, 1], np.array(ends)[gained, 1] - np.array(ends)[lost, 0]
    rates = (0, 0.001, 0.01, 0.03, 0.05) if n > most else (0, 0.003, 0.02, 0.1, 0.3, 0.5)
    for gain in rates:
        for loss in rates:
            likely = multinomial.pmf(np.stack([gained, lost, n - gained - lost], axis=1), n,
                                     [gain, loss, 1 - gain - loss])
            above, below = (likely[missed].sum() for missed in (low > gain - loss, high < gain - loss))
            assert likely.sum() > 1 - 1e-6
            assert max(above, below) <= 0.025 + 1e-9
            assert above + below <= 0.05 + 1e-9


@pytest.mark.parametrize(
    "call",
    [
        lambda: clopper_pearson(3, 2),
        lambda: clopper_pearson(-1, 2),
        lambda: clopper_pearson(0, 0),
        lambda: clopper_pearson(1, 2, 95),
        lambda: rate(np.array([], dtype=bool)),
        lambda: rate(np.array([0.2])),
        lambda: exact_bounds(float("nan"), 3, 0.95),
        lambda: pul(PairedCounts(0, 0, 3, 5)),
        lambda: paired_difference(PairedCounts(0, 0, 0, 0)),
        lambda: PairedCounts.of(np.ones(3, bool), np.ones(4, bool)),
    ],
)
def test_counts_that_cannot_be_are_refused(call):
    with pytest.raises(BadInput):
        call()


def test_the_highest_of_several_is_enclosed_whichever_it_is():
    rng = np.random.default_rng(3)
    rates, n, alpha, runs = (0.30, 0.32, 0.20), 80, 0.1, 400
    missed = 0
    for _ in range(runs):
        found = highest([rate(rng.random(n) < true, 1 - alpha / 3) for true in rates], 1 - alpha)
        assert found.interval.lower <= found.value <= found.interval.upper
        missed += not found.interval.lower <= max(rates) <= found.interval.upper
    assert missed / runs <= alpha
    assert found.n == n
    assert found.interval.method == "highest of 3, Clopper-Pearson, Bonferroni"


def test_the_highest_of_one_is_itself_and_of_none_is_refused():
    one = rate(np.array([True, False, True]))
    assert highest([one], 0.95) == one
    with pytest.raises(BadInput, match="none to be the highest"):
        highest([], 0.95)
