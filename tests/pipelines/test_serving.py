"""Taking a model out of service, and what the run that made it says then."""

import signal
import subprocess
import time

import pytest
from tests_support import EXPUNGE, bare_environment, put

from expunge import serving
from expunge.evidence.ledger import Ledger
from expunge.runs import Run
from expunge.settings import WORKSPACE_VARIABLE
from expunge.stores import releases


def test_a_release_that_was_cut_before_it_could_say_so_is_taken_out_all_the_same(copy_of_demo, expunge, workspace_of):
    run = Run.find(workspace_of(copy_of_demo), "forget-8")
    put(run, state="releasing")
    done = expunge(copy_of_demo, "withdraw", "digits", "--as", "grace", "--reason", "a complaint")
    assert done.code == 0, done.err
    assert run.state().state == "withdrawn"
    assert expunge(copy_of_demo, "release", "forget-8").code == 2


def test_the_ledger_and_the_state_say_at_once_that_a_model_is_withdrawn(copy_of_demo, workspace_of, monkeypatch):
    """A kill before the release is taken out leaves both, and the same command does what was left."""
    workspace = workspace_of(copy_of_demo)
    run, size = Run.find(workspace, "forget-8"), Ledger.open(workspace).size
    taken_out = releases.flush
    monkeypatch.setattr(releases, "flush", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        serving.change(workspace, "withdraw", "digits", "grace", "a complaint")
    assert (run.state().state, Ledger.open(workspace).size) == ("withdrawn", size + 1)
    monkeypatch.setattr(releases, "flush", taken_out)
    assert releases.current(workspace, "digits") is None


def test_a_release_whose_run_nobody_knows_is_taken_out_all_the_same(begin_run):
    done = begin_run().release()
    with pytest.raises(Exception, match="no private key"):
        serving.change(done.workspace, "withdraw", "digits", "nobody", "a complaint")
    assert serving.change(done.workspace, "withdraw", "digits", "grace", "a complaint").now is None


@pytest.mark.thorough
def test_where_the_gate_opens_in_a_run_that_is_continued_its_state_says_so_at_once(waiting, expunge, workspace_of):
    workspace = workspace_of(waiting)
    assert expunge(waiting, "approve", "forget-8", "--as", "grace", "--reason", "looked at it").code == 0
    run = Run.find(workspace, "forget-8")
    put(run, state="failed")  # as if it had been released once, and something had gone wrong
    with subprocess.Popen([EXPUNGE, "run", "request.yaml"], cwd=waiting, stderr=subprocess.PIPE, text=True,
                          env=bare_environment(**{WORKSPACE_VARIABLE: str(workspace.root)})) as continued:
        until = time.monotonic() + 240
        while run.state().state != "releasing" and continued.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        continued.send_signal(signal.SIGTERM)  # who runs tests in the background may have them ignore the other
        said = continued.communicate(timeout=60)[1]
    assert (continued.returncode, run.state().state) == (31, "releasing"), said
    assert "the release was stopped: expunge release forget-8.1 continues it" in said
    assert expunge(waiting, "run", "request.yaml").code == 10
    assert expunge(waiting, "release", "forget-8").code == 0
