"""Architectures by name: what each promises about shapes, and what is said of one that is not known."""

import pytest
import torch

from expunge.errors import BadInput
from expunge.models import Classifier, Gan, build


def test_a_gan_draws_images_in_range_and_scores_them():
    gan = build("dcgan", width=8, discriminator_width=8)
    assert isinstance(gan, Gan)
    images = gan(gan.draw_latents(5, torch.Generator().manual_seed(0)))
    assert images.shape == (5, *gan.image_shape) == (5, 1, 16, 16)
    assert images.abs().max() <= 1
    assert gan.discriminator(images).shape == (5,)


@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_a_classifier_gives_features_and_logits(name):
    classifier = build(name, features=32, classes=4)
    assert isinstance(classifier, Classifier)
    images = torch.zeros(3, 1, 16, 16)
    assert classifier.features(images).shape == (3, 32)
    assert classifier(images).shape == (3, 4)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(BadInput, match="unknown architecture 'biggan': use clip, dcgan, "):
        build("biggan")


def test_a_config_that_does_not_suit_is_refused():
    with pytest.raises(BadInput, match=r"config of architecture 'dcgan'.*depth"):
        build("dcgan", depth=3)


def test_a_users_own_factory_is_called_with_the_config(tmp_path):
    (tmp_path / "mine.py").write_text("from torch import nn\ndef make(size):\n    return nn.Linear(size, 1)\n")
    assert build(f"{tmp_path}/mine.py:make", size=3).in_features == 3
    with pytest.raises(BadInput, match="no 'other'"):
        build(f"{tmp_path}/mine.py:other")


@pytest.mark.parametrize(("of", "lacks"), [("classifiers.Classifier", "features"), ("image_to_image.ImageToImage", "loss")])
def test_a_users_model_that_lacks_what_its_kind_can_do_is_refused_when_it_is_made(tmp_path, of, lacks):
    module, kind = of.split(".")
    (tmp_path / "mine.py").write_text(f"from expunge.models.{module} import {kind}\nclass Half({kind}):\n    pass\n")
    with pytest.raises(BadInput, match=rf"abstract class Half .*{lacks}"):
        build(f"{tmp_path}/mine.py:Half")
