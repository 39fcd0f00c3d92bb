"""The elastic pull: nothing at the parent, by Fisher information away from it, and only where it is asked to hold."""

import pytest
import torch
from small_gan import SMALL_GAN

from expunge.errors import BadInput
from expunge.methods.elastic import Elastic, fisher
from expunge.models import build

SAMPLES = 3


def parent():
    torch.manual_seed(0)
    return build("dcgan", **SMALL_GAN).requires_grad_(False)


def random():
    return torch.Generator().manual_seed(1)


def test_fisher_is_the_mean_squared_gradient_of_the_raw_logit_one_image_at_a_time():
    gan = parent()
    found = fisher(gan, SAMPLES, random())
    expected = {name: torch.zeros_like(theta) for name, theta in gan.generator.named_parameters()}
    gan.generator.requires_grad_(True)
    for latent in gan.draw_latents(SAMPLES, random()):
        gan.generator.zero_grad()
        gan.discriminator(gan.generator(latent[None])).sum().backward()
        for name, theta in gan.generator.named_parameters():
            expected[name] += theta.grad**2 / SAMPLES
    assert all(torch.allclose(found[name], expected[name]) for name in expected)
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("scope", ["all", "mapping.", "refine.weight"])
def test_the_pull_is_its_formula_over_what_is_in_scope(scope):
    gan = parent()
    elastic = Elastic(gan, SAMPLES, random(), scope)
    assert elastic(gan.generator) == 0, "nothing at the parent"
    information = fisher(gan, SAMPLES, random())
    with torch.no_grad():
        for number, theta in enumerate(gan.generator.parameters()):
            theta += 0.01 * (number + 1)
    expected = sum((information[name] * (0.01 * (number + 1)) ** 2).sum() / 2
                   for number, name in enumerate(dict(gan.generator.named_parameters()))
                   if scope == "all" or name.startswith(scope))
    assert elastic(gan.generator).item() == pytest.approx(expected.item(), rel=1e-3)
    assert expected > 0


def test_a_scope_without_parameters_is_refused_with_those_there_are():
    with pytest.raises(BadInput, match=r"ewc_scope: no .* begins with 'convs\.': use 'all', or .*: mapping, project"):
        Elastic(parent(), SAMPLES, random(), "convs.")
