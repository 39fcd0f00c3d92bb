"""The program for strangers computes what ours does, though it shares no line with it."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from components.evaluate.evidence import every_other
from expunge.contracts import Control, Interval, Measurement, Rule
from expunge.evidence import tree
from expunge.evidence.bundle.certificate import OF_FEATURES
from expunge.evidence.decisions import same_person
from expunge.evidence.standalone import verify
from expunge.measure.distances import compare_kid, kid_ratio, unit_scale
from expunge.measure.likelihoods import extreme_share
from expunge.measure.neighbours import neighbours
from expunge.measure.policy import decide, judge_rule, preset_bytes, preset_names
from expunge.measure.proportions import PairedCounts, exact_bounds, paired_difference, paired_ratio
from expunge.measure.sequential import sequence_bounds
from expunge.measure.shares import class_shares, hold_shares, kept_shares

COUNTS = st.integers(1, 30_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCE = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999])


@given(COUNTS, CONFIDENCE)
@settings(max_examples=100, deadline=None)
def test_exact_bounds_are_those_of_scipy(counts, confidence):
    assert verify.exact(*counts, (1 - confidence) / 2) == pytest.approx(exact_bounds(*counts, confidence), abs=1e-11)


@given(COUNTS, CONFIDENCE)
@settings(max_examples=40, deadline=None)
def test_the_confidence_sequence_is_the_same_one(counts, confidence):
    assert verify.sequence(*counts, (1 - confidence) / 2) == pytest.approx(sequence_bounds(*counts, confidence), abs=1e-11)


PAIRS = st.integers(1, 60).flatmap(lambda n: st.tuples(*(st.lists(st.booleans(), min_size=n, max_size=n),) * 2))


@given(PAIRS, CONFIDENCE)
@settings(max_examples=60, deadline=None)
def test_what_is_paired_has_the_same_bounds(pair, confidence):
    counts = PairedCounts.of(*(np.array(side) for side in pair))
    found = paired_difference(counts, confidence)
    assert verify.difference(*pair, 1 - confidence) == pytest.approx(
        (found.value, found.interval.lower, found.interval.upper), abs=1e-11)
    if counts.before:
        found = paired_ratio(counts, confidence)
        assert verify.ratio(*pair, 1 - confidence, verify.exact) == pytest.approx(
            (found.value, found.interval.lower, found.interval.upper), abs=1e-9)


def test_the_smallest_kept_share_is_the_same_one():
    random = np.random.default_rng(0)
    before, after = random.integers(0, 4, 400), random.integers(0, 4, 400)
    ours = kept_shares(before, after, (0, 2, 3), 4).smallest
    rows = [{"class_before": str(x), "class_after": str(y)} for x, y in zip(before, after, strict=True)]
    report = {"unwanted": [1], "earlier": [], "classes": [], "stopping": None, "shares": dict.fromkeys("0123", 0)}
    theirs = dict(verify.recount("gan", report, {"scores": rows}, False))["kept_share"](0.05)
    assert theirs == pytest.approx((ours.value, ours.interval.lower, ours.interval.upper), abs=1e-11)


@given(st.integers(1, 200), st.sampled_from([0.5, 0.1, 0.05, 0.001]))
def test_student_s_quantiles_are_those_of_scipy(freedom, alpha):
    assert verify.student(freedom, alpha) == pytest.approx(stdtrit(freedom, 1 - alpha / 2), rel=1e-9)


class Drawn:
    """Features of what two models and the first of a chain drew from the same latents, and what was answered of them."""

    def __init__(self, seed, latents, classes, lost):
        random = np.random.default_rng(seed)
        self.classes = {name: random.integers(0, classes, latents) for name in ("before", "after", "origin")}
        self.labels = np.sort(random.integers(0, classes, 60))
        self.x = {name: random.normal(size=(latents, 3)).astype(np.float32) + shift
                  for name, shift in (("before", 0), ("after", 0.3), ("origin", 0.1))}
        self.real = random.normal(size=(60, 3)).astype(np.float32)
        self.lost, self.stays, self.shares = lost, ~np.isin(self.labels, lost), dict.fromkeys(map(str, range(classes)))

    def kept(self, name, fixed):
        return ~np.isin(self.classes[name][:fixed], self.lost)

    def features(self, fixed):
        found = {"real": self.real[self.stays], "real.label": self.labels[self.stays]}
        for name, x in self.x.items():
            rows = np.flatnonzero(self.kept(name, fixed))
            found |= {name: x[rows], f"{name}.latent": rows}
        return found

    @property
    def tables(self):
        columns = {f"class_{name}": list(map(str, self.classes[name])) for name in ("before", "after")}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return {"scores": rows, "real": [{"label": str(label)} for label in self.labels]}

    def ours(self, measure, fixed, first="before", chosen=None):
        real = self.real[self.stays]
        scale = np.float64(unit_scale(real))
        return measure(*(self.x[name][:fixed] * scale for name in (first, "after")), real * scale,
                       kept_before=self.kept(first, fixed), real_strata=self.labels[self.stays],
                       kept_after=self.kept("after", fixed) if chosen is None else chosen)


def same_numbers(theirs, ours):
    assert theirs == pytest.approx((ours.value, ours.interval.lower, ours.interval.upper), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize(("family", "single", "earlier", "fixed"), [
    ("gan", False, [], None), ("gan", False, [0], 90), ("flow", True, [2], None), ("flow", False, [], None)])
def test_distances_are_the_same_from_features_alone(family, single, earlier, fixed):
    drawn = Drawn(3, 130, 4, earlier if single else [1, *earlier])
    report = {"unwanted": [1], "earlier": earlier, "stopping": {"fixed": fixed} if fixed else None, "shares": drawn.shares}
    theirs = {name: number(0.05) for name, number in verify.measure_again(
        family, report, drawn.tables, single, drawn.features(fixed), "f")}
    assert {*theirs} == OF_FEATURES  # what a certificate says can be computed again
    kids = drawn.ours(compare_kid, fixed)
    for name, ours in (("before", kids.before), ("after", kids.after), ("difference", kids.difference)):
        same_numbers(theirs[f"kid_{name}"], ours)
    same_numbers(theirs["drift"], drawn.ours(compare_kid, fixed, "origin").difference)
    if kids.before.interval.lower > 0:
        same_numbers(theirs["kid_ratio"], drawn.ours(kid_ratio, fixed))
    chosen = np.zeros(fixed or 130, bool)
    chosen[hold_shares(drawn.classes["after"][:fixed], class_shares(drawn.classes["before"][:fixed], 4), tuple(
        label for label in range(4) if label not in drawn.lost))] = True
    same_numbers(theirs["kid_difference_fixed_shares"], drawn.ours(compare_kid, fixed, chosen=chosen).difference)


@pytest.mark.parametrize("most", [10_000, 40])
@pytest.mark.parametrize("samples", ["spread", "few places", "far away", "the images"])
def test_coverage_is_the_same_one(monkeypatch, samples, most):
    monkeypatch.setattr(verify, "MOST_SAMPLES", most)
    random = np.random.default_rng(5)
    real = random.normal(2, 1, (60, 3)).astype(np.float32)
    drawn = {"spread": random.normal(2, 1, (90, 3)), "few places": real[random.integers(0, 4, 90)] + 0.01,
             "far away": random.normal(90, 1, (90, 3)), "the images": real}[samples].astype(np.float32)
    same_numbers(verify.coverage(drawn, real, 0.05), neighbours(drawn, real, most=most).coverage)


def test_completions_are_held_against_the_other_images_of_their_class():
    random = np.random.default_rng(1)
    labels, sides = random.integers(0, 3, 101), ("image", "before", "after")
    features = {f"rest.{side}": random.normal(size=(101, 3)).astype(np.float32) + shift
                for side, shift in zip(sides, (0, 1.5, 2), strict=True)}
    rows = [{"set": "forget", "label": "1"}, *({"set": "rest", "label": str(label)} for label in labels)]
    theirs = {name: number(0.1) for name, number in verify.measure_again(
        "image_to_image", {}, {"completions": rows}, True, features, "f")}
    first = every_other(labels)
    images = features["rest.image"][~first]
    scale = np.float64(unit_scale(images))
    ours = [features[f"rest.{side}"][first] * scale for side in ("before", "after")]
    same_numbers(theirs["kid_ratio"], kid_ratio(*ours, images * scale, real_strata=labels[~first], confidence=0.9))
    same_numbers(theirs["kid_difference"], compare_kid(
        *ours, images * scale, real_strata=labels[~first], confidence=0.9).difference)


def an_interval(estimate, below, above, confidence, method):
    return Interval(lower=estimate - below, upper=estimate + above, confidence=confidence, method=method)


@st.composite
def measured(draw):
    if draw(st.booleans()):
        hits, n = draw(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
        method, bounds = draw(st.sampled_from([("Clopper-Pearson", exact_bounds), ("confidence sequence", sequence_bounds)]))
        sides, ending = draw(st.sampled_from([("two-sided", ""), ("upper", ", one-sided upper"), ("lower", ", one-sided lower")]))
        confidence = draw(CONFIDENCE)
        lower, upper = bounds(hits, n, confidence, sides)
        if draw(st.integers(0, 5)) == 0:
            upper = min(1.0, upper + 1e-3)
        return Measurement(name="m", estimate=hits / n, n=n, interval=Interval(
            lower=lower, upper=upper, confidence=confidence, method=method + ending))
    if draw(st.integers(0, 5)) == 0:
        return Measurement(name="m", missing="nobody asked", not_applicable=draw(st.booleans()))
    return Measurement(name="m", estimate=0.5, n=100, interval=an_interval(
        0.5, draw(st.sampled_from([-0.1, 0.0, 0.2])), draw(st.sampled_from([0.0, 0.2])), draw(CONFIDENCE),
        draw(st.sampled_from(["bootstrap", "bootstrap, one-sided upper", "bootstrap, one-sided lower",
                              "order statistics of the median, at least: repeats ended at 0.6"]))))


@given(measured(), st.sampled_from(["at most", "at least"]), st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.65, 0.9]), CONFIDENCE,
       st.booleans(), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_every_rule_comes_out_the_same(measurement, side, limit, confidence, one_sided, how_often):
    rule = Rule(metric="m", side=side, limit=limit, confidence=confidence, one_sided=one_sided, reason="a test")
    found = tuple([measurement] * (how_often if how_often != 1 else 1))
    theirs = verify.judge(rule.model_dump(mode="json"), [one.model_dump(mode="json") for one in found])
    assert theirs == judge_rule(rule, found).outcome


MUST, NAMES = st.sampled_from(["FAIL", "not FAIL"]), st.sampled_from(["parent", "real", "output filter"])


@given(st.lists(st.tuples(st.sampled_from([3, 4, 5]), st.booleans(), st.booleans()), max_size=30))
@settings(max_examples=40, deadline=None)
def test_a_flows_shares_are_the_same_for_the_class_that_is_worst_off(images):
    rows = [{"set": which, "label": str(label), **{f"{what}_{side}": str(int(there)) for side in ("before", "after")
                                                   for what, there in (("unlikely", first), ("outlying", second))}}
            for label, first, second in images for which in ("holdout", "forget")]
    report = {"unwanted": [3, 4], "earlier": [5], "classes": [], "stopping": None}
    theirs = dict(verify.recount("flow", report, {"likelihoods": rows}, False))
    asked = {"unlikely_share": (1, "lowest", (3, 4)), "forget_unlikely_share": (1, "lowest", (3, 4)),
             "forget_outlying_share": (2, "highest", (3, 4)), "unlikely_share_earlier": (1, "lowest", (5,))}
    for name, (place, extreme, labels) in asked.items():
        of = [[one[place] for one in images if one[0] == label] for label in labels]
        if not all(of):
            assert name not in theirs
            continue
        ours = extreme_share(of, extreme)
        assert theirs[name](0.05) == pytest.approx((ours.value, ours.interval.lower, ours.interval.upper))
        assert theirs[f"{name}_before"](0.05) == theirs[name](0.05)
    assert not any(name.startswith("forget") for name in dict(verify.recount("flow", report, {"likelihoods": rows}, True)))


@given(st.lists(st.tuples(NAMES, MUST, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([("m",), ("search_rate",), ()])),
                max_size=4), st.sampled_from(["m", "search_rate"]))
@settings(max_examples=200, deadline=None)
def test_controls_spoil_the_same_verdicts(given_controls, metric):
    def measure(value):
        return tuple(Measurement(name=name, estimate=value, n=9, interval=an_interval(value, 0.1, 0.1, 0.95, "bootstrap"))
                     for name in ("m", "search_rate"))

    controls = tuple(Control(name=name, must=must, measurements=measure(value), covers=covers)
                     for name, must, value, covers in given_controls)
    rule = Rule(metric=metric, side="at most", limit=0.5, confidence=0.95, reason="a test")

    class Asked:
        rules, name = (rule,), "p"

    class Found:
        family, earlier, measurements, candidate_sha256 = "gan", (), measure(0.0), "0" * 64
        came_before, single_images = (), None

    Found.controls = controls
    ours = decide(Found, Asked, report_sha256="0" * 64, policy_sha256="0" * 64).outcome
    spoiled = verify.controls_gone_wrong([one.model_dump(mode="json") for one in controls], [rule.model_dump(mode="json")])
    assert (ours == "INVALID") == bool(spoiled)


@pytest.mark.parametrize("name", preset_names())
def test_shipped_policies_are_read_as_a_yaml_reader_reads_them(name):
    ours, theirs = yaml.safe_load(preset_bytes(name)), verify.read_policy(preset_bytes(name))
    assert theirs["approvals"] == ours.get("approvals", 1)
    assert theirs["valid_days"] == ours.get("valid_days", 30.0)
    assert [[{**verify.RULE, **rule}[key] for key in verify.RULE] for rule in theirs["rules"]] == [
        [{**verify.RULE, **rule}[key] for key in verify.RULE] for rule in ours["rules"]]


@pytest.mark.parametrize("text", [
    "rules:\n  - side: at most\n    metric: m\n", "rules:\n  - metric: m\n    limit: &x 1\n",
    "rules:\n  - metric: m\n    families:\n      - gan\n", "rules:\n  - metric: m\n    limit: 1\n    limit: 2\n",
    "rules:\n  - metric: >-\n      m\n"])
def test_what_only_a_whole_yaml_reader_could_read_is_not_guessed_at(text):
    with pytest.raises(ValueError):  # noqa: PT011  # whichever way: it says that it is not read
        verify.read_policy(text.encode())


@given(st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_proofs_hold_there_that_hold_here_and_no_others(size, data):
    leaves = [tree.leaf_hash(bytes([number])) for number in range(size)]
    levels = tree.levels_of(leaves)
    position, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    root, older = tree.root_of(leaves), tree.root_of(leaves[:first])
    proof = list(tree.inclusion_proof(position, size, lambda level, place: levels[level][place]))
    shown = list(tree.consistency_proof(first, size, lambda level, place: levels[level][place]))
    assert verify.root_of(leaves) == root
    assert verify.includes(leaves[position], position, size, proof, root)
    assert not verify.includes(leaves[position], (position + 1) % size, size, proof, root) or size == 1
    assert not verify.includes(tree.leaf_hash(b"another"), position, size, proof, root)
    assert verify.begins_with(first, size, shown, older, root)
    assert not verify.begins_with(first, size, shown, tree.leaf_hash(b"another"), root)
    assert not verify.begins_with(first, size, [*shown, root], older, root)


@given(st.text(max_size=8), st.text(max_size=8))
def test_two_spellings_are_one_person_there_if_they_are_here(one, other):
    assert verify.same_person(one, other) == same_person(one, other)
    assert verify.same_person(one, one.upper()) == same_person(one, one.upper())
