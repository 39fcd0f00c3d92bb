import numpy as np
import pytest
from scipy import stats

from expunge.errors import BadInput
from expunge.measure.likelihoods import Yardstick, highest_quantile, mean_bits, quantile_drop, standings

RNG = np.random.default_rng(0)
RETAINED = RNG.gamma(30, 0.1, 400)


def standard(bits, errors=None, points=10):
    bits = np.asarray(bits)
    return standings(bits, np.full(len(bits), 0.01) if errors is None else errors, points, Yardstick.of(RETAINED))


def test_z_counts_standard_deviations_above_the_mean():
    mean, std = RETAINED.mean(), RETAINED.std(ddof=1)
    lowest, highest = standard(mean + std * np.array([4.0, 3.0, 5.5]))
    assert (lowest.value, highest.value) == pytest.approx((3.0, 5.5))
    for found in (lowest, highest):
        assert found.interval.lower < found.value < found.interval.upper
        assert found.n == len(RETAINED)


def test_more_images_make_the_interval_of_the_lowest_wider_never_narrower():
    alone = standard([4.0])[0].interval
    among = standard([4.0, 6.0, 6.0, 6.0])[0].interval
    assert among.lower < alone.lower
    assert among.upper > alone.upper


def test_the_lowest_z_is_covered_as_often_as_it_says():
    """Over points, and over which images were retained: from a normal and from a skewed distribution."""
    rng = np.random.default_rng(1)
    for draw, skewness in ((rng.standard_normal, 0.0), (lambda n: (rng.gamma(4.0, 1.0, n) - 4) / 2, 1.0)):
        truth, hits = np.array([3.0, 4.0, 5.0]), 0
        for _ in range(400):
            points = truth[:, None] + 0.1 * rng.standard_normal((3, 10))
            low, high = standings(points.mean(1), points.std(1, ddof=1) / np.sqrt(10), 10, Yardstick.of(draw(1_000)))
            hits += low.interval.lower <= 3 <= low.interval.upper and high.interval.lower <= 5 <= high.interval.upper
        assert hits / 400 >= 0.93, skewness


@pytest.mark.parametrize(("bits", "errors"), [([], []), ([np.nan], [0.1]), ([np.inf, 1.0], [0.1, 0.1]), ([1.0], [np.nan])])
def test_images_without_a_finite_likelihood_have_no_standing(bits, errors):
    with pytest.raises(BadInput, match="forget"):
        standard(bits, np.array(errors))


@pytest.mark.parametrize("bits", [np.ones(100), RETAINED[:7], np.append(RETAINED, np.nan), np.append(RETAINED, np.inf)])
def test_what_measures_nothing_is_no_yardstick(bits):
    with pytest.raises(BadInput, match="retain"):
        Yardstick.of(bits)


def test_the_quantile_is_the_share_of_others_that_are_less_likely():
    found = highest_quantile([2.5, 9.0], [1.0, 2.0, 3.0, 4.0])
    assert found.value == 0.5
    bounds = stats.binomtest(2, 4).proportion_ci(0.975, "exact")
    assert (found.interval.lower, found.interval.upper) == pytest.approx((bounds.low, bounds.high))
    assert not found.interval.method.startswith("Clopper-Pearson")  # it is not one rate's


def test_a_fall_from_the_middle_to_the_end_is_half_of_all():
    others = np.arange(10.0)
    found = quantile_drop([4.5, 4.5], [20.0, 20.0], others, others)
    assert found.value == 0.5
    assert found.interval.lower < 0.5 < found.interval.upper
    still = quantile_drop([4.5], [4.5], others, others)
    assert (still.value, still.interval.lower, still.interval.upper) == (0, 0, 0)


def test_the_mean_has_students_interval():
    found = mean_bits(RETAINED)
    low, high = stats.t.interval(0.95, 399, RETAINED.mean(), stats.sem(RETAINED))
    assert (found.interval.lower, found.interval.upper) == pytest.approx((low, high))
    with pytest.raises(BadInput, match="holdout"):
        mean_bits([1.0, np.nan])
