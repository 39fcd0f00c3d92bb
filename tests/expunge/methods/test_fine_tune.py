"""Fine-tuning: repeatable, resumable, on real images where there are some, and held near the parent by EWC."""

import pytest
import torch
from small_gan import Killed, KilledOnce, same, small_problem

from expunge.methods import find
from expunge.methods.training import Material, Samples, Session

METHOD = find("fine_tune", "gan")
SHORT = {"steps": 6, "batch": 8, "fisher_samples": 4}


def run(params, session=None, **given):
    parent, _, positives, _ = small_problem()
    material = Material(**{"positive": positives, **given})
    session = session or Session(3, threads=1)
    adaptation = METHOD.adapt(parent, material, params, session)
    assert adaptation == {}
    return METHOD.unlearn(parent, adaptation, material, params, session)


def way(state):
    """How far the generator is from the parent's."""
    before = small_problem()[0].state_dict()
    return sum((state[name] - before[name]).square().sum() for name in before if name.startswith("generator")).item()


@pytest.mark.parametrize("preset", ["default", "ewc"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(preset):
    params = METHOD.parameters(preset, SHORT)
    first = run(params)
    assert same(first, run(params))
    assert not same(first, run(params, Session(4, threads=1)))
    assert way(first) > 0


def test_a_killed_run_continues_to_the_same_bits():
    params = METHOD.parameters("ewc", {**SHORT, "steps": 52})
    kept = []
    with pytest.raises(Killed):
        run(params, KilledOnce(3, kept, threads=1))
    assert same(run(params), run(params, KilledOnce(3, kept, threads=1)))


def test_the_elastic_pull_holds_it_nearer_to_the_parent():
    ways = [way(run(METHOD.parameters("default", {**SHORT, "steps": 20, "ewc_weight": weight}))) for weight in (0, 1e9)]
    assert ways[1] < ways[0] / 2


def test_real_images_are_used_where_there_are_some():
    params = METHOD.parameters("default", SHORT)
    real = Samples(torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    on_real = run(params, retain=real)
    assert not same(on_real, run(params))
    assert same(on_real, run(params, positive=None, retain=real)), "and then nothing else"
