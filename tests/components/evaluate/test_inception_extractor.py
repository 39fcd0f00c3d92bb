"""InceptionV3 in the extractor's place: the judge decides, and what is compared are the extractor's features."""

import numpy as np
import pytest
import torch

from components.evaluate.given import Given
from components.evaluate.judging import Judge
from expunge import models
from expunge.assets import digits
from expunge.digests import sha256_file


@torch.inference_mode()
def test_images_are_compared_in_its_features_and_its_weights_are_named(house):
    torch.manual_seed(0)
    network = models.build("inception-v3").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # else nothing is left at the last layer
    other = house.beside("inception")
    other.write_request()
    other.with_extractor(network.state_dict(), models.ModelSpec(architecture="inception-v3", family="classifier"))
    given = Given.open(**other.inputs())
    assert given.extractor.sha256 == sha256_file(other.root / "extractor" / "model.safetensors")
    judge, images = Judge.open(given, (1, 16, 16), torch.device("cpu")), digits("holdout")[0][:3]
    seen = judge.sees_all(images)
    expected = network.features(torch.from_numpy(images)).numpy()
    assert expected.std(axis=0).max() > 0.01 * expected.mean()
    assert seen.features == pytest.approx(expected, rel=1e-4, abs=1e-5)
    alone = judge.alone.sees_all(images)
    assert alone.features.shape == (3, 48)
    np.testing.assert_array_equal(alone.classes, seen.classes)
