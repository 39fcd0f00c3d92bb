"""CLIP in the extractor's place: the judge decides, what is compared are image embeddings, and the report names them."""

import pytest
import torch

from components.evaluate.given import Given
from components.evaluate.judging import Judge
from expunge import models
from expunge.assets import digits
from expunge.digests import sha256_file

transformers = pytest.importorskip("transformers")

CONFIG = {"config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": 12},
          "preprocessor": {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}}


@torch.inference_mode()
def test_images_are_compared_by_their_embeddings_and_the_report_says_whose(house):
    torch.manual_seed(0)
    network = models.build("clip", **CONFIG).eval()
    other = house.beside("clip")
    other.write_request()
    other.with_extractor(network.state_dict(), models.ModelSpec(architecture="clip", config=CONFIG, family="classifier"))
    given = Given.open(**other.inputs())
    assert given.compared_by == {
        "extractor": "clip", "extractor_sha256": sha256_file(other.root / "extractor" / "model.safetensors")}
    judge, images = Judge.open(given, (1, 16, 16), torch.device("cpu")), digits("holdout")[0][:5]
    seen = judge.sees_all(images)
    expected = network.features(torch.from_numpy(images)).numpy()
    assert expected.shape == (5, 12)
    assert seen.features == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (seen.classes == judge.alone.sees_all(images).classes).all()
