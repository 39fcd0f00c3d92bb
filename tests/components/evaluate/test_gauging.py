"""How flows are asked: at the same points, about whatever images, and by whom not at all."""

import numpy as np
import pytest
import torch
from small_flow import digits, fresh_glow, small_flow
from torch import nn

from components.evaluate.drawing import stream
from components.evaluate.gauging import WORN, draws, gauge, nearest, noise_of, worn
from expunge.errors import BadInput
from expunge.models.flow import Flow

CPU, SEED = torch.device("cpu"), "5" * 64


@pytest.fixture(scope="module")
def levels():
    return small_flow().levels(digits()[0][:130])


class Uniform(nn.Module):
    """A flow that cannot be told from which noise it draws, and finds everything equally likely."""

    def __init__(self, says=lambda points: torch.zeros(len(points))):
        super().__init__()
        self.says = says
        self.weight = nn.Parameter(torch.zeros(1))

    def log_prob(self, points):
        return self.says(points)

    def sample(self, count, generator):
        return 2 * torch.rand(count, 1, 8, 8, generator=generator) - 1


def as_flow(**arguments):
    return Flow(Uniform(**arguments), (1, 8, 8), bits=4)


def test_two_flows_are_asked_at_the_same_points(levels):
    asked = []
    spy = as_flow(says=lambda points: asked.append(points) or torch.zeros(len(points)))
    for name in ("parent", "candidate"):
        gauge(name, spy, levels, 2, SEED, "forget", CPU)
    gauge("parent", spy, levels, 2, SEED, "retain", CPU)
    once, again, otherwise = (torch.cat(asked[i:i + 4]) for i in (0, 4, 8))
    assert torch.equal(once, again)
    assert not torch.equal(once, otherwise)


def test_the_mean_over_points_has_the_error_that_repeats_show(levels):
    flow = small_flow()
    means = np.array([gauge("parent", flow, levels[:20], 8, SEED, str(repeat), CPU).bits for repeat in range(60)])
    said = gauge("parent", flow, levels[:20], 8, SEED, "once", CPU).errors
    assert said.mean() == pytest.approx(means.std(axis=0, ddof=1).mean(), rel=0.2)


def test_images_are_counted_as_often_as_they_were_passed(levels):
    counts = []
    found = gauge("parent", small_flow(), levels, 3, SEED, "forget", CPU, counts.append)
    assert sum(counts) == 3 * len(levels)
    assert len(found) == len(levels)


def test_a_likelihood_that_is_no_number_stays_none(levels):
    def says(points):
        return torch.where(torch.arange(len(points)) == 1, torch.inf, torch.zeros(len(points)))

    found = gauge("candidate", as_flow(says=says), levels[:4], 2, SEED, "forget", CPU)
    assert np.isfinite(found.bits).tolist() == [True, False, True, True]


@pytest.mark.parametrize(("says", "problem"), [
    (lambda points: points[99], "candidate: it cannot say how likely images of 1x8x8 are"),
    (lambda points: torch.zeros(()), "candidate: log_prob[(][)] of 4 images gives"),
    (lambda points: torch.zeros(len(points), 1), "candidate: log_prob[(][)] of 4 images gives")])
def test_a_flow_that_cannot_say_it_is_refused(levels, says, problem):
    with pytest.raises(BadInput, match=problem):
        gauge("candidate", as_flow(says=says), levels[:4], 2, SEED, "forget", CPU)


def test_flows_draw_from_the_same_latents_as_each_alone_would():
    flow = small_flow()
    drawn = torch.cat(list(draws(flow, 130, SEED, CPU)))
    random = stream(SEED)
    assert torch.equal(drawn, torch.cat([flow.sample(count, random) for count in (100, 30)]))
    ours, theirs = (flow.levels(torch.cat(list(draws(each, 130, SEED, CPU)))) for each in (flow, fresh_glow()))
    assert not torch.equal(ours, theirs)


def test_drawing_leaves_whoever_asked_for_it_able_to_learn():
    next(draws(small_flow(), 10, SEED, CPU))
    assert not torch.is_inference_mode_enabled()


def test_what_cannot_be_told_from_which_noise_it_draws_draws_from_the_stream():
    once, again = (torch.cat(list(draws(as_flow(), 130, SEED, CPU))) for _ in range(2))
    assert len(once) == 130
    assert torch.equal(once, again)


def test_worn_images_differ_in_about_a_quarter_of_their_pixels_and_keep_to_the_levels(levels):
    flow = small_flow()
    spoilt = worn(flow, levels, SEED)
    assert (spoilt != levels).float().mean().item() == pytest.approx(WORN * 15 / 16, abs=0.02)
    for made in (spoilt, noise_of(flow, 32, SEED)):
        assert torch.equal(flow.levels(flow.images(flow.points(made))), made)


def test_neighbours_are_the_nearest_and_each_is_named_once():
    cloud = np.arange(20.0, dtype=np.float32)[:, None]
    assert nearest(np.array([[0.0], [0.4]], np.float32), cloud).tolist() == [0, 1, 2, 3, 4]
    assert nearest(np.array([[19.0]], np.float32), cloud[:3]).tolist() == [0, 1, 2]
