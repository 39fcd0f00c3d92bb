"""Folders of the transformers library: they load as they are, and what we write the library loads again."""

import json

import pytest
import torch

from expunge.errors import BadInput
from expunge.methods.retrain import afresh
from expunge.models import ModelSpec, build, fit, read, save
from expunge.models import transformers_files as files

transformers = pytest.importorskip("transformers")

NAMES = {0: "cat", 1: "dog", 2: "owl"}
LABELS = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}


def tiny_resnet():
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(
        num_channels=3, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", **LABELS))


def tiny_vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(
        image_size=16, patch_size=8, num_channels=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, **LABELS))


@pytest.fixture(params=[tiny_resnet, tiny_vit], ids=["resnet", "vit"])
def original(request, tmp_path):
    torch.manual_seed(0)
    model = request.param()
    model.eval().save_pretrained(tmp_path / "original")
    return model, tmp_path / "original"


WEIGHTS = "model.safetensors"


def opened(folder):
    model = build(files.ARCHITECTURE, **files.config_in(folder))
    fit(model, read(folder / WEIGHTS)[0], str(folder))
    return model.eval()


def written(model, config, folder):
    """As a candidate is stored, and a release is laid out."""
    folder.mkdir()
    save(folder / WEIGHTS, model.as_in_file(model.state_dict()), ModelSpec(
        architecture=files.ARCHITECTURE, config=config, family="classifier"))
    for name, content in files.read_beside(**config).items():
        (folder / name).write_bytes(content)


def images(count=4):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_folder_answers_as_it_did_and_under_the_names_of_its_file(original):
    theirs, folder = original
    ours = opened(folder)
    assert ours.state_dict().keys() == read(folder / WEIGHTS)[0].keys()
    with torch.no_grad():
        assert torch.equal(ours(images()), theirs(images()).logits)
        features, logits = ours.look(images())
    assert features.shape == (4, 8)
    assert logits.shape == (4, 3)
    assert files.classes_in(files.config_in(folder)["config"]) == ("cat", "dog", "owl")


def test_what_is_saved_the_library_loads_and_it_answers_alike(original, tmp_path):
    _, folder = original
    ours = opened(folder)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.01
    written(ours, files.config_in(folder), tmp_path / "candidate")
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "candidate").eval()
    with torch.no_grad():
        assert torch.allclose(again(images()).logits, ours(images()), atol=1e-6)
    assert files.config_in(tmp_path / "candidate") == files.config_in(folder)


def test_numbers_keep_the_type_of_their_file(original, tmp_path):
    theirs, folder = original
    theirs.half().save_pretrained(folder)
    written(opened(folder), files.config_in(folder), tmp_path / "candidate")
    before, after = (read(some / WEIGHTS)[0] for some in (folder, tmp_path / "candidate"))
    assert {tensor.dtype for tensor in before.values()} >= {torch.float16}
    assert {name: tensor.dtype for name, tensor in before.items()} == {name: tensor.dtype for name, tensor in after.items()}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_grey_images_are_shown_in_three_equal_colours(original):
    model, grey = opened(original[1]), images()[:, :1]
    with torch.no_grad():
        assert torch.equal(model(grey), model(grey.expand(-1, 3, -1, -1)))


def test_names_that_the_library_made_up_are_none():
    assert files.classes_in({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) == ()
    assert files.classes_in({"id2label": {"1": "dog", "0": "LABEL_0"}}) == ("LABEL_0", "dog")


def test_images_are_normalised_as_the_folder_says(original):
    theirs, folder = original
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    (folder / files.PREPROCESSOR).write_text(json.dumps({"do_normalize": True, "image_mean": mean, "image_std": std}))
    shown = ((images() + 1) / 2 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(opened(folder)(images()), theirs(shown).logits, atol=1e-6)


def test_it_begins_anew_without_a_trace_of_what_it_was(original):
    _, folder = original
    once, other = opened(folder), opened(folder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    first, second = (afresh(model, 3).state_dict() for model in (once, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], tensor) for name, tensor in once.state_dict().items())


def test_modes_and_gradients_reach_the_librarys_model(original):
    _, folder = original
    model = opened(folder)
    assert not model.train(False)._inner[0].training
    assert model.train()._inner[0].training
    model(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_no_such_folder_is_said_in_a_line(original, tmp_path):
    _, folder = original
    assert files.is_folder(folder)
    assert not files.is_folder(tmp_path)
    (folder / files.CONFIG).write_text(json.dumps({"architectures": ["ViTMAEForPreTraining"]}))
    assert not files.is_folder(folder), "the library's, but no classifier"
    (folder / files.CONFIG).write_text("[]")
    with pytest.raises(BadInput, match=r"config\.json is no JSON object"):
        files.config_in(folder)
    with pytest.raises(BadInput, match=r"no image classifier of model_type 'bert'"):
        build(files.ARCHITECTURE, config={"model_type": "bert"})
