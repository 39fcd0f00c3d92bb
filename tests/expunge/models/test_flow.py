"""Flows of any make: what an image's levels and likelihood are, and which flows and images are refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_flow import digits, fresh_glow, small_flow
from small_gan import Killed, KilledOnce, same
from torch import nn

from expunge.errors import BadInput, NonFiniteLoss
from expunge.methods.training import Session
from expunge.models.flow import Flow, as_flow, fit_likelihood, try_flow


class Normal(nn.Module):
    """The plainest flow that somebody might bring: independent normal numbers."""

    def __init__(self, scale=0.5):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((1, 2, 2), math.log(scale)))

    def forward(self, x):
        return x / self.log_scale.exp(), -self.log_scale.sum().expand(len(x))

    def inverse(self, z):
        return z * self.log_scale.exp()

    def log_prob(self, x):
        return torch.distributions.Normal(0.0, self.log_scale.exp()).log_prob(x).sum(dim=(1, 2, 3))

    def sample(self, count, generator):
        return self.inverse(torch.randn(count, 1, 2, 2, generator=generator))


SHAPE = (1, 2, 2)


@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_an_image_of_some_depth_keeps_its_levels_through_points_and_files(bits, seed):
    flow = Flow(Normal(), SHAPE, bits)
    random = torch.Generator().manual_seed(seed)
    levels = torch.randint(2**bits, (5, *SHAPE), generator=random).float()
    for points in (flow.points(levels), flow.points(levels, random)):
        assert points.min() >= -1
        assert points.max() <= 1
        images = flow.images(points)
        assert torch.equal(flow.levels(images), levels)
    stored = ((images + 1) * 127.5).round() / 127.5 - 1
    assert torch.equal(flow.levels(stored), levels)


@given(st.integers(1, 8))
def test_reducing_cuts_the_lower_bits_off(bits):
    flow = Flow(Normal(), SHAPE, bits)
    values = torch.arange(256).view(64, *SHAPE)
    reduced = flow.levels(flow.reduced(values / 127.5 - 1))
    assert torch.equal(reduced, (values >> (8 - bits)).float())


def test_bits_per_dim_of_a_uniform_density_are_its_bits():
    flow = Flow(Normal(), SHAPE, bits=5)
    uniform = torch.full((3,), -4 * math.log(2))  # over [-1, 1]
    assert torch.allclose(flow.bits_per_dim(uniform), torch.tensor(5.0))


def test_the_density_is_that_of_the_points_whatever_the_range():
    narrow, wide = Flow(Normal(0.25), SHAPE, range=(-0.5, 0.5)), Flow(Normal(0.5), SHAPE)
    points = 2 * torch.rand(4, *SHAPE) - 1
    assert torch.allclose(narrow.log_prob(points), wide.log_prob(points), atol=1e-5)
    drawn = [flow.draw(4, torch.Generator().manual_seed(0)) for flow in (narrow, wide)]
    assert torch.allclose(*drawn, atol=1e-6)


def test_samples_are_images_of_its_levels():
    flow = Flow(Normal(2.0), SHAPE, bits=2)
    drawn = flow.sample(50, torch.Generator().manual_seed(0))
    assert set(flow.levels(drawn).flatten().tolist()) == {0, 1, 2, 3}, "also what lay outside"
    assert not drawn.requires_grad


@pytest.mark.parametrize(("images", "said"), [
    (torch.full((2, *SHAPE), 1.2), r"values from 1.2 to 1.2, outside of the trained range: scale them to -1"),
    (torch.full((2, *SHAPE), float("nan")), "outside of the trained range: scale them"),
    (torch.zeros(2, *SHAPE), "8 pixels lie between the 4 levels of the 2 bits .*: reduce the images to 2 bits"),
    (torch.zeros(2, 3, 2, 2), "images: 2x3x2x2, .* 1x2x2: bring at least one image, of that size"),
    (torch.zeros(0, *SHAPE), "images: 0x1x2x2, .*: bring at least one"),
])
def test_images_that_it_was_not_trained_on_are_refused(images, said):
    with pytest.raises(BadInput, match=said) as refused:
        Flow(Normal(), SHAPE, bits=2).levels(images)
    assert refused.value.exit_code == 2


def test_a_users_own_flow_keeps_its_files_names():
    own = Normal()
    flow = as_flow(own, SHAPE)
    try_flow(flow)
    assert flow.as_in_file(flow.state_dict()).keys() == own.state_dict().keys()
    assert as_flow(flow, SHAPE) is flow


class NotInverse(Normal):
    def inverse(self, z):
        return 1.1 * z * self.log_scale.exp()


class Neighbourly(Normal):
    def log_prob(self, x):
        return super().log_prob(x) + 100 * torch.arange(len(x)).flip(0)


class Infinite(Normal):
    def log_prob(self, x):
        return super().log_prob(x) * math.inf


class OneForAll(Normal):
    def log_prob(self, x):
        return super().log_prob(x).mean()


class Headstrong(Normal):
    def sample(self, count, generator):
        return torch.randn(count, 1, 2, 2)


class OtherShape(Normal):
    def sample(self, count, generator):
        return torch.randn(count, 3, 2, 2, generator=generator)


@pytest.mark.parametrize(("inner", "problem"), [
    (NotInverse, r"inverse\(forward\(x\)\) misses x by up to .* levels, allowed are 0.25"),
    (Neighbourly, "depends on its neighbours"),
    (Infinite, "not a finite number"),
    (OneForAll, "gives \\[\\]: return one number per image"),
    (Headstrong, "gives other samples each time"),
    (OtherShape, "it draws 3x2x2"),
])
def test_a_flow_that_is_none_is_refused(inner, problem):
    with pytest.raises(BadInput, match=problem) as refused:
        try_flow(as_flow(inner(), SHAPE))
    assert refused.value.exit_code == 2


class NoStream(Normal):
    def sample(self, count):
        return torch.randn(count, 1, 2, 2)


@pytest.mark.parametrize(("module", "problem"), [
    (nn.Linear(1, 1), r"has no log_prob\(\)"),
    (NoStream(), "does not take a count and a torch.Generator"),
])
def test_what_cannot_say_or_draw_is_no_flow(module, problem):
    with pytest.raises(BadInput, match=problem):
        as_flow(module, SHAPE)


def test_a_flow_need_not_offer_an_inverse():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.normal = Normal()
            self.log_prob, self.sample = self.normal.log_prob, self.normal.sample

    flow = as_flow(Plain(), SHAPE)
    try_flow(flow)
    with pytest.raises(BadInput, match=r"has no from_noise\(\)"):
        flow(flow.draw_latents(2, torch.Generator()))


def test_training_makes_images_likelier_and_is_repeatable():
    images, _ = digits()
    first, second = small_flow(), small_flow()
    found = [fit_likelihood(flow, images, 20, 16, 2e-3, torch.Generator().manual_seed(1)) for flow in (first, second)]
    assert found[0] == found[1]
    fresh = Flow(Normal(5.0), SHAPE, bits=4)
    went = fit_likelihood(fresh, images[:, :, 3:5, 3:5], 60, 64, 0.1, torch.Generator().manual_seed(1))
    assert went[-1] < went[0] - 1


def test_a_training_that_was_stopped_goes_on_to_the_same_bits():
    images, _ = digits()

    def trained(session):
        flow = fresh_glow()
        fit_likelihood(flow, images, 60, 8, 2e-3, torch.Generator().manual_seed(1), session)
        return flow.state_dict()

    kept = []
    with pytest.raises(Killed):
        trained(KilledOnce(1, kept, threads=1))
    assert same(trained(Session(0, 1)), trained(KilledOnce(1, kept, threads=1)))


def test_a_training_that_diverges_stops_and_names_the_step():
    flow = as_flow(Infinite(), SHAPE)
    with pytest.raises(NonFiniteLoss, match="at step 0"):
        fit_likelihood(flow, torch.ones(4, *SHAPE), 3, 2, 1e-3, torch.Generator())
