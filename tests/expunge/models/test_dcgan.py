"""The DCGAN's sizes: what each promises about shapes, and that the shipped weights draw what they always drew."""

import hashlib

import pytest
import torch

from expunge import assets
from expunge.errors import BadInput
from expunge.models import build, load

SIDES = (16, 28, 32, 64)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_side_draws_images_of_that_side_and_scores_them(side, channels):
    gan = build("dcgan", side=side, channels=channels, width=8, discriminator_width=8, mapping=16)
    images = gan(gan.draw_latents(5, torch.Generator().manual_seed(0)))
    assert images.shape == (5, *gan.image_shape) == (5, channels, side, side)
    assert images.abs().max() <= 1
    assert gan.discriminator(images).shape == (5,)
    assert gan.discriminator.class_scores(images).shape == (5, 10)


@pytest.mark.parametrize("side", SIDES)
def test_every_tensor_takes_part(side):
    gan = build("dcgan", side=side, width=8, discriminator_width=8, mapping=16)
    gan.discriminator(gan(gan.draw_latents(4, torch.Generator().manual_seed(0)))).sum().backward()
    assert not [name for name, theta in gan.named_parameters() if theta.grad is None or not theta.grad.any()]


def test_one_class_is_a_plain_discriminator():
    gan = build("dcgan", side=32, classes=1, width=8, discriminator_width=8)
    images = gan(gan.draw_latents(4, torch.Generator().manual_seed(0)))
    assert torch.equal(gan.discriminator(images), gan.discriminator.class_scores(images)[:, 0])


def test_the_side_of_the_shipped_models_is_the_default_and_their_names_are_kept():
    shipped, built = load(assets.path("dcgan")), build("dcgan", side=16)
    assert {name: theta.shape for name, theta in shipped.state_dict().items()} == {
        name: theta.shape for name, theta in built.state_dict().items()}
    names = hashlib.sha256("\n".join(sorted(shipped.state_dict())).encode()).hexdigest()
    assert names.startswith("b0036d96ef2a")


@pytest.mark.parametrize(("config", "words"), [
    ({"side": 30}, r"side: a DCGAN of 30 pixels: use 16, 28, 32, 64, or pad the images"),
    ({"side": 64, "width": 6}, r"^width: 6 channels, for 64 pixels: use a multiple of 4"),
    ({"side": 32, "discriminator_width": 9}, r"discriminator_width: 9 channels, for 32 pixels: use a multiple of 2"),
    ({"side": 16, "width": 0}, r"^width: 0 channels"),
])
def test_a_size_that_cannot_be_is_refused_in_one_line(config, words):
    with pytest.raises(BadInput, match=words) as refused:
        build("dcgan", **config)
    assert "\n" not in str(refused.value)


def test_the_shipped_weights_draw_the_bits_that_they_always_drew():
    """Layer by layer, as the 16x16 generator was before there were others."""
    generator = load(assets.path("dcgan")).generator
    z = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = generator.project(generator.mapping(z)).view(-1, 64, 4, 4)
        for layer in (torch.nn.Identity(), generator.grow, generator.refine):
            x = generator.norm(torch.nn.functional.leaky_relu(layer(x), 0.2))
        assert torch.equal(generator(z), torch.tanh(generator.paint(x)))
