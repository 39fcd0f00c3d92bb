"""Training that loses its pod: the next one begins with an empty disk, and makes the same candidate all the same."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from s3_server import bucket, environment, s3_server  # noqa: F401 - fixtures

from expunge.contracts import Candidate, read_record
from expunge.stores.training_state import EVERY_VARIABLE, STORE_VARIABLE

ROOM = """
import json, sys
from importlib import import_module
from pathlib import Path
room, given = sys.argv[1], json.loads(sys.argv[2])
step = getattr(import_module(f"components.{room}.step"), room)
step(**{name: Path(value["path"]) if isinstance(value, dict) else value for name, value in given.items()})
"""


def pod(demo, folder):
    """A workspace in which nothing was trained, with the keys: what a step finds whose pod begins anew."""
    shutil.copytree(demo / ".expunge", folder / ".expunge", symlinks=True,
                    ignore=shutil.ignore_patterns("adapt-*", "unlearn-*", "evaluate-*", "runs", "mlflow"))
    shutil.copytree(demo / ".expunge-keys", folder / ".expunge-keys")
    return folder


def given(demo, room, made):
    """What the step is given: the demo's own inputs and parameters, and what this test has made so far."""
    results = demo / ".expunge/results"
    statement, = results.glob("unlearn-*/statement.json")
    inputs = {name: folder for first in ("fetch_checkpoint", "curate_forget_set")
              for folder in next(results.glob(f"{first}-*-1")).iterdir() if (name := folder.name)}
    wanted = ("checkpoint", "negative", "forget", "retain", *(("oracle", "positive") if room == "unlearn" else ()))
    names = [*((name, inputs[name]) for name in wanted), ("statement", made / f"{room}.json"),
             ("adaptation", made / "adaptation"), *([("candidate", made / "candidate")] if room == "unlearn" else ())]
    said = json.loads(base64.b64decode(json.loads(statement.read_bytes())["payload"]))
    params = said["predicate"]["params"]
    return json.dumps({**params, **{name: {"path": str(path)} for name, path in names}})


@pytest.mark.thorough
def test_steps_that_lose_their_pods_make_the_candidate_of_one_that_did_not(demo, bucket, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv(STORE_VARIABLE, "s3://models/state")
    monkeypatch.setenv(EVERY_VARIABLE, "0.2")
    made, notes = tmp_path / "artifacts", ""

    def start(room, number):
        folder = tmp_path / f"{room}{number}"
        folder.mkdir()
        return subprocess.Popen(
            [sys.executable, "-c", ROOM, room, given(demo[0], room, made)], cwd=pod(demo[0], folder),
            env={**os.environ, "EXPUNGE_RUN": "forget-8.1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for room, how, code in (("adapt", signal.SIGKILL, -9), ("unlearn", signal.SIGTERM, 1)):
        preempted = start(room, 1)
        until = time.monotonic() + 120
        while not list(bucket.objects.filter(Prefix=f"state/forget-8.1/{room}-")):
            assert preempted.poll() is None, preempted.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        preempted.send_signal(how)
        said, _ = preempted.communicate(timeout=60)
        assert preempted.returncode == code, said
        assert how != signal.SIGTERM or f"{room}: was told to stop" in said
        again = start(room, 2)
        notes += again.communicate(timeout=300)[0]
        assert again.returncode == 0, notes
    assert notes.count("goes on from the state that was kept in the store") == 2, notes
    undisturbed, = (demo[0] / ".expunge/results").glob("unlearn-*/candidate")
    assert read_record(Candidate, made / "candidate").weights == read_record(Candidate, undisturbed).weights
    assert not list(bucket.objects.all())
