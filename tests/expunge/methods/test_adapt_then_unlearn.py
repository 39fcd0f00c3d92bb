"""Adapt-then-unlearn: repeatable, resumable, honest about what it needs, and it does make a digit go."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_gan import SMALL_GAN, Bright, Killed, KilledOnce, same, small_problem

from expunge.assets import path
from expunge.errors import BadInput, NonFiniteLoss
from expunge.methods import find
from expunge.methods.adapt_then_unlearn import Pairs, Repulsion, deal, guidance
from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts
from expunge.models import Gan, build, load
from expunge.models.discriminator import fresh_discriminator

METHOD = find("adapt_then_unlearn", "gan")
TINY = {"models": 2, "adapt_steps": 2, "fisher_samples": 4, "steps": 6, "batch": 8, "pool": 64, "assign_every": 4}
LONG_ENOUGH_TO_BE_KILLED = TINY | {"adapt_steps": 26, "steps": 51}  # state is kept every 50 steps
NEVER_ENOUGH = {"rounds": 3, "enough": 0.0, "generator_rate": 1e-6}  # so slow that something is left in any case
REPULSIONS = [(distance, form) for distance in ("relative", "paper_text", "paper_code") for form in ("el2", "il2", "nl2")]


def quiet(seed=3):
    """A session of one thread: two of them wait for each other where other tests run beside."""
    return Session(seed, threads=1)


def run(params, session_for=lambda stage: quiet(), problem=None):
    parent, negatives, positives, oracle = problem or small_problem()
    material = Material(negative=negatives, positive=positives, oracle=oracle)
    adaptation = METHOD.adapt(parent, material, params, session_for("adapt"))
    return METHOD.unlearn(parent, adaptation, material, params, session_for("unlearn"))


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(preset):
    params = METHOD.parameters(preset, {**TINY, "pool": 0})
    first = run(params)
    assert same(first, run(params))
    assert not same(first, run(params, lambda stage: quiet(4)))


def test_the_parent_is_left_as_it_was():
    problem = small_problem()
    before = {name: tensor.clone() for name, tensor in problem[0].state_dict().items()}
    candidate = run(METHOD.parameters("default", TINY), problem=problem)
    assert same(before, problem[0].state_dict())
    assert candidate.keys() == before.keys()
    assert not same(before, candidate)


def test_a_killed_run_continues_to_the_same_bits():
    params = METHOD.parameters("default", LONG_ENOUGH_TO_BE_KILLED)
    undisturbed = run(params)
    kept = {"adapt": [], "unlearn": []}
    deaths = 0
    while True:
        try:
            candidate = run(params, lambda stage: KilledOnce(3, kept[stage], threads=1))
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
    with pytest.raises(BadInput, match=r"need an oracle.*set guidance_weight, pool and focus to 0"):
        run(METHOD.parameters("default", TINY), problem=problem)
    with pytest.raises(BadInput, match="need an oracle"):
        run(METHOD.parameters("default", {**TINY, "guidance_weight": 0, "pool": 0, "focus": 1.0}), problem=problem)
    run(METHOD.parameters("default", {**TINY, "guidance_weight": 0, "pool": 0}), problem=problem)


@pytest.mark.parametrize("about_moved", [{"focus": 1.0}, {"guides": "moved"}])
def test_what_is_said_about_moved_latents_needs_some(about_moved):
    with pytest.raises(BadInput, match=r"about latents that are moved, and none is.*give preservation_weight"):
        run(METHOD.parameters("paper", TINY | {"guidance_weight": 0, "pool": 0} | about_moved))


@pytest.mark.parametrize("empty", ["negatives", "positives"])
def test_an_empty_set_is_refused(empty):
    parent, negatives, positives, oracle = small_problem()
    none = Samples(negatives.images[:0], negatives.latents[:0])
    problem = (parent, none if empty == "negatives" else negatives, none if empty == "positives" else positives, oracle)
    with pytest.raises(BadInput, match=r"forget: there is no image of what is to .*raise sampling\.curate"):
        run(METHOD.parameters("default", TINY), problem=problem)


def test_pairs_need_latents():
    parent, negatives, positives, oracle = small_problem()
    problem = (parent, Samples(negatives.images), Samples(positives.images), oracle)
    with pytest.raises(BadInput, match="need the samples' latents"):
        run(METHOD.parameters("default", TINY), problem=problem)
    run(METHOD.parameters("paper", TINY | {"pool": 0}), problem=problem)


def shifted(generator, by):
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += by


@pytest.mark.parametrize(("distance", "form"), REPULSIONS)
def test_repulsion_is_largest_at_the_adapted_weights_and_falls_with_distance(distance, form):
    parent = build("dcgan", **SMALL_GAN)
    adapted = {f"0.{name}": tensor + 0.01 for name, tensor in parent.generator.state_dict().items()}
    repulsion = Repulsion(parent, adapted, METHOD.parameters("default", {"repulsion": form, "distance": distance}))
    shifted(parent.generator, 0.0099)  # as good as there: IL2 has no value at no distance
    losses = []
    for _ in range(4):
        losses.append(repulsion(parent.generator).item())
        shifted(parent.generator, -0.005)
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4


def test_relative_repulsion_is_its_weight_at_the_parent():
    parent = build("dcgan", **SMALL_GAN)
    adapted = {f"0.{name}": tensor + 0.1 for name, tensor in parent.generator.state_dict().items()}
    for form, expected in {"el2": 0.7, "il2": 0.7, "nl2": -0.7}.items():
        params = METHOD.parameters("default", {"repulsion": form, "repulsion_weight": 0.7, "repulsion_scale": 3.0})
        assert Repulsion(parent, adapted, params)(parent.generator).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("distance", "form"), REPULSIONS)
def test_every_repulsion_is_its_formula(distance, form):
    parent = build("dcgan", **SMALL_GAN)
    random = torch.Generator().manual_seed(0)
    theta = {name: tensor.detach().double().numpy() for name, tensor in parent.generator.named_parameters()}
    adapted = {f"{k}.{name}": torch.tensor(tensor, dtype=torch.float32) + 0.02 * (k + 1) * torch.randn(tensor.shape, generator=random)
               for k in range(3) for name, tensor in theta.items()}
    gamma, alpha = 0.6, 1.0 if distance == "paper_code" else 0.4
    shifted(parent.generator, 0.03)
    changed = {"models": 3, "repulsion": form, "distance": distance, "repulsion_weight": gamma, "repulsion_scale": alpha,
               "repulsion_limit": 1e9}
    original = build("dcgan", **SMALL_GAN)
    with torch.no_grad():
        for name, tensor in original.generator.named_parameters():
            tensor.copy_(torch.tensor(theta[name]))
    found = Repulsion(original, adapted, METHOD.parameters("default", changed))(parent.generator).item()

    def squared(k, moved):
        return sum((((theta[name] + moved) - adapted[f"{k}.{name}"].double().numpy()) ** 2).sum() for name in theta)

    def mean_of_tensors(k):
        errors = [(((theta[name] + 0.03) - adapted[f"{k}.{name}"].double().numpy()) ** 2).mean() for name in theta]
        return sum(errors) / len(errors)

    expected = {
        "relative": (sum(squared(k, 0.03) / squared(k, 0) for k in range(3)) / 3, lambda d: gamma * np.exp(-alpha * (d - 1))),
        "paper_text": (sum(squared(k, 0.03) for k in range(3)) / 3, lambda d: gamma * np.exp(-alpha * d)),
        "paper_code": (3 / 2 * sum(mean_of_tensors(k) for k in range(3)), lambda d: 100 * np.exp(-gamma * d)),
    }[distance]
    d, el2 = expected
    assert found == pytest.approx({"el2": el2(d), "il2": gamma / d, "nl2": -gamma * d}[form], rel=1e-4)


def test_only_relative_nl2_stops_pushing():
    parent = build("dcgan", **SMALL_GAN)
    adapted = {f"0.{name}": tensor + 0.01 for name, tensor in parent.generator.state_dict().items()}
    gradients = {}
    for distance in ("relative", "paper_text"):
        moved = build("dcgan", **SMALL_GAN)
        moved.load_state_dict(parent.state_dict())
        shifted(moved.generator, -0.2)
        params = METHOD.parameters("default", {"repulsion": "nl2", "distance": distance})
        Repulsion(parent, adapted, params)(moved.generator).backward()
        gradients[distance] = moved.generator.project.weight.grad.abs().max().item()
    assert gradients["relative"] == 0
    assert gradients["paper_text"] > 0


def test_the_codes_repulsion_has_one_number_to_set():
    METHOD.parameters("paper_code", {"repulsion_weight": 10.0})
    with pytest.raises(BadInput, match=r"repulsion_scale: .*has no alpha.*set repulsion_weight"):
        METHOD.parameters("paper_code", {"repulsion_scale": 2.0})


def test_no_adapted_model_is_refused_with_exit_code_2():
    with pytest.raises(BadInput, match=r"method.params.models: Input should be greater than or equal to 1") as refused:
        METHOD.parameters("default", {"models": 0})
    assert refused.value.exit_code == 2


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 50))
def test_each_adapted_model_gets_negatives_of_its_own_while_there_are_enough(images, models, each):
    params = METHOD.parameters("default", {"models": models, "negatives_per_model": each})
    deck = torch.arange(images)
    if each > images:
        with pytest.raises(BadInput, match="lower it, or let more be drawn"):
            deal(deck, params, torch.Generator().manual_seed(0))
        return
    hands = deal(deck, params, torch.Generator().manual_seed(0))
    assert [len(set(hand.tolist())) for hand in hands] == [each] * models, "nobody sees one twice"
    seen = torch.cat(hands).bincount(minlength=images)
    assert seen.max() - seen.min() <= 1, "none is seen by two before all were seen"


def test_all_negatives_are_everybodys_if_no_number_is_given():
    assert all(len(hand) == 7 for hand in deal(torch.zeros(7), METHOD.parameters("paper"), torch.Generator()))


STYLED = {"size": 8, "latent_dim": 8, "mapping": 2, "channels": 1, "widths": [8, 8]}


def test_the_codes_preset_unlearns_a_stylegan2_and_holds_only_its_synthesis_blocks():
    torch.manual_seed(0)
    parent = build("stylegan2", **STYLED)
    _, _, _, oracle = small_problem()
    latents = parent.draw_latents(40, torch.Generator().manual_seed(1))
    images = in_parts(parent, latents)
    problem = (parent, Samples(images[:10], latents[:10]), Samples(images[10:], latents[10:]), oracle)
    changed = {"adapt_steps": 1, "steps": 5, "models": 2, "negatives_per_model": 5, "fisher_samples": 2, "batch": 8}
    first = run(METHOD.parameters("paper_code", changed), problem=problem)
    assert same(first, run(METHOD.parameters("paper_code", changed), problem=problem))
    assert not same(first, parent.state_dict())


def test_the_codes_preset_says_what_it_cannot_do_with_another_generator():
    few = {"negatives_per_model": 5}
    with pytest.raises(BadInput, match=r"no parameter of this generator begins with 'convs.': use 'all', or one of its beginnings: mapping, project, grow, refine, paint"):
        run(METHOD.parameters("paper_code", few))
    with pytest.raises(BadInput, match="are for a StyleGAN2, and this is none"):
        run(METHOD.parameters("paper_code", {**few, "ewc_scope": "all", "fisher_samples": 1}))


def test_every_moved_latent_gets_a_wanted_image_of_its_own():
    parent = build("dcgan", **SMALL_GAN)
    latents = parent.draw_latents(20, torch.Generator().manual_seed(0))
    images = in_parts(parent, latents)
    samples = Samples(images, latents)
    pairs = Pairs(parent, samples, samples, None, METHOD.parameters("default", {"pool": 0}), quiet())
    pairs.draw_anew(0)
    assert not torch.equal(pairs.candidates, images), "they are shuffled"
    pairs.assign(parent.generator)
    assert torch.equal(pairs.candidates[pairs.assigned], images), "the nearest image to each is its own"


def test_what_is_still_unwanted_is_moved_oftener_if_asked():
    parent, negatives, positives, oracle = small_problem()
    params = METHOD.parameters("default", {"pool": 0, "focus": 9.0})
    pairs = Pairs(parent, negatives, positives, oracle, params, quiet())
    pairs.draw_anew(0)
    excess = (negatives.images.mean(dim=(1, 2, 3)) - oracle.threshold).median()

    def half_done(latents):
        return parent.generator(latents) - excess

    pairs.assign(half_done)
    chance = in_parts(lambda part: oracle.probability_unwanted(half_done(part)), pairs.unwanted_latents)
    still, gone = chance > 0.9, chance < 0.1
    assert 0 < still.sum() < len(still)
    assert gone.any()
    latents, _, moved = pairs.draw(8000, 0.5, torch.Generator().manual_seed(0))
    often = torch.stack([(latents[moved] == latent).all(dim=1).sum() for latent in pairs.unwanted_latents]).float()
    assert (often[still].mean() / often[gone].mean()).item() == pytest.approx(
        ((1 + 9 * chance[still].mean()) / (1 + 9 * chance[gone].mean())).item(), rel=0.1)


@given(st.floats(1e-5, 0.99), st.floats(0.1, 1))
def test_guidance_is_its_formula_and_pushes_nearly_wanted_images_more_at_lower_powers(chance, power):
    logit = torch.tensor([math.log(chance / (1 - chance))], dtype=torch.float64, requires_grad=True)
    guided = guidance(torch.sigmoid(logit), power)
    assert guided.item() == pytest.approx(-math.log1p(-(chance**power)), rel=1e-6)
    (slope,) = torch.autograd.grad(guided, logit)
    expected = power * chance**power * (1 - chance) / (1 - chance**power)
    assert slope.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_guidance_is_finite_where_the_oracle_is_sure(power):
    chance = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = guidance(chance, power)
    loss.backward()
    assert loss.isfinite()
    assert chance.grad.isfinite().all()


def test_only_what_is_moved_is_guided_if_asked():
    shown = []

    class Looking(Bright):
        def probability_unwanted(self, images):
            if images.requires_grad:
                shown.append(len(images))
            return super().probability_unwanted(images)

    parent, negatives, positives, oracle = small_problem()
    for guides, expected in (("all", 16), ("moved", 4)):
        shown.clear()
        params = METHOD.parameters("default", {**TINY, "rounds": 1, "batch": 16, "moved_share": 0.25, "guides": guides})
        run(params, problem=(parent, negatives, positives, Looking(oracle.threshold)))
        assert set(shown) == {expected}


def test_without_an_adversarial_loss_the_discriminator_is_left_alone():
    parent, *rest = small_problem()
    state = run(METHOD.parameters("default", {**TINY, "adversarial_weight": 0.0}), problem=(parent, *rest))
    before = parent.state_dict()
    assert all(torch.equal(before[name], state[name]) for name in before if name.startswith("discriminator."))
    assert not same(before, state)


def steps_of(params):
    """How many steps of stage 2 were taken."""
    taken = []

    class Counting(Session):
        def report(self, step, total, **scalars):
            taken.append((step, total))

    run(params, lambda stage: Counting(3, threads=1) if stage == "unlearn" else quiet())
    assert all(step <= total for step, total in taken)
    return taken[-1][0]


def test_another_round_is_run_only_while_the_oracle_finds_too_much():
    assert steps_of(METHOD.parameters("default", {**TINY, "rounds": 3, "enough": 1.0})) == TINY["steps"]
    taken = steps_of(METHOD.parameters("default", {**TINY, **NEVER_ENOUGH}))
    assert taken > TINY["steps"]
    assert taken % TINY["steps"] == 0, "whole rounds"


def test_rounds_that_are_not_run_change_nothing():
    one = run(METHOD.parameters("default", {**TINY, "rounds": 1}))
    assert same(one, run(METHOD.parameters("default", {**TINY, "rounds": 3, "enough": 1.0})))


def test_a_run_killed_in_its_second_round_continues_to_the_same_bits():
    long = LONG_ENOUGH_TO_BE_KILLED | {"adapt_steps": 2, "focus": 5.0}
    params = METHOD.parameters("default", {**long, **NEVER_ENOUGH, "rounds": 2})
    undisturbed = run(params)
    kept = []

    def session(stage):
        return KilledOnce(3, kept, long["steps"], threads=1) if stage == "unlearn" else quiet()

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


@pytest.mark.parametrize("preset", ["debug", "brief"])
def test_a_short_preset_takes_most_of_a_digit_away(preset):
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
    state = run(METHOD.parameters(preset), problem=problem)
    candidate = load(path("dcgan"))
    candidate.load_state_dict(state)
    fresh = parent.draw_latents(2000, torch.Generator().manual_seed(8))
    before, after = ((in_parts(judge, in_parts(gan, fresh)).argmax(dim=1) == 3).sum() for gan in (parent, candidate))
    assert after < before / 4
