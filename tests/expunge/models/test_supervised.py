"""Training: repeatable, stops on a loss that is no number."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy.special import softmax
from sklearn.datasets import load_digits

from expunge.errors import NonFiniteLoss
from expunge.methods.training import Session
from expunge.models import build
from expunge.models.classifiers import halvings_for
from expunge.models.supervised import (
    Labelled,
    config_for,
    log_loss,
    logits,
    shift,
    train,
)
from expunge.samples.splits import divide
from expunge.samples.table import from_pixels


@pytest.fixture(scope="module")
def parts():
    data = load_digits()
    pixels, labels = (data.images * 15.9375).astype(np.uint8)[:, None], data.target.astype(np.int64)
    rows = divide(pixels, labels, {"learn": 0.3, "validation": 0.1, "holdout": 0.2, "rest": 0.4}, 0).parts
    return {name: Labelled(pixels[chosen], labels[chosen]) for name, chosen in rows.items()}


@pytest.mark.parametrize("architecture", ["lenet", "resnet"])
def test_the_same_seed_gives_the_same_bits_and_another_one_gives_others(parts, architecture):
    def made(seed):
        found = train(architecture, parts["learn"], parts["validation"], 10, 2, Session(seed, 1))
        return torch.cat([tensor.flatten() for tensor in found.model.state_dict().values()])

    first = made(0)
    assert torch.equal(first, made(0))
    assert not torch.equal(first, made(1))


def test_the_digits_are_learned_in_seconds_and_progress_is_told(parts):
    told = []

    class Listening(Session):
        def report(self, step, total, **scalars):
            told.append((step, total, scalars))

    found = train("lenet", parts["learn"], parts["validation"], 10, 30, Listening(0, 1))
    right = logits(found.model, parts["holdout"].pixels).argmax(1) == parts["holdout"].labels
    assert right.mean() > 0.9
    assert 1 <= found.kept <= found.epochs <= 30
    assert [step for step, _, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][1] >= len(told)
    assert not found.model.training


def test_training_ends_early_when_the_validation_loss_does_not_fall(parts):
    random = np.random.default_rng(0)
    nonsense = Labelled(parts["validation"].pixels, random.permutation(parts["validation"].labels))
    found = train("lenet", parts["learn"], nonsense, 10, 40, Session(0, 1))
    assert found.epochs < 40
    assert found.kept < found.epochs


def test_a_loss_that_is_no_number_ends_training_and_names_the_step(parts, monkeypatch):
    monkeypatch.setattr("expunge.models.supervised.LEARNING_RATE", 1e30)
    with pytest.raises(NonFiniteLoss, match=r"lenet: the loss is (nan|inf) at step \d+"):
        train("lenet", parts["learn"], parts["validation"], 10, 1, Session(0, 1))


def test_the_loss_is_scikit_learns(parts):
    model = build("lenet", **config_for("lenet", (1, 8, 8), 10))
    scores, labels = logits(model, parts["holdout"].pixels), parts["holdout"].labels
    assert log_loss(scores, labels) == pytest.approx(sklearn.metrics.log_loss(labels, softmax(scores, axis=1)))


def test_shifting_moves_each_image_by_itself_and_continues_its_edges():
    images = torch.arange(2 * 3 * 6 * 5).reshape(2, 3, 6, 5).to(torch.uint8).repeat(40, 1, 1, 1)
    moved = shift(images, 1, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    padded = torch.nn.functional.pad(images.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    places = set()
    for image, there in zip(padded, moved, strict=True):
        found = [(y, x) for y in range(3) for x in range(3) if torch.equal(image[:, y:y + 6, x:x + 5], there)]
        assert found
        places |= set(found)
    assert len(places) == 9
    assert torch.equal(shift(images, 0, torch.Generator()), images)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 32, 20), (1, 64, 64), (3, 200, 130)])
@pytest.mark.parametrize("architecture", ["lenet", "resnet"])
def test_the_built_in_classifiers_take_images_of_any_size(architecture, shape):
    model = build(architecture, **config_for(architecture, shape, 7))
    assert logits(model, np.zeros((3, *shape), np.uint8)).shape == (3, 7)
    assert max(shape[1:]) / 2 ** halvings_for(*shape[1:]) <= 8


def test_models_are_taught_images_as_curation_shows_them(parts):
    model = build("lenet", **config_for("lenet", (1, 8, 8), 10))
    with torch.no_grad():
        shown = model(torch.from_numpy(from_pixels(parts["holdout"].pixels)))
    assert np.allclose(shown.numpy(), logits(model, parts["holdout"].pixels), atol=1e-5)
