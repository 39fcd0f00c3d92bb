"""The built-in Glow: its likelihood is exact, it inverts, it draws from the stream it is given, and files keep it."""

import builtins
import math

import pytest
import torch
from small_flow import SMALL_GLOW, digits, fresh_glow, small_flow

from expunge import models
from expunge.errors import BadInput
from expunge.models.flow import try_flow
from expunge.models.glow import build_glow


def shaken(levels=1, affine=True, channels=1):
    """A tiny Glow in double precision with no weight left at zero."""
    torch.manual_seed(0)
    flow = build_glow(channels, 4, levels=levels, steps=2, hidden=6, affine=affine).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return flow


def points(flow, count=3):
    random = torch.Generator().manual_seed(1)
    return 2 * torch.rand(count, *flow.image_shape, generator=random, dtype=torch.float64) - 1


@pytest.mark.parametrize(("levels", "affine", "channels"), [(1, True, 1), (2, True, 1), (2, False, 1), (1, True, 3)])
def test_the_likelihood_is_that_of_a_numerical_jacobian(levels, affine, channels):
    flow = shaken(levels, affine, channels)
    low, high = flow.range

    def latents(flat):
        found, _ = flow.inner((flat.view(1, *flow.image_shape) + 1) * ((high - low) / 2) + low)
        return torch.cat([level.flatten() for level in found])

    def of_latents(flat):
        bases = [(base.loc.flatten(), base.log_scale.flatten()) for base in flow.inner.flow.q0]
        mean, log_scale = (torch.cat(part) for part in zip(*bases, strict=True))
        return torch.distributions.Normal(mean, log_scale.exp()).log_prob(flat).sum()

    given = points(flow)
    expected = []
    for point in given:
        jacobian = torch.autograd.functional.jacobian(latents, point.flatten())
        expected.append(of_latents(latents(point.flatten())) + jacobian.slogdet().logabsdet)
    assert torch.allclose(flow.log_prob(given), torch.stack(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("levels", [1, 2])
def test_the_inverse_inverts_in_both_directions(levels):
    flow = shaken(levels)
    given = points(flow)
    latents, log_det = flow.inner(given)
    returned, back = flow.inner.inverse(latents)
    assert torch.allclose(returned, given, rtol=0, atol=1e-10)
    assert torch.allclose(log_det, -back, rtol=0, atol=1e-9)
    again, _ = flow.inner(returned)
    assert all(torch.allclose(one, other, rtol=0, atol=1e-9) for one, other in zip(latents, again, strict=True))


def test_a_trained_one_inverts_in_single_precision():
    try_flow(small_flow(), digits()[0])


def test_samples_come_from_the_callers_stream_alone():
    flow = small_flow()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = flow.sample(4, torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state()), "the global stream is left alone"
    torch.manual_seed(2)
    assert torch.equal(first, flow.sample(4, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, flow.sample(4, torch.Generator().manual_seed(4)))


def test_what_it_draws_can_be_told_from_which_latents():
    flow = small_flow()
    latents = flow.draw_latents(4, torch.Generator().manual_seed(3))
    assert latents.shape == (4, flow.latent_dim)
    assert torch.allclose(flow(latents), flow.draw(4, torch.Generator().manual_seed(3)))


def test_samples_have_the_latents_distribution():
    flow = small_flow()
    drawn = flow.inner.sample(2000, torch.Generator().manual_seed(0))
    latents, _ = flow.inner(drawn)
    for level, base in zip(latents, flow.inner.flow.q0, strict=True):
        standard = (level - base.loc) / base.log_scale.exp()
        assert standard.mean().item() == pytest.approx(0, abs=0.01)
        assert standard.std().item() == pytest.approx(1, abs=0.01)


def test_a_lower_temperature_draws_nearer_to_the_mean():
    hot, cold = fresh_glow(), fresh_glow(temperature=0.5)
    one, other = (flow.inner.sample(5, torch.Generator().manual_seed(0)) for flow in (hot, cold))
    assert torch.allclose(one / 2, other, atol=1e-6), "a fresh one is linear"


def test_only_asked_does_actnorm_initialise_itself_by_data():
    flow = fresh_glow()
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    flow.log_prob(flow.points(flow.levels(digits()[0][:8])))
    flow.sample(2, torch.Generator())
    assert all(torch.equal(before[name], tensor) for name, tensor in flow.state_dict().items())
    shown = 0.5 * flow.points(flow.levels(digits()[0]), torch.Generator().manual_seed(0))
    flow.inner.initialise(shown)
    level = flow.inner.flow.flows[-1]  # the one nearest to the image, whose last step comes first
    normalised, _ = level[-2].flows[-1].inverse(level[-1].inverse(shown)[0])
    assert torch.allclose(normalised.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(normalised.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)


def test_a_loaded_one_is_not_initialised_again_and_its_file_has_equal_bytes(tmp_path):
    flow = small_flow()
    spec = models.ModelSpec(architecture="glow", config=SMALL_GLOW, family="flow")
    models.save(tmp_path / "one.safetensors", flow.state_dict(), spec)
    loaded = models.load(tmp_path / "one.safetensors")
    torch.manual_seed(9)
    given = flow.points(flow.levels(digits()[0][:8]))
    assert torch.equal(flow.log_prob(given), loaded.log_prob(given))
    state = loaded.state_dict()
    assert state.keys() == flow.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in flow.state_dict().items()), "buffers too"
    models.save(tmp_path / "two.safetensors", state, spec)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize(("config", "problem"), [
    ({"side": 28, "levels": 3}, "28 pixels cannot be halved 3 times"),
    ({"steps": 0}, "every count is at least 1"),
    ({"temperature": 0}, "temperature: 0"),
    ({"bits": 9}, "9 bits per pixel"),
])
def test_what_cannot_be_built_is_refused(config, problem):
    with pytest.raises(BadInput, match=problem) as refused:
        models.build("glow", **config)
    assert refused.value.exit_code == 2


def test_without_its_package_it_says_which_extra_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "normflows":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"needs the package normflows: install it: pip install 'expunge\[flows\]'"):
        models.build("glow", **SMALL_GLOW)


def test_bits_per_dim_do_not_depend_on_the_range_it_was_trained_in():
    flow = shaken()
    given = points(flow)
    inside = flow.inner.log_prob(given / 2)
    by_paper = -inside / (16 * math.log(2)) + 8  # Kingma and Dhariwal: bins of width 1/256 over an interval of one
    assert torch.allclose(flow.bits_per_dim(flow.log_prob(given)), by_paper, atol=1e-9)
