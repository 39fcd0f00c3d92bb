"""A training room on two processes: what it learns is what one process learns, and it can be stopped and goes on."""

import json
import signal
import time

import pytest
import torch
from training_pods import begin

from expunge.samples import RequestKey
from expunge.settings import Workspace
from expunge.stores.training_state import EVERY_VARIABLE, STORE_VARIABLE
from expunge.together import PROCESSES_VARIABLE

SMALL = {"overrides": json.dumps({"adapt_steps": 12, "fisher_samples": 64}), "threads": 1}


@pytest.mark.thorough
def test_a_room_learns_on_two_processes_what_it_learns_on_one_and_goes_on_after_sigterm(demo, tmp_path, monkeypatch):
    from safetensors.torch import load

    def learned(name):
        sealed = tmp_path / name / "made/adaptation/tensors.sealed"
        return load(RequestKey.load(Workspace(tmp_path / name / ".expunge"), "forget-8").open(sealed.read_bytes(), name))

    def ended(name):
        done = begin(demo[0], "adapt", tmp_path / name / "made", tmp_path / name, **SMALL)
        said, _ = done.communicate(timeout=600)
        assert done.returncode == 0, said
        return learned(name), json.loads((tmp_path / name / "made/adaptation/record.json").read_text())

    alone, of_one = ended("alone")
    monkeypatch.setenv(PROCESSES_VARIABLE, "2")
    both, of_two = ended("together")
    assert (of_one["compute"]["device"], of_two["compute"]["device"]) == ("cpu", "cpu x 2")
    # Adam makes whole steps of tiny gradients, whichever sign the order of additions gives them: after a dozen steps the
    # two are not equal, but much nearer to each other than to where they began.
    checkpoint, = (demo[0] / ".expunge/results").glob("fetch_checkpoint-*/checkpoint/*.safetensors")
    parent = load(checkpoint.read_bytes())
    moved, apart = (sum((here[name] - there(name)).square().sum() for name in alone).sqrt() for here, there in (
        (alone, lambda name: parent[f"generator.{name.partition('.')[2]}"]), (both, alone.__getitem__)))
    assert 0 < apart < 0.2 * moved, (apart, moved)

    store = tmp_path / "store"
    monkeypatch.setenv(STORE_VARIABLE, str(store))
    monkeypatch.setenv(EVERY_VARIABLE, "0")
    stopped = begin(demo[0], "adapt", tmp_path / "stopped/made", tmp_path / "stopped", **SMALL)
    until = time.monotonic() + 300
    while not list(store.rglob("adapt-*.resume")):
        assert stopped.poll() is None, stopped.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=120)
    assert "adapt: was told to stop" in said
    again, _ = ended("again")
    assert all(torch.equal(again[name], tensor) for name, tensor in both.items())
    assert not list(store.rglob("*.resume"))
