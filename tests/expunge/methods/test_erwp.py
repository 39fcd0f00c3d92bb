"""ERwP: what is relevant is found and is little, only that moves, and the class goes while the others stay."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_classifier import CLASSES, accuracy, learned, quarters, small_problem, with_state
from small_gan import same

from expunge.methods import find
from expunge.methods.classroom import lesson
from expunge.methods.erwp import (
    RESOLUTION,
    Marks,
    Params,
    Ranking,
    Redirection,
    leaving,
    mixed,
    of_class,
    recognised,
    relevance,
    settle,
    smallest,
    staying,
    transported,
    views,
    without,
)
from expunge.methods.training import Samples, Session, in_parts
from expunge.models import build

METHOD = find("erwp", "classifier")
NO_ADDITIONS = {"guess_weight": 0.0, "redirection_weight": 0.0}


def quiet(seed=3):
    return Session(seed, threads=1)


def adapted(preset="paper", problem=None, **changed):
    parent, material = problem or small_problem()
    return METHOD.adapt(parent, material, METHOD.parameters(preset, {"views": 1, **changed}), quiet())


def gradients(model, images, number, **changed):
    relevance(model.requires_grad_(True), images, number, Params(**changed), torch.Generator().manual_seed(0))
    return {name: theta.grad.clone() for name, theta in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(("restricted", "preset"), [((1,), "default"), ((0, 3), "default"), ((1,), "paper")])
def test_the_classes_go_and_the_others_stay(restricted, preset):
    parent, material = small_problem(restricted)
    params = METHOD.parameters(preset, {"steps": 80} if preset == "default" else {"steps": 80, "rate": 3e-3})
    state = METHOD.unlearn(parent, METHOD.adapt(parent, material, params, quiet()), material, params, quiet())
    lost, kept = accuracy(with_state(state), list(restricted))
    assert lost < 0.05
    assert kept > 0.9


def test_only_what_is_marked_moves():
    parent, material = small_problem()
    params = METHOD.parameters("paper", {"steps": 4, "views": 1})
    marks = METHOD.adapt(parent, material, params, quiet())
    state = METHOD.unlearn(parent, marks, material, params, quiet())
    before = dict(parent.named_parameters())
    for name, marked in marks.items():
        moved = state[name] != before[name]
        assert not (moved & (marked == 0)).any(), name
    assert any((state[name] != before[name]).any() for name in marks), "something does move"
    free = METHOD.unlearn(parent, marks, material, METHOD.parameters("paper", {"steps": 4, "masked": False}), quiet())
    assert any(((free[name] != before[name]) & (marked == 0)).any() for name, marked in marks.items())


def test_without_what_was_found_no_image_of_the_class_is_recognised_and_little_less_does_not_do():
    parent, material = small_problem()
    images = of_class(material.forget, 1)
    assert recognised(parent, images, 1) > 0.9
    params = Params(at_least=0.0, ranking="model")
    ranking = Ranking(gradients(learned(), images, 1), params)
    marks = smallest(parent, images, 1, ranking, params, quiet())
    assert recognised(without(parent, marks), images, 1) == 0
    parts = sum(int(one.sum()) for one in marks.values())
    total = sum(one.numel() for one in marks.values())
    less = ranking.top((math.ceil(parts * RESOLUTION / total) - 2) / RESOLUTION)
    assert recognised(without(parent, less), images, 1) > 0
    assert parts < total / 2


@pytest.mark.parametrize("restricted", [(0,), (3,)])
def test_a_model_of_nothing_but_zeros_recognises_no_class(restricted):
    parent, material = small_problem(restricted)
    everything = {name: torch.ones_like(theta, dtype=torch.uint8) for name, theta in parent.named_parameters()}
    assert recognised(without(parent, everything), material.forget.images, restricted[0]) == 0


def test_several_classes_marks_are_the_union_of_each_ones():
    both = adapted(problem=small_problem((0, 3)))
    one = adapted(problem=small_problem((0,)))
    assert all((both[name] >= one[name]).all() for name in one)
    assert {marks.dtype for marks in both.values()} == {torch.uint8}
    assert both.keys() == dict(learned().named_parameters()).keys()


def test_at_least_so_much_of_every_layer_is_taken():
    marks = adapted("default", at_least=0.25)
    for name, one in marks.items():
        assert one.sum() >= math.floor(one.numel() * 0.25), name


def test_where_less_is_allowed_than_it_takes_the_most_relevant_are_taken_and_that_is_said():
    class Heard(Session):
        said: tuple[str, ...] = ()

        def note(self, text):
            self.said += (text,)

    parent, material = small_problem()
    session = Heard(3, threads=1)
    marks = METHOD.adapt(parent, material, METHOD.parameters("paper", {"relevant": 0.0005}), session)
    assert sum(int(one.sum()) for one in marks.values()) >= 1
    assert "of class 1 are still recognised: these are taken" in session.said[0]


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6, unique=True), st.integers(1, RESOLUTION),
       st.sampled_from(["model", "layer"]))
def test_the_top_of_a_ranking_is_what_has_the_largest_gradients(numbers, part, ranking):
    given_ = {"a": torch.tensor(numbers[:4]).view(2, 2), "b": torch.tensor(numbers[4:])}
    top = Ranking(given_, Params(ranking=ranking)).top(part / RESOLUTION)
    decks = [["a", "b"]] if ranking == "model" else [["a"], ["b"]]
    for deck in decks:
        sizes = torch.cat([given_[name].abs().flatten() for name in deck])
        marked = torch.cat([top[name].flatten() for name in deck]).bool()
        assert int(marked.sum()) == math.ceil(part / RESOLUTION * len(sizes))
        if not marked.all():
            assert sizes[marked].min() >= sizes[~marked].max()


def test_a_filter_is_taken_whole_or_not_at_all():
    marks = Ranking({"w": torch.randn(5, 3, 2, 2), "b": torch.randn(5)}, Params(unit="filter")).top(0.4)
    assert marks["w"].shape == (5, 3, 2, 2)
    assert set(marks["w"].flatten(1).sum(dim=1).tolist()) == {0, 12}


def test_relevance_is_the_gradient_of_the_loss_of_averaged_predictions():
    parent, material = small_problem()
    images = of_class(material.forget, 1)
    found = gradients(parent, images, 1, batch=64)
    model, random = learned(), torch.Generator().manual_seed(0)
    mean = torch.stack([model(view).softmax(dim=1) for view in views(images, Params(), random)]).mean(dim=0)
    (-mean[:, 1].log().mean()).backward()
    assert all(torch.allclose(found[name], theta.grad, atol=1e-6) for name, theta in model.named_parameters())


@pytest.mark.parametrize(("channels", "count"), [(1, 5), (3, 6)])
def test_views_are_upside_down_rotated_sheared_and_grey_where_there_is_colour(channels, count):
    images = torch.rand(3, channels, 8, 8)
    shown = list(views(images, Params(views=2), torch.Generator().manual_seed(0)))
    assert len(shown) == count
    assert all(view.shape == images.shape for view in shown)
    assert all(not torch.equal(view, images) for view in shown)
    assert any(torch.equal(view, images.flip(2)) for view in shown)
    grey = [view for view in shown if channels == 3 and torch.equal(view[:, 0], view[:, 2])]
    assert len(grey) == (channels == 3)


def test_the_losses_are_their_formulas():
    parent, material = small_problem()
    task = lesson(parent, material, quiet(), by=["forget"])
    random = torch.Generator().manual_seed(0)
    logits, before = torch.randn(2, 5, CLASSES, generator=random).double()
    labels = torch.tensor([1, 1, 1, 1, 1])
    p, p0 = logits.softmax(dim=1), before.softmax(dim=1)
    kept = [0, 2, 3]
    unlikely = leaving(logits, labels, before, task, Params(ascent="unlikely", guess_weight=2.0))
    assert torch.allclose(unlikely["restricted"], -(1 - p[:, 1]).log().mean())
    guess = p0[:, kept] / p0[:, kept].sum(dim=1, keepdim=True)
    assert torch.allclose(unlikely["second guess"], 2 * (guess * (guess / p[:, kept]).log()).sum(dim=1).mean())
    clipped = leaving(logits, labels, before, task, Params(ascent="clipped", ascent_limit=1.0, guess_weight=0))
    assert torch.allclose(clipped["restricted"], -(-p[:, 1].log()).clamp(max=1.0).mean())
    staid = staying(logits, labels[:3], before, task, Params(temperature=2.0, distillation_weight=3.0, distil="all"))
    warm, warm0 = (logits / 2).softmax(dim=1), (before / 2).softmax(dim=1)
    assert torch.allclose(staid["distillation"], 3 * 4 * (warm0 * (warm0 / warm).log()).sum(dim=1).mean())
    assert torch.allclose(staid["remaining"], -p[:3, 1].log().mean())
    staid = staying(logits, labels[:3], before, task, Params(temperature=1.0, distillation_weight=1.0, distil="remaining"))
    assert torch.allclose(staid["distillation"], (guess * (guess / p[:, kept]).log()).sum(dim=1).mean())


def test_a_clipped_ascent_ends_and_the_other_fades():
    _, material = small_problem()
    task = lesson(learned(), material, quiet(), by=["forget"])
    slopes = {}
    for ascent in ("clipped", "unlikely"):
        for name, own in (("sure", 8.0), ("gone", -8.0)):
            logits = torch.tensor([[0.0, own, 0.0, 0.0]], requires_grad=True)
            leaving(logits, torch.tensor([1]), logits.detach(), task, Params(ascent=ascent, guess_weight=0))[
                "restricted"].backward()
            slopes[ascent, name] = logits.grad.abs().max().item()
    assert slopes["clipped", "gone"] == 0
    assert slopes["unlikely", "gone"] < 1e-3
    assert slopes["unlikely", "sure"] > 0.9
    assert slopes["clipped", "sure"] < 0.01, "cross-entropy is flat where the model is sure"


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_every_remaining_image_is_the_aim_of_as_many_restricted_ones_as_any_other(leave, stay):
    class Task:
        forget = quarters(leave, 1)
        retain = quarters(stay, 2)

    class Themselves(torch.nn.Module):
        def features(self, x):
            return x.flatten(1)

    aims = transported(Themselves(), Task())
    assert aims.shape == (leave, 64)
    found = torch.cdist(aims, Task.retain.images.flatten(1)).argmin(dim=1).bincount(minlength=stay)
    assert found.max() <= math.ceil(leave / stay)


def test_restricted_images_aim_at_the_means_of_what_the_parent_would_take_them_for_instead():
    parent, material = small_problem()
    task = lesson(parent, material, quiet(), by=["forget"])
    with torch.no_grad():
        features, logits = parent.look(material.forget.images)
    redirection = Redirection(parent, task, Params(redirection_weight=2.0, aim_temperature=0.5))
    kept = [0, 2, 3]
    means = torch.stack([in_parts(parent.features, of_class(material.retain, number, 50)).mean(dim=0)
                         for number in kept])
    aims = (2 * logits[:, kept]).softmax(dim=1) @ means
    at_aim = redirection.loss(aims, logits, torch.arange(len(aims)))
    assert at_aim.item() == pytest.approx(0, abs=1e-6)
    away = redirection.loss(aims + 1, logits, torch.arange(len(aims)))
    assert away.item() == pytest.approx(2 * aims.shape[1] / redirection.spread.item(), rel=1e-4)
    assert redirection.loss(features, logits, torch.arange(len(aims))) > 0


def test_a_remaining_class_of_which_no_image_is_at_hand_is_no_aim():
    parent, material = small_problem()
    there = material.retain.labels != 3
    few = replace(material, retain=Samples(material.retain.images[there], labels=material.retain.labels[there]))
    redirection = Redirection(parent, lesson(parent, few, quiet(), by=["forget"]), Params())
    assert redirection.classes == [0, 2]
    assert redirection.means.isfinite().all()
    assert redirection.means.shape[0] == 2


def test_no_more_images_of_a_class_are_looked_at_than_asked_and_they_are_from_all_over_the_set():
    labels = torch.tensor([0, 1] * 10)
    samples = Samples(torch.arange(20.0).view(20, 1, 1, 1), labels=labels)
    assert of_class(samples, 1, 4).flatten().tolist() == [1, 7, 13, 19]
    assert len(of_class(samples, 1, 100)) == 10


def test_mixtures_lie_between_two_images():
    images = torch.rand(6, 1, 4, 4)
    found = mixed(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    assert found.min() >= images.min()
    assert found.max() <= images.max()


@pytest.mark.parametrize("changed", [
    {"start": "zeroed"}, {"steps_in_turn": True}, {"ascent": "clipped"}, {"unit": "filter"}, {"ranking": "model"},
    {"mixtures": False, "shift": 0}, {"distil": "all"}, {"batch_norm": "frozen"}, {"batch_norm": "batch"}, NO_ADDITIONS, {"masked": False},
    {"aim": "transport"}, {"aim_temperature": 2.0},
], ids=str)
def test_every_choice_works_and_makes_a_difference(changed):
    parent, material = small_problem()
    plain, other = (METHOD.parameters("debug", {"steps": 3, **more}) for more in ({}, changed))
    states = [METHOD.unlearn(parent, METHOD.adapt(parent, material, params, quiet()), material, params, quiet())
              for params in (plain, other)]
    alike = all(getattr(plain, key) == value for key, value in changed.items())
    assert same(*states) == alike


def test_running_statistics_settle_on_the_means_over_the_batches_and_go_on_as_they_did():
    torch.manual_seed(0)
    model = build("resnet-20", channels=1, width=4, classes=CLASSES)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    batches = [torch.rand(6, 1, 8, 8) for _ in range(3)]
    settle(model, batches)
    entering = torch.stack([model.conv1(batch).mean(dim=(0, 2, 3)) for batch in batches])
    assert torch.allclose(model.bn1.running_mean, entering.mean(dim=0), atol=1e-6)
    assert model.bn1.momentum == torch.nn.BatchNorm2d(1).momentum


def test_colour_images_and_other_architectures_are_served_too():
    torch.manual_seed(0)
    model = build("resnet", channels=3, width=4, features=8, classes=CLASSES)
    _, material = small_problem()
    for role in (material.forget, material.retain):
        object.__setattr__(role, "images", role.images.expand(-1, 3, -1, -1))
    params = METHOD.parameters("debug", {"steps": 2})
    state = METHOD.unlearn(model, METHOD.adapt(model, material, params, quiet()), material, params, quiet())
    assert not same(state, model.state_dict())


def test_marks_continue_from_what_was_kept():
    marks = Marks({"a": torch.zeros(4, dtype=torch.uint8)})
    marks.add({"a": torch.tensor([1, 0, 0, 0], dtype=torch.uint8)})
    again = Marks({"a": torch.zeros(4, dtype=torch.uint8)})
    again.load_state_dict(marks.state_dict())
    again.add({"a": torch.tensor([0, 1, 0, 0], dtype=torch.uint8)})
    assert again.tensors["a"].tolist() == [1, 1, 0, 0]
    assert again.share() == 0.5
