"""Unlearning image-to-image models: the loss by formula, what stays, what is read, repeating, continuing, forgetting."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_flow import Noted
from small_gan import Killed, KilledOnce, same
from small_image_to_image import KINDS, behind, centre, digits, error, fresh, trained

from expunge.errors import BadInput, NonFiniteLoss
from expunge.methods import image_to_image_baselines as baselines
from expunge.methods.image_to_image import (
    METHOD,
    ROLES,
    Lesson,
    distance,
    noise_of_the_teacher,
    rate_at,
    usual_distances,
)
from expunge.methods.training import Material, Samples, stream
from expunge.models.masks import hidden

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SHORT = {"steps": 6, "batch": 8}
BASELINES = baselines.METHOD


def material(count=40, **changed):
    """Digits below 5 are to be forgotten, the others to be kept; single images of each are held out."""
    images, labels = digits()
    seen = torch.arange(len(images)) % 4 > 0
    lost, kept = (Samples(images[rows & seen][:count], labels=labels[rows & seen][:count])
                  for rows in (labels < 5, labels >= 5))
    return Material(**{"forget": lost, "retain": kept, "restricted": tuple(sorted(set(lost.labels.tolist())))} | changed)


def held_out():
    images, labels = digits()
    unseen = torch.arange(len(images)) % 4 == 0
    return images[unseen & (labels < 5)], images[unseen & (labels >= 5)]


def run(params, kind="mae", session=None, given=None, method=METHOD, parent=None):
    session, given, parent = session or Noted(), given or material(), parent or trained(kind)
    return method.unlearn(parent, method.adapt(parent, given, params, session), given, params, session)


def with_state(kind, state):
    model = fresh(kind)
    model.load_state_dict(state)
    return model


# ------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_papers(kind):
    params = METHOD.parameters("default", SHORT | {"scale": "plain", "alpha": 0.7, "steps": 1})
    session, parent, given = Noted(), trained(kind), material()
    run(params, kind, session, given)
    lesson = Lesson(parent, given, params, session)
    random, before = stream(session, 3), {}
    with torch.no_grad():
        for role in ROLES:
            rows, views = lesson.dealt(role, 0)
            pupil, teacher = lesson.showing[role].of(rows, views, random)
            seen, aim = (parent.encode(some.images, some.mask, some.chance) for some in (pupil, teacher))
            before[role] = sum(((one - other) ** 2).mean().item() for one, other in zip(seen, aim, strict=True))
    assert before["stay"] == 0, "the pupil begins as its teacher"
    assert session.losses[0]["retain"] == pytest.approx(0, abs=1e-9)
    assert session.losses[0]["forget"] == pytest.approx(0.7 * before["forget"], rel=1e-4)


def test_a_distance_is_the_mean_of_each_map_and_the_sum_over_them():
    one, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    assert distance([one, one[:, :1]], [other, other[:, :1]]).item() == pytest.approx(2.5 + 1)


def test_distances_are_in_parts_of_what_is_usual_in_each_map():
    one, other = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    assert distance([one, one[:, :1]], [other, other[:, :1]], torch.tensor([5.0, 0.5])).item() == pytest.approx(0.5 + 2)


@pytest.mark.parametrize("kind", KINDS)
def test_usual_are_the_variance_of_what_is_kept_and_the_first_distance_of_what_is_lost(kind):
    params = METHOD.parameters("default", SHORT | {"scale": "relative", "alpha": 0.7, "steps": 1, "batch": 40})
    session, parent, given = Noted(), behind(trained(kind), "centre"), material()
    usual = usual_distances(Lesson(parent, given, params, session), noise_of_the_teacher)
    lesson, rows = Lesson(parent, given, params, session), torch.arange(40)
    shown = {role: lesson.showing[role].of(rows, 0 * rows, stream(session, 9)) for role in ROLES}
    with torch.no_grad():
        (lost, aims), (kept, _) = ([parent.encode(some.images, some.mask, some.chance) for some in shown[role]]
                                   for role in ROLES)
    for number, (one, other, found) in enumerate(zip(lost, aims, kept, strict=True)):
        assert usual["forget"][number].item() == pytest.approx(((one - other) ** 2).mean().item(), rel=1e-4)
        assert usual["stay"][number].item() == pytest.approx(
            ((found - found.mean(dim=0)) ** 2).mean().item(), rel=1e-4)
    run(params, kind, session, given, parent=parent)
    assert session.losses[0]["forget"] == pytest.approx(0.7 * len(lost), rel=1e-4), "each map's distance is 1 at first"


def test_images_to_keep_that_are_all_alike_are_no_measure():
    alike = Samples(material().retain.images[:1].expand(9, -1, -1, -1))
    with pytest.raises(BadInput, match=r"method\.params\.scale: the teacher finds the same in all images"):
        run(METHOD.parameters("default", SHORT | {"scale": "relative"}), given=material(retain=alike),
            parent=behind(trained("mae"), "centre"))


@pytest.mark.parametrize(("kind", "mask"), [("mae", "centre"), ("mae", "random"), ("diffusion-inpainting", "random")])
def test_the_pupil_sees_the_same_whether_or_not_the_teacher_looked_before(kind, mask):
    params, given, parent = METHOD.parameters("default", SHORT | {"views": 2}), material(24), behind(fresh(kind), mask)
    before = Lesson(parent, given, params, Noted(), METHOD.adapt(parent, given, params, Noted()))
    now = Lesson(parent, given, params, Noted())
    rows, views = torch.tensor([3, 11, 3]), torch.tensor([0, 0, 1])
    for role in ROLES:
        one, other = (lesson.shown(role, rows, views, stream(Noted(), 3))[0] for lesson in (before, now))
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.mask, other.mask)
        assert len(one.chance) == len(other.chance)
        assert all(torch.equal(*both) for both in zip(one.chance, other.chance, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["unit", "matched"]), st.sampled_from(["everywhere", "hole"]), st.integers(0, 50))
def test_the_teacher_sees_the_same_mask_and_noise_where_it_is_to_be(noise, place, seed):
    params = METHOD.parameters("default", SHORT | {"noise": noise, "noise_in": place})
    given = material()
    lesson = Lesson(behind(fresh("diffusion-inpainting")), given, params, Noted(seed))
    rows, views = torch.tensor([3, 11]), torch.tensor([0, 0])
    pupil, teacher = lesson.showing["forget"].of(rows, views, stream(Noted(seed), 3))
    assert torch.equal(pupil.mask, teacher.mask)
    assert all(torch.equal(one, other) for one, other in zip(pupil.chance, teacher.chance, strict=True))
    assert torch.equal(pupil.images, given.forget.images[rows])
    inside = pupil.mask.expand_as(pupil.images)
    assert not torch.isclose(teacher.images, pupil.images)[inside].all()
    assert torch.equal(teacher.images[~inside], pupil.images[~inside]) is (place == "hole")
    if noise == "matched":
        assert teacher.images.abs().max() <= 1
    again = lesson.showing["forget"].of(rows.flip(0), views, stream(Noted(), 9))
    assert torch.equal(again[1].images, teacher.images.flip(0)), "a view is the same whenever it comes up"
    kept = lesson.showing["stay"].of(rows, views, stream(Noted(), 3))
    assert kept[0] is kept[1]


def test_matched_noise_has_the_mean_and_spread_of_the_forget_images_before_it_is_clipped():
    dull = Samples(material(400).forget.images * 0.1 + 0.3)
    params = METHOD.parameters("default", SHORT | {"noise": "matched"})
    lesson = Lesson(fresh("mae"), material(forget=dull, restricted=()), params, Noted())
    _, teacher = lesson.showing["forget"].of(torch.arange(400), torch.zeros(400, dtype=torch.long), stream(Noted(), 0))
    assert teacher.images.mean().item() == pytest.approx(dull.images.mean().item(), abs=0.01)
    assert teacher.images.std().item() == pytest.approx(dull.images.std().item(), rel=0.03)


def test_the_rate_rises_then_falls_along_half_a_cosine():
    params = METHOD.parameters("default", {"steps": 100, "warm_up": 0.2, "rate": 1.0})
    rates = [rate_at(step, params) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[19] == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    still = METHOD.parameters("paper_diffusion", {"steps": 100})
    assert {rate_at(step, still) for step in range(100)} == {5e-5}


# ------------------------------------------------------------------------------------------ what moves


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", list(METHOD.presets))
def test_nothing_moves_that_the_decoder_uses_and_all_that_only_the_encoder_does(kind, preset):
    changes = {"noise_in": "everywhere"} if kind != "diffusion-inpainting" else {}
    parent = trained(kind)
    candidate = with_state(kind, run(METHOD.parameters(preset, SHORT | changes), kind, parent=parent))
    assert same(parent.state_dict(), trained(kind).state_dict()), "the parent is left as it was"
    own = parent.encoder_parameters()
    before, after = (dict(model.named_parameters()) for model in (parent, candidate))
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(own)


def test_a_diffusions_noise_level_is_embedded_as_before():
    candidate, parent = run(METHOD.parameters("debug", SHORT), "diffusion-inpainting"), trained("diffusion-inpainting")
    shared = [name for name in candidate if name.startswith("time_embedding")]
    assert len(shared) == 4
    assert all(torch.equal(candidate[name], parent.state_dict()[name]) for name in shared)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("views", [1, 2])
def test_teacher_passes_made_once_are_those_of_every_step(kind, views):
    made = {"steps": 12, "batch": 16, "views": views}
    once, every = (METHOD.parameters("debug", made | {"cache_gib": size}) for size in (1.0, 0.0))
    session, other, given = Noted(), Noted(), material(24)
    parent = behind(trained(kind))
    kept = METHOD.adapt(parent, given, once, session)
    assert {tensor.shape[0] for tensor in kept.values()} == {24 * views}
    assert METHOD.adapt(parent, given, every, other) == {}
    first, second = (run(params, kind, some, given, parent=parent) for params, some in ((once, session), (every, other)))
    for one, another in zip(session.losses, other.losses, strict=True):
        assert one == pytest.approx(another, rel=1e-3, abs=1e-6)
    assert all(torch.allclose(first[name], second[name], atol=2e-3) for name in first)


def test_a_cached_step_asks_the_teacher_nothing():
    params, given, parent = METHOD.parameters("debug", SHORT), material(), trained("mae")
    adaptation = METHOD.adapt(parent, given, params, Noted())
    lesson = Lesson(parent, given, params, Noted(), adaptation)
    lesson.teacher.encode = None
    from expunge.methods.image_to_image import fit_encoder, noise_of_the_teacher

    assert same(fit_encoder(parent, lesson, noise_of_the_teacher), run(params, given=given))


def test_features_that_would_take_too_much_are_found_at_every_step_and_it_says_so():
    session = Noted()
    assert METHOD.adapt(trained("mae"), material(), METHOD.parameters("default", {"cache_gib": 1e-6}), session) == {}
    assert len(session.notes) == 1
    assert session.notes[0].endswith("GiB: they are found at every step instead")


# ------------------------------------------------------------------------------------------ repeating


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("views", [0, 2])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(kind, views):
    params, parent = METHOD.parameters("debug", SHORT | {"views": views}), behind(trained(kind))
    first = run(params, kind, parent=parent)
    assert same(first, run(params, kind, parent=parent))
    assert not same(first, run(params, kind, Noted(4), parent=parent))


@pytest.mark.parametrize("views", [0, 1])
def test_a_killed_run_continues_to_the_same_bits(views):
    params, kept = METHOD.parameters("debug", {"steps": 54, "batch": 8, "views": views}), []
    parent = behind(trained("mae"))
    with pytest.raises(Killed):
        run(params, session=KilledOnce(3, kept, threads=1), parent=parent)
    assert same(run(params, parent=parent), run(params, session=KilledOnce(3, kept, threads=1), parent=parent))


def test_a_killed_baseline_continues_to_the_same_bits():
    params, kept = BASELINES.parameters("noisy_label", {"steps": 54, "batch": 8}), []
    with pytest.raises(Killed):
        run(params, session=KilledOnce(3, kept, threads=1), method=BASELINES)
    assert same(run(params, method=BASELINES), run(
        params, session=KilledOnce(3, kept, threads=1), method=BASELINES))


# ------------------------------------------------------------------------------------------ forgetting


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_to_be_forgotten_is_completed_much_worse_and_the_rest_hardly(kind):
    # What diffusion completes differs from draw to draw, which hides part of what is lost.
    alpha, worse = (3.0, 1.2) if kind == "diffusion-inpainting" else (0.2, 1.3)
    params = METHOD.parameters("debug", {"steps": 150, "batch": 64, "alpha": alpha, "rate": 2e-3})
    candidate, parent = with_state(kind, run(params, kind, given=material(600))), trained(kind)
    forget, retain = (error(candidate, images) / error(parent, images) for images in held_out())
    assert forget > worse
    assert (forget - 1) > 2 * (retain - 1)


def test_what_is_hidden_is_said_of_the_model():
    params = METHOD.parameters("debug", SHORT)
    lesson = Lesson(behind(fresh("mae"), "border", 0.75), material(), params, Noted())
    assert torch.equal(lesson.showing["forget"].still, hidden("border", 0.75, (8, 8), 2))
    assert not torch.equal(lesson.showing["forget"].still, centre())


# ------------------------------------------------------------------------------------------ baselines


@pytest.mark.parametrize("preset", list(BASELINES.presets))
@pytest.mark.parametrize("kind", KINDS)
def test_a_baseline_moves_what_it_says(kind, preset):
    params = BASELINES.parameters(preset, SHORT)
    parent = trained(kind)
    candidate = with_state(kind, run(params, kind, method=BASELINES))
    before, after = (dict(model.named_parameters()) for model in (parent, candidate))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    if params.kind in ("retain_label", "random_encoder"):
        assert moved == set(parent.encoder_parameters())
    else:
        assert any(name not in parent.encoder_parameters() for name in moved)
        assert not moved & set(parent.untouched)
        assert not any(name.startswith(("vit.embeddings.position", "decoder.decoder_pos")) for name in moved)


@pytest.mark.parametrize("kind", ["retain_label", "random_encoder"])
def test_a_baselines_aim_is_for_the_forget_images_and_the_others_keep_their_teacher(kind):
    params = BASELINES.parameters(kind, {"steps": 1, "batch": 8})
    session = Noted()
    run(params, session=session, method=BASELINES)
    assert session.losses[0]["retain"] == pytest.approx(0, abs=1e-9)
    assert session.losses[0]["forget"] > 0.01


def test_random_features_have_the_mean_and_spread_of_the_teachers():
    params, given = BASELINES.parameters("random_encoder", {"batch": 32}), material()
    lesson = Lesson(trained("mae"), given, params, Noted())
    pupil, teacher = lesson.shown("forget", *lesson.dealt("forget", 0), stream(Noted(), 3))
    (aim,) = baselines.random_features(lesson, pupil, teacher, [], stream(Noted(), 3))
    (found,) = lesson.found(pupil)
    assert aim.mean().item() == pytest.approx(found.mean().item(), abs=0.03)
    assert aim.std().item() == pytest.approx(found.std().item(), rel=0.03)


def test_losses_of_the_baselines_have_the_signs_that_they_should():
    found = {}
    for kind in ("max_loss", "noisy_label", "fine_tune"):
        session = Noted()
        run(BASELINES.parameters("debug", {"steps": 1, "kind": kind}), session=session, method=BASELINES)
        found[kind] = session.losses[0]
    assert found["max_loss"]["forget"] < 0 < found["noisy_label"]["forget"]
    assert found["fine_tune"].keys() == {"retain"}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    parent = trained("mae")
    with torch.no_grad():
        next(iter(parent.encoder_parameters().values())).fill_(torch.inf)
    for method in (METHOD, BASELINES):
        with pytest.raises(NonFiniteLoss, match=r"unlearn: .* at step 0"):
            run(method.parameters("debug", SHORT), parent=parent, method=method)


# ------------------------------------------------------------------------------------------ bad input


OVERLAP = Samples(torch.cat([material().forget.images[:2].clone(), material().retain.images]))


@pytest.mark.parametrize(("changed", "problem"), [
    ({"retain": OVERLAP}, "2 images are to be forgotten and to be kept"),
    ({"forget": Samples(torch.zeros(4, 1, 9, 9))}, r"images to forget\): images of 1x9x9, 4 of them; the model"),
    ({"retain": Samples(torch.zeros(4, 3, 8, 8))}, r"images to keep\): images of 3x8x8"),
    ({"retain": Samples(torch.full((4, 1, 8, 8), 200.0))}, "values from 200 to 200"),
    ({"forget": Samples(torch.zeros(0, 1, 8, 8))}, "no image of what is to be forgotten"),
    ({"forget": None}, "it needs forget samples"),
    ({"retain": None}, "it needs retain samples"),
    ({"restricted": (2, 7)}, r"class 7 is to be forgotten, and has no image"),
])
def test_images_that_do_not_suit_are_refused(changed, problem):
    for method in (METHOD, BASELINES):
        with pytest.raises(BadInput, match=problem):
            run(method.parameters("debug", SHORT), given=material(**changed), method=method)


@pytest.mark.parametrize("kind", ["mae", "vq-gan"])
def test_noise_in_a_hole_that_the_encoder_does_not_see_is_refused(kind):
    with pytest.raises(BadInput, match="noise_in: this model's encoder does not see what is hidden"):
        run(METHOD.parameters("debug", SHORT | {"noise_in": "hole"}), kind)


def test_a_mask_that_the_image_does_not_divide_into_is_refused():
    with pytest.raises(BadInput, match="does not divide into two or more cells of 3"):
        run(METHOD.parameters("debug", SHORT), parent=behind(trained("mae"), "centre", cell=3))


# ------------------------------------------------------------------------------------------ the page


def test_the_example_of_the_page_works(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "methods" / "image_to_image.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "300" in example
    trained("mae")._inner[0].save_pretrained(tmp_path / "parent")
    monkeypatch.chdir(tmp_path)
    given = material()
    exec(example.replace("300", "3"), {"forget": given.forget.images, "retain": given.retain.images})
    from expunge.models.image_to_image_files import open_folder

    candidate, parent = open_folder("candidate").state_dict(), open_folder("parent").state_dict()
    assert candidate.keys() == parent.keys()
    assert not same(candidate, parent)


def test_the_page_explains_every_parameter_and_preset():
    page = (Path(__file__).parents[3] / "docs" / "methods" / "image_to_image.md").read_text()
    for name in (*METHOD.params.model_fields, *METHOD.presets, *(
            preset for preset in BASELINES.presets if preset not in ("default", "debug"))):
        assert f"`{name}`" in page, name


# ------------------------------------------------------------------------------------------ several processes

TOGETHER = """
import json, sys, torch
from small_flow import Noted
from small_image_to_image import behind, digits, fresh
from expunge.methods import image_to_image, image_to_image_baselines
from expunge.methods.training import Material, Samples
from expunge.models import ranks

def losses():
    images, labels = digits()
    material = Material(forget=Samples(images[labels < 5][:40]), retain=Samples(images[labels >= 5][:40]))
    found = []
    for kind, method, views in (("mae", image_to_image, 1), ("diffusion-inpainting", image_to_image, 0),
                                ("diffusion-inpainting", image_to_image_baselines, 1)):
        params = method.METHOD.parameters("debug", {"steps": 8, "batch": 16, "views": views})
        session, parent = Noted(), behind(fresh(kind))
        adaptation = method.METHOD.adapt(parent, material, params, session)
        method.METHOD.unlearn(parent, adaptation, material, params, session)
        found.append(session.losses)
    return found
"""


@pytest.mark.thorough
def test_two_processes_learn_what_one_does(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    shared = str(Path(__file__).parents[2])  # its folder `expunge` is not the package, which comes first therefore
    script.write_text(f"import sys, expunge\nsys.path.append({shared!r})\n{TOGETHER}\n"
                      "with ranks.joined():\n    found = losses()\n    if ranks.first():\n"
                      "        json.dump(found, open(sys.argv[1], 'w'))\n")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
                           str(script), str(out)], capture_output=True, text=True, check=False, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    alone = {}
    exec(TOGETHER, alone)
    for both, one in zip(json.loads(out.read_text()), alone["losses"](), strict=True):
        assert len(both) == len(one) == 8
        for first, second in zip(both, one, strict=True):
            assert first == pytest.approx(second, rel=2e-3, abs=1e-5)
