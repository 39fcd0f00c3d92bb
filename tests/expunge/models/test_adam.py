import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from expunge.models.adam import Adam

ROOT = Path(__file__).parents[3]


def _trained(kind, **settings):
    """The parameters after a few steps, with the state stored and taken up again half way."""
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(3, 2), torch.randn(8, 3)
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    for step in range(6):
        optimizer.zero_grad()
        (model(inputs).square().sum() + step * model.bias.sum()).backward()
        optimizer.step()
        if step == 2:
            state = optimizer.state_dict()
            optimizer = kind(model.parameters(), lr=7.0, **settings)
            optimizer.load_state_dict(state)
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(("theirs", "apart", "settings"), [
    (torch.optim.Adam, {}, {}),
    (torch.optim.Adam, {}, {"betas": (0.0, 0.99), "weight_decay": 0.1}),
    (torch.optim.AdamW, {"decoupled_weight_decay": True}, {"weight_decay": 0.1}),
])
def test_its_steps_are_torchs_bit_for_bit(theirs, apart, settings):
    ours, expected = _trained(Adam, **settings, **apart), _trained(theirs, **settings)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_it_works_on_where_torchs_own_has_been_made_before():
    _trained(torch.optim.Adam)
    assert all(torch.equal(*pair) for pair in zip(_trained(Adam), _trained(torch.optim.Adam), strict=True))


def test_no_compiler_is_imported_for_it():
    said = subprocess.run([sys.executable, "-c", textwrap.dedent("""
        import sys, torch
        from expunge.models.adam import Adam
        model = torch.nn.Linear(2, 2)
        optimizer = Adam(model.parameters(), lr=0.1)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        falling.step()
        optimizer.load_state_dict(optimizer.state_dict())
        print("torch._dynamo" in sys.modules)
        """)], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert said.stdout.strip() == "False"
