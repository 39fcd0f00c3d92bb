"""Extrapolation: a straight line from the adapted weights through the parent's, and on."""

import pytest
import torch
from small_gan import same, small_problem

from expunge.errors import BadInput
from expunge.methods import find
from expunge.methods.training import Material, Session

METHOD = find("extrapolation", "gan")
SHORT = {"models": 2, "adapt_steps": 3, "batch": 8, "fisher_samples": 4}


def run(changed, seed=3):
    parent, negatives, _, _ = small_problem()
    params, material, session = METHOD.parameters("default", SHORT | changed), Material(negatives), Session(seed, 1)
    adaptation = METHOD.adapt(parent, material, params, session)
    return parent, adaptation, METHOD.unlearn(parent, adaptation, material, params, session)


def test_it_is_its_formula_and_leaves_all_else_as_it_was():
    parent, adaptation, state = run({"extrapolation": -0.7})
    assert state.keys() == parent.state_dict().keys()
    for name, before in parent.state_dict().items():
        if name.startswith("discriminator"):
            assert torch.equal(state[name], before)
            continue
        own = name.removeprefix("generator.")
        mean = (adaptation[f"0.{own}"] + adaptation[f"1.{own}"]) / 2
        assert torch.allclose(state[name], before - 0.7 * (mean - before), atol=1e-6)


def test_no_step_is_the_parent():
    parent, _, state = run({"extrapolation": 0.0})
    assert same(state, parent.state_dict())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    first = run({})[2]
    assert same(first, run({})[2])
    assert not same(first, run({}, seed=4)[2])


def test_towards_the_unwanted_is_refused():
    with pytest.raises(BadInput, match=r"method.params.extrapolation: Input should be less than or equal to 0"):
        METHOD.parameters("default", {"extrapolation": 0.5})
