"""StyleGAN2 against its definition: names, filters, modulation, gradients, files; all else follows from those."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.signal import convolve2d, upfirdn
from torch import nn

from components.fetch_checkpoint.step import fetch_checkpoint
from expunge import models
from expunge.contracts import Checkpoint, Request, parse_record, read_record, write_record
from expunge.errors import BadInput
from expunge.methods.retrain import afresh
from expunge.methods.training import weights
from expunge.models.adversarial import PathLength, r1_penalty
from expunge.models.stylegan2 import (
    Bounded,
    Halving,
    Layer,
    ModulatedConvolution,
    StyledLayer,
    group_spread,
    public_widths,
)
from expunge.models.upfirdn import Enlarge, Smooth
from pipelines.demo import request_for

TINY = {"size": 16, "latent_dim": 5, "mapping": 2, "channels": 1, "widths": [4, 3, 2]}
CONV, DENSE = ("weight",), ("weight", "bias")
SLOPE = 0.2
PAGE = Path(__file__).parents[3] / "docs" / "your-own-model.md"


def tiny(seed=0, **changes):
    """A small one, in double precision, of which no tensor is as it was initialised."""
    torch.manual_seed(seed)
    made = models.build("stylegan2", **(TINY | changes)).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- names


def public_names(size, channel_multiplier=2, mapping=8, latent=512, channels=3):
    """Names and shapes of the public layout, written down from it: first a generator's, then a discriminator's."""
    side, width = 4, {4: 512, 8: 512, 16: 512, 32: 512, 64: 256 * channel_multiplier, 128: 128 * channel_multiplier,
                      256: 64 * channel_multiplier}
    generator = {"input.input": (1, 512, 4, 4), "noises.noise_0": (1, 1, 4, 4)}
    for layer in range(1, mapping + 1):
        generator |= {f"style.{layer}.weight": (latent, latent), f"style.{layer}.bias": (latent,)}

    def modulated(name, inputs, outputs, kernel):
        return {f"{name}.conv.weight": (1, outputs, inputs, kernel, kernel),
                f"{name}.conv.modulation.weight": (inputs, latent), f"{name}.conv.modulation.bias": (inputs,)}

    def styled(name, inputs, outputs):
        return modulated(name, inputs, outputs, 3) | {f"{name}.noise.weight": (1,), f"{name}.activate.bias": (outputs,)}

    def to_rgb(name, inputs):
        return modulated(name, inputs, channels, 1) | {f"{name}.bias": (1, channels, 1, 1)}

    generator |= styled("conv1", 512, 512) | to_rgb("to_rgb1", 512)
    level = 0
    while side < size:
        before, side = width[side], 2 * side
        generator |= styled(f"convs.{2 * level}", before, width[side])
        generator[f"convs.{2 * level}.conv.blur.kernel"] = (4, 4)
        generator |= styled(f"convs.{2 * level + 1}", width[side], width[side])
        generator |= to_rgb(f"to_rgbs.{level}", width[side]) | {f"to_rgbs.{level}.upsample.kernel": (4, 4)}
        generator[f"noises.noise_{2 * level + 1}"] = generator[f"noises.noise_{2 * level + 2}"] = (1, 1, side, side)
        level += 1
    discriminator = {
        "convs.0.0.weight": (width[size], channels, 1, 1), "convs.0.1.bias": (width[size],),
        "final_conv.0.weight": (512, 513, 3, 3), "final_conv.1.bias": (512,),
        "final_linear.0.weight": (512, 512 * 16), "final_linear.0.bias": (512,),
        "final_linear.1.weight": (1, 512), "final_linear.1.bias": (1,)}
    block = 1
    while side > 4:
        before, after = width[side], width[side // 2]
        discriminator |= {
            f"convs.{block}.conv1.0.weight": (before, before, 3, 3), f"convs.{block}.conv1.1.bias": (before,),
            f"convs.{block}.conv2.0.kernel": (4, 4), f"convs.{block}.conv2.1.weight": (after, before, 3, 3),
            f"convs.{block}.conv2.2.bias": (after,), f"convs.{block}.skip.0.kernel": (4, 4),
            f"convs.{block}.skip.1.weight": (after, before, 1, 1)}
        block, side = block + 1, side // 2
    return generator, discriminator


@pytest.mark.parametrize(("size", "channel_multiplier"), [(8, 2), (32, 2), (256, 2), (256, 1)])
def test_names_and_shapes_are_those_of_the_public_checkpoints(size, channel_multiplier):
    with torch.device("meta"):
        gan = models.build("stylegan2", size=size, channel_multiplier=channel_multiplier)
    for network, public in zip((gan.generator, gan.discriminator), public_names(size, channel_multiplier), strict=True):
        assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == public


def test_the_32_pixel_layout_in_full_where_it_is_easily_mistaken():
    generator, discriminator = public_names(32)
    assert (len(generator), len(discriminator)) == (81, 29)
    assert {"convs.4.conv.blur.kernel", "to_rgbs.2.upsample.kernel", "noises.noise_6"} <= generator.keys()
    assert not {"style.0.weight", "convs.1.conv.blur.kernel", "noises.noise_7"} & generator.keys()


# ----------------------------------------------------------------------------------------------- filters


def upfirdn2d(image, kernel, up, down, pad):
    """Insert zeros, pad, convolve, keep every n-th: by scipy, on one channel [H, W] and a kernel of rank one."""
    along = {0: kernel.sum(1) / np.sqrt(kernel.sum()), 1: kernel.sum(0) / np.sqrt(kernel.sum())}
    for axis in (0, 1):
        taps, length = along[axis], image.shape[axis]
        full = upfirdn(taps, image, up=up, axis=axis)
        # scipy pads by a kernel's length less one, and leaves out the zeros after the last sample
        full = np.concatenate([full, np.zeros_like(full.take(range(up - 1), axis))], axis)
        first = len(taps) - 1 - pad[0]
        count = length * up + sum(pad) - len(taps) + 1
        image = full.take(range(first, first + count, down), axis)
    return image


def both_filtered(module, x, up, down, pad):
    kernel = module.kernel.numpy()
    by_scipy = np.stack([[upfirdn2d(channel, kernel, up, down, pad) for channel in image] for image in x.numpy()])
    return module(x).numpy(), by_scipy


@pytest.fixture(params=["the public kernel", "one without symmetry"])
def with_kernel(request):
    """Gives a filter the kernel: a correlation in the place of a convolution shows on the second."""

    def give(module):
        module = module.double()
        if request.param == "one without symmetry":
            module.kernel = torch.outer(torch.tensor([1.0, 4, 2, 0.5]), torch.tensor([0.3, 1, 2, 5])).double()
        return module

    return give


@pytest.mark.parametrize(("pad", "step", "side"), [((2, 2), 1, 8), ((1, 1), 1, 8), ((1, 1), 2, 8), ((2, 1), 1, 7),
                                                   ((0, 3), 2, 9)])
def test_smoothing_is_scipys_upfirdn(with_kernel, pad, step, side):
    ours, scipys = both_filtered(with_kernel(Smooth(pad, step=step)), drawn(2, 3, side, side + 1), 1, step, pad)
    np.testing.assert_allclose(ours, scipys, atol=1e-12)


@pytest.mark.parametrize("side", [4, 5])
def test_enlarging_is_scipys_upfirdn(with_kernel, side):
    ours, scipys = both_filtered(with_kernel(Enlarge()), drawn(2, 3, side, side + 2), 2, 1, (2, 1))
    assert ours.shape == (2, 3, 2 * side, 2 * side + 4)
    np.testing.assert_allclose(ours, scipys, atol=1e-12)


def test_enlarging_and_smoothing_keep_the_brightness():
    grey = torch.full((1, 1, 8, 8), 0.7)
    assert torch.allclose(Enlarge()(grey)[..., 2:-2, 2:-2], torch.tensor(0.7))
    assert torch.allclose(Smooth((1, 1), step=2)(grey)[..., 1:-1, 1:-1], torch.tensor(0.7))


# -------------------------------------------------------------------------------------------- modulation


def by_modulated_weights(layer, x, w, demodulate):
    """The paper's own form: each image is convolved by weights of its own, scaled and brought to unit norm."""
    out = []
    for image, style in zip(x, layer.modulation(w), strict=True):
        weight = layer.weight[0] * layer.scale * style[None, :, None, None]
        if demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if layer.enlarge:
            grown = nn.functional.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)
            out.append(layer.blur(grown))
        else:
            out.append(nn.functional.conv2d(image[None], weight, padding=layer.side // 2))
    return torch.cat(out)


@pytest.mark.parametrize(("side", "enlarge"), [(3, False), (3, True), (1, False)])
def test_scaling_what_goes_in_and_out_is_modulating_the_weights(side, enlarge):
    torch.manual_seed(1)
    layer = ModulatedConvolution(6, 4, side, 5, enlarge).double()
    x, w = drawn(3, 6, 8, 8), drawn(3, 5, seed=1)
    style = layer.modulation(w)
    out, factors = layer(x, style), layer.demodulation(style)
    assert torch.allclose(out, by_modulated_weights(layer, x, w, demodulate=False), atol=1e-12)
    demodulated = out * factors[:, :, None, None]
    assert torch.allclose(demodulated, by_modulated_weights(layer, x, w, demodulate=True), atol=1e-12)


def test_a_demodulated_layer_keeps_unit_variance_whatever_the_style():
    torch.manual_seed(2)
    layer = ModulatedConvolution(32, 32, 3, 4).double()
    style = layer.modulation(100 * drawn(8, 4, seed=1))
    out = layer(drawn(8, 32, 16, 16), style) * layer.demodulation(style)[:, :, None, None]
    assert out[..., 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.05)


# --------------------------------------------------------------- both networks, once more, from their states


def leaky(x):
    return np.where(x > 0, x, SLOPE * x) * np.sqrt(2)


def correlated(x, weight, step=1):
    """[C, H, W] by weights [O, C, k, k], where the kernel fits."""
    return np.stack([sum(convolve2d(plane, kernel[::-1, ::-1], "valid") for plane, kernel in zip(x, kernels, strict=True))
                     for kernels in weight])[:, ::step, ::step]


def grown(x, weight):
    """Zeros between the pixels of [C, H, W], then a full convolution by weights [O, C, 3, 3]."""
    spread = np.zeros((len(x), 2 * x.shape[1] - 1, 2 * x.shape[2] - 1))
    spread[:, ::2, ::2] = x
    return np.stack([sum(convolve2d(plane, kernel) for plane, kernel in zip(spread, kernels, strict=True))
                     for kernels in weight])


def margin(x, size=1):
    return np.pad(x, ((0, 0), (size, size), (size, size)))


def filtered(x, kernel, up=1, pad=(1, 1)):
    return np.stack([upfirdn2d(plane, kernel, up, 1, pad) for plane in x])


class Paper:
    """A forward pass of one image in numpy and scipy, from nothing but a public file's tensors."""

    def __init__(self, state):
        self.state = {name: tensor.numpy() for name, tensor in state.items()}

    def scaled(self, name):
        """Equalised learning rate: a weight, times 1 / sqrt of what enters one output."""
        weight = self.state[name]
        weight = weight[0] if weight.ndim == 5 else weight
        return weight / np.sqrt(np.prod(weight.shape[1:]))

    def modulated(self, name, x, w, demodulate=True):
        style = self.scaled(f"{name}.modulation.weight") @ w + self.state[f"{name}.modulation.bias"]
        weight = self.scaled(f"{name}.weight") * style[None, :, None, None]
        if demodulate:
            weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        if f"{name}.blur.kernel" in self.state:
            return filtered(grown(x, weight), self.state[f"{name}.blur.kernel"])
        return correlated(margin(x, weight.shape[-1] // 2), weight)

    def styled(self, name, x, w, noise):
        x = self.modulated(f"{name}.conv", x, w) + self.state[f"{name}.noise.weight"] * self.state[f"noises.noise_{noise}"][0]
        return leaky(x + self.state[f"{name}.activate.bias"][:, None, None])

    def to_rgb(self, name, x, w):
        return self.modulated(f"{name}.conv", x, w, demodulate=False) + self.state[f"{name}.bias"][0]

    def style(self, z):
        w = z / np.sqrt((z**2).mean() + 1e-8)
        layer = 1
        while f"style.{layer}.weight" in self.state:
            w = leaky(0.01 * (self.scaled(f"style.{layer}.weight") @ w + self.state[f"style.{layer}.bias"]))
            layer += 1
        return w

    def image(self, w, levels):
        """Of one style per layer: each convolution has its own, and painting shares the next convolution's."""
        x = self.styled("conv1", self.state["input.input"][0], w[0], 0)
        image = self.to_rgb("to_rgb1", x, w[1])
        for level in range(levels):
            x = self.styled(f"convs.{2 * level}", x, w[2 * level + 1], 2 * level + 1)
            x = self.styled(f"convs.{2 * level + 1}", x, w[2 * level + 2], 2 * level + 2)
            image = filtered(image, self.state[f"to_rgbs.{level}.upsample.kernel"], up=2, pad=(2, 1))
            image = image + self.to_rgb(f"to_rgbs.{level}", x, w[2 * level + 3])
        return image

    def activated(self, name, x):
        return leaky(x + self.state[f"{name}.bias"][:, None, None])

    def features(self, image, levels):
        x = self.activated("convs.0.1", correlated(image, self.scaled("convs.0.0.weight")))
        for block in range(1, levels + 1):
            name = f"convs.{block}"
            deep = self.activated(f"{name}.conv1.1", correlated(margin(x), self.scaled(f"{name}.conv1.0.weight")))
            deep = filtered(deep, self.state[f"{name}.conv2.0.kernel"], pad=(2, 2))
            deep = self.activated(f"{name}.conv2.2", correlated(deep, self.scaled(f"{name}.conv2.1.weight"), 2))
            short = filtered(x, self.state[f"{name}.skip.0.kernel"])
            x = (deep + correlated(short, self.scaled(f"{name}.skip.1.weight"), 2)) / np.sqrt(2)
        return x

    def logits(self, images, levels):
        found = np.stack([self.features(image, levels) for image in images])
        groups = found.reshape(4, -1, *found.shape[1:])  # as the public networks form them: strided
        spread = np.sqrt(groups.var(0) + 1e-8).mean((1, 2, 3))
        spread = np.tile(spread, 4)[:, None, None, None] * np.ones((1, 1, 4, 4))
        out = []
        for x in np.concatenate([found, spread], axis=1):
            x = self.activated("final_conv.1", correlated(margin(x), self.scaled("final_conv.0.weight")))
            x = leaky(self.scaled("final_linear.0.weight") @ x.ravel() + self.state["final_linear.0.bias"])
            out.append(self.scaled("final_linear.1.weight") @ x + self.state["final_linear.1.bias"])
        return np.concatenate(out)


def test_the_generator_draws_what_the_paper_and_the_layout_define():
    gan, z = tiny(), drawn(3, 5)
    paper = Paper(gan.generator.state_dict())
    by_hand = np.stack([paper.image([paper.style(latent)] * 6, 2) for latent in z.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(gan.generator(z, bounded=False).numpy(), by_hand, atol=1e-9)


def test_each_layer_takes_the_style_that_the_layout_gives_it():
    gan, w = tiny(), drawn(1, 6, 5)
    by_hand = Paper(gan.generator.state_dict()).image(w[0].numpy(), 2)
    with torch.no_grad():
        np.testing.assert_allclose(gan.generator(w, in_w=True, bounded=False)[0].numpy(), by_hand, atol=1e-9)


def test_the_discriminator_scores_as_the_paper_and_the_layout_define():
    gan, images = tiny(channels=3, discriminator_widths=[3, 2, 4]), drawn(8, 3, 16, 16)
    with torch.no_grad():
        ours = gan.discriminator(images).numpy()
    np.testing.assert_allclose(ours, Paper(gan.discriminator.state_dict()).logits(images.numpy(), 2), atol=1e-9)


# ------------------------------------------------------------------------------------------- what it draws


def test_a_latents_image_is_always_the_same_and_in_range():
    gan = tiny()
    z = 3 * drawn(6, 5)
    images = gan(z)
    assert images.shape == (6, *gan.image_shape) == (6, 1, 16, 16)
    assert images.abs().max() <= 1
    assert torch.equal(gan(z), images)
    assert torch.allclose(gan(z[2:3]), images[2:3], atol=1e-12), "whatever its neighbours"


def test_fresh_noise_comes_from_the_callers_stream_alone():
    gan, z = tiny(), drawn(2, 5)
    by_seed = [gan.generator(z, noise=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(by_seed[0], by_seed[1])
    assert not torch.equal(by_seed[0], by_seed[2])
    assert not torch.equal(by_seed[0], gan(z))
    with torch.no_grad():
        for name, parameter in gan.generator.named_parameters():
            if name.endswith("noise.weight"):
                parameter.zero_()
    assert torch.equal(gan.generator(z, noise=torch.Generator().manual_seed(1)), gan(z)), "unless it has no weight"


def test_two_latents_mix_at_the_crossover():
    generator = tiny().generator
    one, two = drawn(2, 5), drawn(2, 5, seed=1)
    w = torch.stack([generator.style(one)] * 2 + [generator.style(two)] * 4, dim=1)
    assert generator.layers == 6
    mixed = generator(one, two, 2)
    assert torch.allclose(mixed, generator(w, in_w=True), atol=1e-12)
    assert not torch.allclose(mixed, generator(one), atol=1e-3)
    assert not torch.allclose(mixed, generator(two), atol=1e-3)
    assert torch.allclose(generator(one, one, 3), generator(one), atol=1e-12)
    assert torch.allclose(generator(generator.style(one), in_w=True), generator(one), atol=1e-12)
    for crossover in (None, 0, 6):
        with pytest.raises(ValueError, match="between layers 1 and 5"):
            generator(one, two, crossover)


def test_a_pixel_that_is_cut_can_be_brought_back_but_not_pushed_further():
    x = torch.tensor([-3.0, -3.0, 0.5, 0.5, 3.0, 3.0], requires_grad=True)
    gradient = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # a step goes against it
    cut = Bounded.apply(x)
    assert cut.tolist() == [-1, -1, 0.5, 0.5, 1, 1]
    cut.backward(gradient)
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_a_model_of_the_same_kind_is_initialised_anew_to_its_last_tensor():
    gan = tiny().float()
    fresh = afresh(gan, 5)
    kept = {name for name, tensor in fresh.state_dict().items() if torch.equal(tensor, gan.state_dict()[name])}
    assert all(name.endswith("kernel") for name in kept)
    assert torch.equal(afresh(tiny(seed=1).float(), 5)(drawn(2, 5).float()), fresh(drawn(2, 5).float()))


def test_a_fresh_one_has_activations_of_unit_size_in_every_layer():
    torch.manual_seed(0)
    gan = models.build("stylegan2", size=32, latent_dim=64, widths=[64, 64, 64, 64])
    sizes = {}
    for name, module in gan.named_modules():
        if isinstance(module, StyledLayer | Layer | Halving) or name.endswith(("style", "final_linear.0")):
            module.register_forward_hook(lambda _, __, out, name=name: sizes.update({name: out.square().mean().item()}))
    with torch.no_grad():
        gan.discriminator(gan.generator(torch.randn(16, 64), bounded=False))
    assert len(sizes) == 8 + 10 + 2, "of the generator, of the discriminator's blocks, and at its end"
    assert all(0.1 < size < 3 for size in sizes.values()), sizes  # filters take some at first: the map is noise


# -------------------------------------------------------------------------------------------- group spread


def test_one_image_has_no_spread_and_few_are_one_group():
    assert group_spread(drawn(1, 3, 4, 4)).abs().max() < 1e-3
    x = drawn(3, 3, 4, 4)
    expected = (x.var(0, unbiased=False) + 1e-8).sqrt().mean()
    assert torch.allclose(group_spread(x), expected.expand(3, 1, 4, 4))


@pytest.mark.parametrize("count", [7, 9, 14])
def test_every_image_of_an_odd_batch_has_a_group_of_four_or_more(count):
    x = drawn(count, 2, 4, 4)
    groups = count // 4
    spread = group_spread(x)
    for group in range(groups):
        members = x[group::groups]
        assert len(members) >= 4
        expected = (members.var(0, unbiased=False) + 1e-8).sqrt().mean()
        assert torch.allclose(spread[group::groups], expected.expand(len(members), 1, 4, 4))


# ----------------------------------------------------------------------------------------------- gradients


def gradients_agree(function, *inputs, twice=True):
    """Against finite differences, and where penalties differentiate twice also the second derivatives."""
    inputs = [each.requires_grad_() for each in inputs]
    assert torch.autograd.gradcheck(function, inputs, atol=1e-6)
    if twice:
        assert torch.autograd.gradgradcheck(function, inputs, atol=1e-5)
    return True


@pytest.mark.parametrize("enlarge", [False, True])
def test_gradients_of_a_styled_layer(enlarge):
    torch.manual_seed(3)
    layer, side = StyledLayer(2, 2, 3, enlarge).double(), 4 if enlarge else 2

    def function(x, w, weight, noise):
        return torch.func.functional_call(layer, {"conv.weight": weight}, (x, w, noise))

    assert gradients_agree(function, drawn(2, 2, 2, 2), drawn(2, 3, seed=1), layer.conv.weight.detach().clone(),
                           drawn(1, 1, side, side, seed=2))


@pytest.mark.parametrize("layer", [Smooth((2, 2)), Smooth((1, 1), step=2), Smooth((2, 1)), Enlarge()])
def test_gradients_of_the_filters(layer):
    assert gradients_agree(layer.double(), drawn(1, 2, 4, 4))


@pytest.mark.parametrize("count", [4, 5, 8])
def test_gradients_of_the_group_spread(count):
    assert gradients_agree(group_spread, drawn(count, 1, 2, 2))


def test_gradients_of_the_whole_generator_and_discriminator():
    gan = tiny(size=8, widths=[2, 2])

    def logits(z):
        return gan.discriminator(gan.generator(z, bounded=False))

    assert gradients_agree(logits, drawn(4, 5), twice=False)


def with_parameter(network, name, function):
    """`function` of a value put in the place of one of the network's parameters."""

    def changed(value):
        kept = dict(network.named_parameters())[name]
        owner = network.get_submodule(name.rpartition(".")[0])
        del owner._parameters[name.rpartition(".")[2]]
        setattr(owner, name.rpartition(".")[2], value)
        try:
            return function()
        finally:
            delattr(owner, name.rpartition(".")[2])
            owner._parameters[name.rpartition(".")[2]] = kept

    return changed


@pytest.mark.parametrize("name", ["convs.0.conv.weight", "to_rgbs.0.conv.modulation.weight", "style.1.weight"])
def test_gradients_of_the_path_length_penalty(name):
    generator = tiny(size=8, widths=[2, 2], latent_dim=3).generator
    z = drawn(2, 3)

    def penalty():
        length = PathLength()
        length.mean = torch.tensor(0.3, dtype=torch.float64)
        length.decay = 1.0  # its own mean does not learn
        return length(generator.synthesise, generator.per_layer(generator.style(z)), torch.Generator().manual_seed(0))

    value = dict(generator.named_parameters())[name].detach().clone()
    assert gradients_agree(with_parameter(generator, name, penalty), value, twice=False)


def test_gradients_of_the_r1_penalty():
    discriminator = tiny(size=8, widths=[2, 2]).discriminator
    images, name = drawn(4, 1, 8, 8), "convs.1.conv2.1.weight"
    value = dict(discriminator.named_parameters())[name].detach().clone()
    assert gradients_agree(with_parameter(discriminator, name, lambda: r1_penalty(discriminator, images)), value,
                           twice=False)


def test_the_path_length_of_a_linear_generator_is_known_and_its_mean_goes_on_after_a_stop():
    painting = drawn(2, 3, 1 * 4 * 4)  # [layers, latent, pixels]

    def synthesise(w):
        return torch.einsum("bld,ldp->bp", w, painting).view(-1, 1, 4, 4)

    w, length = drawn(5, 2, 3), PathLength(decay=0.75)
    penalty = length(synthesise, w, torch.Generator().manual_seed(4))
    y = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(4)).double().view(5, 16) / 4
    lengths = torch.einsum("ldp,bp->bld", painting, y).square().sum(2).mean(1).sqrt()
    assert length.mean.item() == pytest.approx(0.25 * lengths.mean().item())
    assert penalty.item() == pytest.approx((lengths - 0.25 * lengths.mean()).square().mean().item())
    resumed = PathLength(decay=0.75)
    resumed.load_state_dict(length.state_dict())
    streams = [torch.Generator().manual_seed(9) for _ in range(2)]
    assert torch.equal(length(synthesise, w, streams[0]), resumed(synthesise, w, streams[1]))
    assert torch.equal(length.mean, resumed.mean)


# --------------------------------------------------------------------------------------------------- files

OF_FILE = {"size": 16, "latent_dim": 5, "mapping": 2, "channels": 1, "widths": [4, 3, 2],
           "discriminator_widths": [5, 4, 3]}


def public_file(folder, without=(), **changes):
    """A training checkpoint in the public layout, and the GAN whose averaged generator and discriminator it holds."""
    torch.manual_seed(3)
    gan = models.build("stylegan2", **(OF_FILE | changes)).eval()
    with torch.no_grad():  # as a trained one: blacks and whites
        gan.generator.to_rgb1.bias.add_(torch.where(torch.randn(1) > 0, 1.0, -1.0))
    optimizer = torch.optim.Adam(gan.parameters())
    gan.discriminator(gan(gan.draw_latents(4, torch.Generator().manual_seed(0)))).sum().backward()
    optimizer.step()
    content = {
        "g": {name: torch.zeros_like(tensor) for name, tensor in gan.generator.state_dict().items()},
        "d": gan.discriminator.state_dict(), "g_ema": weights(gan.generator), "g_optim": optimizer.state_dict(),
        "d_optim": optimizer.state_dict(), "args": argparse.Namespace(size=16, lr=0.002, path="data"),
        "ada_aug_p": 0.0}
    file = folder / "550000.pt"
    torch.save({name: value for name, value in content.items() if name not in without}, file)
    return file, gan


def contents(file):
    """What a checkpoint in the public layout holds."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, weights_only=True)


def test_a_public_checkpoint_loads_by_itself(tmp_path):
    file, gan = public_file(tmp_path)
    state, spec = models.read(file)
    assert spec is None
    assert models.recognised(state, "file").config == OF_FILE | {"part": "both"}
    loaded = models.load(file)
    assert {name: tensor.tolist() for name, tensor in loaded.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in gan.state_dict().items()}
    z = torch.randn(3, 5)
    assert torch.equal(loaded(z), gan(z))
    assert torch.equal(models.load(file, "stylegan2")(z), gan(z))


def test_without_an_average_the_last_generator_is_taken(tmp_path):
    file, _ = public_file(tmp_path, without=("g_ema",))
    assert all(not tensor.any() for name, tensor in models.read(file)[0].items() if name.startswith("generator."))


@pytest.mark.parametrize("alone", [False, True])
def test_an_older_file_without_noise_is_given_some_that_is_always_the_same(tmp_path, alone):
    file, gan = public_file(tmp_path, without=("d",) if alone else ())
    changed(file, lambda content: [content["g_ema"].pop(f"noises.noise_{layer}") for layer in range(5)])
    one, other = models.load(file), models.load(file)
    z = torch.randn(3, 5)
    assert torch.equal(one(z), other(z))
    generator = one if alone else one.generator
    assert {name: tuple(noise.shape) for name, noise in generator.noises.named_buffers()} == {
        name: tuple(noise.shape) for name, noise in gan.generator.noises.named_buffers()}
    assert all(0.5 < noise.std() < 1.5 for noise in generator.noises.buffers())


@pytest.mark.parametrize(("given", "complaint"), [
    ({"size": 32}, r"config\.size: 32 does not suit the weights, which have 16: leave it out"),
    ({"channels": 3}, r"config\.channels: 3 does not suit the weights, which have 1"),
    ({"widths": [4, 3, 3]}, r"config\.widths: \[4, 3, 3\] does not suit the weights, which have \[4, 3, 2\]"),
    ({"channel_multiplier": 1}, r"config\.channel_multiplier: 1 does not suit the weights"),
    ({"depth": 3}, r"config of architecture 'stylegan2'.*depth"),
])
def test_a_config_that_contradicts_the_weights_is_refused_by_its_key(tmp_path, given, complaint):
    file, _ = public_file(tmp_path)
    with pytest.raises(BadInput, match=complaint):
        models.load(file, "stylegan2", given)


def test_a_config_that_agrees_with_the_weights_is_taken(tmp_path):
    file, gan = public_file(tmp_path)
    z = torch.randn(2, 5)
    assert torch.equal(models.load(file, "stylegan2", {"size": 16, "widths": [4, 3, 2]})(z), gan(z))


def changed(file, change):
    content = contents(file)
    change(content)
    torch.save(content, file)


@pytest.mark.parametrize(("change", "complaint"), [
    (lambda content: content["g_ema"].pop("noises.noise_2"), r"generator\.noises\.noise_2 is missing"),
    (lambda content: content["g_ema"].pop("convs.2.conv.weight"), r"convs\.2\.conv\.weight is missing"),
    (lambda content: content["d"].pop("convs.1.conv2.1.weight"), r"convs\.1\.conv2\.1\.weight is missing"),
    (lambda content: content["d"].update(extra=torch.zeros(1)), r"discriminator\.extra is not part of the architecture"),
    (lambda content: content["g_ema"].update({"convs.1.activate.bias": torch.zeros(9)}),
     r"generator\.convs\.1\.activate\.bias is \[9\], expected \[3\]"),
    (lambda content: content["g_ema"].update({"to_rgb1.conv.weight": torch.zeros(())}),
     r"to_rgb1\.conv\.weight is \[\]"),
])
def test_missing_and_extra_tensors_are_named(tmp_path, change, complaint):
    file, _ = public_file(tmp_path)
    changed(file, change)
    with pytest.raises(BadInput, match=complaint):
        models.load(file)


def test_two_networks_that_were_not_trained_against_each_other_are_refused(tmp_path):
    file, _ = public_file(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = public_file(tmp_path / "other", size=8, widths=[4, 3], discriminator_widths=None)
    theirs = contents(other)["d"]
    changed(file, lambda content: content.update(d=theirs))
    with pytest.raises(BadInput, match=r"generator draws images of size 16, the discriminator is made for 8"):
        models.load(file)


@pytest.mark.parametrize(("config", "complaint"), [
    ({"size": 12}, r"config\.size: 12 is no power of two from 8 on"),
    ({"size": 4}, r"config\.size: 4 is no power of two"),
    ({"size": 32, "widths": [8, 8]}, r"config\.widths: \[8, 8\] is not one width for each of 4 resolutions"),
    ({"size": 8, "discriminator_widths": [8, 0]}, r"config\.discriminator_widths: \[8, 0\] is not one width"),
])
def test_a_shape_that_cannot_be_is_refused(config, complaint):
    with pytest.raises(BadInput, match=complaint):
        models.build("stylegan2", **config)


def test_the_channels_of_public_checkpoints():
    assert public_widths(256) == [512, 512, 512, 512, 512, 256, 128]
    assert public_widths(1024, 1) == [512, 512, 512, 512, 256, 128, 64, 32, 16]


# ----------------------------------------------------------------------------------------------- the door


@pytest.fixture
def fetch(workspace, tmp_path):
    """Fetches a parent; returns its folder and its model."""

    def call(discriminator=None, **checkpoint):
        document = request_for(8, 0, False) | {"checkpoint": {"range": [-1, 1]} | checkpoint, "reference": None} | (
            {"discriminator": discriminator} if discriminator else {})
        write_record(tmp_path / "request.json", parse_record(Request, document, "request"))
        folders = {name: tmp_path / "out" / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
        fetch_checkpoint(request=tmp_path / "request.json", statement=tmp_path / "statement.json", **folders)
        folder = folders["checkpoint"]
        return folder, models.load_recorded(folder, read_record(Checkpoint, folder))

    return call


def test_a_public_checkpoint_comes_in_and_goes_back_to_the_public_layout_as_documented(fetch, tmp_path, monkeypatch):
    file, gan = public_file(tmp_path)
    folder, parent = fetch(uri=str(file))
    record = read_record(Checkpoint, folder)
    assert (record.architecture, record.config) == ("stylegan2", OF_FILE | {"part": "both"})
    z = gan.draw_latents(3, torch.Generator().manual_seed(0))
    assert torch.equal(parent(z), gan(z))
    assert not parent.fresh_discriminator
    released = tmp_path / ".expunge" / "releases" / "faces" / "current" / "model.safetensors"
    released.parent.mkdir(parents=True)
    save_file(parent.as_in_file(weights(parent)), released)
    snippet, = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    before = contents(file)
    for name, state in torch.load(tmp_path / "unlearned.pt", weights_only=True).items():
        assert state.keys() == before[name].keys()
        assert all(torch.equal(tensor, before[name][key]) for key, tensor in state.items())


@pytest.mark.parametrize("form", ["public file", "state dict", "safetensors"])
def test_a_generator_alone_gets_a_fresh_discriminator_and_keeps_its_names(fetch, tmp_path, form):
    file, gan = public_file(tmp_path, without=("d", "g", "g_optim", "d_optim", "args"))
    alone = gan.generator.state_dict()
    if form == "state dict":
        torch.save(alone, file)
    elif form == "safetensors":
        file = tmp_path / "generator.safetensors"
        save_file(alone, file)
    folder, parent = fetch(uri=str(file))
    assert read_record(Checkpoint, folder).config["part"] == "generator"
    assert parent.fresh_discriminator
    assert parent.generator.state_dict().keys() == alone.keys(), "so that methods find its layers by name"
    z = gan.draw_latents(3, torch.Generator().manual_seed(0))
    assert torch.equal(parent(z), gan(z))
    assert parent.as_in_file(parent.state_dict()).keys() == alone.keys()


def test_a_discriminator_in_a_file_of_its_own_is_used(fetch, tmp_path):
    file, gan = public_file(tmp_path, without=("d",))
    torch.save(gan.discriminator.state_dict(), tmp_path / "d.pt")
    _, parent = fetch(uri=str(file), discriminator={"uri": str(tmp_path / "d.pt")})
    assert not parent.fresh_discriminator
    images = gan(gan.draw_latents(8, torch.Generator().manual_seed(0)))
    assert torch.allclose(parent.discriminator(images), gan.discriminator(images))


def test_a_size_that_is_not_the_weights_is_refused_at_the_door(fetch, tmp_path):
    file, _ = public_file(tmp_path)
    with pytest.raises(BadInput, match=r"^checkpoint\.config\.size: 64 does not suit the weights, which have 16"):
        fetch(uri=str(file), architecture="stylegan2", config={"size": 64})


def test_a_checkpoint_that_needs_other_code_than_the_arguments_is_refused(tmp_path):
    class Arguments(argparse.Namespace):
        pass

    file, _ = public_file(tmp_path)
    content = contents(file)
    Arguments.__module__, Arguments.__qualname__ = __name__, "Arguments"
    globals()["Arguments"] = Arguments
    torch.save(content | {"args": Arguments(size=16)}, file)
    with pytest.raises(BadInput, match="weights_only=True"):
        models.load(file)
