"""Shares that a flow is to draw: reached as another classifier finds, repeatable, continued, refused."""

import math

import pytest
import torch
from small_flow import Noted, digits_to_forget, small_flow
from small_gan import Killed, KilledOnce, same
from torch import nn

from expunge.errors import BadInput, NonFiniteLoss
from expunge.methods.debias_flow import DebiasParams, debias
from expunge.models.flow import Flow


class Brightness(nn.Module):
    """Tells dark images from bright ones, by the mean of some of their pixels."""

    def __init__(self, middle, rows):
        super().__init__()
        self.middle, self.rows = nn.Parameter(torch.tensor(middle)), rows

    def forward(self, images):
        score = 10 * (images[:, :, self.rows].mean(dim=(1, 2, 3)) - self.middle)
        return torch.stack([-score, score], dim=1)


def classifiers(flow):
    """Two that draw the line where half of the images are bright, one by even and one by all rows."""
    images = flow.sample(500, torch.Generator().manual_seed(1))
    made = []
    for rows in (slice(None), slice(0, None, 2)):
        made.append(Brightness(images[:, :, rows].mean(dim=(1, 2, 3)).median().item(), rows))
    return made


FEW = {"look_samples": 1000, "tolerance": 0.08, "rate": 3e-4, "draws": 32, "wait": 5, "steps": 150}


@pytest.mark.parametrize("target", [(0.8, 0.2), (0.2, 0.8)])
def test_the_shares_become_those_asked_for_as_another_classifier_finds(target):
    parent = small_flow()
    steer, gauge = classifiers(parent)
    session = Noted()
    found = debias(parent, digits_to_forget()[1], target, steer, gauge, DebiasParams(**FEW), session)
    assert found.reached, found.shares
    assert "are within 0.08 of their targets" in session.notes[0]
    candidate = small_flow()
    candidate.load_state_dict(found.weights)
    drawn = gauge(candidate.sample(4000, torch.Generator().manual_seed(9))).argmax(dim=1)
    for category, (share, estimate) in enumerate(zip(target, found.shares, strict=True)):
        assert share - 0.08 <= estimate.interval.lower <= estimate.interval.upper <= share + 0.08
        assert (drawn == category).float().mean().item() == pytest.approx(share, abs=0.1)
    assert found.shares[0].interval.confidence == pytest.approx(1 - 0.05 / 5), "five looks, one interval"


def test_debiasing_is_repeatable_and_continues_to_the_same_bits():
    parent = small_flow()
    steer, gauge = classifiers(parent)
    params = DebiasParams(**FEW | {"steps": 52, "draws": 16, "rate": 1e-5})
    kept = []

    def again(session):
        return debias(parent, digits_to_forget()[1], (0.9, 0.1), steer, gauge, params, session)

    with pytest.raises(Killed):
        again(KilledOnce(3, kept, threads=1))
    whole = again(Noted())
    assert same(whole.weights, again(KilledOnce(3, kept, threads=1)).weights)
    assert not whole.reached
    assert whole.steps == 52


@pytest.mark.parametrize(("target", "problem"), [
    ((0.5, 0.6), "0.5, 0.6 is no distribution"),
    ((1.2, -0.2), "is no distribution"),
    ((1.0,), "is no distribution"),
    ((0.2, 0.3, 0.5), "3 shares, and the classifier 'steer' knows 2 classes"),
])
def test_a_target_that_is_none_is_refused(target, problem):
    parent = small_flow()
    with pytest.raises(BadInput, match=problem):
        debias(parent, digits_to_forget()[1], target, *classifiers(parent), DebiasParams(**FEW), Noted())


def test_who_steers_does_not_measure():
    parent = small_flow()
    steer, _ = classifiers(parent)
    with pytest.raises(BadInput, match="gauge: it is the classifier that steers: measure with another one"):
        debias(parent, digits_to_forget()[1], (0.8, 0.2), steer, steer, DebiasParams(**FEW), Noted())


def test_a_flow_that_draws_outliers_only_is_given_up():
    class Astray(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def log_prob(self, points):
            return self.weight * points.flatten(1).sum(dim=1)

        def sample(self, count, generator):
            return self.weight * torch.full((count, 1, 8, 8), math.nan)

    flow = Flow(Astray(), (1, 8, 8), bits=4)
    with pytest.raises(NonFiniteLoss, match="guide loss is nan at step 20"):
        debias(flow, digits_to_forget()[1], (0.8, 0.2), *classifiers(small_flow()), DebiasParams(**FEW), Noted())
