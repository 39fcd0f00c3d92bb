"""Every number of a stored report once more, from its files alone, by code that shares nothing with the probes.

Nothing of `components.evaluate.probes` or `expunge.measure` is used here. What the report's files do not hold on
purpose, the features of unwanted samples, is drawn again from the weights that the report names.
"""

from copy import copy
from functools import cached_property

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from scipy import linalg, stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from components.evaluate.probes.does_it_stay_forgotten import NOTHING_BEFORE
from expunge import models
from expunge.assets import digits
from expunge.contracts import Report, read_record

DIGIT, K, CLASSES = 8, 5, 10
RETAINED = [label for label in range(CLASSES) if label != DIGIT]

pytestmark = pytest.mark.slow  # a minute of teaching models again, for all that is asked here


@pytest.fixture(scope="module")
def stored(house):
    """A report on everything: members, a reference, an extractor, searches, and lessons that are short."""
    everything = house.beside("everything")
    everything.write_request(evaluate=1_000, search=20, lessons=6)
    images, labels = digits("train")
    everything.with_images("members", images[labels == DIGIT][:60], labels[labels == DIGIT][:60])
    everything.with_reference()
    everything.with_extractor()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SAMPLES": 16, "FRESH": 250, "SEEK": 20}.items():
            patch.setattr(f"components.evaluate.relearning.{name}", value)
        return Stored(everything.run("all"), everything.root)


class Stored:
    """A report's folder, read anew."""

    def __init__(self, folder, inputs):
        self.folder, self.inputs = folder, inputs
        self.report = read_record(Report, folder)
        self.scores, self.real, self.search, self.relearning, self.membership = (
            {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
            for table in (pq.read_table(folder / f"{name}.parquet")
                          for name in ("scores", "real", "search", "relearning", "membership")))
        features = load_file(folder / "features.safetensors")
        self.x = {side: features[side].astype(np.float64) for side in ("before", "after", "real", "reference")}
        self.latent = {side: features[f"{side}.latent"] for side in ("before", "after")}
        self.strata = features["real.label"]
        self.hit = {side: self.scores[f"class_{side}"] == DIGIT for side in ("before", "after")}

    def __getitem__(self, name):
        return self.report.measurement(name)

    @cached_property
    def redrawn(self):
        """Features of *all* samples of both models, drawn again from their weights and the report's seed."""
        judge_of_features = models.load(self.inputs / "extractor" / "model.safetensors")
        random = torch.Generator().manual_seed(int(self.report.latent_seed[:16], 16) >> 1)
        latents = torch.cat([torch.randn(500, 32, generator=random) for _ in range(2)])
        found = {}
        with torch.inference_mode():
            for side, role in (("before", "checkpoint"), ("after", "candidate")):
                model = models.load(self.inputs / role / "model.safetensors")
                found[side] = judge_of_features.features(model(latents)).numpy().astype(np.float64)
        return found

    @cached_property
    def thinned(self):
        """Latents of the candidate's retained samples with as much of each class, relatively, as the parent drew."""
        was, is_now = self.scores["class_before"], self.scores["class_after"]
        of = {label: np.flatnonzero(is_now == label) for label in RETAINED}
        least = min(len(of[label]) / np.sum(was == label) for label in RETAINED)
        return np.sort(np.concatenate([of[label][: int(least * np.sum(was == label) + 1e-6)] for label in RETAINED]))

    @property
    def held(self):
        """Features of those."""
        return self.x["after"][np.isin(self.latent["after"], self.thinned)]


def exactly(found, hits, n, *, confidence=0.95, counted=None):
    """A rate: its value, its count and the exact interval."""
    bounds = stats.binomtest(int(hits), int(n)).proportion_ci(confidence, "exact")
    assert found.estimate == pytest.approx(hits / n, rel=1e-12)
    assert (found.interval.lower, found.interval.upper) == pytest.approx((bounds.low, bounds.high), abs=1e-9)
    assert found.n == (n if counted is None else counted)
    assert found.interval.confidence == confidence


# ------------------------------------------------------------------------------------------------- counts


def ratio_bounds(stayed, before, gained, n, confidence):
    """Of after/before by two exact intervals, each with half of the error."""
    def bounds(hits, trials):
        tail = (1 - confidence) / 4
        return (stats.beta.ppf(tail, hits, trials - hits + 1) if hits else 0.0,
                stats.beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0)

    (stay_low, stay_up), (gain_low, gain_up) = bounds(stayed, before), bounds(gained, n - before)
    odds = (n - before) / before
    return stay_low + gain_low * odds, stay_up + gain_up * odds


def check_rates(stored):
    for name, side in (("residual_rate", "after"), ("residual_rate_before", "before")):
        exactly(stored[name], stored.hit[side].sum(), len(stored.hit[side]))


def check_pul(stored):
    was, is_now = stored.hit["before"], stored.hit["after"]
    low, up = ratio_bounds((was & is_now).sum(), was.sum(), (~was & is_now).sum(), len(was), 0.95)
    found = stored["pul"]
    assert found.estimate == pytest.approx((was.sum() - is_now.sum()) / was.sum(), rel=1e-12)
    assert (found.interval.lower, found.interval.upper) == pytest.approx((1 - up, 1 - low), abs=1e-9)
    assert found.n == was.sum()


def check_kept_share(stored):
    was, is_now = stored.scores["class_before"], stored.scores["class_after"]
    each = [ratio_bounds(np.sum((was == label) & (is_now == label)), np.sum(was == label),
                         np.sum((was != label) & (is_now == label)), len(was), 1 - 0.05 / len(RETAINED))
            for label in RETAINED]
    found = stored["kept_share"]
    assert found.estimate == pytest.approx(min(np.sum(is_now == label) / np.sum(was == label) for label in RETAINED))
    assert found.interval.lower == pytest.approx(min(low for low, _ in each), abs=1e-9)
    assert found.interval.upper == pytest.approx(min(up for _, up in each), abs=1e-9)
    assert found.n == len(was)


def check_share_distance(stored):
    def distance(was, is_now):
        shares = [np.array([np.sum(side == label) for label in RETAINED]) for side in (was, is_now)]
        return np.abs(shares[0] / shares[0].sum() - shares[1] / shares[1].sum()).sum() / 2

    was, is_now = stored.scores["class_before"], stored.scores["class_after"]
    found = stored["share_distance"]
    assert found.estimate == pytest.approx(distance(was, is_now), rel=1e-9)
    assert 0 <= found.interval.lower <= found.estimate <= found.interval.upper <= 1
    assert found.n == min(np.sum(was != DIGIT), np.sum(is_now != DIGIT))


def check_judge(stored):
    label, said = stored.real["label"], stored.real["class"]
    exactly(stored["judge_accuracy"], np.sum(label == said), len(label))
    exactly(stored["judge_sensitivity"], np.sum(said[label == DIGIT] == DIGIT), np.sum(label == DIGIT))
    exactly(stored["judge_specificity"], np.sum(said[label != DIGIT] != DIGIT), np.sum(label != DIGIT))
    for name, side in (("judge_confidence", "after"), ("judge_confidence_before", "before")):
        assert stored[name].estimate == pytest.approx(stored.scores[f"confidence_{side}"].mean(), rel=1e-5)
        assert stored[name].interval is None


def check_corrected_rate(stored):
    label, said = stored.real["label"], stored.real["class"]
    hits, n = int(stored.hit["after"].sum()), len(stored.hit["after"])
    seen, unwanted = int(np.sum(said[label == DIGIT] == DIGIT)), int(np.sum(label == DIGIT))
    passed, others = int(np.sum(said[label != DIGIT] != DIGIT)), int(np.sum(label != DIGIT))
    raw = (hits / n + passed / others - 1) / (seen / unwanted + passed / others - 1)
    random = np.random.default_rng(1)

    def drawn(kind, count, of):  # a confidence distribution of a rate; all of it at an end where a count is zero
        a, b = (count + 1, of - count) if kind == "upper" else (count, of - count + 1)
        return random.beta(a, b, 1_000_000) if a and b else float(a > 0)

    ends = {}
    for end, other, level in (("upper", "lower", 0.975), ("lower", "upper", 0.025)):
        p, se, sp = drawn(end, hits, n), drawn(other, seen, unwanted), drawn(end, passed, others)
        if end == "upper" and raw < 0:
            sp = 1.0
        ends[end] = float(np.clip(np.quantile((p + sp - 1) / (se + sp - 1), level), 0, 1))
    found = stored["residual_rate_corrected"]
    assert found.interval.upper == pytest.approx(ends["upper"], rel=0.01)  # of a million draws' quantile
    assert found.interval.lower == pytest.approx(ends["lower"], abs=1e-4)
    assert found.estimate == pytest.approx(np.clip(raw, found.interval.lower, found.interval.upper), abs=1e-9)
    assert found.n == n


# ---------------------------------------------------------------------------------------------- distances


def frechet(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    alive = np.flatnonzero((np.diag(a) > 0) & (np.diag(b) > 0))  # a feature that never varies has nothing to share
    shared = linalg.sqrtm(a[np.ix_(alive, alive)] @ b[np.ix_(alive, alive)])
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * np.trace(np.real(shared))


def check_fid(stored):
    real = stored.x["real"]
    after, before = (frechet(stored.x[side], real) for side in ("after", "before"))
    for name, value, n in (("fid_after", after, len(stored.x["after"])), ("fid_before", before, len(stored.x["before"])),
                           ("fid_ratio", after / before, len(stored.x["after"])),
                           ("fid_after_fixed_shares", frechet(stored.held, real), len(stored.held))):
        # Features that never vary are many: the square root of their rounding is what this tolerance is for.
        assert stored[name].estimate == pytest.approx(value, rel=1e-5), name
        assert stored[name].n == n, name
        assert stored[name].interval is None, name  # none of them covers at such counts


def check_fid_floor(stored):
    real = stored.x["real"]
    random, half = np.random.default_rng(0), len(real) // 2
    orders = [random.permutation(len(real)) for _ in range(10)]
    floor = np.mean([frechet(real[order[:half]], real[order[half : 2 * half]]) for order in orders])
    assert stored["fid_floor"].estimate == pytest.approx(floor, rel=1e-5)
    assert stored["fid_floor"].n == half


def dealt(n, random, strata=None):
    """A block for each sample: in a random order, within strata if there are any, in turn."""
    order = np.lexsort((random.permutation(n), np.zeros(n) if strata is None else strata))
    block = np.empty(n, dtype=int)
    block[order] = np.arange(n) % 50
    return block


def check_fid_excess(stored):
    after, real = stored.x["after"], stored.x["real"]
    random = np.random.default_rng(0)
    whole = value = frechet(after, real)
    variance = 0.0
    for blocks, without in ((dealt(len(after), random), lambda keep: frechet(after[keep], real)),
                            (dealt(len(real), random, stored.strata), lambda keep: frechet(after, real[keep]))):
        left = np.array([without(blocks != block) for block in range(50)])
        value += 49 * (whole - left.mean())
        variance += 49 / 50 * ((left - left.mean()) ** 2).sum()
    found = stored["fid_excess"]
    assert found.estimate == pytest.approx(value, rel=1e-4)  # differences of nearly equal numbers, 49 times
    reach = stats.t.ppf(0.975, 49) * np.sqrt(variance)
    assert found.interval.upper - found.estimate == pytest.approx(reach, rel=1e-4)
    assert found.estimate - found.interval.lower == pytest.approx(reach, rel=1e-4)
    assert found.n == len(after)


def kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


class Kid:
    """KID of a set to the real images on half of the blocks of each, again and again; `where` says which latents."""

    def __init__(self, x, where, y, latents, strata=None):
        random = np.random.default_rng(0)
        block, real_block = dealt(latents, random)[where], dealt(len(y), random, strata)
        random = np.random.default_rng([0, 1])
        half, real_half = ((random.random((1_000, 50)).argsort(1).argsort(1) < 25).astype(float) for _ in range(2))
        used, real_used = (np.vstack([np.ones(50), part]) for part in (half, real_half))  # first of all, all of it
        a, b = np.eye(50)[block], np.eye(50)[real_block]
        xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
        for square in (xx, yy):
            np.fill_diagonal(square, 0)
        n, m = used @ a.sum(0), real_used @ b.sum(0)
        values = (np.einsum("di,ij,dj->d", used, a.T @ xx @ a, used) / n / (n - 1)
                  + np.einsum("di,ij,dj->d", real_used, b.T @ yy @ b, real_used) / m / (m - 1)
                  - 2 * np.einsum("di,ij,dj->d", used, a.T @ xy @ b, real_used) / n / m)
        self.value, self.draws = values[0], values[1:]

    def agrees_with(self, found, n, minus=None):
        """The number and its interval: of this, or of this minus another on the same latents and images."""
        value = self.value - (minus.value if minus else 0)
        deviations = self.draws - (minus.draws if minus else 0) - value
        reach = stats.t.ppf(0.975, 49) * np.sqrt(np.mean(deviations**2))
        assert found.estimate == pytest.approx(value, rel=1e-6, abs=1e-10), found.name
        assert (found.interval.lower, found.interval.upper) == pytest.approx((value - reach, value + reach), rel=1e-6)
        assert found.n == n
        return reach


def check_kid(stored):
    scale = 1 / np.sqrt((stored.x["real"] ** 2).mean())
    n = len(stored.scores["latent"])

    def kid(x, where):
        return Kid(x * scale, where, stored.x["real"] * scale, n, stored.strata)

    before, after = (kid(stored.x[side], stored.latent[side]) for side in ("before", "after"))
    held = kid(stored.held, stored.thinned)
    counts = [len(stored.latent[side]) for side in ("before", "after")]
    before.agrees_with(stored["kid_before"], counts[0])
    after.agrees_with(stored["kid_after"], counts[1])
    after.agrees_with(stored["kid_difference"], min(counts), minus=before)
    held.agrees_with(stored["kid_difference_fixed_shares"], min(counts[0], len(stored.held)), minus=before)


def check_reference(stored):
    reference, x = stored.x["reference"], stored.redrawn
    for name, side in (("ret_fid", "after"), ("ret_fid_before", "before")):
        assert stored[name].estimate == pytest.approx(frechet(x[side], reference), rel=1e-5)
        assert stored[name].n == len(x[side])
    scale = 1 / np.sqrt((reference**2).mean())
    n = len(reference)
    before, after = (Kid(x[side] * scale, np.arange(n), reference * scale, n) for side in ("before", "after"))
    reach = after.agrees_with(stored["reference_difference"], n, minus=before)
    p = stats.t.cdf((after.value - before.value) / (reach / stats.t.ppf(0.975, 49)), 49)
    assert stored["reference_p_value"].estimate == pytest.approx(p, rel=1e-6)


# --------------------------------------------------------------------------------------------- neighbours


def near(generated, real):
    def radii(points):
        return NearestNeighbors(n_neighbors=K + 1).fit(points).kneighbors(points)[0][:, K]

    apart = np.array([np.sqrt(((real - point) ** 2).sum(1)) for point in generated])  # [n, m]
    return apart <= radii(real) * (1 + 1e-12), apart <= radii(generated)[:, None] * (1 + 1e-12)


def check_neighbours(stored):
    real = stored.x["real"]
    m = len(real)
    for ending, side in (("", stored.x["after"]), ("_before", stored.x["before"]), ("_fixed_shares", stored.held)):
        in_real, in_generated = near(side, real)
        n = len(side)
        exactly(stored[f"precision{ending}"], in_real.any(1).sum(), n)
        exactly(stored[f"recall{ending}"], in_generated.any(0).sum(), m)
        density = in_real.sum(1) / K
        found = stored[f"density{ending}"]
        assert found.estimate == pytest.approx(density.mean(), rel=1e-9)
        bounds = stats.t.interval(0.95, n - 1, density.mean(), density.std(ddof=1) / np.sqrt(n))
        assert (found.interval.lower, found.interval.upper) == pytest.approx(bounds, rel=1e-6)
        assert found.n == n
        covered(stored[f"coverage{ending}"], in_real)


def covered(found, in_real):
    n, m = in_real.shape
    hits = in_real.any(0).sum()
    without = np.array([np.delete(in_real, sample, 0).any(0).mean() for sample in range(0, n)]) if n < 400 else None
    if without is None:  # the same by counting: a ball is lost where the sample is alone in it
        alone = in_real & (in_real.sum(0) == 1)
        without = (hits - alone.sum(1)) / m
    variance = (n - 1) / n * ((without - without.mean()) ** 2).sum()
    share = hits / m
    effective = m / max(1.0, variance / (share * (1 - share) / m))
    assert found.estimate == pytest.approx(share, rel=1e-12)
    assert found.interval.lower == pytest.approx(
        stats.beta.ppf(0.025, effective * share, effective * (1 - share) + 1), rel=1e-6)
    assert found.interval.upper == pytest.approx(
        stats.beta.ppf(0.975, effective * share + 1, effective * (1 - share)), rel=1e-6)
    assert found.n == n


# -------------------------------------------------------------------- members, searches, lessons


def check_membership(stored):
    member, score = stored.membership["member"], stored.membership["score"]
    found = stored["membership_auc"]
    value = roc_auc_score(member, score)
    assert found.estimate == pytest.approx(value, rel=1e-9)
    assert found.n == min(member.sum(), (~member).sum())
    # DeLong's variance by all pairs, one further score at either end; then Korn and Graubard's effective count.
    low, high = score.min() - 1, score.max() + 1
    ours, others = (np.append(score[side], [low, high]) for side in (member, ~member))
    wins = (ours[:, None] > others) + 0.5 * (ours[:, None] == others)
    parts = np.array([wins.mean(1).var(ddof=1) / len(ours), wins.mean(0).var(ddof=1) / len(others)])
    freedom = parts.sum() ** 2 / (parts**2 / [len(ours) - 1, len(others) - 1]).sum()
    effective = (wins.mean() * (1 - wins.mean()) / parts.sum()
                 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, freedom)) ** 2)
    assert found.interval.lower == pytest.approx(
        stats.beta.ppf(0.025, value * effective, (1 - value) * effective + 1), rel=1e-6)
    assert found.interval.upper == pytest.approx(
        stats.beta.ppf(0.975, value * effective + 1, (1 - value) * effective), rel=1e-6)


def check_membership_scores(stored):
    """The scores themselves: how near the candidate's samples come, in the extractor's features."""
    extractor = models.load(stored.inputs / "extractor" / "model.safetensors")
    tree = NearestNeighbors(n_neighbors=1).fit(stored.redrawn["after"])
    for split, member in (("train", True), ("holdout", False)):
        images, labels = digits(split)
        images = images[labels == DIGIT][: 60 if member else None]
        images = np.round((images + 1) * np.float32(127.5)) / np.float32(127.5) - 1  # as sample sets store them
        with torch.inference_mode():
            far = tree.kneighbors(extractor.features(torch.from_numpy(images)).numpy())[0][:, 0]
        assert stored.membership["score"][stored.membership["member"] == member] == pytest.approx(-far, abs=1e-3)


def check_search(stored):
    for name, model in (("search_rate", "candidate"), ("search_rate_before", "parent")):
        found = stored.search["found"][stored.search["model"] == model]
        assert len(found) == 20
        exactly(stored[name], found.sum(), 20)
        assert np.all(stored.search["found"] >= stored.search["at_start"])
    found = {model: stored.search["found"][stored.search["model"] == model] for model in ("candidate", "parent")}
    was, is_now, ratio = found["parent"], found["candidate"], stored["search_ratio"]
    assert ratio.estimate == pytest.approx(is_now.sum() / was.sum(), rel=1e-12)
    assert (ratio.interval.lower, ratio.interval.upper) == pytest.approx(
        ratio_bounds((was & is_now).sum(), was.sum(), (~was & is_now).sum(), len(was), 0.95), abs=1e-9)


def check_relearning(stored):
    enough = stored.hit["before"].mean() / 2
    table = stored.relearning

    def needed(model, repeat):
        rows = (table["model"] == model) & (table["repeat"] == repeat)
        reached = table["hits"][rows] >= enough * table["n"][rows]
        assert reached[-1], f"{model} did not get there: choose longer lessons for this test"
        assert not reached[:-1].any()
        return table["step"][rows][-1]

    steps = {model: np.array([needed(model, repeat) for repeat in range(6)])
             for model in ("candidate", "parent", "never exposed")}
    ratios = (steps["candidate"] + 1) / (steps["never exposed"] + 1)
    for name, values in (("relearning_steps", steps["candidate"]), ("relearning_steps_before", steps["parent"]),
                         ("relearning_steps_never_exposed", steps["never exposed"]), ("relearning_ratio", ratios)):
        found = stored[name]
        # Six repeats all fall on one side of the median once in 32: their ends are the interval.
        assert found.estimate == pytest.approx(np.median(values)), name
        assert (found.interval.lower, found.interval.upper) == pytest.approx((values.min(), values.max())), name
        assert found.n == 6


CHECKS = {
    check_rates: {"residual_rate", "residual_rate_before"},
    check_pul: {"pul"},
    check_kept_share: {"kept_share"},
    check_share_distance: {"share_distance"},  # its interval is of bootstrap draws: only that it holds the number
    check_judge: {"judge_accuracy", "judge_sensitivity", "judge_specificity", "judge_confidence",
                  "judge_confidence_before"},
    check_corrected_rate: {"residual_rate_corrected"},
    check_fid: {"fid_before", "fid_after", "fid_ratio", "fid_after_fixed_shares"},
    check_fid_floor: {"fid_floor"},
    check_fid_excess: {"fid_excess"},
    check_kid: {"kid_before", "kid_after", "kid_difference", "kid_difference_fixed_shares"},
    check_reference: {"ret_fid", "ret_fid_before", "reference_difference", "reference_p_value"},
    check_neighbours: {f"{name}{ending}" for name in ("precision", "recall", "density", "coverage")
                       for ending in ("", "_before", "_fixed_shares")},
    check_membership: {"membership_auc"},
    check_membership_scores: set(),
    check_search: {"search_rate", "search_rate_before", "search_ratio"},
    check_relearning: {"relearning_steps", "relearning_steps_before", "relearning_steps_never_exposed",
                       "relearning_ratio"},
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_what_the_files_give_is_what_the_report_says(stored, check):
    check(stored)


def test_no_number_of_the_report_goes_unchecked(stored):
    # What only a second request is asked is recomputed in test_one_after_the_other.py.
    asked = [found for found in stored.report.measurements if found.missing != NOTHING_BEFORE]
    measured = [found.name for found in asked]
    assert len(measured) == len(set(measured))
    assert set(measured) == set().union(*CHECKS.values())
    assert [found.name for found in asked if found.estimate is None] == []


BOUNDS_NOT_RECOMPUTED = {"share_distance"}  # of bootstrap draws


@pytest.mark.parametrize("name", sorted(set().union(*CHECKS.values())))
def test_a_number_or_a_bound_that_is_a_little_off_would_be_noticed(stored, name):
    check = next(check for check, names in CHECKS.items() if name in names)
    found = stored[name]
    off = [found.model_copy(update={"estimate": found.estimate * 1.002 + 2e-4})]
    if found.interval is not None and name not in BOUNDS_NOT_RECOMPUTED:
        wider = found.interval.upper * 1.02 + 2e-4
        off.append(found.model_copy(update={"interval": found.interval.model_copy(update={"upper": wider})}))
    for wrong in off:
        spoiled = copy(stored)
        spoiled.report = stored.report.model_copy(update={"measurements": tuple(
            wrong if one.name == name else one for one in stored.report.measurements)})
        with pytest.raises(AssertionError):
            check(spoiled)


def test_the_stored_features_and_scores_are_those_of_the_weights(stored):
    judge = models.load(stored.inputs / "judge" / "model.safetensors")
    random = torch.Generator().manual_seed(int(stored.report.latent_seed[:16], 16) >> 1)
    latents = torch.cat([torch.randn(500, 32, generator=random) for _ in range(2)])
    with torch.inference_mode():
        for side, role in (("before", "checkpoint"), ("after", "candidate")):
            images = models.load(stored.inputs / role / "model.safetensors")(latents)
            said = judge(images).softmax(1)
            assert stored.scores[f"class_{side}"] == pytest.approx(said.argmax(1).numpy())
            assert stored.scores[f"confidence_{side}"] == pytest.approx(said.max(1).values.numpy(), abs=1e-4)
            assert stored.scores[f"unwanted_{side}"] == pytest.approx(said[:, DIGIT].numpy(), abs=1e-4)
            kept = stored.latent[side]
            assert np.array_equal(kept, np.flatnonzero(~stored.hit[side]))
            assert stored.x[side] == pytest.approx(stored.redrawn[side][kept], abs=1e-3)


def test_the_controls_follow_from_the_same_files(stored):
    of = {control.name: {found.name: found for found in control.measurements} for control in stored.report.controls}
    was, n = stored.hit["before"], len(stored.hit["before"])
    exactly(of["parent"]["residual_rate"], was.sum(), n)
    assert of["parent"]["pul"].estimate == 0
    real = stored.real["class"][stored.real["label"] != DIGIT]
    exactly(of["real"]["residual_rate"], np.sum(real == DIGIT), len(real))
    exactly(of["output filter"]["residual_rate"], 0, n - was.sum())
    exactly(of["output filter"]["search_rate"], stored.search["found"][stored.search["model"] == "parent"].sum(), 20)
    ratio = (stored["relearning_steps_before"].estimate + 1) / (stored["relearning_steps_never_exposed"].estimate + 1)
    assert of["output filter"]["relearning_ratio"].estimate <= max(ratio, 1) < 1.5
    assert set(of["output filter"]) == {"residual_rate", "search_rate", "search_ratio", "relearning_ratio"}
