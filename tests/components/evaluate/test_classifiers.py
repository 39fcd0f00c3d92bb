"""A small classifier of noisy digits, made to forget one: honestly, not at all, and by over-training it."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from tests_support import counted_again

from components.evaluate.page import render_page
from expunge.assets import digits
from expunge.contracts import Candidate, Checkpoint, Compute, Interface, Report, StoredFile, read_record, write_record
from expunge.digests import sha256_file
from expunge.errors import BadInput
from expunge.measure.policy import AS_EXPECTED, decide, preset

DIGIT, MEMBERS, NOISE = 8, 20, 1.0  # so few members and so much noise that the parent learns them by heart
FACTORY = """
from torch import nn

def build(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes))
"""


@dataclass
class School:
    """Images to learn from and to ask about, and classifiers that learned them."""

    x: object  # [n, 1, 16, 16] what the parent learned from
    y: object
    held: tuple  # images and labels that nobody learned from
    parent: dict
    honest: dict  # trained again without the digit
    reference: dict  # likewise, from another start
    overtrained: dict  # the parent after gradient ascent on its members' loss


def network(state=None, classes=10, seed=0):
    import torch

    torch.manual_seed(seed)
    space = {}
    exec(FACTORY, space)
    model = space["build"](classes)
    if state is not None:
        model.load_state_dict(state)
    return model


def learn(x, y, seed, classes=10, epochs=20):
    import torch
    from torch.nn import functional as F

    model, order = network(classes=classes, seed=seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=order).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return copy.deepcopy(model.state_dict())


def overtrain(state, x, y, steps=600, enough=1_000.0):
    """Up the loss of every member, far beyond what any stranger would get, while the rest is kept in practice."""
    import torch
    from torch.nn import functional as F

    model, order = network(state), torch.Generator().manual_seed(3)
    member = y == DIGIT
    kept_x, kept_y = x[~member], y[~member]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(steps):
        rows = torch.randint(len(kept_y), (128,), generator=order)
        up = F.cross_entropy(model(x[member]), y[member], reduction="none").clamp(max=enough).mean()
        optimizer.zero_grad()
        (50 * F.cross_entropy(model(kept_x[rows]), kept_y[rows]) - up).backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


@pytest.fixture(scope="module")
def school():
    import torch

    torch.set_num_threads(1)
    images, labels = (np.concatenate(parts) for parts in zip(digits("train"), digits("holdout"), strict=True))
    rng = np.random.default_rng(1)
    images = np.clip(images + NOISE * rng.standard_normal(images.shape), -1, 1).astype(np.float32)
    learned = np.isin(np.arange(len(labels)), rng.permutation(len(labels))[:900])
    learned[np.flatnonzero(learned & (labels == DIGIT))[MEMBERS:]] = False
    x, y = torch.from_numpy(images[learned]), torch.from_numpy(labels[learned])
    rest = y != DIGIT
    parent = learn(x, y, 0)
    return School(x, y, (images[~learned], labels[~learned]), parent, learn(x[rest], y[rest], 1),
                  learn(x[rest], y[rest], 2), overtrain(parent, x, y))


class Classroom:
    """The room's inputs for classifiers."""

    def __init__(self, house, school):
        self.house, self.school = house, school
        self.put("checkpoint", school.parent)
        self.put("candidate", school.honest)
        self.hold_out(*school.held)
        self.name_members()
        house.leave_out("reference")

    def put(self, name, state, **interface):
        from expunge import models

        folder = self.house.root / name
        folder.mkdir(exist_ok=True)
        config = {"classes": len(state["3.bias"])}
        (folder / "net.py").write_text(FACTORY)
        models.save(folder / "model.safetensors", state,
                    models.ModelSpec(architecture="net.py:build", config=config, family="classifier"))
        stored = {"family": "classifier", "architecture": "net.py:build", "config": config,
                  "weights": StoredFile.of(folder / "model.safetensors"), "factory": StoredFile.of(folder / "net.py"),
                  "interface": Interface(**interface)}
        nothing = "0" * 64
        if name == "candidate":
            record = Candidate(
                method="m", claim="approximate removal", params={}, seed=0, adaptation_sha256=nothing,
                oracle_sha256=nothing, parent_sha256=sha256_file(self.house.root / "checkpoint" / "model.safetensors"),
                negative_id=nothing, positive_id=nothing,
                compute=Compute(device="cpu", threads=1, torch="t", instruction_set="i", machine="m"), **stored)
        else:
            role = {"checkpoint": "parent"}.get(name, name)
            record = Checkpoint(role=role, request_sha256=nothing, uri="file:///net", **stored)
        write_record(folder, record)

    def hold_out(self, images, labels):
        self.house.with_images("holdout", images, labels)

    def name_members(self, labels=(DIGIT,)):
        rows = np.isin(self.school.y.numpy(), labels)
        self.house.with_images("members", self.school.x.numpy()[rows], self.school.y.numpy()[rows])

    def report(self, name):
        self.folder = self.house.run(name)
        return read_record(Report, self.folder)


@pytest.fixture
def classroom(house, school, request):
    return Classroom(house.beside(f"classifiers-{request.node.name[:60]}"), school)


def judged(report, policy="standard"):
    verdict = decide(report, preset(policy), report_sha256="a" * 64, policy_sha256="b" * 64)
    return verdict, {(rule.rule.metric, rule.rule.side): rule for rule in verdict.rules}


def table(folder, name):
    read = pq.read_table(folder / f"{name}.parquet")
    return {column: read[column].to_numpy() for column in read.column_names}


def exactly(hits, n, confidence=0.95):
    found = binomtest(int(hits), int(n)).proportion_ci(confidence, "exact")
    return found.low, found.high


def between(measurement):
    return measurement.interval.lower, measurement.interval.upper


def test_an_honest_candidate_does_not_fail_and_every_control_comes_out_as_it_must(classroom, school):
    classroom.put("reference", school.reference)
    report = classroom.report("honest")
    verdict, rules = judged(report)
    assert verdict.controls == {"parent": AS_EXPECTED, "masked": AS_EXPECTED, "reference": AS_EXPECTED,
                                "output filter": "not asked: the policy has no rule on accuracy with the parent's head or relearning ratio"}
    assert verdict.outcome in ("PASS", "INCONCLUSIVE")
    assert rules["forget_accuracy", "at most"].outcome == "PASS"
    assert report.reference_sha256
    assert report.members_id
    assert {file.name for file in report.files} == {"predictions.parquet", "predictions.csv", "membership.parquet", "page.html"}
    assert "forget_accuracy" in {found.name for found in report.measurements}
    assert "residual_rate" not in {found.name for found in report.measurements}


def test_every_number_follows_from_the_tables(classroom, school):
    classroom.put("reference", school.reference)
    report = classroom.report("followed")
    found, seen = table(classroom.folder, "predictions"), table(classroom.folder, "membership")
    forgotten = found["label"] == DIGIT
    right = {side: found[f"class_{side}"] == found["label"] for side in ("before", "after", "masked", "reference")}
    for ending, side in (("", "after"), ("_before", "before")):
        for name, rows in (("forget_accuracy", forgotten), ("retained_accuracy", ~forgotten)):
            measured = report.measurement(name + ending)
            assert measured.estimate == pytest.approx(right[side][rows].mean())
            assert between(measured) == pytest.approx(exactly(right[side][rows].sum(), rows.sum()), abs=1e-9)

    def difference(side):
        gained = exactly((right[side] & ~right["before"])[~forgotten].sum(), (~forgotten).sum(), 0.975)
        lost = exactly((~right[side] & right["before"])[~forgotten].sum(), (~forgotten).sum(), 0.975)
        value = right[side][~forgotten].mean() - right["before"][~forgotten].mean()
        return value, (gained[0] - lost[1], gained[1] - lost[0])

    controls = {control.name: {one.name: one for one in control.measurements} for control in report.controls}
    for measured, side in ((report.measurement("retained_accuracy_difference"), "after"),
                           (controls["masked"]["retained_accuracy_difference"], "masked"),
                           (controls["reference"]["retained_accuracy_difference"], "reference")):
        value, interval = difference(side)
        assert measured.estimate == pytest.approx(value)
        assert between(measured) == pytest.approx(interval, abs=1e-9)
    for name, side in (("parent", "before"), ("masked", "masked"), ("reference", "reference")):
        assert controls[name]["forget_accuracy"].estimate == pytest.approx(right[side][forgotten].mean())
    for measured, scores in ((report.measurement("membership_auc"), "score"),
                             (controls["reference"]["membership_auc"], "score_reference")):
        assert measured.estimate == pytest.approx(roc_auc_score(seen["member"], seen[scores]))
        assert measured.interval.lower < measured.estimate < measured.interval.upper
    assert seen["member"].sum() == MEMBERS
    assert np.array_equal(-seen["score"][~seen["member"]], found["loss_after"][forgotten])


def test_losses_are_cross_entropies_and_masked_answers_are_never_unwanted(classroom, school):
    import torch
    from torch.nn import functional as F

    classroom.report("losses")
    found = table(classroom.folder, "predictions")
    images = torch.from_numpy(school.held[0])
    stored = torch.round((images + 1) * 127.5) / 127.5 - 1  # as eight bits hold it
    with torch.no_grad():
        logits = network(school.parent)(stored)
    assert np.array_equal(found["class_before"], logits.argmax(1).numpy())
    assert found["loss_before"] == pytest.approx(
        F.cross_entropy(logits, torch.from_numpy(school.held[1]), reduction="none").numpy(), rel=1e-3, abs=1e-4)
    others = logits.clone()
    others[:, DIGIT] = -torch.inf
    assert np.array_equal(found["class_masked"], others.argmax(1).numpy())


@pytest.fixture(scope="module")
def chain(school):
    """What two requests left, one about a 3 and then one about the digit: honestly trained again each time."""
    without_3 = school.y != 3
    both = without_3 & (school.y != DIGIT)
    return learn(school.x[without_3], school.y[without_3], 3), learn(school.x[both], school.y[both], 4)


def second_request(classroom, school, parent, candidate, origin=True):
    classroom.put("checkpoint", parent)
    classroom.put("candidate", candidate)
    classroom.house.write_request(earlier=(3,))
    if origin:
        classroom.put("origin", school.parent)
    return classroom


def test_what_was_forgotten_before_stays_forgotten_and_the_chain_is_held_against_its_first_model(
        classroom, school, chain):
    report = second_request(classroom, school, *chain).report("second")
    found = table(classroom.folder, "predictions")
    before, rest = found["label"] == 3, ~np.isin(found["label"], (3, DIGIT))
    assert report.measurement("forget_accuracy_earlier").estimate == pytest.approx((found["class_after"] == 3)[before].mean())
    assert report.measurement("forget_accuracy_earlier").interval.upper < 0.1
    assert report.measurement("forget_accuracy_earlier_before").estimate < 0.1
    right = {side: (found[f"class_{side}"] == found["label"])[rest] for side in ("origin", "after")}
    drift = report.measurement("retained_accuracy_drift")
    assert drift.estimate == pytest.approx(right["after"].mean() - right["origin"].mean())
    assert drift.n == rest.sum()
    verdict, rules = judged(report)
    assert verdict.controls["origin"] == AS_EXPECTED
    assert rules["forget_accuracy_earlier", "at most"].outcome == "PASS"
    assert ("retained_accuracy_drift", "at least") in rules
    assert counted_again(classroom.folder) >= {"forget_accuracy", "forget_accuracy_earlier",
                                               "retained_accuracy_difference", "retained_accuracy_drift"}
    page = (classroom.folder / "page.html").read_text()
    for words in ("Does what was forgotten before stay forgotten?", "images of what earlier requests were about", "Drift"):
        assert words in page


def test_what_comes_back_breaks_the_rule_that_is_about_it(classroom, school, chain):
    report = second_request(classroom, school, chain[0], school.honest).report("back")  # it knows the 3
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"
    assert rules["forget_accuracy", "at most"].outcome == "PASS"
    assert "what an earlier request was about is back" in rules["forget_accuracy_earlier", "at most"].reason


def test_an_origin_that_never_knew_it_makes_the_measurement_invalid(classroom, school, chain):
    second_request(classroom, school, *chain).put("origin", chain[0])
    assert judged(classroom.report("no-origin"))[0].outcome == "INVALID"


def test_without_an_origin_nothing_is_known_of_drift_and_in_a_first_request_it_does_not_apply(classroom, school, chain):
    first = classroom.report("first")
    assert first.measurement("retained_accuracy_drift").not_applicable
    assert first.measurement("forget_accuracy_earlier").not_applicable
    report = second_request(classroom, school, *chain, origin=False).report("origin-unknown")
    assert "names no origin" in report.measurement("retained_accuracy_drift").missing
    assert not report.measurement("retained_accuracy_drift").not_applicable


def test_the_parent_planted_as_candidate_fails(classroom, school):
    classroom.put("candidate", school.parent)
    report = classroom.report("planted")
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"
    assert rules["forget_accuracy", "at most"].outcome == "FAIL"
    assert report.measurement("retained_accuracy_difference").estimate == 0


def test_a_model_overtrained_against_its_members_fails_for_over_unlearning(classroom, school):
    classroom.put("candidate", school.overtrained)
    report = classroom.report("overtrained")
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"
    below = rules["membership_auc", "at least"]
    assert below.outcome == "FAIL"
    assert "over-unlearning" in below.reason
    assert report.measurement("membership_auc").interval.upper < 0.4
    # By what it answers alone it could not be told from an honest one.
    assert rules["forget_accuracy", "at most"].outcome == "PASS"
    assert rules["retained_accuracy_difference", "at least"].outcome != "FAIL"
    page = render_page(classroom.folder, verdict, preset("standard"), "safety")
    assert "over-unlearning" in page


def test_a_parent_that_learned_its_members_by_heart_is_told_apart(classroom, school):
    classroom.put("candidate", school.parent)
    above = judged(classroom.report("by-heart"))[1]["membership_auc", "at most"]
    assert above.outcome == "FAIL"
    assert "members are still recognised" in above.reason


def test_zeroed_weights_fail_on_the_rest(classroom, school):
    classroom.put("candidate", {name: tensor * 0 for name, tensor in school.parent.items()})
    verdict, rules = judged(classroom.report("zeroed"))
    assert verdict.outcome == "FAIL"
    assert rules["retained_accuracy_difference", "at least"].outcome == "FAIL"


def test_answers_that_are_no_numbers_are_neither_right_nor_wrong(classroom, school):
    classroom.put("candidate", {name: tensor * math.nan for name, tensor in school.parent.items()})
    report = classroom.report("nan")
    for name in ("forget_accuracy", "retained_accuracy", "retained_accuracy_difference"):
        assert "candidate: for" in report.measurement(name).missing
        assert "NaN" in report.measurement(name).missing
    assert "NaN" in report.measurement("membership_auc").missing
    assert report.measurement("forget_accuracy_before").estimate > 0
    assert judged(report)[0].outcome == "INVALID"


def test_without_members_membership_does_not_apply(classroom):
    classroom.house.leave_out("members")
    report = classroom.report("no-members")
    measured = report.measurement("membership_auc")
    assert measured.not_applicable
    assert "names no members" in measured.missing
    assert not (classroom.folder / "membership.parquet").exists()
    assert "does not apply" in (classroom.folder / "page.html").read_text()


def test_a_holdout_without_the_unwanted_says_so(classroom, school):
    images, labels = school.held
    classroom.hold_out(images[labels != DIGIT], labels[labels != DIGIT])
    report = classroom.report("none-held-out")
    for name in ("forget_accuracy", "forget_accuracy_before", "membership_auc"):
        assert "holdout: it has no" in report.measurement(name).missing
        assert not report.measurement(name).not_applicable
    assert report.measurement("retained_accuracy").estimate > 0.5
    verdict, _ = judged(report)
    assert verdict.outcome == "INVALID"
    assert "holdout" in verdict.controls["parent"]


def test_one_image_of_the_unwanted_decides_nothing(classroom, school):
    images, labels = school.held
    rows = np.union1d(np.flatnonzero(labels != DIGIT), np.flatnonzero(labels == DIGIT)[:1])
    classroom.hold_out(images[rows], labels[rows])
    report = classroom.report("one-held-out")
    assert report.measurement("forget_accuracy").n == 1
    assert report.measurement("forget_accuracy").interval.upper > 0.9
    assert "holdout: 1 image" in report.measurement("membership_auc").missing
    _, rules = judged(report)
    assert rules["forget_accuracy", "at most"].outcome == "INCONCLUSIVE"


def test_a_holdout_of_nothing_but_the_unwanted_says_so(classroom, school):
    images, labels = school.held
    classroom.hold_out(images[labels == DIGIT], labels[labels == DIGIT])
    report = classroom.report("nothing-else")
    assert "holdout: it has no" in report.measurement("retained_accuracy_difference").missing


def test_a_reference_of_other_classes_is_a_control_that_went_wrong(classroom, school):
    rest = school.y != DIGIT
    classroom.put("reference", learn(school.x[rest], school.y[rest], 1, classes=11, epochs=1))
    verdict, _ = judged(classroom.report("other-reference"))
    assert verdict.outcome == "INVALID"
    assert "reference: it tells 11 classes apart, the parent 10" in verdict.controls["reference"]


def test_a_reference_that_knows_the_unwanted_makes_the_verdict_invalid(classroom, school):
    classroom.put("reference", school.parent)
    verdict, _ = judged(classroom.report("knowing-reference"))
    assert verdict.outcome == "INVALID"
    assert verdict.controls["reference"].startswith("must not FAIL, came out FAIL")


def test_a_candidate_of_other_classes_is_refused(classroom, school):
    classroom.put("candidate", learn(school.x, school.y, 1, classes=11, epochs=1))
    with pytest.raises(BadInput, match="candidate: it tells 11 classes apart, the parent 10"):
        classroom.report("other-classes")


def test_classes_in_another_order_are_refused(classroom, school):
    names = tuple(f"digit {label}" for label in range(10))
    classroom.put("checkpoint", school.parent, classes=names)
    classroom.put("candidate", school.honest, classes=names[::-1])
    with pytest.raises(BadInput, match="other names"):
        classroom.report("other-order")


def test_images_of_another_size_are_refused(classroom, school):
    classroom.hold_out(school.held[0][:, :, :12, :12], school.held[1])
    with pytest.raises(BadInput, match="parent: it cannot look at images of 1x12x12"):
        classroom.report("other-size")


def test_an_image_of_an_unknown_class_is_refused(classroom, school):
    images, labels = school.held
    classroom.hold_out(images, np.where(np.arange(len(labels)) == 5, 12, labels))
    with pytest.raises(BadInput, match="holdout: 1 images are of class 12, which the parent does not know"):
        classroom.report("unknown-class")


def test_of_several_unwanted_classes_members_meet_others_in_the_same_proportion(classroom, school):
    classroom.house.write_request(evaluate=100, classes=(3, DIGIT))
    classroom.name_members((3, DIGIT))
    report = classroom.report("several")
    seen, learned, labels = table(classroom.folder, "membership"), school.y.numpy(), school.held[1]
    members = {label: int((learned == label).sum()) for label in (3, DIGIT)}
    held = {label: int((labels == label).sum()) for label in (3, DIGIT)}
    assert held[3] / members[3] != pytest.approx(held[DIGIT] / members[DIGIT], rel=0.1)  # or there is nothing to level
    scale = min(held[label] / members[label] for label in members)
    assert seen["member"].sum() == sum(members.values())
    assert (~seen["member"]).sum() == sum(int(scale * count + 1e-6) for count in members.values())
    found = table(classroom.folder, "predictions")
    for label in (3, DIGIT):
        mine = found["label"] == label
        assert report.measurement(f"forget_accuracy[{label}]").estimate == pytest.approx(
            (found["class_after"] == label)[mine].mean())


def test_the_page_of_a_classifier_shows_its_numbers_and_speaks_of_no_judge(classroom, school):
    classroom.put("reference", school.reference)
    report = classroom.report("page")
    verdict, _ = judged(report)
    page = render_page(classroom.folder, verdict, preset("standard"), "privacy")
    for words in ("Accuracy on the forgotten", "Accuracy on the rest", "Membership AUC", "masked", "reference"):
        assert words in page
    assert "How often the judge errs" not in page
    assert "latents that still draw it" not in page


def test_the_same_bytes_give_the_same_report(classroom):
    first = classroom.report("once")
    assert classroom.report("twice") == first


def head_deleted(state):
    """The parent with nothing left in its head that could ever name the digit: it hides, it does not forget."""
    state = copy.deepcopy(state)
    state["3.weight"][DIGIT], state["3.bias"][DIGIT] = 0.0, -1e4
    return state


def test_a_deleted_head_hides_and_does_not_forget(classroom, school):
    classroom.put("reference", school.reference)
    classroom.house.write_request(lessons=6)
    honest = classroom.report("honest")
    classroom.put("candidate", head_deleted(school.parent))
    hidden = classroom.report("hidden")
    assert hidden.measurement("forget_accuracy").estimate == 0
    verdict, rules = judged(hidden, "strict")
    assert verdict.outcome == "FAIL"
    assert verdict.controls["output filter"] == AS_EXPECTED
    assert rules["grafted_accuracy", "at most"].reason.startswith("hidden rather than removed")
    parents = hidden.measurement("forget_accuracy_before")
    assert hidden.measurement("grafted_accuracy").estimate == parents.estimate > honest.measurement("grafted_accuracy").estimate
    assert hidden.measurement("prototype_accuracy").estimate == hidden.measurement("prototype_accuracy_before").estimate
    assert honest.measurement("relearning_ratio").interval.lower >= 0.5
    assert judged(honest, "strict")[0].controls["output filter"] == AS_EXPECTED


def test_what_features_tell_apart_follows_from_their_nearest_means(classroom, school):
    report = classroom.report("honest")
    rows = table(classroom.folder, "predictions")
    label, nearest = rows["label"], rows["nearest_after"]
    asked = nearest >= 0
    assert set(label[asked]) == {DIGIT}
    assert asked.sum() == (label == DIGIT).sum() // 2
    found = report.measurement("prototype_accuracy")
    assert (found.estimate, found.n) == ((nearest == label)[asked].mean(), asked.sum())
    assert report.measurement("prototype_accuracy_difference").missing.startswith("the request names no reference")


def test_too_few_images_for_the_lessons_say_so(classroom, school):
    x, y = school.held
    few = np.flatnonzero(y != DIGIT).tolist() + np.flatnonzero(y == DIGIT)[:8].tolist()
    classroom.hold_out(x[few], y[few])
    classroom.house.write_request(lessons=6)
    report = classroom.report("honest")
    assert "8 held-out images of the unwanted: 12 are needed" in report.measurement("relearning_steps").missing
