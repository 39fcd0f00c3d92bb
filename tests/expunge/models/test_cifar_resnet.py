"""ResNets for small images: as many layers and weights as in the paper, shortcuts without any, features by place."""

import pytest
import torch
from torch import nn

from expunge.errors import BadInput
from expunge.models import Classifier, ModelSpec, build, load, save
from expunge.models.cifar_resnet import BasicBlock, build_cifar_resnet


@pytest.mark.parametrize(("name", "layers", "weights"), [("resnet-20", 20, 0.27e6), ("resnet-56", 56, 0.85e6)])
def test_it_has_the_layers_and_the_weights_of_the_papers_table(name, layers, weights):
    model = build(name)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == layers
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(weights, rel=0.02)


def test_logits_are_the_heads_of_its_features():
    model = build("resnet-20", channels=1, width=4, classes=7).eval()
    assert isinstance(model, Classifier)
    images = torch.randn(3, 1, 28, 28)
    features, logits = model.look(images)
    assert features.shape == (3, 16)
    assert logits.shape == (3, 7)
    assert torch.equal(logits, model(images))
    assert torch.equal(logits, model.head(features))


@pytest.mark.parametrize("side", [28, 32, 33])
def test_a_block_that_does_nothing_hands_on_every_second_pixel_and_channels_of_zeros(side):
    block = BasicBlock(4, 8, 2).eval()
    with torch.no_grad():
        block.bn2.weight.zero_()
        block.bn2.bias.zero_()
    x = torch.rand(2, 4, side, side)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def test_an_odd_number_of_new_channels_is_divided_as_well():
    assert BasicBlock(3, 6, 2)(torch.rand(2, 3, 8, 8)).shape == (2, 6, 4, 4)


@pytest.mark.parametrize("depth", [2, 18, 21, -4])
def test_a_depth_that_is_none_is_refused(depth):
    with pytest.raises(BadInput, match=rf"depth: {depth} layers are not 6n \+ 2: use 20"):
        build_cifar_resnet(depth)


def test_its_running_statistics_are_in_its_file(tmp_path):
    torch.manual_seed(0)
    config = {"channels": 1, "width": 4, "classes": 3}
    model = build("resnet-20", **config)
    model(torch.randn(16, 1, 16, 16))
    save(tmp_path / "model.safetensors", model.state_dict(),
         ModelSpec(architecture="resnet-20", config=config, family="classifier"))
    again = load(tmp_path / "model.safetensors")
    images = torch.randn(4, 1, 16, 16)
    assert torch.equal(again(images), model.eval()(images))
    state = model.state_dict()
    del state["bn1.running_mean"]
    save(tmp_path / "lacking.safetensors", state,
         ModelSpec(architecture="resnet-20", config=config, family="classifier"))
    with pytest.raises(BadInput, match=r"bn1\.running_mean is missing"):
        load(tmp_path / "lacking.safetensors")
