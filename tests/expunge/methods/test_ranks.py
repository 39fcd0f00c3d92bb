"""Every method that divides its batches on two processes: the losses of its first steps are those of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

STEPS = 20
METHODS = {
    "adapt_then_unlearn": {"adapt_steps": STEPS, "steps": STEPS, "rounds": 1, "pool": 64, "assign_every": 10},
    "data_redaction": {"steps": STEPS, "variant": "validity", "refresh_every": 5, "refresh_samples": 32},
    "fine_tune": {"steps": STEPS, "ewc_weight": 10.0},
    "retrain": {"steps": STEPS},
}
# Of the other families; the flow reaches what it was asked for on the way, and has to stop at the same step.
OTHERS = {
    "erwp": {"steps": STEPS, "batch": 16, "views": 1},
    "fine_tune_classifier": {"steps": STEPS, "batch": 16, "batch_norm": "batch"},
    "random_labels": {"steps": STEPS, "batch": 16},
    "retrain_classifier": {"steps": STEPS, "batch": 16, "shift": 1},
    "taming_flow": {"steps": 60, "rate": 5e-3, "batch": 16, "delta": 2.0, "epsilon": 0.5, "alpha": 0.6,
                    "statistics": 64, "refresh_images": 32, "averaging": 0.5, "draws": 2},
}
STYLED = {"batch": 16, "steps": STEPS, "path_length_weight": 2.0, "style_mixing": 0.9, "fresh_noise": True}

CODE = """
import json, sys
import torch
from small_gan import small_problem
from expunge.methods import find
from expunge.methods.training import Material, Session
from expunge.models import build, ranks

class Heard(Session):
    def __init__(self, losses):
        super().__init__(3, 1)
        self.losses = losses

    def report(self, step, total, **scalars):
        self.losses.append(scalars)

def losses_of(methods, styled, others):
    found = {}
    parent, negative, positive, oracle = small_problem()
    plain = Material(negative=negative, positive=positive, retain=positive, oracle=oracle)
    for name, params in methods.items():
        found[name] = trained(name, parent, plain, {"batch": 32, **params})
    torch.manual_seed(0)
    style = build("stylegan2", size=8, latent_dim=8, mapping=1, channels=1, widths=[8, 8])
    real = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    from expunge.methods.training import Samples
    from small_classifier import small_problem as small_lesson
    from small_flow import digits_to_forget, small_flow
    forget, retain = digits_to_forget()
    for name in [name for name in others if name != "taming_flow"]:
        found[name] = trained(name, *small_lesson(), others[name], "classifier")
    found["taming_flow"] = trained("taming_flow", small_flow(), Material(forget=forget, retain=retain),
                                   others["taming_flow"], "flow")
    found["a StyleGAN2"] = trained("fine_tune", style, Material(positive=Samples(real)), styled)
    return found

def trained(name, parent, material, params, family="gan"):
    method, losses = find(name, family), []
    params = method.parameters("default", params)
    adaptation = method.adapt(parent, material, params, Heard(losses))
    method.unlearn(parent, adaptation, material, params, Heard(losses))
    return losses
"""
TOGETHER = CODE + """
methods, styled, others, out = json.loads(sys.argv[1])
with ranks.joined():
    found = losses_of(methods, styled, others)
    if ranks.first():
        json.dump(found, open(out, "w"))
    else:
        assert not any(found.values()), "only the first process reports"
"""


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Losses of each method's steps, alone and on two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    script, out = folder / "script.py", folder / "out.json"
    shared = str(Path(__file__).parents[2])  # its folder `expunge` is not the package, which comes first therefore
    script.write_text(f"import sys, expunge\nsys.path.append({shared!r})\n{TOGETHER}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script),
               json.dumps([METHODS, STYLED, OTHERS, str(out)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    threads = torch.get_num_threads()
    namespace = {}
    exec(CODE, namespace)
    alone = namespace["losses_of"](METHODS, STYLED, OTHERS)
    torch.set_num_threads(threads)
    return alone, json.loads(out.read_text())


@pytest.mark.parametrize("method", [*METHODS, "a StyleGAN2", *(name for name in OTHERS if name != "taming_flow")])
def test_the_first_losses_on_two_processes_are_those_of_one(losses, method):
    alone, together = (found[method] for found in losses)
    assert len(alone) == len(together) >= STEPS
    for step, (one, two) in enumerate(zip(alone, together, strict=True)):
        assert one.keys() == two.keys()
        for name in one:
            assert two[name] == pytest.approx(one[name], abs=1e-3, rel=1e-3), f"{name} at step {step}"


def test_a_flow_stops_on_two_processes_at_the_step_at_which_one_stops(losses):
    alone, together = (found["taming_flow"] for found in losses)
    assert STEPS <= len(alone) == len(together) < OTHERS["taming_flow"]["steps"]
    for step, (one, two) in enumerate(zip(alone, together, strict=True)):
        for name in one:
            assert two[name] == pytest.approx(one[name], abs=1e-3, rel=1e-3), f"{name} at step {step}"
