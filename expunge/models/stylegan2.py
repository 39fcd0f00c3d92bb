"""StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): a generator led by styles, and a residual discriminator.

    w = f(z)                     mapping network, learning at a hundredth of the rate
    x = conv(s * x; W)           per layer: s = A w scales what enters the convolution           (eq. 1)
    x = x / |s * W|              and each outgoing channel is brought back to unit variance      (eqs. 2, 3)
    x = lrelu(x + noise + bias)

and the image is the sum of what every resolution paints, enlarged to the next (skip connections, section 4.1). The
paper scales each image's weights and convolves each image by weights of its own; scaling what comes in and what
goes out instead is the same function, needs one convolution for all images, and is faster on a processor. Weights
are standard normal and multiplied by their initialisation's scale when used (equalised learning rate, Karras et al.
2018, section 4.1); an activation is a leaky ReLU times sqrt(2), which keeps the variance. As lrelu(c x) = c lrelu(x)
for c > 0, such factors are multiplied onto weights, before, and not onto images, after: each pass over all pixels
that is saved counts for as much as a convolution does.

Parameters and buffers are named as in the public PyTorch checkpoints, so that those load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.models import ranks
from expunge.models.dcgan import PixelNorm
from expunge.models.gan import Gan
from expunge.models.upfirdn import Enlarge, Smooth

GRID = 4  # side of the coarsest feature map
WIDEST = 512  # channels at up to 32x32, as in the paper
GROUP = 4  # images whose spread the discriminator is told of
MAPPING_RATE = 0.01  # of the mapping network, relative to all else
SLOPE, GAIN = 0.2, math.sqrt(2)  # of the leaky ReLU, and what it is multiplied by


class Dense(nn.Module):
    """A linear layer at an equalised learning rate, `rate` times that of others."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0, active: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(outputs))
        self.scale, self.rate, self.active = rate / math.sqrt(inputs), rate, active
        self.first_bias = bias
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, from torch's own random stream."""
        nn.init.normal_(self.weight, std=1 / self.rate)
        nn.init.constant_(self.bias, self.first_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs] for [B, inputs]."""
        gain = GAIN if self.active else 1.0
        x = F.linear(x, self.weight * (self.scale * gain), self.bias * (self.rate * gain))
        return F.leaky_relu(x, SLOPE) if self.active else x


class Convolution(nn.Module):
    """A convolution at an equalised learning rate, all of whose output is multiplied by `gain`."""

    def __init__(
        self, inputs: int, outputs: int, side: int, step: int = 1, pad: int = 0, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, side, side))
        self.scale = gain / math.sqrt(inputs * side**2)
        self.step, self.pad, self.gain = step, pad, gain
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, from torch's own random stream."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[B, outputs, H', W'] for [B, inputs, H, W]; `bias` is [outputs]."""
        bias = None if bias is None else bias * self.gain
        return F.conv2d(x, self.weight * self.scale, bias, stride=self.step, padding=self.pad)


class Bias(nn.Module):
    """A number per channel, which the layer that owns it adds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No bias."""
        nn.init.zeros_(self.bias)


# ------------------------------------------------------------------------------------------- generator


class ModulatedConvolution(nn.Module):
    """A convolution whose incoming channels are scaled by a style, which it makes from a latent in W."""

    def __init__(self, inputs: int, outputs: int, side: int, latent_dim: int, enlarge: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, outputs, inputs, side, side))
        self.modulation = Dense(latent_dim, inputs, bias=1.0)
        if enlarge:
            self.blur = Smooth(pad=(1, 1), gain=4.0)
        self.scale = 1 / math.sqrt(inputs * side**2)
        self.side, self.enlarge = side, enlarge
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights, from torch's own random stream; the modulation resets its own."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Eq. 1: [B, outputs, H, W], or twice that side, for `x` [B, inputs, H, W] and `style` [B, inputs]."""
        weight, x = self.weight[0] * self.scale, x * style[:, :, None, None]
        if self.enlarge:
            enlarged: Tensor = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
            return enlarged
        return F.conv2d(x, weight, padding=self.side // 2)

    def demodulation(self, style: Tensor) -> Tensor:
        """Eq. 3: what brings each image's outgoing channels back to unit variance, [B, outputs]."""
        power = style.square() @ (self.weight[0] * self.scale).square().sum(dim=(2, 3)).T  # of each image's weights
        return torch.rsqrt(power + 1e-8)


class Noise(nn.Module):
    """An image of noise for every channel, as strong as it has learned to be."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No noise."""
        nn.init.zeros_(self.weight)

    def forward(self, noise: Tensor) -> Tensor:
        """Same shape as `noise` [1 or B, 1, H, W]."""
        return self.weight * noise


class StyledLayer(nn.Module):
    """Modulated convolution, demodulation, noise, bias, activation."""

    def __init__(self, inputs: int, outputs: int, latent_dim: int, enlarge: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConvolution(inputs, outputs, 3, latent_dim, enlarge=enlarge)
        self.noise = Noise()
        self.activate = Bias(outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """[B, outputs, H, W], or twice that side, for `x` [B, inputs, H, W], `w` [B, latent_dim] and noise."""
        style = self.conv.modulation(w)
        factors = self.conv.demodulation(style)[:, :, None, None]
        added = self.noise(noise) + self.activate.bias[:, None, None]
        return F.leaky_relu(torch.addcmul(added * GAIN, self.conv(x, style), factors * GAIN), SLOPE)


class ToImage(nn.Module):
    """What one resolution adds to the image: a modulated 1x1 convolution, on top of what the coarser ones painted."""

    def __init__(self, inputs: int, channels: int, latent_dim: int, enlarge: bool = True) -> None:
        super().__init__()
        if enlarge:
            self.upsample = Enlarge()
        self.conv = ModulatedConvolution(inputs, channels, 1, latent_dim)
        self.bias = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No bias; the convolution resets its own."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, w: Tensor, below: Tensor | None = None) -> Tensor:
        """An image [B, channels, H, W]; `below` is the coarser one, of half the side."""
        image: Tensor = self.conv(x, self.conv.modulation(w)) + self.bias
        return image if below is None else image + self.upsample(below)


class Constant(nn.Module):
    """The learned 4x4 map from which every image starts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.empty(1, channels, GRID, GRID))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A new map, from torch's own random stream."""
        nn.init.normal_(self.input)

    def forward(self, count: int) -> Tensor:
        """[count, C, 4, 4]."""
        return self.input.expand(count, -1, -1, -1)


class FixedNoise(nn.Module):
    """One image of noise per layer, always the same: what makes a latent's image a function of the latent."""

    def __init__(self, sides: Sequence[int]) -> None:
        super().__init__()
        for layer, side in enumerate(sides):
            self.register_buffer(f"noise_{layer}", torch.empty(1, 1, side, side))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New noise, from torch's own random stream."""
        for noise in self.buffers(recurse=False):
            nn.init.normal_(noise)

    def forward(self, count: int, random: torch.Generator | None) -> list[Tensor]:
        """The noise of each layer: fixed [1, 1, H, W], or drawn anew for `count` images [count, 1, H, W]."""
        fixed = list(self.buffers(recurse=False))
        if random is None:
            return fixed
        drawn = (torch.randn(count * ranks.count(), *noise.shape[1:], generator=random, device=random.device)
                 for noise in fixed)
        return [ranks.own_part(whole).to(noise) for whole, noise in zip(drawn, fixed, strict=True)]


def noise_sides(resolutions: int) -> list[int]:
    """The side of each layer's noise: one layer at 4x4, two at every further resolution."""
    return [GRID * 2 ** ((layer + 1) // 2) for layer in range(2 * resolutions - 1)]


class Bounded(torch.autograd.Function):
    """Pixels cut to [-1, 1]. What would bring a cut pixel back has a gradient; what would push it on has none.

    The network's last layer is linear and overshoots. A plain cut would have no gradient at all out there, so
    that a pixel which is white by a wide margin could not be taught to be black.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Same shape as `x`."""
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """A step against the gradient moves x by its negative."""
        (x,) = ctx.saved_tensors
        return torch.where((x.abs() <= 1) | (gradient * x > 0), gradient, torch.zeros_like(gradient))


class Stylegan2Generator(nn.Module):
    """Latents [B, latent_dim] to images [B, channels, size, size] in [-1, 1].

    Attributes:
        latent_dim: length of a latent, in Z and in W.
        layers: how many layers take a style of their own; the coarsest come first.
    """

    def __init__(self, latent_dim: int, mapping: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.latent_dim, self.layers = latent_dim, 2 * len(widths)
        self.style = nn.Sequential(PixelNorm(), *(
            Dense(latent_dim, latent_dim, rate=MAPPING_RATE, active=True) for _ in range(mapping)))
        self.input = Constant(widths[0])
        self.conv1 = StyledLayer(widths[0], widths[0], latent_dim)
        self.to_rgb1 = ToImage(widths[0], channels, latent_dim, enlarge=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for inputs, outputs in pairwise(widths):
            self.convs.append(StyledLayer(inputs, outputs, latent_dim, enlarge=True))
            self.convs.append(StyledLayer(outputs, outputs, latent_dim))
            self.to_rgbs.append(ToImage(outputs, channels, latent_dim))
        self.noises = FixedNoise(noise_sides(len(widths)))

    def forward(
        self,
        z: Tensor,
        second: Tensor | None = None,
        crossover: int | None = None,
        *,
        in_w: bool = False,
        noise: torch.Generator | None = None,
        bounded: bool = True,
    ) -> Tensor:
        """Images [B, channels, size, size]; of the latents alone, a latent's image is always the same.

        Args:
            z: latents [B, latent_dim]; in W also one per layer, [B, layers, latent_dim].
            second: latents of the same shape that lead the layers from `crossover` on (style mixing).
            crossover: from 1 to layers - 1.
            in_w: the latents are in W: they do not go through the mapping network.
            noise: where to draw fresh noise from; the fixed noise of the `noises.*` buffers if not given.
            bounded: cut pixels to [-1, 1]; in pre-training the discriminator sees them as they are.
        """
        w = self.per_layer(z if in_w else self.style(z))
        if second is not None:
            if crossover is None or not 0 < crossover < self.layers:
                raise ValueError(f"crossover {crossover}: two latents meet between layers 1 and {self.layers - 1}")
            other = self.per_layer(second if in_w else self.style(second))
            w = torch.cat([w[:, :crossover], other[:, crossover:]], dim=1)
        images = self.synthesise(w, noise)
        return Bounded.apply(images) if bounded else images

    def per_layer(self, w: Tensor) -> Tensor:
        """[B, layers, latent_dim] of latents in W, [B, latent_dim] or already one per layer."""
        return w if w.ndim == 3 else w[:, None].expand(-1, self.layers, -1)

    def synthesise(self, w: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Images [B, channels, size, size], not cut to a range, of latents in W [B, layers, latent_dim]."""
        noises = self.noises(len(w), noise)
        x = self.conv1(self.input(len(w)), w[:, 0], noises[0])
        image: Tensor = self.to_rgb1(x, w[:, 1])
        for level, paint in enumerate(self.to_rgbs):
            first = 2 * level  # of the two layers of this resolution
            x = self.convs[first](x, w[:, first + 1], noises[first + 1])
            x = self.convs[first + 1](x, w[:, first + 2], noises[first + 2])
            image = paint(x, w[:, first + 3], image)  # the next resolution's first layer shares this style
        return image


# --------------------------------------------------------------------------------------- discriminator


class Layer(nn.Sequential):
    """A filter where one is needed, a convolution, a bias, and an activation."""

    def __init__(self, inputs: int, outputs: int, side: int, halve: bool = False, gain: float = GAIN) -> None:
        if halve:
            # The filter leaves one row and one column more: a 3x3 convolution has no margin, and takes them.
            super().__init__(Smooth(pad=(2, 2)), Convolution(inputs, outputs, side, step=2, gain=gain), Bias(outputs))
        else:
            super().__init__(Convolution(inputs, outputs, side, pad=side // 2, gain=gain), Bias(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, H, W], or half that side, for [B, inputs, H, W]."""
        *before, convolution, bias = self
        for module in before:
            x = module(x)
        return F.leaky_relu(convolution(x, bias.bias), SLOPE)


class Halving(nn.Module):
    """A residual block that halves the side. The sum of its two ways is divided by sqrt(2): it keeps the variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = Layer(inputs, inputs, 3)
        self.conv2 = Layer(inputs, outputs, 3, halve=True, gain=GAIN / math.sqrt(2))
        # A 1x1 convolution looks at every second pixel only, so no other is filtered.
        self.skip = nn.Sequential(
            Smooth(pad=(1, 1), step=2), Convolution(inputs, outputs, 1, gain=1 / math.sqrt(2)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, outputs, H/2, W/2] for [B, inputs, H, W]."""
        out: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return out


def group_spread(x: Tensor) -> Tensor:
    """One channel [B, 1, H, W] that says how varied the group of each image is (Karras et al. 2018, section 3).

    Groups are of four; image i belongs to group i mod (B // 4). A batch that four does not divide has larger
    groups too, which is our reading: the public networks refuse such batches. Several processes form their
    groups from all processes' images.
    """
    flat = ranks.whole_batch(x).flatten(1)
    groups = max(1, len(flat) // GROUP)
    member = F.one_hot(torch.arange(len(flat), device=x.device) % groups).to(x)  # [B, groups]
    mean = (member / member.sum(0)).T
    variance = mean @ (flat - member @ (mean @ flat)).square()
    spread = member @ (variance + 1e-8).sqrt().mean(1, keepdim=True)  # [B, 1]
    return ranks.own_part(spread)[:, :, None, None].expand(-1, 1, *x.shape[2:])


class Stylegan2Discriminator(nn.Module):
    """Images [B, channels, size, size] to realness logits [B]; larger means more like the training data."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        downwards = list(reversed(widths))
        self.convs = nn.Sequential(Layer(channels, downwards[0], 1), *(
            Halving(inputs, outputs) for inputs, outputs in pairwise(downwards)))
        self.final_conv = Layer(widths[0] + 1, widths[0], 3)
        self.final_linear = nn.Sequential(
            Dense(widths[0] * GRID * GRID, widths[0], active=True), Dense(widths[0], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Realness logits [B] for images [B, channels, size, size]."""
        x = self.convs(x)
        x = self.final_conv(torch.cat([x, group_spread(x)], dim=1))
        logits: Tensor = self.final_linear(x.flatten(1))
        return logits.squeeze(1)


# -------------------------------------------------------------------------------------------- building


def public_widths(size: int, channel_multiplier: int = 2) -> list[int]:
    """Channels at 4x4, 8x8, ... up to `size`, as in the public checkpoints."""
    sides = [2**power for power in range(2, size.bit_length())]
    return [WIDEST if side <= 32 else 16384 * channel_multiplier // side for side in sides]


def build_stylegan2(
    size: int = 256,
    latent_dim: int = 512,
    mapping: int = 8,
    channels: int = 3,
    channel_multiplier: int = 2,
    widths: Sequence[int] | None = None,
    discriminator_widths: Sequence[int] | None = None,
    part: Literal["both", "generator", "discriminator"] = "both",
) -> nn.Module:
    """A StyleGAN2 for square images.

    Args:
        size: side of an image, a power of two from 8 on.
        latent_dim: length of a latent.
        mapping: layers of the mapping network.
        channels: image channels.
        channel_multiplier: of the channels above 32x32, as in the public checkpoints.
        widths: channels at 4x4, 8x8, ... up to `size`, in place of the public checkpoints'.
        discriminator_widths: those of the discriminator, where it differs.
        part: the `Gan` of both, or one of the two by itself, for files that hold no more.

    Raises:
        BadInput: a size or a width that cannot be.
    """
    if size < 8 or size & (size - 1):
        raise BadInput(f"config.size: {size} is no power of two from 8 on", "give the side of the images it draws")
    for_generator = list(public_widths(size, channel_multiplier) if widths is None else widths)
    for_discriminator = list(for_generator if discriminator_widths is None else discriminator_widths)
    levels = size.bit_length() - 2
    for name, given in (("widths", for_generator), ("discriminator_widths", for_discriminator)):
        if len(given) != levels or min(given) < 1:
            raise BadInput(f"config.{name}: {given} is not one width for each of {levels} resolutions",
                           f"give the channels at 4x4, 8x8, ... up to {size}x{size}")
    if part == "generator":
        return Stylegan2Generator(latent_dim, mapping, channels, for_generator)
    if part == "discriminator":
        return Stylegan2Discriminator(channels, for_discriminator)
    return Gan(
        generator=Stylegan2Generator(latent_dim, mapping, channels, for_generator),
        discriminator=Stylegan2Discriminator(channels, for_discriminator),
        latent_dim=latent_dim,
        image_shape=(channels, size, size),
    )
