"""InceptionV3 for FID: the public file's layout, and the graph spelled out a second time, layer by layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from expunge import models
from expunge.errors import BadInput
from expunge.models.inception import AT_ONCE, resized

# Every convolution of `pt_inception-2015-12-05-6726825d.pth`: its name, and its weight's shape.
LAYOUT = dict(line.split() for line in Path(__file__).with_name("inception-2015-12-05.txt").read_text().splitlines())


def weights(seed=0):
    """Random weights in the file's layout, of a size that keeps activations alive to the last layer."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in LAYOUT.items():
        out, *rest = map(int, shape.split("x"))
        found[f"{name}.conv.weight"] = torch.randn(out, *rest, generator=draw) * (2 / np.prod(rest)) ** 0.5
        found[f"{name}.bn.weight"] = torch.rand(out, generator=draw) + 0.5
        found[f"{name}.bn.bias"] = torch.randn(out, generator=draw) / 5
        found[f"{name}.bn.running_mean"] = torch.randn(out, generator=draw) / 5
        found[f"{name}.bn.running_var"] = torch.rand(out, generator=draw) + 0.5
        found[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    return found | {"fc.weight": torch.randn(1008, 2048, generator=draw) / 45, "fc.bias": torch.randn(1008, generator=draw)}


@pytest.fixture(scope="module")
def state():
    return weights()


@pytest.fixture(scope="module")
def network(tmp_path_factory, state):
    """Read from a file as people have it: a pickle of tensors, which runs nothing."""
    file = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(state, file)
    return models.load(file, architecture="inception-v3")


def images(count, channels, rows, columns, seed=1):
    return torch.randint(0, 256, (count, channels, rows, columns), generator=torch.Generator().manual_seed(seed)) / 127.5 - 1


def spelled_out(state, x):
    """Features of images [B, 3, 299, 299] in [-1, 1]: the graph as it stands in the papers' code, one call per layer."""

    def unit(name, x, stride=1, padding=0):
        x = F.conv2d(x, state[f"{name}.conv.weight"], stride=stride, padding=padding)
        x = F.batch_norm(x, *(state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")),
                         eps=0.001)
        return F.relu(x)

    def average(x):
        inside = F.avg_pool2d(torch.ones_like(x[:, :1]), 3, 1, 1)  # the part of each window that is not padding
        return F.avg_pool2d(x, 3, 1, 1) / inside

    def fine(name, x):
        five = unit(f"{name}.branch5x5_2", unit(f"{name}.branch5x5_1", x), padding=2)
        three = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x), padding=1)
        three = unit(f"{name}.branch3x3dbl_3", three, padding=1)
        return torch.cat([unit(f"{name}.branch1x1", x), five, three, unit(f"{name}.branch_pool", average(x))], 1)

    def middle(name, x):
        once = unit(f"{name}.branch7x7_2", unit(f"{name}.branch7x7_1", x), padding=(0, 3))
        once = unit(f"{name}.branch7x7_3", once, padding=(3, 0))
        twice = unit(f"{name}.branch7x7dbl_1", x)
        for number, padding in ((2, (3, 0)), (3, (0, 3)), (4, (3, 0)), (5, (0, 3))):
            twice = unit(f"{name}.branch7x7dbl_{number}", twice, padding=padding)
        return torch.cat([unit(f"{name}.branch1x1", x), once, twice, unit(f"{name}.branch_pool", average(x))], 1)

    def coarse(name, x, pooled):
        once = unit(f"{name}.branch3x3_1", x)
        twice = unit(f"{name}.branch3x3dbl_2", unit(f"{name}.branch3x3dbl_1", x), padding=1)
        return torch.cat([
            unit(f"{name}.branch1x1", x), unit(f"{name}.branch3x3_2a", once, padding=(0, 1)),
            unit(f"{name}.branch3x3_2b", once, padding=(1, 0)), unit(f"{name}.branch3x3dbl_3a", twice, padding=(0, 1)),
            unit(f"{name}.branch3x3dbl_3b", twice, padding=(1, 0)), unit(f"{name}.branch_pool", pooled)], 1)

    x = (127.5 * (x + 1) - 128) / 128
    x = unit("Conv2d_2a_3x3", unit("Conv2d_1a_3x3", x, stride=2))
    x = F.max_pool2d(unit("Conv2d_2b_3x3", x, padding=1), 3, 2)
    x = F.max_pool2d(unit("Conv2d_4a_3x3", unit("Conv2d_3b_1x1", x)), 3, 2)
    x = fine("Mixed_5d", fine("Mixed_5c", fine("Mixed_5b", x)))
    three = unit("Mixed_6a.branch3x3dbl_2", unit("Mixed_6a.branch3x3dbl_1", x), padding=1)
    x = torch.cat([unit("Mixed_6a.branch3x3", x, stride=2), unit("Mixed_6a.branch3x3dbl_3", three, stride=2),
                   F.max_pool2d(x, 3, 2)], 1)
    x = middle("Mixed_6e", middle("Mixed_6d", middle("Mixed_6c", middle("Mixed_6b", x))))
    seven = unit("Mixed_7a.branch7x7x3_2", unit("Mixed_7a.branch7x7x3_1", x), padding=(0, 3))
    seven = unit("Mixed_7a.branch7x7x3_3", seven, padding=(3, 0))
    x = torch.cat([unit("Mixed_7a.branch3x3_2", unit("Mixed_7a.branch3x3_1", x), stride=2),
                   unit("Mixed_7a.branch7x7x3_4", seven, stride=2), F.max_pool2d(x, 3, 2)], 1)
    x = coarse("Mixed_7b", x, average(x))
    x = coarse("Mixed_7c", x, F.max_pool2d(x, 3, 1, 1))
    return x.flatten(2).mean(2)


def test_the_network_has_the_public_files_tensors_and_no_others(network, state):
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert len(ours) == 566
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_850_960


@torch.inference_mode()
def test_it_computes_what_the_graph_computes(network, state):
    shown = images(2, 3, 299, 299)
    features, logits = network.look(shown)
    expected = spelled_out(state, shown)
    assert features.shape == (2, 2048)
    assert features.std(0).mean() > 0.01 * features.mean()  # of two images: the weights let something through
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))
    torch.testing.assert_close(logits, expected @ state["fc.weight"].T + state["fc.bias"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (28, 40), (301, 299), (1, 1)])
def test_images_are_resized_as_tensorflow_1_did_it(rows, columns):
    image = images(1, 1, rows, columns)[0, 0].double().numpy()
    expected = np.empty((299, 299))
    for i in range(299):
        for j in range(299):
            y, x = i * rows / 299, j * columns / 299
            top, left = int(y), int(x)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            dy, dx = y - top, x - left
            expected[i, j] = ((1 - dy) * ((1 - dx) * image[top, left] + dx * image[top, right])
                              + dy * ((1 - dx) * image[below, left] + dx * image[below, right]))
    found = resized(torch.from_numpy(image).float()[None, None])[0, 0]
    np.testing.assert_allclose(found, expected, atol=2e-4 if max(rows, columns) > 299 else 3e-5)


@torch.inference_mode()
def test_grey_images_are_shown_in_three_equal_colours(network):
    grey = images(2, 1, 16, 16)
    torch.testing.assert_close(network.features(grey), network.features(grey.expand(-1, 3, -1, -1)))


@torch.inference_mode()
def test_a_batch_of_more_than_it_looks_at_at_once_is_looked_at_in_parts(network, monkeypatch):
    monkeypatch.setattr("expunge.models.inception.AT_ONCE", 2)
    shown, largest = images(5, 1, 8, 8), []
    handle = network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: largest.append(len(given[0])))
    parts = network.features(shown)
    handle.remove()
    assert largest == [2, 2, 1]
    assert AT_ONCE > 2
    torch.testing.assert_close(parts[4:], network.features(shown[4:]))


def test_images_of_other_than_one_or_three_channels_are_refused(network):
    with pytest.raises(BadInput, match="images have 2 channels, inception-v3 looks at 1 or 3"):
        network.look(torch.zeros(1, 2, 16, 16))


def test_a_file_of_another_layout_is_refused_by_what_differs(tmp_path, state):
    other = {name: tensor for name, tensor in state.items() if name != "Mixed_7c.branch_pool.bn.bias"}
    other["fc.weight"] = other["fc.weight"][:1000]
    torch.save(other, tmp_path / "weights.pth")
    with pytest.raises(BadInput, match=r"Mixed_7c.branch_pool.bn.bias is missing; fc.weight is \[1000, 2048\]"):
        models.load(tmp_path / "weights.pth", architecture="inception-v3")
