"""Data redaction: each variant repeatable and resumable, its parts equal their formulas, and a digit does go."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_gan import Bright, Killed, KilledOnce, same, small_problem

from expunge.assets import digits, path
from expunge.errors import BadInput, NonFiniteLoss
from expunge.methods import find
from expunge.methods.data_redaction import Guided, Params, Pool, guide, guided, objective
from expunge.methods.game import Game
from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts
from expunge.models import Gan, build, load
from expunge.models.discriminator import fresh_discriminator

METHOD = find("data_redaction", "gan")
VARIANTS = ("data", "validity", "classifier")
TINY = {"steps": 54, "batch": 4, "refresh_every": 10, "refresh_samples": 16, "pool": 32}


def params_of(**changes):
    return METHOD.parameters("default", {**TINY, **changes})


def small_material(**changes):
    parent, negatives, positives, oracle = small_problem()
    return parent, Material(**{"negative": negatives, "positive": positives, "oracle": oracle, **changes})


def run(params, session_for=lambda stage: Session(3, threads=1), problem=None):
    parent, material = problem or small_material()
    # As the rooms have it: an oracle and the parent's own wanted samples reach the second stage only.
    learned = METHOD.adapt(
        parent, Material(negative=material.negative, forget=material.forget, retain=material.retain), params,
        session_for("adapt"))
    return METHOD.unlearn(parent, learned, material, params, session_for("unlearn"))


# ---------------------------------------------------------------- repeatable, resumable


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_continues_to_the_same_bits_and_another_seed_gives_others(variant):
    params = params_of(variant=variant)
    undisturbed, kept = run(params), []
    with pytest.raises(Killed):
        run(params, lambda stage: KilledOnce(3, kept, threads=1))
    assert same(undisturbed, run(params, lambda stage: KilledOnce(3, kept, threads=1)))
    assert not same(undisturbed, run(params, lambda stage: Session(4, threads=1)))


def test_the_pool_goes_with_the_state_of_a_killed_run():
    kept = []
    with pytest.raises(Killed):
        run(params_of(variant="validity"), lambda stage: KilledOnce(3, kept, threads=1))
    pool = KilledOnce(3, kept, threads=1).resume()["parts"]["pool"]["images"]
    negatives = small_material()[1].negative.images
    assert len(pool) == TINY["pool"] > len(negatives)
    assert not torch.equal(pool[-1], negatives[-1]), "the newest are later than what it began with"


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parent_is_left_as_it_was_and_the_candidate_is_not(variant):
    problem = small_material()
    before = {name: tensor.clone() for name, tensor in problem[0].state_dict().items()}
    candidate = run(params_of(variant=variant, steps=3), problem=problem)
    assert same(before, problem[0].state_dict())
    assert candidate.keys() == before.keys()
    assert not same(before, candidate)


def test_a_fresh_discriminator_is_warmed_up_by_the_edited_game():
    parent, material = small_material()
    lone = Gan(parent.generator, fresh_discriminator(parent.image_shape), parent.latent_dim, parent.image_shape,
               fresh_discriminator=True)
    before = {name: tensor.clone() for name, tensor in lone.state_dict().items()}
    first = run(params_of(steps=2, warm_up_steps=3), problem=(lone, material))
    assert same(before, lone.state_dict()), "the parent is left as it was"
    assert same(first, run(params_of(steps=2, warm_up_steps=3), problem=(lone, material)))
    assert not same(first, run(params_of(steps=2, warm_up_steps=4), problem=(lone, material)))


def test_a_stylegan2_is_redacted_the_way_it_was_trained():
    torch.manual_seed(0)
    parent = build("stylegan2", size=8, latent_dim=8, mapping=2, channels=1, widths=[8, 8])
    images = in_parts(parent, parent.draw_latents(60, torch.Generator().manual_seed(1)))
    brightness = images.mean(dim=(1, 2, 3))
    oracle = Bright(brightness.quantile(0.75))
    bright = brightness > oracle.threshold
    problem = (parent, Material(negative=Samples(images[bright]), positive=Samples(images[~bright]), oracle=oracle))
    params = METHOD.parameters("stylegan2", {"variant": "validity", "steps": 6, "batch": 8, "refresh_samples": 16})
    candidate = run(params, problem=problem)
    assert same(candidate, run(params, problem=problem))
    assert not same(candidate, parent.state_dict())
    plain = params.model_copy(update={"path_length_weight": 0.0})
    assert not same(candidate, run(plain, problem=problem)), "the penalty is felt"


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step():
    parent, material = small_material()
    spoiled = Samples(material.positive.images * float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"unlearn: discriminator loss is nan at step 0"):
        run(params_of(), problem=(parent, Material(negative=material.negative, positive=spoiled)))


# ---------------------------------------------------------------- what each variant is told


def test_images_to_forget_are_redacted_where_there_are_any_and_the_negatives_else():
    parent, material = small_material()
    given_images = Samples(torch.full((5, 1, 16, 16), 0.5))
    for variant, forget, expected in [
        ("data", given_images, given_images), ("data", None, material.negative),
        ("validity", given_images, material.negative), ("validity", None, material.negative),
    ]:
        learned = METHOD.adapt(
            parent, Material(negative=material.negative, forget=forget), params_of(variant=variant), Session(3))
        assert torch.equal(learned["redacted"], expected.images)
    assert METHOD.adapt(parent, Material(), params_of(variant="classifier"), Session(3)) == {}


def test_with_lambda_1_what_is_to_be_redacted_plays_no_part():
    parent, material = small_material()

    def candidate(fake_weight, negatives):
        params = params_of(variant="validity", steps=12, fake_weight=fake_weight)
        return run(params, problem=(parent, small_material(negative=Samples(negatives))[1]))

    some, all_of_them = material.negative.images[:5], material.negative.images
    assert same(candidate(1, some), candidate(1, all_of_them))
    assert not same(candidate(0.8, some), candidate(0.8, all_of_them))


def test_training_images_are_the_real_side_and_without_them_the_run_says_what_stands_in():
    parent, _ = small_material()
    said = []

    class Noting(Session):
        def note(self, text):
            said.append(text)

    def real_or_not(**changes):
        return run(params_of(steps=2), lambda stage: Noting(3, threads=1), (parent, small_material(**changes)[1]))

    own = real_or_not()
    assert len(said) == 1
    assert "no training images" in said[0]
    real = real_or_not(retain=Samples(-torch.ones(9, 1, 16, 16)))
    assert len(said) == 1
    assert not same(own, real)


def test_an_oracle_sorts_the_real_side_too():
    parent, material = small_material()
    dark, bright = material.positive.images[:8], material.negative.images[:8]
    for variant, sorted_out in (("data", False), ("validity", True), ("classifier", True)):
        mixed, clean = (
            run(params_of(variant=variant, steps=2), problem=(parent, small_material(retain=Samples(images))[1]))
            for images in (torch.cat([dark, bright]), dark))
        assert same(mixed, clean) == sorted_out, variant


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=8), st.integers(0, 9))
def test_the_pool_keeps_the_latest(most, added, at_first):
    numbers = iter(range(1000))
    batch = lambda count: torch.tensor([next(numbers) for _ in range(count)], dtype=torch.float)  # noqa: E731
    pool, all_so_far = Pool(batch(at_first), most), list(range(at_first))
    for count in added:
        pool.add(batch(count))
        all_so_far = list(range(len(all_so_far) + count))
        assert pool.images.tolist() == all_so_far[-most:]
    again = Pool(torch.zeros(3), most)
    again.load_state_dict(pool.state_dict())
    assert torch.equal(again.images, pool.images)


# ---------------------------------------------------------------- the formulas


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 0.9), st.floats(0, 0.5))
def test_the_guide_is_its_formula(realness, chance, tau, alpha_minus):
    expected = realness if chance < tau else alpha_minus + (1 - chance) * (realness - alpha_minus)
    found = guide(*(torch.tensor([x], dtype=torch.float64) for x in (realness, chance)), tau, alpha_minus)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_the_guided_discriminator_has_the_gradients_of_finite_differences_in_both_arguments():
    params = params_of(variant="classifier", alpha_minus=0.05, tau=0.5)
    logits = torch.tensor([-2.0, -0.5, 0.3, 2.0, 1.0], dtype=torch.float64, requires_grad=True)
    chance = torch.tensor([0.1, 0.6, 0.9, 0.99, 0.45], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d, f: guided(d, f, params), (logits, chance))


def test_the_guided_discriminator_is_the_plain_one_to_the_bit_where_the_oracle_sees_nothing():
    logits = torch.linspace(-40, 40, 9)
    assert torch.equal(guided(logits, torch.full_like(logits, 0.49), params_of(tau=0.5)), logits)
    assert guided(logits, torch.ones_like(logits), params_of(tau=0.5, alpha_minus=0)).isfinite().all()


def test_in_the_guided_game_the_generator_feels_the_oracle_and_the_oracle_stays_as_it_is():
    parent, oracle = load(path("dcgan")), load(path("oracle")).train()
    before = deepcopy(oracle.state_dict())
    edit = Guided(ClassifierOracle(oracle, [3]), params_of(tau=0.01))
    assert not oracle.training
    images = parent(parent.draw_latents(32, torch.Generator().manual_seed(0))).detach().requires_grad_()
    game = Game(parent, params_of())
    (felt,) = torch.autograd.grad(edit.charge(game, images)["adversarial"], images)
    (plain,) = torch.autograd.grad(game.fooled(images), images)
    seen = edit.oracle.probability_unwanted(images) >= 0.01
    assert 0 < seen.sum() < 32
    assert not torch.allclose(felt[seen], plain[seen])
    assert same(before, oracle.state_dict())
    assert all(parameter.grad is None for parameter in oracle.parameters())


def test_soft_guidance_is_mere_weights():
    parent, material = small_material()
    images = torch.cat([material.negative.images[:3], material.positive.images[:5]])
    edit = Guided(material.oracle, params_of(guidance="soft", soft_weight=2.0, r1_every=1000, alpha_minus=0.1))
    game = Game(parent, edit.params)
    charged = edit.charge(game, images)
    chance = material.oracle.probability_unwanted(images)
    assert charged["guidance"].item() == pytest.approx(2 * chance.mean().item())
    assert torch.equal(charged["adversarial"], game.fooled(images))
    p = parent.discriminator(images).sigmoid()
    each = -(0.1 * p.log() + 0.9 * (1 - p).log())
    fakes = ((1 + 2 * chance) * each).mean()
    real = -(0.95 * p.log() + 0.05 * (1 - p).log()).mean()
    assert edit.teach(game, 1, images, images, None).item() == pytest.approx((real + fakes).item(), rel=1e-4)


# Five pictures: two kinds that stay, one that is to be redacted, and two that nobody draws. As many copies as shares.
REAL, FAKE, REDACTED = (torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
                        for counts in ([6, 4, 0, 0, 0], [2, 3, 4, 1, 0], [0, 0, 1, 0, 0]))


def best_discriminator(params, real, fake, redacted):
    """D at each picture when the objective is as small as it gets, and that smallest value."""
    table = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective(lambda pictures: table[pictures], real, fake, redacted, params)
        loss.backward()
        return loss

    optimizer.step(closure)
    return table.sigmoid().detach(), closure().item()


@pytest.mark.parametrize("own", [0.5, 0.8, 1.0])
def test_the_best_discriminator_is_the_one_of_the_objective_s_formula(own):
    params = params_of(fake_weight=own, alpha_plus=0.9, alpha_minus=0.1)
    found, _ = best_discriminator(params, REAL, FAKE, REDACTED if own < 1 else None)
    p_real, p_g, p_redacted = (torch.bincount(copies, minlength=5) / len(copies) for copies in (REAL, FAKE, REDACTED))
    p_fake = own * p_g + (1 - own) * p_redacted
    seen = p_real + p_fake > 0
    expected = (0.9 * p_real + 0.1 * p_fake) / (p_real + p_fake)
    assert found[seen].tolist() == pytest.approx(expected[seen].tolist(), abs=1e-4)


@pytest.mark.parametrize("own", [0.5, 0.8, 1.0])
def test_against_the_best_discriminator_no_generator_does_better_than_the_wanted_part(own):
    params = params_of(fake_weight=own, alpha_plus=1, alpha_minus=0)

    def value(fake):
        return -best_discriminator(params, REAL, fake, REDACTED if own < 1 else None)[1]

    best = value(REAL)
    drifts = [torch.cat([REAL, torch.full((extra,), picture)]) for picture in (0, 2, 3) for extra in (1, 5)]
    assert all(value(fake) > best + 1e-4 for fake in drifts)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fake_weight": 0}, r"method\.params\.fake_weight: .*greater than 0"),
        ({"fake_weight": 1.1}, r"method\.params\.fake_weight: .*less than or equal to 1"),
        ({"alpha_minus": 0.95}, r"method\.params\.alpha_minus: .*must be below alpha_plus"),
        ({"alpha_plus": 0.01}, r"method\.params\.alpha_minus: .*must be below alpha_plus"),
        ({"tau": 0}, r"method\.params\.tau: .*greater than 0"),
        ({"tau": 1}, r"method\.params\.tau: .*less than 1"),
        ({"variant": "magic"}, r"method\.params\.variant: .*'data', 'validity' or 'classifier'"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes, message):
    with pytest.raises(BadInput, match=message):
        METHOD.parameters("default", changes)


@given(fake_weight=st.floats(0, 1, exclude_min=True), alpha_plus=st.floats(0, 1), alpha_minus=st.floats(0, 1),
       tau=st.floats(0, 1), variant=st.sampled_from(VARIANTS))
def test_settings_are_taken_exactly_where_the_objective_has_a_meaning(**changes):
    meaningful = changes["alpha_minus"] < changes["alpha_plus"] and 0 < changes["tau"] < 1
    try:
        params = METHOD.parameters("default", changes)
    except BadInput:
        assert not meaningful
    else:
        assert meaningful
        assert Params.model_validate(params.model_dump()) == params


@pytest.mark.parametrize("variant", ["validity", "classifier"])
@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (None, r"needs an oracle"),
        (Bright(9.0), r"oracle: it calls none of \d+ unwanted samples unwanted .*check the oracle.*lower tau"),
        (Bright(-9.0), r"oracle: it calls all \d+ images of what is to stay unwanted .*raise tau"),
    ],
)
def test_an_oracle_that_is_missing_or_tells_nothing_apart_is_refused(variant, oracle, message):
    with pytest.raises(BadInput, match=message):
        run(params_of(variant=variant), problem=small_material(oracle=oracle))


def test_an_oracle_that_calls_everything_drawn_invalid_is_refused():
    parent, material = small_material()
    dark = Samples(torch.full((4, 1, 16, 16), -9.0))
    with pytest.raises(BadInput, match=r"oracle: it calls all 16 images drawn by the parent unwanted .*raise tau"):
        run(params_of(variant="validity"), problem=(parent, Material(
            negative=material.negative, retain=dark, oracle=Bright(-5.0))))


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("data", {"forget": Samples(torch.zeros(0, 1, 16, 16))}, r"training: there is no image.*name images"),
        ("data", {"negative": Samples(torch.zeros(0, 1, 16, 16))}, r"forget: there is no image.*forget\.classes"),
        ("data", {"negative": None}, r"it needs negative samples"),
        ("data", {"retain": Samples(torch.zeros(0, 1, 16, 16))}, r"training: there is no image of what is to stay"),
        ("data", {"positive": None}, r"it needs positive samples"),
    ],
)
def test_a_set_that_is_empty_or_missing_is_refused(variant, changes, message):
    with pytest.raises(BadInput, match=message):
        run(params_of(variant=variant), problem=small_material(**changes))


# ---------------------------------------------------------------- and it works


@pytest.fixture(scope="module")
def built_in():
    """The built-in generator and oracle, what the parent drew of a 3 and of the rest, and the judge's eye."""
    parent, oracle, judge = (load(path(name)) for name in ("dcgan", "oracle", "judge"))
    latents = parent.draw_latents(1500, torch.Generator().manual_seed(7))
    images = in_parts(parent, latents)
    unwanted = in_parts(oracle, images).argmax(dim=1) == 3
    fresh = parent.draw_latents(1500, torch.Generator().manual_seed(8))

    def threes(state):
        candidate = deepcopy(parent)
        candidate.load_state_dict(state)
        return int((in_parts(judge, in_parts(candidate, fresh)).argmax(dim=1) == 3).sum())

    return parent, Material(
        negative=Samples(images[unwanted]), positive=Samples(images[~unwanted]), oracle=ClassifierOracle(oracle, [3]),
    ), threes


@pytest.mark.parametrize(("variant", "real"), [("data", True), ("validity", False), ("classifier", False)])
def test_the_debug_preset_takes_most_of_a_digit_away(built_in, variant, real):
    parent, material, threes = built_in
    if real:
        images, labels = (torch.from_numpy(part) for part in digits("train"))
        material = Material(forget=Samples(images[labels == 3]), retain=Samples(images[labels != 3]))
    state = run(METHOD.parameters("debug", {"variant": variant}), problem=(parent, material))
    assert threes(state) < threes(parent.state_dict()) / 4
