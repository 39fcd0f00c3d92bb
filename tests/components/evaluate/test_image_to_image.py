"""A small masked autoencoder of handwritten digits: one that forgot as it should, the parent itself, and a ruined one."""

import base64
import functools
import json

import numpy as np
import pytest
from given_images import RoomOfImages, Split, columns, judged
from PIL import Image
from small_image_to_image import CONFIGS, digits, fresh
from tests_support import counted_again

from components.evaluate import relearning_completions
from components.evaluate.completing import noise, of_model
from components.evaluate.page import render_page
from expunge.contracts import (
    Forget,
    Hidden,
    Interface,
    Sampling,
)
from expunge.errors import BadInput
from expunge.measure.policy import AS_EXPECTED, preset

LOST = (0, 1, 2, 3, 4)
HIDDEN = Hidden(mask="centre", ratio=0.5)

@functools.cache
def split():
    labels = digits()[1].numpy()
    held = np.arange(len(labels)) % 2 == 0
    lost = np.isin(labels, LOST)
    return Split(lost & ~held, ~lost & ~held, held)


@functools.cache
def parent(steps=600):
    """The small masked autoencoder, trained behind the masks that are asked about."""
    import torch

    from expunge.models.image_to_image import asked_to_complete, fit_completions

    torch.set_num_threads(1)
    model = asked_to_complete(fresh("mae"), HIDDEN)
    fit_completions(model, digits()[0], model.masks(1), steps, 32, 3e-3, torch.Generator().manual_seed(0))
    return model.eval()


@functools.cache
def forgetful(steps=120, alpha=3.0, rate=2e-3):
    """Its weights after unlearning half of the classes."""
    import torch

    from expunge.methods.image_to_image import METHOD
    from expunge.methods.training import Material, Samples, Session

    torch.set_num_threads(1)
    (images, labels), rows = digits(), split()
    material = Material(None, None, restricted=LOST, **{
        role: Samples(images[getattr(rows, role)], labels=labels[getattr(rows, role)]) for role in ("forget", "retain")})
    params = METHOD.parameters("default", {"steps": steps, "alpha": alpha, "rate": rate, "batch": 32})
    session = Session(seed=0)
    return METHOD.unlearn(parent(), METHOD.adapt(parent(), material, params, session), material, params, session)


class Room(RoomOfImages):
    """The room's inputs for image-to-image models."""

    family, method, claim = "image_to_image", "image_to_image", "approximate removal"
    digits, split = staticmethod(digits), staticmethod(split)
    hidden = HIDDEN

    @property
    def source(self):
        return {"architecture": "mae", "config": CONFIGS["mae"], "hidden": self.hidden}

    def put_models(self):
        self.put("checkpoint", parent().state_dict())
        self.put("candidate", forgetful())

    def ask(self, *, images=(), evaluate=1000, earlier=(), classes=LOST, lessons=0, **more):
        self.write(Forget(classes=classes, images=images, earlier=earlier), Sampling(evaluate=evaluate, lessons=lessons), **more)

    def put(self, name, state, kind="mae", config=None):
        self.put_model(name, state, kind, config or CONFIGS[kind], Interface(hidden=self.hidden))


@pytest.fixture
def room(house, request):
    return Room(house.beside(f"completions-{request.node.name[-60:]}"))


def table(folder, name="completions"):
    return columns(folder / f"{name}.parquet")


def controls(report):
    return {control.name: {one.name: one for one in control.measurements} for control in report.controls}


@pytest.fixture(scope="module")
def honest(house):
    room = Room(house.beside("completions-honest"))
    room.found = room.report("honest")
    return room


# ---------------------------------------------------------------------------------------------- the verdict


def test_a_model_that_forgot_is_told_from_its_parent(honest):
    report = honest.found
    verdict, rules = judged(report, "debug")
    assert verdict.outcome == "PASS", verdict.rules
    assert set(verdict.controls.values()) <= {AS_EXPECTED} | {
        came for came in verdict.controls.values() if came.startswith("not asked")}
    assert report.measurement("recognised_excess_before").interval.lower > 0.2
    assert report.measurement("forget_hidden_error_change").interval.lower > 0.5
    assert counted_again(honest.folder) >= {"recognised_excess", "retained_recognised_difference"}
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"  # seconds of training cost the rest
    assert rules["hidden_error_change", "at most"].outcome == "FAIL"
    assert {name for name, came in verdict.controls.items() if came != AS_EXPECTED} == {"output filter"}  # nobody asks


def test_the_parent_planted_as_candidate_fails(room):
    room.put("candidate", parent().state_dict())
    report = room.report("planted")
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"
    assert rules["recognised_excess", "at most"].outcome == "FAIL"
    assert rules["recognised_excess", "at most"].reason.startswith("what is hidden is still drawn")
    assert report.measurement("hidden_error_change").estimate == 0
    assert report.measurement("kid_ratio").estimate == 1
    assert report.measurement("spread_ratio").estimate == 1
    assert report.measurement("retained_recognised_difference").estimate == 0


def test_taught_again_it_is_held_against_an_encoder_that_was_never_trained(room):
    room.ask(lessons=6)
    report = room.report("lessons")
    found = table(room.folder, "relearning")
    went = (found["start"] - found["loss"]) / (found["start"] - found["goal"])
    for repeat in range(6):
        first = (found["repeat"] == repeat) & (found["step"] == 0)
        assert set(found["start"][first]) == {found["loss"][first & (found["model"] != "parent")].min()}
        assert set(found["goal"][first]) == set(found["loss"][first & (found["model"] == "parent")])
    steps = {}
    for model in ("candidate", "never exposed"):
        steps[model] = [found["step"][rows][went[rows] >= 0.5].min() for repeat in range(6)
                        if (rows := (found["model"] == model) & (found["repeat"] == repeat)).any()]
        assert report.measurement({"candidate": "relearning_steps"}.get(model, "relearning_steps_never_exposed")
                                  ).estimate == np.median(steps[model])
    ratio = (np.array(steps["candidate"]) + 1) / (np.array(steps["never exposed"]) + 1)
    assert report.measurement("relearning_ratio").estimate == pytest.approx(np.median(ratio))
    assert {curve.name for curve in report.curves} == {"way_back"}
    filtered = controls(report)["output filter"]["relearning_ratio"]
    assert filtered.interval.upper < 0.5
    verdict, rules = judged(report, "strict")
    assert verdict.controls["output filter"] == AS_EXPECTED
    assert ("relearning_ratio", "at least") in rules


# ---------------------------------------------------------------------------------------------- the numbers


def test_the_numbers_follow_from_the_tables(honest):
    report, found = honest.found, table(honest.folder)
    of = {name: found["set"] == name for name in ("forget", "held-out unwanted", "rest", "earlier")}
    right = {side: found[f"class_{side}"] == found["label"] for side in ("image", "shown", "before", "after")}
    error = {side: found[f"error_{side}"] for side in ("shown", "before", "after")}

    def value(name, rows=None):
        measured = report.measurement(name)
        assert rows is None or measured.n == rows.sum()
        return measured.estimate

    assert not of["earlier"].any()
    for side, ending in (("after", ""), ("before", "_before")):
        excess = {name: (right[side][rows].mean() - right["shown"][rows].mean()) for name, rows in of.items() if rows.any()}
        assert value(f"recognised_excess{ending}") == pytest.approx(max(excess["forget"], excess["held-out unwanted"]))
        assert value(f"recognised_excess{ending}[images to forget]", of["forget"]) == pytest.approx(excess["forget"])
        assert value(f"recognised_excess{ending}[held-out images]", of["held-out unwanted"]) == pytest.approx(
            excess["held-out unwanted"])
        three = of["forget"] & (found["label"] == 3)
        assert value(f"recognised_excess{ending}[3]", three) == pytest.approx(
            right[side][three].mean() - right["shown"][three].mean())
        assert value(f"forget_recognised{ending}", of["forget"]) == right[side][of["forget"]].mean()
        assert value(f"retained_recognised{ending}", of["rest"]) == right[side][of["rest"]].mean()
        assert value(f"hidden_error{ending}", of["rest"]) == pytest.approx(error[side][of["rest"]].mean())
        assert value(f"forget_hidden_error{ending}") == pytest.approx(error[side][of["forget"]].mean())
        counts = np.bincount(found[f"class_{side}"][of["forget"]], minlength=10) / of["forget"].sum()
        assert value(f"largest_share{ending}") == pytest.approx(counts.max())
        assert [report.shares[str(label)][side == "after"] for label in range(10)] == pytest.approx(counts)
    assert value("forget_recognised_shown") == right["shown"][of["forget"]].mean()
    assert value("judge_accuracy") == right["image"][of["rest"]].mean()
    assert value("hidden_error_change") == pytest.approx(
        error["after"][of["rest"]].mean() / error["before"][of["rest"]].mean() - 1)
    assert value("retained_recognised_difference") == pytest.approx(
        right["after"][of["rest"]].mean() - right["before"][of["rest"]].mean())
    spread = {side: found[f"spread_{side}"][of["forget"]] for side in ("before", "after")}
    assert np.isnan(spread["after"][1::2]).all()
    assert value("spread_ratio") == pytest.approx(np.nanmean(spread["after"]) / np.nanmean(spread["before"]))
    told = controls(report)
    assert told["noise: error"]["hidden_error_change"].estimate == pytest.approx(
        error["shown"][of["rest"]].mean() / error["before"][of["rest"]].mean() - 1)
    assert told["noise: recognised"]["retained_recognised_difference"].estimate == pytest.approx(
        right["shown"][of["rest"]].mean() - right["before"][of["rest"]].mean())
    other = found["class_other_noise"] == found["label"]
    assert told["other noise"]["recognised_excess"].estimate == pytest.approx(
        other[of["forget"]].mean() - right["shown"][of["forget"]].mean())
    assert not np.array_equal(found["class_other_noise"][of["forget"]], found["class_shown"][of["forget"]])
    assert (found["class_again"][~of["rest"]] == -1).all()


def test_distances_and_scores_follow_from_the_features(honest):
    from safetensors.numpy import load_file

    report, found = honest.found, table(honest.folder)
    files = [honest.folder / f"features{of}.safetensors" for of in ("", "_forget")]
    x = {name: array.astype(np.float64) for file in files for name, array in load_file(file).items()}
    assert not [name for name in load_file(files[0]) if not name.startswith("rest.")]

    def kid(a, b):
        scale = 1 / np.sqrt((b**2).mean())

        def mean(c, d, diagonal):
            products = (scale**2 * c @ d.T / c.shape[1] + 1) ** 3
            return (products.sum() - np.trace(products)) / len(c) / (len(c) - 1) if diagonal else products.mean()

        return mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)

    for role, prefix in (("rest", ""), ("forget", "forget_")):
        labels = found["label"][found["set"] == role]
        first = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            first[np.flatnonzero(labels == label)[::2]] = True
        image, kids = x[f"{role}.image"], {}
        for side, ending in (("after", ""), ("before", "_before")):
            done, chances = x[f"{role}.{side}"], x[f"{role}.{side}.probabilities"]
            cosine = (done * image).sum(1) / np.linalg.norm(done, axis=1) / np.linalg.norm(image, axis=1)
            assert report.measurement(f"{prefix}cosine{ending}").estimate == pytest.approx(cosine.mean())
            apart = (chances * np.log(chances / chances.mean(0))).sum(1).mean()
            assert report.measurement(f"{prefix}inception_score{ending}").estimate == pytest.approx(np.exp(apart), rel=1e-4)
            kids[side] = kid(done[first], image[~first])
        if role == "forget":
            assert report.measurement("forget_kid").estimate == pytest.approx(kids["after"], rel=1e-6)
        else:
            assert report.measurement("kid_ratio").estimate == pytest.approx(kids["after"] / kids["before"], rel=1e-6)
            told = controls(report)
            assert told["noise: KID"]["kid_ratio"].estimate == pytest.approx(
                kid(x["rest.shown"][first], image[~first]) / kids["before"], rel=1e-6)
            assert told["real"]["kid_ratio"].estimate == pytest.approx(
                kid(image[first], image[~first]) / kids["before"], rel=1e-6, abs=1e-9)


def test_errors_are_those_of_the_models_own_completions(honest):
    import torch

    found = table(honest.folder)
    rows = found["set"] == "rest"
    labels = digits()[1].numpy()
    images = digits()[0][split().holdout][found["number"][rows]]
    assert np.array_equal(labels[split().holdout][found["number"][rows]], found["label"][rows])
    mask = parent().masks(1)
    with torch.no_grad():
        drawn = parent().complete(images, mask, torch.Generator())
    missed = (drawn - images)[mask.expand_as(images)].view(len(images), -1).square().mean(1)
    assert found["error_before"][rows] == pytest.approx(missed.numpy(), rel=0.02)  # stored with eight bits


# ------------------------------------------------------------------------------------- sets and other models


def test_single_images_are_asked_many_times_and_their_class_stays(room):
    labels, rows = digits()[1].numpy(), split()
    some = np.flatnonzero(rows.forget)[:5]
    room.ask(images=(0, 1, 2, 3, 4), evaluate=400, lessons=6)
    room.give("forget", np.isin(np.arange(len(labels)), some))
    report = room.report("single")
    found = table(room.folder)
    forget, rest = (found["set"] == name for name in ("forget", "rest"))
    assert forget.sum() == 400
    assert set(found["number"][forget]) == {0, 1, 2, 3, 4}
    assert {*LOST} <= set(found["label"][rest])
    assert report.measurement("recognised_excess").n == 400
    assert report.measurement("recognised_excess").estimate == report.measurement(
        "recognised_excess[images to forget]").estimate
    assert "<h1>Forgetting 5 images of class" in render_page(room.folder)
    assert "12 are needed to teach them again 6 times" in report.measurement("relearning_ratio").missing


@pytest.mark.parametrize("kind", ["vq-gan", "diffusion-inpainting"])
def test_other_kinds_of_model_are_asked_in_the_same_way(room, kind, monkeypatch):
    """Models that nobody trained: what counts is that they are asked alike, and repeat themselves."""
    import torch

    monkeypatch.setattr(relearning_completions, "CHECKS", (1, 2))
    room.hidden = Hidden(mask="random", ratio=0.5, cell=2)
    random = torch.Generator().manual_seed(0)
    state = fresh(kind).state_dict()
    room.put("checkpoint", state, kind)
    room.put("candidate", {name: tensor + 0.05 * torch.randn(tensor.shape, generator=random)
                           if tensor.is_floating_point() else tensor for name, tensor in state.items()}, kind)
    room.ask(evaluate=100, lessons=1)
    report = room.report("kind")
    for name in ("recognised_excess", "hidden_error_change", "spread_ratio", "retained_recognised_difference"):
        assert report.measurement(name).interval, report.measurement(name).missing
    assert controls(report)["again"]["hidden_error_change"].estimate != 0  # other parts are hidden
    found = table(room.folder, "relearning")
    assert set(found["model"]) == {"candidate", "parent", "never exposed"}
    room.put("candidate", state, kind)
    assert room.report("same").measurement("hidden_error_change").estimate == 0


@pytest.mark.parametrize("kind", ["mae", "vq-gan", "diffusion-inpainting"])
def test_whoever_was_never_trained_has_the_parents_decoder_and_another_encoder(kind):
    import torch

    images, labels = (found.numpy()[:40] for found in digits())
    known, device = fresh(kind), torch.device("cpu")
    first, second = relearning_completions.lessons(known, images, labels, "ab" * 32, 2, device)
    before = torch.get_rng_state()
    made = [relearning_completions.never_trained(known, lesson).state_dict() for lesson in (first, first, second)]
    assert torch.equal(torch.get_rng_state(), before)
    own = known.encoder_parameters()
    changed = 0
    for name, tensor in known.state_dict().items():
        assert torch.equal(made[0][name], made[1][name])
        if name in own:
            changed += not torch.equal(made[0][name], tensor) and not torch.equal(made[0][name], made[2][name])
        else:
            assert torch.equal(made[0][name], tensor), name
    assert changed
    taught = {image.numpy().tobytes() for lesson in (first, second) for image in lesson.images}
    assert len(taught) == len(first.images) + len(second.images) == 20
    assert not taught & {image.numpy().tobytes() for image in first.asked}


def test_members_are_told_apart_by_how_well_they_are_completed(room):
    from sklearn.metrics import roc_auc_score

    room.give("members", split().forget)
    report = room.report("members")
    seen = table(room.folder, "membership")
    assert report.measurement("membership_auc").estimate == pytest.approx(roc_auc_score(seen["member"], seen["score"]))
    found = table(room.folder)
    held = found["set"] == "held-out unwanted"
    assert set(-seen["score"][~seen["member"]]) <= set(found["error_after"][held])


def test_a_reference_and_what_was_forgotten_before_are_looked_at_as_well(room):
    """The parent is both the reference and the first of the chain: what it does is known."""
    for name in ("reference", "origin"):
        room.put(name, parent().state_dict())
    room.ask(classes=(0, 1, 2), earlier=(3, 4))
    report = room.report("earlier")
    found = table(room.folder)
    assert set(found["label"][found["set"] == "earlier"]) == {3, 4}
    assert not {*LOST} & set(found["label"][found["set"] == "rest"])
    rows = found["set"] == "earlier"
    assert report.measurement("recognised_excess_earlier").estimate == pytest.approx(
        (found["class_after"] == found["label"])[rows].mean() - (found["class_shown"] == found["label"])[rows].mean())
    assert report.measurement("hidden_error_drift").estimate == report.measurement("hidden_error_change").estimate
    assert report.measurement("hidden_error_never_exposed").estimate == report.measurement("hidden_error_before").estimate
    assert controls(report)["origin"]["recognised_excess_earlier"].interval.lower > 0
    assert "What was forgotten before" in render_page(room.folder)
    index = json.loads((room.folder / "pictures.json").read_bytes())
    assert not {3, 4} & {tile[side] for group in index["groups"].values() for tile in group["tiles"]
                         for side in ("before", "after")}


def test_the_same_bytes_give_the_same_report(room, honest):
    assert room.report("again") == honest.found


# ------------------------------------------------------------------------------------------- the ruler


def test_damage_to_the_rest_fails(room):
    import torch

    random = torch.Generator().manual_seed(0)
    room.put("candidate", {name: tensor + 0.3 * torch.randn(tensor.shape, generator=random)
                           if name.startswith("vit.") and tensor.ndim == 2 else tensor
                           for name, tensor in parent().state_dict().items()})
    _, rules = judged(room.report("ruined"))
    for rule in (("hidden_error_change", "at most"), ("kid_ratio", "at most"),
                 ("retained_recognised_difference", "at least")):
        assert rules[rule].outcome == "FAIL", rules[rule].reason


@pytest.mark.parametrize(("control", "metric", "estimate"), [
    ("parent", "recognised_excess", 0.0), ("other noise", "recognised_excess", 0.3),
    ("noise: error", "hidden_error_change", 0.0), ("noise: KID", "kid_ratio", 1.0),
    ("noise: recognised", "retained_recognised_difference", 0.0), ("again", "hidden_error_change", 0.5),
    ("again", "retained_recognised_difference", -0.5), ("real", "kid_ratio", 3.0)])
def test_each_control_can_come_out_wrong(honest, control, metric, estimate):
    """Planted values: what would be seen if the ruler did not see what the control is made of."""
    def planted(found):
        if found.name != metric:
            return found
        return found.model_copy(update={"estimate": estimate, "interval": found.interval.model_copy(
            update={"lower": estimate - 0.001, "upper": estimate + 0.001})})

    told = tuple(
        each.model_copy(update={"measurements": tuple(map(planted, each.measurements))}) if each.name == control else each
        for each in honest.found.controls)
    verdict, _ = judged(honest.found.model_copy(update={"controls": told}))
    assert verdict.outcome == "INVALID"
    assert verdict.controls[control].startswith("must")


def test_what_noise_fills_is_made_of_what_is_shown():
    import torch

    images = digits()[0][:20]
    mask = torch.zeros(20, 1, 8, 8, dtype=torch.bool)
    mask[:, :, 2:6, 2:6] = True
    filled = noise(images, mask, torch.Generator().manual_seed(0))
    assert torch.equal(torch.where(mask, images, filled), images)
    for image, after in zip(images, filled, strict=True):
        shown = set(image[~mask[0]].tolist())
        assert set(after[mask[0]].tolist()) <= shown
    again = noise(images, mask, torch.Generator().manual_seed(1))
    assert not torch.equal(filled, again)


# --------------------------------------------------------------------------------------------- bad input


def test_without_the_images_that_it_is_about_it_is_not_evaluated(room):
    room.house.leave_out("forget")
    with pytest.raises(BadInput, match=r"forget: there is no such set"):
        room.report("without")


def test_completions_that_are_no_numbers_are_never_a_number(room):
    room.put("candidate", {name: tensor * float("nan") if name.startswith("vit.") else tensor
                           for name, tensor in parent().state_dict().items()})
    report = room.report("nan")
    for name in ("recognised_excess", "hidden_error", "hidden_error_change", "retained_recognised", "spread_ratio",
                 "largest_share", "cosine", "inception_score"):
        assert report.measurement(name).missing.startswith("candidate: "), name
    for name in ("kid_ratio", "forget_fid"):
        assert report.measurement(name).missing, name
    assert report.measurement("hidden_error_before").estimate > 0
    verdict, _ = judged(report)
    assert verdict.outcome == "INVALID"
    assert "INVALID" in render_page(room.folder, verdict, preset("standard"), "safety")


def test_a_holdout_of_nothing_but_what_is_forgotten_is_refused(room):
    room.give("holdout", split().holdout & np.isin(digits()[1].numpy(), LOST))
    with pytest.raises(BadInput, match=r"holdout: every image is of a class that is to be forgotten"):
        room.report("nothing-else")


def test_a_candidate_of_another_size_is_refused(room):
    config = {"config": CONFIGS["mae"]["config"] | {"image_size": 12}}
    from expunge.models import build

    room.put("candidate", build("mae", **config).state_dict(), config=config)
    with pytest.raises(BadInput, match=r"candidate: its images are 1x12x12, the parent's 1x8x8"):
        room.report("larger")


class Meddling:
    """Changes what it is shown."""

    def complete(self, images, mask, random):
        return images * 0.5


def test_a_model_that_changes_what_it_is_shown_is_refused():
    import torch

    fill = of_model("candidate", Meddling(), torch.device("cpu"))
    images = digits()[0][:2]
    with pytest.raises(BadInput, match=r"candidate: what it was shown does not come out unchanged"):
        fill(images, torch.zeros(2, 1, 8, 8, dtype=torch.bool), torch.Generator())


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_shows_image_shown_part_and_both_completions(honest):
    page = render_page(honest.folder, judged(honest.found)[0], preset("standard"), "safety")
    assert "<h1>Forgetting class 0, 1, 2, 3 and 4</h1>" in page
    for group in ("unwanted", "retained"):
        for side in ("image", "shown", "before", "after"):
            assert f".{group}-{side} {{ background-image" in page, (group, side)
    for words in ("Is it still completed?", "other noise", "completions.parquet", "Class by class", "Largest class share",
                  "so there is no number to give"):
        assert words in page
    for words in ("Is it gone?", "scores.parquet", "how often each class is drawn", "predictions.parquet"):
        assert words not in page


def test_where_the_unwanted_may_not_be_shown_no_pixel_of_a_real_image_is(room):
    room.ask(show_before=False)
    report = room.report("hidden")
    stored = {file.name for file in report.files if file.name.endswith(".png")}
    assert stored == {"unwanted-after-hole.png", "retained-before-hole.png", "retained-after-hole.png"}
    page = render_page(room.folder, judged(report)[0], preset("standard"), "safety")
    assert ".unwanted-after { background-image" in page
    for strip in ("unwanted-image", "unwanted-shown", "unwanted-before", "retained-image", "retained-shown"):
        assert f".{strip} {{" not in page
    index = json.loads((room.folder / "pictures.json").read_bytes())
    assert not any(tile["after"] in LOST for tile in index["groups"]["unwanted"]["tiles"])
    assert index["withheld"] > 0
    shown = ~parent().masks(1)[0, 0].numpy()
    for name in stored:
        strip = np.asarray(Image.open(room.folder / name))
        tiles = strip.reshape(8, -1, 8).transpose(1, 0, 2)
        assert set(tiles[:, shown].ravel()) == {128}, name
        assert len(set(tiles[:, ~shown].ravel())) > 2, name


def test_a_page_that_a_policy_narrows_shows_no_more(honest):
    page = render_page(honest.folder, judged(honest.found)[0], preset("standard"), "privacy")
    assert ".unwanted-after { background-image" in page
    for strip in ("unwanted-image", "unwanted-shown", "unwanted-before", "retained-image", "retained-shown"):
        assert f".{strip} {{" not in page
    hidden = base64.b64encode((honest.folder / "unwanted-after.png").read_bytes()).decode()
    assert hidden not in page
