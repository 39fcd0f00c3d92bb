import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import t

from expunge.errors import BadInput
from expunge.measure.distances import (
    compare_kid,
    fid,
    fid_difference,
    fid_excess,
    fid_floor,
    kid,
    kid_ratio,
    unit_scale,
)
from expunge.measure.kernels import moments_are_cheaper


def kid_difference(before, after, reals, **chosen):
    return compare_kid(before, after, reals, **chosen).difference


def cloud(n, d, seed, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + shift


def fid_by_sqrtm(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))


def kid_by_loops(x, y):
    def k(u, v):
        return (float(np.dot(u, v)) / len(u) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(u, v) for u in x for v in y) / (n * m)


def test_fid_agrees_with_the_general_matrix_root():
    x, y = cloud(300, 12, 1), cloud(250, 12, 2, shift=0.3, scale=1.4)
    assert fid(x, y) == pytest.approx(fid_by_sqrtm(x, y), rel=1e-8)


def test_fid_of_two_gaussians_has_a_closed_form():
    x = cloud(20_000, 1, 3)
    x = (x - x.mean()) / x.std(ddof=1)
    assert fid(x, 3 * x + 2) == pytest.approx(2**2 + (3 - 1) ** 2, rel=1e-9)


def test_fid_is_symmetric_zero_on_itself_and_stands_fewer_samples_than_dimensions():
    x, y = cloud(20, 64, 1), cloud(25, 64, 2)
    assert fid(x, x) == pytest.approx(0, abs=1e-6)
    assert fid(x, y) == pytest.approx(fid(y, x), rel=1e-6)


def test_fid_stays_stable_far_from_the_origin():
    x, y = cloud(300, 8, 1), cloud(300, 8, 2)
    assert fid(x + 1e5, y + 1e5) == pytest.approx(fid(x, y), rel=1e-4)


def test_the_floor_is_the_mean_over_random_halves():
    x = cloud(100, 6, 4)
    rng = np.random.default_rng(0)
    orders = [rng.permutation(100) for _ in range(10)]
    assert fid_floor(x) == pytest.approx(
        np.mean([fid_by_sqrtm(x[o[:50]], x[o[50:]]) for o in orders]), rel=1e-6
    )
    assert fid_floor(x) == fid_floor(x)


def test_the_excess_is_fid_without_what_few_samples_add():
    found = [fid_excess(cloud(200, 6, [1, s], scale=1.2), cloud(100, 6, [2, s]), seed=s) for s in range(100)]
    truth = 6 * 0.2**2  # of the two Gaussians themselves
    values = np.array([each.value for each in found])
    assert abs(values.mean() - truth) < 3 * values.std() / 10
    raw = [fid(cloud(200, 6, [1, s], scale=1.2), cloud(100, 6, [2, s])) for s in range(100)]
    assert np.mean(raw) > truth + 5 * np.std(raw) / 10
    assert found[0].n == 200


@pytest.mark.parametrize(("n", "m", "shift"), [(300, 100, 0.0), (300, 100, 0.3), (60, 200, 0.1)])
def test_the_interval_covers_the_true_excess(n, m, shift):
    runs, covered, d = 200, 0, 4
    for seed in range(runs):
        x, y = cloud(n, d, [n, seed, 1], shift), cloud(m, d, [n, seed, 2])
        interval = fid_excess(x, y, confidence=0.9, seed=seed).interval
        covered += interval.lower <= d * shift**2 <= interval.upper
    assert covered / runs >= 0.9 - 3 * np.sqrt(0.09 / runs)


def two_models(n, seed, shifts):
    """Features of two models for the same latents: mostly alike, as a candidate is like its parent."""
    shared = cloud(n, 4, [seed, 1])
    return [0.9 * shared + np.sqrt(0.19) * cloud(n, 4, [seed, 2 + i]) + s for i, s in enumerate(shifts)]


@pytest.mark.parametrize("shifts", [(0.0, 0.0), (0.2, 0.0), (0.1, 0.3)])
def test_the_interval_covers_the_true_difference_of_two_models(shifts):
    runs, covered, truth = 200, 0, 4 * (shifts[1] ** 2 - shifts[0] ** 2)
    for seed in range(runs):
        first, second = two_models(300, seed, shifts)
        interval = fid_difference(first, second, cloud(150, 4, [seed, 9]), confidence=0.9, seed=seed).interval
        covered += interval.lower <= truth <= interval.upper
    assert covered / runs >= 0.9 - 3 * np.sqrt(0.09 / runs)


def test_the_difference_is_that_of_two_excesses_and_surer_than_either_of_the_two():
    first, second = two_models(4000, 0, (0.3, 0.5))
    reals = cloud(2000, 4, 5)
    found, apart = fid_difference(first, second, reals), [fid_excess(x, reals) for x in (first, second)]
    assert found.value == pytest.approx(apart[1].value - apart[0].value, abs=1e-3)
    widths = [each.interval.upper - each.interval.lower for each in (found, *apart)]
    assert widths[0] < np.hypot(widths[1], widths[2]) * 0.8
    same = fid_difference(first, first, reals)
    assert same.value == same.interval.lower == same.interval.upper == 0
    turned = fid_difference(second, first, reals)
    assert turned.value == pytest.approx(-found.value, abs=1e-9)


def test_the_excess_takes_a_fixed_mixture_of_the_reals_as_fixed():
    rng, labels = np.random.default_rng(4), np.repeat([0, 1], 60)
    centres = np.array([[-3.0, 0], [3.0, 0]])
    real = rng.normal(size=(120, 2)) + centres[labels]
    generated = rng.normal(size=(4_000, 2)) + centres[(rng.random(4_000) < 0.8).astype(int)]
    fixed, by_chance = (fid_excess(generated, real, real_strata=strata).interval for strata in (labels, None))
    assert fixed.upper - fixed.lower < 0.8 * (by_chance.upper - by_chance.lower)


def test_few_real_images_of_a_class_do_not_pull_the_excess_down():
    labels, centres = np.repeat(np.arange(6), 12), 4 * np.eye(6)
    values = []
    for seed in range(100):
        rng = np.random.default_rng([8, seed])
        real = rng.normal(size=(72, 6)) + centres[labels]
        generated = rng.normal(size=(600, 6)) + centres[rng.integers(0, 6, 600)]
        values.append(fid_excess(generated, real, real_strata=labels, seed=seed).value)
    assert abs(np.mean(values)) < 0.3 * np.std(values)


def test_the_excess_agrees_with_a_jackknife_that_leaves_rows_out_itself():
    x, y = cloud(60, 3, 1) + 1e3, cloud(50, 3, 2, shift=0.3) + 1e3
    rng = np.random.default_rng(0)
    value = full = fid_by_sqrtm(x, y)
    variance = 0.0
    for own in (x, y):
        blocks = len(own) // 2 if len(own) < 100 else 50
        block = np.empty(len(own), dtype=int)
        block[rng.permutation(len(own)).argsort()] = np.arange(len(own)) % blocks
        without = [fid_by_sqrtm(*(t[block != b] if t is own else t for t in (x, y))) for b in range(blocks)]
        value += (blocks - 1) * (full - np.mean(without))
        variance += (blocks - 1) * np.var(without)
    found = fid_excess(x, y)
    assert found.value == pytest.approx(value, rel=1e-6)
    assert found.interval.upper - found.value == pytest.approx(t.ppf(0.975, blocks - 1) * np.sqrt(variance), rel=1e-6)


def test_kid_agrees_with_plain_loops():
    x, y = cloud(23, 5, 1), cloud(17, 5, 2, shift=0.4)
    assert kid(x, y).value == pytest.approx(kid_by_loops(x, y), rel=1e-10)


def test_kid_is_unbiased_where_the_sets_are_alike():
    values = [kid(cloud(30, 4, 2 * s), cloud(30, 4, 2 * s + 1)).value for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)


def test_the_difference_counts_only_what_is_kept():
    before, after, real = cloud(40, 5, 1), cloud(40, 5, 2, shift=0.5), cloud(20, 5, 3)
    was, is_now = np.arange(40) % 3 > 0, np.arange(40) % 4 > 0
    found = compare_kid(before, after, real, kept_before=was, kept_after=is_now)
    assert found.before.value == pytest.approx(kid_by_loops(before[was], real), rel=1e-9)
    assert found.after.value == pytest.approx(kid_by_loops(after[is_now], real), rel=1e-9)
    assert found.difference.value == pytest.approx(found.after.value - found.before.value, rel=1e-9)
    assert found.difference.n == min(was.sum(), is_now.sum())


def test_kernel_sums_by_moments_agree_with_plain_loops_and_with_pair_by_pair(monkeypatch):
    before, after, real = cloud(70, 4, 1) ** 2, cloud(70, 4, 2, shift=0.5), cloud(25, 4, 3)
    kept = np.arange(70) % 4 > 0
    assert moments_are_cheaper(70 + 25, 4)
    found = compare_kid(before, after, real, kept_after=kept)
    assert found.before.value == pytest.approx(kid_by_loops(before, real), rel=1e-10)
    assert found.after.value == pytest.approx(kid_by_loops(after[kept], real), rel=1e-10)
    monkeypatch.setattr("expunge.measure.kernels.moments_are_cheaper", lambda n, d: False)
    pairwise = compare_kid(before, after, real, kept_after=kept)
    assert found.error == pytest.approx(pairwise.error, rel=1e-9)
    assert found.difference.interval.upper == pytest.approx(pairwise.difference.interval.upper, rel=1e-9)


def test_an_unchanged_model_differs_by_exactly_nothing():
    same = cloud(60, 5, 1)
    found = kid_difference(same, same, cloud(30, 5, 2))
    assert (found.value, found.interval.lower, found.interval.upper) == (0.0, 0.0, 0.0)


def test_pairing_makes_the_interval_narrower():
    before, real = cloud(400, 6, 1), cloud(400, 6, 2, shift=0.5)
    paired = kid_difference(before, before + 0.02, real).interval
    loose = kid_difference(before, np.roll(before, 7, axis=0) + 0.02, real).interval
    assert paired.upper - paired.lower < 0.3 * (loose.upper - loose.lower)


@pytest.mark.thorough
@pytest.mark.parametrize(("n", "m", "shift"), [(120, 60, 0.5), (120, 60, 0.05), (400, 40, 0.3)])
def test_the_interval_covers_the_true_difference(n, m, shift):
    d, runs, covered = 3, 300, 0
    truth = kid_of_gaussians(shift, d)
    for seed in range(runs):
        rng = np.random.default_rng([n, seed])
        before, real = rng.normal(size=(n, d)), rng.normal(size=(m, d))
        interval = kid_difference(before, before + shift, real, confidence=0.9, seed=seed).interval
        covered += interval.lower <= truth <= interval.upper
    assert covered / runs >= 0.9 - 3 * np.sqrt(0.09 / runs)


@pytest.mark.thorough
def test_the_interval_covers_when_the_mixture_of_the_reals_was_fixed():
    # Two classes far apart, half and half by design among the reals, by chance among the latents.
    runs, covered, widths, n, m = 300, 0, [], 200, 40
    centres = np.array([[-2.0, 0], [2.0, 0]])
    labels = np.repeat([0, 1], m // 2)

    def draw(rng, n=n, labels=labels):
        chosen = rng.random(n) < 0.5
        before = rng.normal(size=(n, 2)) + centres[chosen.astype(int)]
        moved = chosen & (rng.random(n) < 0.3)
        after = np.where(moved[:, None], before - 2 * centres[1], before)
        return before, after, rng.normal(size=(len(labels), 2)) + centres[labels]

    truth = kid_difference(*draw(np.random.default_rng(5), 8_000, np.repeat([0, 1], 4_000))).value
    for seed in range(runs):
        before, after, real = draw(np.random.default_rng([6, seed]))
        found = [
            kid_difference(before, after, real, real_strata=strata, confidence=0.9, seed=seed).interval
            for strata in (labels, None)
        ]
        covered += found[0].lower <= truth <= found[0].upper
        widths.append([interval.upper - interval.lower for interval in found])
    assert covered / runs >= 0.9 - 3 * np.sqrt(0.09 / runs)
    assert np.mean(widths, axis=0)[0] < 0.8 * np.mean(widths, axis=0)[1]


def kid_of_gaussians(shift, d):
    """MMD^2 of N(0, I) and N(shift, I): E k(x, y) over the moments of x.y, for the kernel (x.y/d + 1)^3."""

    def expected(a, b):  # x ~ N(a 1, I), y ~ N(b 1, I): x.y is a sum of d independent products
        first = a * b
        second = (1 + a * a) * (1 + b * b)
        third = (a**3 + 3 * a) * (b**3 + 3 * b)
        variance, skew = second - first**2, third - 3 * second * first + 2 * first**3
        mean, var, cube = d * first, d * variance, d * skew  # cumulants add up
        moments = [1, mean, var + mean**2, cube + 3 * var * mean + mean**3]
        return sum(c * m / d**p for c, m, p in zip((1, 3, 3, 1), moments, range(4), strict=True))

    return expected(shift, shift) + expected(0, 0) - 2 * expected(0, shift)


def test_unit_scale_makes_kid_independent_of_the_features_unit():
    x, y = cloud(40, 5, 1, shift=1), cloud(30, 5, 2, shift=1)
    values = [kid(x * u * unit_scale(y * u), y * u * unit_scale(y * u)).value for u in (1.0, 250.0)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: fid(x, np.full((9, 4), np.nan)),
        lambda x: fid(x[:1], x),
        lambda x: fid(x, x[:, :3]),
        lambda x: fid(x[0], x),
        lambda x: kid(x[:5], x),
        lambda x: kid(x, x[:, :2]),
        lambda x: fid_floor(x[:3]),
        lambda x: fid_excess(x[:, :2], x[:7, :2]),
        lambda x: fid_excess(x[:7, :2], x[:, :2]),
        lambda x: fid_excess(x[:, :2], x[:, :2], real_strata=np.zeros(3)),
        lambda x: fid_difference(x[:, :2], x[:10, :2], x[:, :2]),
        lambda x: fid_difference(x[:, :2], x[:, :2], x[:7, :2]),
        lambda x: fid_difference(x[:, :2], x[:, :2], x[:, :2], real_strata=np.zeros(3)),
        lambda x: kid_difference(x, x[:10], x),
        lambda x: unit_scale(np.zeros((4, 4))),
        lambda x: kid_difference(x, x, x, real_strata=np.zeros(3)),
        lambda x: kid_difference(x, x, x, kept_after=np.zeros(20, bool)),
        lambda x: fid(x, np.full((9, 4), np.inf)),
    ],
)
def test_what_has_no_distance_is_refused(call):
    with pytest.raises(BadInput):
        call(cloud(20, 4, 1))


def blobs(rng, shift, n, d=4):
    """Features with a mean and a spread that differ from those of the real ones by so much."""
    return rng.standard_normal((n, d)) * (1 + shift) + shift


def test_the_ratio_covers_the_truth_as_often_as_it_says():
    """Both models draw from the same latents; the truth is that of far more samples."""
    rng = np.random.default_rng(0)
    latents, many = rng.standard_normal((20_000, 4)), rng.standard_normal((20_000, 4))
    truth = kid(latents * 1.35 + 0.35, many).value / kid(latents * 1.3 + 0.3, many).value
    found = []
    for _ in range(150):
        z, real = rng.standard_normal((600, 4)), rng.standard_normal((300, 4))
        found.append(kid_ratio(z * 1.3 + 0.3, z * 1.35 + 0.35, real))
    assert np.mean([each.interval.lower <= truth <= each.interval.upper for each in found]) >= 0.93
    reach = np.mean([each.interval.upper - each.interval.lower for each in found]) / 2
    assert 1.8 <= reach / np.std([each.value for each in found]) <= 4


def test_the_ratio_of_a_model_to_itself_is_one():
    rng = np.random.default_rng(0)
    same, real = blobs(rng, 0.5, 400), blobs(rng, 0.0, 200)
    found = kid_ratio(same, same, real)
    assert found.value == 1
    assert (found.interval.lower, found.interval.upper) == pytest.approx((1, 1), abs=1e-9)
    compared = compare_kid(same, blobs(rng, 0.7, 400), real)
    assert kid_ratio(same, blobs(rng, 0.0, 400), real).interval.upper < 1 < compared.after.value / compared.before.value


def test_no_ratio_to_a_distance_that_may_be_zero():
    rng = np.random.default_rng(0)
    with pytest.raises(BadInput, match="kid_before: it cannot be told from zero"):
        kid_ratio(blobs(rng, 0.0, 200), blobs(rng, 0.5, 200), blobs(rng, 0.0, 200))
