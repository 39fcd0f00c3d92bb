"""The corrected rate: right in the limit, honest about three counts, refused where the judge says nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.errors import BadInput
from expunge.measure.judged import MELDED, WITHOUT_SENSITIVITY, WITHOUT_SPECIFICITY, corrected_rate
from expunge.measure.proportions import exact_bounds

JUDGES = [((178, 178), (1_619, 1_619)), ((160, 178), (1_600, 1_619)), ((30, 30), (30, 30)), ((45, 50), (42, 50))]


def by_drawing(hits, n, sensitivity, specificity, confidence, draws=400_000):
    """The melded limits from random draws, in place of quadrature and root finding."""
    rng = np.random.default_rng(1)

    def beta(a, b):
        return rng.beta(a, b, draws) if a and b else np.full(draws, float(a > 0))

    def up(count):
        return beta(count[0] + 1, count[1] - count[0])

    def down(count):
        return beta(count[0], count[1] - count[0] + 1)

    def formula(p, se, sp):
        return (p + sp - 1) / (se + sp - 1)

    low = formula(down((hits, n)), up(sensitivity), down(specificity))
    high = formula(up((hits, n)), down(sensitivity), up(specificity))
    tail = (1 - confidence) / 2
    return np.clip([np.quantile(low, tail), np.quantile(high, 1 - tail)], 0, 1)


@pytest.mark.parametrize(
    ("hits", "n", "sensitivity", "specificity", "confidence"),
    [
        (100, 1_000, (170, 178), (1_600, 1_619), 0.95),
        (21, 10_000, (175, 178), (1_617, 1_619), 0.95),
        (30, 50, (45, 50), (40, 50), 0.9),
        (5, 2_000, (30, 30), (30, 30), 0.99),
        (500_000, 1_000_000, (950, 1_000), (950, 1_000), 0.95),
        (0, 368, (17, 17), (17, 17), 0.95),
    ],
)
def test_the_limits_are_the_quantiles_that_drawing_gives(hits, n, sensitivity, specificity, confidence):
    found = corrected_rate(hits, n, sensitivity, specificity, confidence)
    drawn = by_drawing(hits, n, sensitivity, specificity, confidence)
    wide = found.interval.upper - found.interval.lower
    assert (found.interval.lower, found.interval.upper) == pytest.approx(drawn, abs=0.01 * wide)
    assert (found.interval.method, found.n) == (MELDED, n)


def test_the_value_is_rogan_and_gladens():
    found = corrected_rate(100, 1_000, (90, 100), (980, 1_000))
    assert found.value == pytest.approx((0.1 + 0.98 - 1) / (0.9 + 0.98 - 1))


def test_with_a_judge_known_to_be_perfect_it_is_the_plain_exact_interval():
    sure = 10**9
    found = corrected_rate(21, 10_000, (sure, sure), (sure, sure)).interval
    assert (found.lower, found.upper) == pytest.approx(exact_bounds(21, 10_000, 0.95), rel=1e-3)


@given(n=st.integers(1, 20_000), share=st.floats(0, 1), judge=st.sampled_from(JUDGES),
       confidence=st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_the_estimate_lies_in_its_interval_and_more_hits_never_lower_it(n, share, judge, confidence):
    hits = int(share * n)
    found = corrected_rate(hits, n, *judge, confidence)
    assert 0 <= found.interval.lower <= found.value <= found.interval.upper <= 1
    if hits < n:
        more = corrected_rate(hits + 1, n, *judge, confidence)
        assert more.value >= found.value - 1e-9


def test_a_judge_that_never_errs_on_few_images_leaves_more_open_than_on_many():
    few, many = (corrected_rate(40, 2_000, (images, images), (images, images)).interval for images in (17, 1_000))
    assert few.upper > many.upper > 40 / 2_000 > many.lower > few.lower


@pytest.mark.parametrize("hits", [0, 3, 50])
def test_where_the_specificity_of_real_images_is_refuted_the_upper_limit_does_without_it(hits):
    found = corrected_rate(hits, 10_000, (170, 178), (1_457, 1_619))  # one false alarm in ten real images
    assert (found.value, found.interval.lower, found.interval.method) == (0.0, 0.0, WITHOUT_SPECIFICITY)
    assert found.interval.upper > exact_bounds(hits, 10_000, 0.95)[1]


def test_the_same_at_the_other_end():
    found = corrected_rate(99, 100, (80, 100), (100, 100))
    assert (found.value, found.interval.upper, found.interval.method) == (1.0, 1.0, WITHOUT_SENSITIVITY)
    assert found.interval.lower < exact_bounds(99, 100, 0.95)[0]


@pytest.mark.parametrize(
    ("n", "sensitivity", "specificity", "rate"),
    [
        (2_000, (178, 1.0), (1_619, 1.0), 0.01),
        (2_000, (178, 0.95), (1_619, 0.99), 0.01),
        (500, (50, 0.9), (450, 0.95), 0.05),
        (50, (30, 0.9), (30, 0.9), 0.3),
    ],
)
def test_it_covers_the_true_rate_on_both_sides(n, sensitivity, specificity, rate):
    rng, runs = np.random.default_rng(11), 300
    (seen_of, se), (others, sp) = sensitivity, specificity
    drawn = np.stack([rng.binomial(n, rate * se + (1 - rate) * (1 - sp), runs),
                      rng.binomial(seen_of, se, runs), rng.binomial(others, sp, runs)], axis=1)
    cases, times = np.unique(drawn, axis=0, return_counts=True)
    above = below = 0
    for (hits, seen, right), count in zip(cases.tolist(), times, strict=True):
        interval = corrected_rate(hits, n, (seen, seen_of), (right, others), 0.9).interval
        above, below = above + count * (rate > interval.upper), below + count * (rate < interval.lower)
    assert max(above, below) / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((3, 10, (178, 178), (0, 1_000)), "not shown to tell"),  # yes to everything
        ((3, 10, (0, 178), (1_000, 1_000)), "not shown to tell"),  # no to everything
        ((3, 10, (89, 178), (500, 1_000)), "not shown to tell"),
        ((3, 10, (3, 3), (3, 3)), "hold out more images"),
        ((3, 10, (0, 0), (9, 9)), "sensitivity: there is no real image"),
        ((3, 10, (9, 9), (0, 0)), "specificity: there is no real image"),
        ((3, 2, (99, 99), (99, 99)), "3 of 2"),
        ((0, 0, (99, 99), (99, 99)), "0 of 0"),
        ((1, 10, (100, 99), (99, 99)), "100 of 99"),
        ((1, 10, (99, 99), (99, 99), 95), "confidence"),
    ],
)
def test_what_cannot_be_corrected_is_refused_and_says_why(counts, said):
    with pytest.raises(BadInput, match=said):
        corrected_rate(*counts)
