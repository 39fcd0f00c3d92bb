"""Two processes on one batch: what they compute is what one computes alone."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from expunge.models import ranks

# What the processes have in common: a network with every batch statistic that ours have, and a gradient penalty.
COMMON = """
import sys, torch
import torch.distributed as dist
from torch import nn
from expunge.models import ranks
from expunge.models.adversarial import r1_penalty
from expunge.models.dcgan import minibatch_stddev

torch.set_num_threads(1)

class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.look, self.norm, self.score = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(5 * 36, 1)

    def forward(self, x):
        x = self.norm(self.look(x))
        x = torch.cat([x, minibatch_stddev(x)], dim=1)
        return self.score(x.tanh().flatten(1)).squeeze(1)

def steps():
    torch.manual_seed(0)
    critic = ranks.share_batch_norm(Critic().double())
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    random, said = torch.Generator().manual_seed(1), []
    for _ in range(5):
        images = ranks.own_part(torch.randn(8, 1, 8, 8, generator=random, dtype=torch.float64))
        losses = {"score": critic(images).square().mean(), "penalty": r1_penalty(critic, images)}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        ranks.average_gradients(critic.parameters())
        optimizer.step()
        said.append(ranks.mean_of_losses(losses))
    return said, {name: tensor.clone() for name, tensor in critic.state_dict().items()}
"""


def together(folder, code, processes=2):
    """Runs the code on that many processes under torchrun; returns what the first saved to `sys.argv[1]`."""
    script, out = folder / "script.py", folder / "out.pt"
    script.write_text(COMMON + textwrap.dedent(code))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
               str(script), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


@pytest.mark.thorough
def test_two_processes_take_the_steps_that_one_takes(tmp_path):
    namespace = {}
    exec(COMMON, namespace)
    losses, weights = namespace["steps"]()
    shared_losses, shared_weights = together(tmp_path, """
        dist.init_process_group("gloo")
        said, weights = steps()
        if ranks.first():
            torch.save((said, weights), sys.argv[1])
        dist.destroy_process_group()
    """)
    for alone, shared in zip(losses, shared_losses, strict=True):
        assert alone == pytest.approx(shared, rel=1e-6)  # losses are told in single precision
    assert weights.keys() == shared_weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, shared_weights[name], rtol=1e-7, atol=1e-8)


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    said = together(tmp_path, """
        from expunge.errors import BadInput
        dist.init_process_group("gloo")
        try:
            ranks.own_part(torch.zeros(5, 1))
        except BadInput as error:
            if ranks.first():
                torch.save({"problem": error.problem}, sys.argv[1])
        dist.destroy_process_group()
    """)
    assert said["problem"] == "method.params.batch: 5 images cannot be divided among 2 processes"


def test_alone_everything_is_handed_back_as_it_was():
    batch = torch.arange(10.0).view(5, 2)
    assert ranks.own_part(batch) is batch
    assert ranks.whole_batch(batch) is batch
    assert ranks.first()
    parameter = torch.nn.Parameter(batch)
    parameter.grad = batch.clone()
    ranks.average_gradients([parameter])
    assert torch.equal(parameter.grad, batch)
