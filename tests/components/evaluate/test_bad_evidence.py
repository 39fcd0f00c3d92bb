"""What cannot be measured says so: in the report, or in one line. Never a zero, never a library's own complaint."""

import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from tests_support import call

from components.evaluate.evidence import Evidence, Membership, Real, Relearning, Search, Seen
from components.evaluate.probes import ask
from expunge import models
from expunge.assets import digits
from expunge.assets import path as asset
from expunge.contracts import Report, read_record
from expunge.errors import BadInput
from expunge.measure.policy import decide, preset
from pipelines.demo import request_for

DIGIT = 8
DISTANCES = ("fid_before", "fid_after", "fid_floor", "fid_excess", "fid_ratio", "kid_before", "kid_after",
             "kid_difference", "precision", "recall", "density", "coverage", "kid_difference_fixed_shares",
             "fid_after_fixed_shares", "coverage_fixed_shares")


def sound(report):
    """Every measurement is a number or says why it is none, and no line of it is a library's."""
    for found in report.measurements:
        assert (found.estimate is None) == bool(found.missing), found
        assert "Traceback" not in (found.missing or "")
        if found.n is not None:
            assert found.n > 0, found
    return report


def spoil(state, name, value=math.nan):
    state = dict(state)
    state[name] = state[name] * 0 + value
    return state


# ------------------------------------------------------------------------------------------ models with NaN


@pytest.mark.parametrize(("role", "words"), [
    ("candidate", "candidate: 500 of 500 images that it draws hold NaN or infinity"),
    ("reference", "reference: 500 of 500 images that it draws hold NaN or infinity"),
    ("judge", "judge: of 500 of 500 images it makes no finite numbers"),
    ("extractor", "extractor: of images of 1x16x16 it makes no finite features"),
])
def test_a_model_that_makes_nan_is_named_in_one_line(house, role, words):
    ill = house.beside(f"nan-{role}")
    ill.write_request(evaluate=500, search=0)
    layer, kind, file = {"judge": ("head.bias", "classifier", "judge"), "extractor": ("dense.bias", "classifier", "oracle")}.get(
        role, ("generator.paint.bias", "gan", "dcgan"))
    ill.write_model(role, role, kind, spoil(models.read(asset(file))[0], layer))
    with pytest.raises(BadInput, match=words) as refused:
        ill.run()
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_an_extractor_whose_features_are_nan_of_some_images_leaves_reasons_and_no_distance(house):
    ill = house.beside("nan-some")
    ill.write_request(evaluate=500, search=0)
    images, labels = digits("train")
    ill.with_images("members", images[labels == DIGIT][:20], labels[labels == DIGIT][:20])
    ill.with_reference()
    state, spec = models.read(asset("oracle"))
    # Zero on an image of zeros, which is what it is tried on; beyond float32 on one that shows something.
    ill.with_extractor({name: value * (1e20 if name.endswith("weight") else 0) for name, value in state.items()}, spec)
    report = sound(read_record(Report, ill.run()))
    for name in (*DISTANCES, "ret_fid", "reference_difference", "reference_p_value"):
        assert "NaN or infinity" in report.measurement(name).missing, name
    assert "NaN" in report.measurement("membership_auc").missing
    assert report.measurement("residual_rate").estimate is not None  # the judge sees as well as ever
    verdict = decide(report, preset("standard"), report_sha256="a" * 64, policy_sha256="b" * 64)
    assert verdict.outcome == "INVALID"
    assert any("NaN or infinity" in rule.reason for rule in verdict.rules)


# ----------------------------------------------------------------------------------- too little, or nothing


def held_out(house, name, chosen):
    few = house.beside(name)
    few.write_request(evaluate=500, search=0)
    images, labels = digits("holdout")
    chosen = chosen(labels)
    few.with_images("holdout", images[chosen], labels[chosen])
    return sound(read_record(Report, few.run()))


def test_a_holdout_without_the_unwanted_says_what_cannot_be_known_of_the_judge(house):
    report = held_out(house, "none-unwanted", lambda labels: labels != DIGIT)
    assert report.measurement("judge_sensitivity").missing
    assert "no real image of an unwanted class" in report.measurement("residual_rate_corrected").missing
    assert report.measurement("judge_specificity").estimate > 0.9
    assert report.measurement("kid_difference").estimate is not None


def test_a_holdout_without_one_of_the_retained_classes_says_which(house):
    report = held_out(house, "no-three", lambda labels: (labels != 3) & (labels != 7))
    assert report.holdout_lacks == (3, 7)
    assert report.measurement("kid_difference").estimate is not None
    page = (house.root / "beside" / "no-three" / "report" / "page.html").read_text()
    assert "Real images of class 3 and 7: none was held out." in page
    assert held_out(house, "all-there", lambda labels: labels >= 0).holdout_lacks == ()
    assert "none was held out" not in (house.root / "beside" / "all-there" / "report" / "page.html").read_text()


def test_one_real_image_is_not_enough_for_any_distance(house):
    report = held_out(house, "one-real", lambda labels: np.flatnonzero(labels == 3)[:1])
    for name in DISTANCES:
        assert report.measurement(name).missing, name
    assert report.measurement("judge_accuracy").n == 1
    assert report.measurement("residual_rate").estimate is not None


def test_one_real_image_of_the_unwanted_leaves_the_rest_without_a_control(house):
    report = held_out(house, "one-unwanted", lambda labels: np.flatnonzero(labels == DIGIT)[:1])
    for name in DISTANCES:
        assert report.measurement(name).missing, name
    assert report.measurement("judge_specificity").missing
    verdict = decide(report, preset("standard"), report_sha256="a" * 64, policy_sha256="b" * 64)
    assert verdict.outcome == "INVALID"
    assert verdict.controls["real"].startswith("must not FAIL, came out INVALID")


def seen(n, classes=10, *, features=None):
    random = np.random.default_rng(n)
    labels = np.arange(n) % classes
    chances = random.random(n).astype(np.float32)
    table = random.normal(size=(n, 4)).astype(np.float32) if features is None else features
    return Seen(labels, chances, chances, table)


def evidence(n=200, m=100, **changes):
    real = seen(m)
    nobody = np.zeros(3, dtype=bool)
    made = Evidence((DIGIT,), 10, seen(n), seen(n), Real(real, real.classes), reference=seen(n),
                    membership=Membership(np.arange(5.0), np.arange(5.0)), search=Search(nobody, nobody, nobody * 1.0),
                    search_before=Search(nobody, nobody, nobody * 1.0))
    return replace(made, **changes)


EMPTY = seen(0)
NO_START = np.zeros(0, dtype=bool)
POOR = {
    "one sample": {"before": seen(1), "after": seen(1), "reference": seen(1)},
    "no sample": {"before": EMPTY, "after": EMPTY, "reference": EMPTY},
    "one real image": {"real": Real(seen(1), seen(1).classes)},
    "no real image": {"real": Real(EMPTY, EMPTY.classes)},
    "no start of a search": {"search": Search(NO_START, NO_START, NO_START * 1.0)},
    "one member": {"membership": Membership(np.zeros(1), np.zeros(1))},
    "no member": {"membership": Membership(np.zeros(0), np.zeros(0))},
    "members that score NaN": {"membership": Membership(np.full(5, np.nan), np.arange(5.0))},
    "features that are NaN": {"after": seen(200, features=np.full((200, 4), np.nan, dtype=np.float32))},
    "features that are infinite": {"before": seen(200, features=np.full((200, 4), np.inf, dtype=np.float32))},
    "features that are all zero": {"real": Real(seen(100, features=np.zeros((100, 4), dtype=np.float32)),
                                                seen(100).classes)},
    "features of another size": {"reference": seen(200, features=np.zeros((200, 7), dtype=np.float32))},
    "everything unwanted": {"unwanted": tuple(range(10))},
    "nothing but the unwanted drawn": {"after": replace(seen(200), classes=np.full(200, DIGIT))},
    "one class is all that is drawn": {"before": replace(seen(200), classes=np.full(200, 3))},
    "a reference that does not learn": {"relearnings": tuple(
        Relearning(model, repeat, (0, 1), (0, 0), 10, 1.0) for model in ("candidate", "parent", "never exposed")
        for repeat in range(6))},
    "one lesson": {"relearnings": tuple(Relearning(model, 0, (0, 1), (0, 5), 10, 1.0)
                                        for model in ("candidate", "parent", "never exposed"))},
}
SPEAKS_OF = {
    "one sample": ("kid_difference", "fid_after", "ret_fid"),
    "no sample": ("residual_rate", "pul", "kid_difference", "share_distance", "kept_share", "judge_confidence"),
    "one real image": DISTANCES,
    "no real image": (*DISTANCES, "judge_accuracy", "judge_sensitivity"),
    "no start of a search": ("search_rate", "search_ratio"),
    "one member": ("membership_auc",),
    "no member": ("membership_auc",),
    "members that score NaN": ("membership_auc",),
    "features that are NaN": ("fid_after", "kid_difference", "precision", "ret_fid", "coverage_fixed_shares"),
    "features that are infinite": ("fid_before", "kid_difference", "precision_before", "ret_fid_before"),
    "features that are all zero": ("kid_difference",),
    "features of another size": ("ret_fid", "reference_difference", "reference_p_value"),
    "everything unwanted": ("kept_share", "share_distance", "kid_difference"),
    "nothing but the unwanted drawn": ("fid_after", "kid_difference", "precision", "share_distance"),
    "one class is all that is drawn": ("pul", "kept_share"),
    "a reference that does not learn": ("relearning_ratio",),
    "one lesson": ("relearning_steps", "relearning_ratio"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", POOR)
def test_the_probes_give_a_reason_for_what_cannot_be_measured(name):
    found = {one.name: one for one in ask("gan", evidence(**POOR[name]))}
    for one in found.values():
        assert (one.estimate is None) == bool(one.missing), one
        assert one.missing is None or (len(one.missing) > 15 and "\n" not in one.missing), one
    for metric in SPEAKS_OF[name]:
        assert found[metric].missing, metric


# ---------------------------------------------------------------------------------- models that do not fit


def resized(side):
    """A generator whose images are of another size; and what builds it."""
    code = f'''
from torch import nn

class Painter(nn.Module):
    """Latents [B, 6] to images [B, 1, {side}, {side}]."""
    latent_dim = 6

    def __init__(self):
        super().__init__()
        self.paint = nn.Linear(6, {side * side})

    def forward(self, z):
        return self.paint(z).tanh().view(-1, 1, {side}, {side})
'''
    names = {}
    exec(code, names)
    return code, names["Painter"]()


def by_factory(house, role, code, module):
    """Puts a model of somebody's own architecture into the place of a record."""
    from expunge.contracts import Checkpoint, Interface, StoredFile, write_record

    folder = house.root / role
    folder.mkdir(exist_ok=True)
    (folder / "factory.py").write_text(code)
    models.save(folder / "model.safetensors", module.state_dict(),
                models.ModelSpec(architecture="factory.py:Painter", family="gan"))
    write_record(folder, Checkpoint(
        role=role, request_sha256="0" * 64, uri="mine", family="gan", architecture="factory.py:Painter", config={},
        factory=StoredFile.of(folder / "factory.py"), weights=StoredFile.of(folder / "model.safetensors"),
        interface=Interface(latent=(6,))))


def test_a_reference_of_another_architecture_is_compared_but_its_steps_are_not(house):
    other = house.beside("other-architecture")
    other.write_request(evaluate=500, search=0, lessons=1)
    by_factory(other, "reference", *resized(16))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SAMPLES": 4, "FRESH": 100, "SEEK": 2, "CHECKS": (1, 2)}.items():
            patch.setattr(f"components.evaluate.relearning.{name}", value)
        report = sound(read_record(Report, other.run()))
    for name in ("relearning_steps_never_exposed", "relearning_ratio"):
        assert "the reference is a factory.py:Painter, the parent a dcgan" in report.measurement(name).missing
    assert report.measurement("ret_fid").estimate > 0
    assert {curve.model for curve in report.curves} == {"candidate", "parent"}


def test_a_reference_of_another_image_size_is_refused(house):
    other = house.beside("other-size")
    other.write_request(evaluate=500, search=0)
    by_factory(other, "reference", *resized(32))
    with pytest.raises(BadInput, match="reference: its images are 1x32x32, the parent's 1x16x16"):
        other.run()


def test_an_extractor_of_the_wrong_input_size_is_refused(house):
    other = house.beside("wrong-extractor")
    other.write_request(evaluate=500, search=0)
    spec = models.ModelSpec(architecture="lenet", config={"rows": 32, "columns": 32}, family="classifier")
    other.with_extractor(models.build("lenet", **spec.config).state_dict(), spec)
    with pytest.raises(BadInput, match="extractor: it cannot look at images of 1x16x16"):
        other.run()
    other.leave_out("extractor")
    (other.root / "extractor" / "model.safetensors").unlink()
    other.write_model("judge", "judge", "classifier", models.build("lenet", **spec.config).state_dict(), spec)
    with pytest.raises(BadInput, match="judge: it cannot look at images of 1x16x16"):
        other.run()


def test_a_holdout_of_another_size_is_refused(house):
    other = house.beside("holdout-size")
    other.write_request(evaluate=500, search=0)
    images, labels = digits("holdout")
    other.with_images("holdout", np.repeat(np.repeat(images[:40], 2, 2), 2, 3), labels[:40])
    with pytest.raises(BadInput, match="holdout: its images are 1x32x32, the parent's 1x16x16"):
        other.run()


@pytest.mark.slow  # two runs of the command, as far as the first room
@pytest.mark.parametrize(("field", "words"), [
    ("reference", "reference: it draws images of 1x32x32, the checkpoint of 1x16x16"),
    ("extractor", "extractor: it cannot look at images of 1x16x16"),
])
def test_a_run_ends_before_the_long_work_if_one_of_them_does_not_fit(tmp_path, field, words):
    code, painter = resized(32)
    spec = models.ModelSpec(architecture="lenet", config={"rows": 32, "columns": 32}, family="classifier")
    (tmp_path / "mine.py").write_text(code)
    models.save(tmp_path / "reference.safetensors", painter.state_dict(),
                models.ModelSpec(architecture="mine.py:Painter", family="gan"))
    models.save(tmp_path / "extractor.safetensors", models.build("lenet", **spec.config).state_dict(), spec)
    source = {"reference": {"uri": "reference.safetensors", "architecture": "mine.py:Painter", "range": [-1, 1]},
              "extractor": {"uri": "extractor.safetensors"}}[field]
    assert call(tmp_path, "init").code == 0
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({**request_for(8, 0, True), field: source}))
    done = call(tmp_path, "run", "r.yaml")
    assert done.code == 2
    assert words in done.err.splitlines()[-1]
    assert "Traceback" not in done.err + done.out
