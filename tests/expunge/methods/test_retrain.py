"""Retraining: nothing of the parent is left, what was shown is learned, and what was not shown is not drawn."""

import pytest
import torch
from small_gan import SMALL_GAN, Killed, KilledOnce, same
from torch import nn

from expunge.errors import BadInput
from expunge.methods import find
from expunge.methods.retrain import afresh, from_scratch, moved
from expunge.methods.training import Material, Samples, Session, in_parts, stream
from expunge.models import Gan, build
from expunge.models.discriminator import fresh_discriminator

METHOD = find("retrain", "gan")
SHORT = {"steps": 6, "batch": 8}


def parent(seed=0):
    torch.manual_seed(seed)
    return build("dcgan", **SMALL_GAN)


def halves(count=200, bright=("left", "right")):
    """Images one half of which is bright, a little noisy, by name of the half; labels are 0 for left, 1 for right."""
    random = torch.Generator().manual_seed(0)
    labels = torch.tensor([0 if bright[number % len(bright)] == "left" else 1 for number in range(count)])
    images = torch.full((count, 1, 16, 16), -0.8)
    images[labels == 0, :, :, :8] = 0.8
    images[labels == 1, :, :, 8:] = 0.8
    return Samples(images + 0.1 * torch.randn(images.shape, generator=random), labels=labels)


def run(params, session=None, model=None, retain=None):
    session = session or Session(3, threads=1)
    material = Material(retain=retain or halves())
    return METHOD.unlearn(model or parent(), {}, material, params, session)


def test_nothing_of_the_parent_is_left_but_its_shape():
    params = METHOD.parameters("default", {**SHORT, "shift": 1})
    assert same(run(params, model=parent(0)), run(params, model=parent(1)))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    params = METHOD.parameters("default", SHORT)
    first = run(params)
    assert same(first, run(params))
    assert not same(first, run(params, Session(4, threads=1)))


@pytest.mark.parametrize("preset", ["default", "stylegan2"])
def test_a_killed_run_continues_to_the_same_bits(preset):
    params = METHOD.parameters(preset, {**SHORT, "steps": 58})  # 50 are kept; path lengths are due at 52 and 56
    styled = preset == "stylegan2"
    torch.manual_seed(0)
    model = build("stylegan2", size=8, latent_dim=8, mapping=1, channels=1, widths=[8, 8]) if styled else parent()
    shown = Samples(halves().images[:, :, ::2, ::2]) if styled else halves()
    kept = []
    with pytest.raises(Killed):
        run(params, KilledOnce(3, kept, threads=1), model, shown)
    assert same(run(params, None, model, shown), run(params, KilledOnce(3, kept, threads=1), model, shown))


class WithStatistics(nn.Module):
    """Weights, running statistics and a constant of its own kind."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.kernel = nn.Linear(4, 256), nn.BatchNorm1d(256), nn.Module()
        self.kernel.register_buffer("taps", torch.tensor([1.0, 3.0, 3.0, 1.0]))

    def forward(self, z):
        return self.norm(self.linear(z)).view(-1, 1, 16, 16).tanh()


def test_running_statistics_begin_anew_and_constants_stay():
    generator = WithStatistics()
    with torch.no_grad():
        generator(torch.randn(64, 4))
    fresh = afresh(Gan(generator, fresh_discriminator((1, 16, 16)), 4, (1, 16, 16)), seed=0).generator
    assert torch.equal(fresh.norm.running_mean, torch.zeros(256))
    assert torch.equal(fresh.norm.running_var, torch.ones(256))
    assert fresh.norm.num_batches_tracked == 0
    assert torch.equal(fresh.kernel.taps, generator.kernel.taps)
    assert not torch.equal(fresh.linear.weight, generator.linear.weight)


class Scaled(nn.Linear):
    """Forgets, when it is reset, that it has one tensor more."""

    def __init__(self):
        super().__init__(4, 256)
        self.gain = nn.Parameter(torch.ones(256))

    def forward(self, z):
        return (super().forward(z) * self.gain).view(-1, 1, 16, 16)


class Remembering(nn.Linear):
    """Keeps what it has seen in a tensor that is no parameter."""

    def __init__(self):
        super().__init__(4, 256)
        self.register_buffer("seen", torch.ones(256))

    def forward(self, z):
        return (super().forward(z) * self.seen).view(-1, 1, 16, 16)


class Bare(nn.Module):
    """Has a weight, and no way to draw a new one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 256))

    def forward(self, z):
        return (z @ self.weight).view(-1, 1, 16, 16)


@pytest.mark.parametrize(("generator", "left"), [
    (Scaled, r"generator\.gain"), (Remembering, r"generator\.seen"), (Bare, r"generator\.weight")])
def test_a_layer_that_would_keep_what_it_learned_is_refused_by_name(generator, left):
    gan = Gan(generator(), fresh_discriminator((1, 16, 16)), 4, (1, 16, 16))
    with pytest.raises(BadInput, match=rf"cannot initialise {left} anew: {generator.__name__} does not.*reference"):
        run(METHOD.parameters("default", SHORT), model=gan)


def test_initialising_anew_leaves_the_callers_random_stream_alone():
    gan = parent()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    afresh(gan, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_a_stylegan2_begins_anew_too():
    gan = build("stylegan2", size=8, latent_dim=8, mapping=2, channels=1, widths=[8, 8])
    assert same(afresh(gan, 0).state_dict(), afresh(gan, 0).state_dict())
    assert not torch.equal(afresh(gan, 0).generator.conv1.conv.weight, gan.generator.conv1.conv.weight)


def share_bright_on_the_right(state):
    gan = parent()
    gan.load_state_dict(state)
    drawn = in_parts(gan, gan.draw_latents(200, torch.Generator().manual_seed(9)))
    right = drawn[:, :, :, 8:].mean(dim=(1, 2, 3)) - drawn[:, :, :, :8].mean(dim=(1, 2, 3))
    return (right > 0).float().mean().item(), right.abs().mean().item()


def test_what_it_was_not_shown_it_does_not_draw():
    params = METHOD.parameters("default", {"steps": 100, "batch": 16, "ema_decay": 0.9})
    share, contrast = share_bright_on_the_right(run(params, retain=halves(bright=("left",))))
    assert contrast > 1, "it has learned what it was shown"
    assert share == 0
    share, _ = share_bright_on_the_right(run(params, retain=halves(bright=("right",))))
    assert share == 1, "the check can tell"


def test_a_discriminator_with_evidence_per_class_learns_the_classes():
    params = METHOD.parameters("default", {"steps": 60, "batch": 16})
    seen = halves()
    trained = from_scratch(afresh(parent(), 0), seen, params, Session(3, threads=1), stream(Session(3), 2))
    with torch.no_grad():
        assert torch.equal(trained.discriminator.class_scores(seen.images).argmax(dim=1), seen.labels)


@pytest.mark.parametrize("classes", [1, 2])
def test_labels_that_a_discriminator_has_no_evidence_for_are_left_out(classes):
    torch.manual_seed(0)
    plain = build("dcgan", **SMALL_GAN, classes=classes)
    beyond = halves()
    params = METHOD.parameters("default", SHORT)
    many = Samples(beyond.images, labels=beyond.labels + 1)
    assert same(run(params, model=plain, retain=many), run(params, model=plain, retain=Samples(beyond.images)))


def test_images_are_moved_on_black_by_at_most_so_many_pixels():
    image = torch.full((50, 1, 8, 8), -1.0)
    image[:, :, 4, 4] = 1.0
    places = [tuple(torch.nonzero(one[0] == 1)[0].tolist()) for one in moved(image, 1, torch.Generator().manual_seed(0))]
    assert set(places) == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}
    assert torch.equal(moved(image, 0, torch.Generator()), image)


def test_the_real_images_it_needs_are_asked_for():
    with pytest.raises(BadInput, match=r"it needs retain samples, which are real images: name them in the request: training"):
        METHOD.unlearn(parent(), {}, Material(), METHOD.parameters("debug"), Session(3, threads=1))
