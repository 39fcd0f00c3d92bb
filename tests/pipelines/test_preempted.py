"""Training that loses its pod: the next one begins with an empty disk, and makes the same candidate all the same."""

import signal
import time

import pytest
from s3_server import bucket, environment, s3_server  # noqa: F401 - fixtures
from training_pods import begin

from expunge.contracts import Candidate, read_record
from expunge.stores.training_state import EVERY_VARIABLE, STORE_VARIABLE


@pytest.mark.thorough
def test_steps_that_lose_their_pods_make_the_candidate_of_one_that_did_not(demo, bucket, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv(STORE_VARIABLE, "s3://models/state")
    monkeypatch.setenv(EVERY_VARIABLE, "0.2")
    made, notes = tmp_path / "artifacts", ""

    for room, how, code in (("adapt", signal.SIGKILL, -9), ("unlearn", signal.SIGTERM, 1)):
        preempted = begin(demo[0], room, made, tmp_path / f"{room}1")
        until = time.monotonic() + 120
        while not list(bucket.objects.filter(Prefix=f"state/forget-8.1/{room}-")):
            assert preempted.poll() is None, preempted.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        preempted.send_signal(how)
        said, _ = preempted.communicate(timeout=60)
        assert preempted.returncode == code, said
        assert how != signal.SIGTERM or f"{room}: was told to stop" in said
        again = begin(demo[0], room, made, tmp_path / f"{room}2")
        notes += again.communicate(timeout=300)[0]
        assert again.returncode == 0, notes
    assert notes.count("goes on from the state that was kept in the store") == 2, notes
    undisturbed, = (demo[0] / ".expunge/results").glob("unlearn-*/candidate")
    assert read_record(Candidate, made / "candidate").weights == read_record(Candidate, undisturbed).weights
    assert not list(bucket.objects.all())
