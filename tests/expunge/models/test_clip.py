"""CLIP's image half: a folder of the transformers library embeds images as the library's own model does."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from expunge.errors import BadInput
from expunge.models import build, clip, fit, read
from expunge.models.library_folders import described_in

transformers = pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

HALF = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = HALF | {"image_size": 24, "patch_size": 8}
TEXT = HALF | {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
PREPARED = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}


def of_both():
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=12))


def of_images():
    return transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**VISION, projection_dim=12))


def saved(model, folder, **said):
    model.eval().save_pretrained(folder)
    processor().save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    return folder


def processor():
    return transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(**PREPARED)


def opened(folder):
    found = described_in(folder)
    model = build(found.architecture, **found.config)
    fit(model, read(folder / "model.safetensors")[0], str(folder))
    return model.eval()


@pytest.mark.parametrize("made", [of_both, of_images])
@torch.no_grad()
def test_a_folder_embeds_images_as_the_library_does(made, tmp_path):
    torch.manual_seed(0)
    theirs = made()
    ours = opened(saved(theirs, tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 32, 3), dtype=np.uint8)
    seen = processor()([Image.fromarray(image) for image in pixels], return_tensors="pt")["pixel_values"]
    expected = theirs.get_image_features(seen).pooler_output if made is of_both else theirs(seen).image_embeds
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.allclose(ours.prepare(images), seen, atol=1e-5)  # nothing was to be resized
    assert torch.allclose(ours.features(images), expected, atol=1e-5)
    assert expected.shape == (40, 12)
    assert expected.std(dim=0).min() > 1e-3  # or anything would agree
    assert ours.look(images)[1].shape == (40, 0)


@torch.no_grad()
def test_images_are_brought_to_the_size_that_the_folder_names_as_pillow_does_it(tmp_path):
    ours = opened(saved(of_images(), tmp_path))
    for size in (16, 40):
        pixels = np.random.default_rng(0).integers(90, 166, (3, size, size + 4), dtype=np.uint8)
        seen = processor()([Image.fromarray(image).convert("RGB") for image in pixels], return_tensors="pt")["pixel_values"]
        grey = torch.from_numpy(pixels)[:, None] / 127.5 - 1
        assert ours.prepare(grey).shape == (3, 3, 24, 24)
        assert (ours.prepare(grey) - seen).abs().max() < 2.5 / 255 / 0.26  # Pillow rounds after each axis, and clips what such a middling image never reaches


def test_what_earlier_versions_wrote_opens_too(tmp_path):
    folder = saved(of_both(), tmp_path, size=24, crop_size=24)
    file = folder / "model.safetensors"
    save_file(read(file)[0] | {clip.COUNTED: torch.arange(10)[None]}, file)
    assert opened(folder).features(torch.zeros(1, 1, 16, 16)).shape == (1, 12)


REFUSED = {
    "a pickle": (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
                 "its weights are a pickle, which can run code when it is opened: open it where you trust it"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing: fetch"),
    "no size and no mean": (lambda folder: (folder / "preprocessor_config.json").unlink(),
                            "architecture 'clip': preprocessor_config.json is missing, .*: write it there: CLIPImageProcessor"),
    "a text model": (lambda folder: transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(**TEXT)).save_pretrained(folder),
        "CLIPTextModelWithProjection embeds no image: name a folder of CLIPModel or CLIPVisionModelWithProjection"),
    "no projection": (lambda folder: transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**VISION)).save_pretrained(folder), "CLIPVisionModel embeds no image"),
    "a strange filter": (lambda folder: saved(of_images(), folder, resample=1), r"asks for resample 1: write 2 \(bilinear\)"),
    "a strange size": (lambda folder: saved(of_images(), folder, size={"longest_edge": 9}), "asks for size {'longest_edge': 9}"),
    "pixels as they are": (lambda folder: saved(of_images(), folder, do_rescale=False), "rescale_factor .*: write 1/255"),
    "another config": (lambda folder: saved(transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(
        **VISION | {"num_hidden_layers": 1})), folder / "other") and (folder / "other" / "config.json").replace(folder / "config.json"),
        "the weights do not fit the architecture: vision_model.encoder.layers.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_embeds_no_image_is_refused_with_the_remedy(case, tmp_path):
    saved(of_images(), tmp_path)
    spoil, said = REFUSED[case]
    spoil(tmp_path)
    with pytest.raises(BadInput, match=said):
        opened(tmp_path)
