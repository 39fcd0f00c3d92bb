"""The game: what a StyleGAN2's training needs besides, and that no other generator is asked for it."""

import pytest
import torch
from small_gan import SMALL_GAN

from expunge.errors import BadInput
from expunge.methods.game import AS_STYLEGAN2, Game, TrainingParams
from expunge.models import build

PLAIN = TrainingParams(batch=8)
STYLED = {"size": 8, "latent_dim": 8, "mapping": 2, "channels": 1, "widths": [8, 8]}


def random():
    return torch.Generator().manual_seed(0)


def game(architecture, **changed):
    torch.manual_seed(0)
    config = STYLED if architecture == "stylegan2" else SMALL_GAN
    return Game(build(architecture, **config), PLAIN.model_copy(update=changed))


def latents(playing, count=8):
    return playing.original.draw_latents(count, random())


@pytest.mark.parametrize("architecture", ["dcgan", "stylegan2"])
def test_unless_asked_g_paints_what_it_draws_and_no_randomness_is_spent(architecture):
    playing, spent = game(architecture), random()
    assert torch.equal(playing.paint(latents(playing), spent), playing.gan(latents(playing)))
    assert playing.even_paths(0, spent) == {}
    assert torch.equal(spent.get_state(), random().get_state())


@pytest.mark.parametrize("asked", [{"fresh_noise": True}, {"style_mixing": 0.5}, {"path_length_weight": 2.0}])
def test_what_only_a_stylegan2_can_is_asked_of_no_other(asked):
    game("stylegan2", **asked)
    with pytest.raises(BadInput, match="are for a StyleGAN2, and this is none: set them to false, 0 and 0"):
        game("dcgan", **asked)


def test_mixed_styles_are_two_latents_images_in_one():
    playing = game("stylegan2", style_mixing=1.0)
    z, spent = latents(playing), random()
    torch.rand((), generator=spent)
    second = playing.original.draw_latents(len(z), spent)
    crossover = int(torch.randint(1, playing.gan.generator.layers, (), generator=spent))
    expected = playing.gan.generator(z, second, crossover)
    assert torch.equal(playing.paint(z, random()), expected)
    assert not torch.equal(expected, playing.gan(z))


def test_fresh_noise_is_another_every_time_and_pixels_are_not_cut():
    playing, spent = game("stylegan2", fresh_noise=True), random()
    with torch.no_grad():
        playing.gan.generator.conv1.noise.weight.fill_(1.0)
        playing.gan.generator.to_rgb1.bias.fill_(5.0)
    first, again = (playing.paint(latents(playing), spent) for _ in range(2))
    assert not torch.equal(first, again)
    assert first.max() > 1


def test_path_lengths_move_g_in_a_step_of_their_own():
    playing = game("stylegan2", path_length_weight=2.0)
    before = playing.gan.generator.convs[0].conv.weight.detach().clone()
    playing.even_paths(0, random())
    after = playing.gan.generator.convs[0].conv.weight.detach().clone()
    assert not torch.equal(before, after)
    playing.even_paths(1, random())
    assert torch.equal(playing.gan.generator.convs[0].conv.weight, after), "none is due"


def test_the_gradient_penalty_takes_a_step_of_its_own_if_asked():
    real = torch.rand(8, 1, 16, 16, generator=random()) * 2 - 1
    together, apart = (game("dcgan", r1_apart=own) for own in (False, True))
    for playing in (together, apart):
        for step in range(2):
            playing.teach(step, real, -real)
    steps = [next(iter(playing.teller.state.values()))["step"].item() for playing in (together, apart)]
    assert steps == [2, 3]
    assert not torch.equal(together.gan.discriminator.look.weight, apart.gan.discriminator.look.weight)


def test_path_lengths_are_penalised_as_much_more_as_they_are_rarer():
    often, rarely = (game("stylegan2", path_length_weight=2.0, path_length_every=every) for every in (1, 4))
    once = often.even_paths(0, random())["path length"]
    assert rarely.even_paths(0, random())["path length"].item() == pytest.approx(4 * once.item())
    assert once > 0
    assert [len(rarely.even_paths(step, random())) for step in range(1, 5)] == [0, 0, 0, 1]


def test_starting_over_forgets_the_mean_path_length_and_parts_keep_it():
    playing = game("stylegan2", path_length_weight=2.0)
    kept = playing.parts()["paths"]
    playing.even_paths(0, random())
    assert kept.state_dict()["mean"] > 0
    playing.start_over()
    assert kept.state_dict()["mean"] == 0


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"cooling": 0.5}, [1.0, 1.0, 0.5]),
        ({"cooling": 0.25}, [1.0, 1.0, 1.0]),
        ({"cooling": 0.0}, [1.0, 1.0, 1.0]),
        ({"cooling": 0.5, "warming": 0.5}, [0.5, 1.0, 0.5]),
        ({"cooling": 0.0, "warming": 1.0}, [0.25, 0.75, 1.0]),
    ],
)
def test_rates_rise_over_the_first_part_and_fall_over_the_last(setting, expected):
    playing = game("dcgan", generator_rate=1.0, discriminator_rate=1.0, **setting)
    found = []
    for step in (0, 2, 3):
        playing.pace(step, 4)
        found.append((playing.painter.param_groups[0]["lr"] + playing.teller.param_groups[0]["lr"]) / 2)
    assert found == expected


def test_a_stylegan2s_rates_and_averaging_are_the_public_ones():
    playing = game("stylegan2", **AS_STYLEGAN2)
    painter, teller = playing.painter.param_groups[0], playing.teller.param_groups[0]
    assert painter["lr"] == pytest.approx(0.0016)
    assert teller["lr"] == pytest.approx(0.002 * 16 / 17)
    assert painter["betas"] == (0.0, pytest.approx(0.99**0.8))
    assert teller["betas"] == (0.0, pytest.approx(0.99 ** (16 / 17)))
    average, name = playing.average(), "input.input"
    with torch.no_grad():
        playing.gan.generator.input.input.add_(1.0)
    average.update(playing.gan.generator, 0)
    gone = (average.state[name] - playing.original.generator.input.input).mean().item()
    assert gone == pytest.approx(1 - 0.5 ** (16 * 2 / 10_000), rel=1e-3), "half of it fades in 5,000 images"
