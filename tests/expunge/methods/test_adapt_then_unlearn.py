"""Adapt-then-unlearn: repeatable, resumable, honest about what it needs, and it does make a digit go."""

import pytest
import torch
from small_gan import SMALL_GAN, Killed, KilledOnce, same, small_problem

from expunge.assets import path
from expunge.errors import BadInput, NonFiniteLoss
from expunge.methods import find
from expunge.methods.adapt_then_unlearn import Pairs, Repulsion
from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts
from expunge.models import Gan, build, load
from expunge.models.discriminator import fresh_discriminator

METHOD = find("adapt_then_unlearn", "gan")
TINY = {"models": 2, "adapt_steps": 32, "steps": 60, "batch": 8, "pool": 64, "assign_every": 20}


def run(params, session_for=lambda stage: Session(seed=3), problem=None):
    parent, negatives, positives, oracle = problem or small_problem()
    material = Material(negative=negatives, positive=positives, oracle=oracle)
    adaptation = METHOD.adapt(parent, material, params, session_for("adapt"))
    return METHOD.unlearn(parent, adaptation, material, params, session_for("unlearn"))


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(preset):
    params = METHOD.parameters(preset, {**TINY, "pool": 0})
    first = run(params)
    assert same(first, run(params))
    assert not same(first, run(params, lambda stage: Session(seed=4)))


def test_the_parent_is_left_as_it_was():
    problem = small_problem()
    before = {name: tensor.clone() for name, tensor in problem[0].state_dict().items()}
    candidate = run(METHOD.parameters("default", TINY), problem=problem)
    assert same(before, problem[0].state_dict())
    assert candidate.keys() == before.keys()
    assert not same(before, candidate)


def test_a_killed_run_continues_to_the_same_bits():
    params = METHOD.parameters("default", TINY)
    undisturbed = run(params)
    kept = {"adapt": [], "unlearn": []}
    deaths = 0
    while True:
        try:
            candidate = run(params, lambda stage: KilledOnce(3, kept[stage]))
            break
        except Killed:
            deaths += 1
    assert deaths == 2, "once in each stage"
    assert same(undisturbed, candidate)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    parent, negatives, positives, oracle = small_problem()
    spoiled = Samples(negatives.images * float("nan"), negatives.latents)
    with pytest.raises(NonFiniteLoss, match=r"adapt: .* at step 0"):
        run(METHOD.parameters("default", TINY), problem=(parent, spoiled, positives, oracle))


def test_labels_alone_do_without_guidance_and_pool():
    parent, negatives, positives, _ = small_problem()
    problem = (parent, negatives, positives, None)
    with pytest.raises(BadInput, match=r"need an oracle.*set guidance_weight and pool to 0"):
        run(METHOD.parameters("default", TINY), problem=problem)
    run(METHOD.parameters("default", {**TINY, "guidance_weight": 0, "pool": 0}), problem=problem)


def test_pairs_need_latents():
    parent, negatives, positives, oracle = small_problem()
    problem = (parent, Samples(negatives.images), Samples(positives.images), oracle)
    with pytest.raises(BadInput, match="need the samples' latents"):
        run(METHOD.parameters("default", TINY), problem=problem)
    run(METHOD.parameters("paper", TINY | {"pool": 0}), problem=problem)


@pytest.mark.parametrize("form", ["el2", "il2", "nl2"])
def test_repulsion_is_largest_at_the_adapted_weights_and_falls_with_distance(form):
    parent = build("dcgan", **SMALL_GAN)
    moved = {f"0.{name}": tensor + 0.1 for name, tensor in parent.generator.state_dict().items()}
    repulsion = Repulsion(parent, moved, METHOD.parameters("default", {"repulsion": form}))
    at_parent = repulsion(parent.generator).item()
    assert at_parent == pytest.approx({"el2": 1.0, "il2": 1.0, "nl2": -1.0}[form], rel=1e-4), "r = 1 at the parent"
    with torch.no_grad():
        for parameter in parent.generator.parameters():
            parameter += 0.05
    nearer = repulsion(parent.generator).item()
    with torch.no_grad():
        for parameter in parent.generator.parameters():
            parameter -= 0.15
    farther = repulsion(parent.generator).item()
    assert nearer > at_parent > farther


def test_every_moved_latent_gets_a_wanted_image_of_its_own():
    parent = build("dcgan", **SMALL_GAN)
    latents = parent.draw_latents(20, torch.Generator().manual_seed(0))
    images = in_parts(parent, latents)
    samples = Samples(images, latents)
    pairs = Pairs(parent, samples, samples, None, METHOD.parameters("default", {"pool": 0}), Session(seed=3))
    pairs.draw_anew(0)
    assert not torch.equal(pairs.candidates, images), "they are shuffled"
    pairs.assign(parent.generator)
    assert torch.equal(pairs.candidates[pairs.assigned], images), "the nearest image to each is its own"


def steps_of(params):
    """How many steps of stage 2 were taken."""
    taken = []

    class Counting(Session):
        def report(self, step, total, **scalars):
            taken.append((step, total))

    run(params, lambda stage: Counting(seed=3) if stage == "unlearn" else Session(seed=3))
    assert all(step <= total for step, total in taken)
    return taken[-1][0]


def test_another_round_is_run_only_while_the_oracle_finds_too_much():
    assert steps_of(METHOD.parameters("default", {**TINY, "rounds": 3, "enough": 1.0})) == TINY["steps"]
    taken = steps_of(METHOD.parameters("default", {**TINY, "rounds": 3, "enough": 0.0}))
    assert taken > TINY["steps"]
    assert taken % TINY["steps"] == 0, "whole rounds"


def test_rounds_that_are_not_run_change_nothing():
    one = run(METHOD.parameters("default", {**TINY, "rounds": 1}))
    assert same(one, run(METHOD.parameters("default", {**TINY, "rounds": 3, "enough": 1.0})))


def test_a_run_killed_in_its_second_round_continues_to_the_same_bits():
    params = METHOD.parameters("default", {**TINY, "rounds": 2, "enough": 0.0})
    undisturbed = run(params)
    kept = []

    def session(stage):
        return KilledOnce(3, kept, after=TINY["steps"]) if stage == "unlearn" else Session(seed=3)

    with pytest.raises(Killed):
        run(params, session)
    assert same(undisturbed, run(params, session))


def test_a_fresh_discriminator_is_warmed_up_and_the_same_every_time():
    parent, negatives, positives, oracle = small_problem()
    lone = Gan(parent.generator, fresh_discriminator(parent.image_shape), parent.latent_dim, parent.image_shape,
               fresh_discriminator=True)
    before = {name: tensor.clone() for name, tensor in lone.state_dict().items()}
    params = METHOD.parameters("default", {**TINY, "warm_up_steps": 5})
    first = run(params, problem=(lone, negatives, positives, oracle))
    assert same(before, lone.state_dict()), "the parent is left as it was"
    assert same(first, run(params, problem=(lone, negatives, positives, oracle)))
    other = run(METHOD.parameters("default", {**TINY, "warm_up_steps": 6}), problem=(lone, negatives, positives, oracle))
    assert not same(first, other)


def test_the_debug_preset_takes_most_of_a_digit_away():
    parent, oracle, judge = (load(path(name)) for name in ("dcgan", "oracle", "judge"))
    latents = parent.draw_latents(2000, torch.Generator().manual_seed(7))
    images = in_parts(parent, latents)
    unwanted = in_parts(oracle, images).argmax(dim=1) == 3
    problem = (
        parent,
        Samples(images[unwanted], latents[unwanted]),
        Samples(images[~unwanted], latents[~unwanted]),
        ClassifierOracle(oracle, [3]),
    )
    state = run(METHOD.parameters("debug"), problem=problem)
    candidate = load(path("dcgan"))
    candidate.load_state_dict(state)
    fresh = parent.draw_latents(2000, torch.Generator().manual_seed(8))
    before, after = ((in_parts(judge, in_parts(gan, fresh)).argmax(dim=1) == 3).sum() for gan in (parent, candidate))
    assert after < before / 4
