"""Training rooms as steps of a cluster: each a process of its own, in a workspace in which nothing was trained yet."""

import base64
import json
import os
import shutil
import subprocess
import sys

ROOM = """
import json, sys
from importlib import import_module
from pathlib import Path
room, given = sys.argv[1], json.loads(sys.argv[2])
step = getattr(import_module(f"components.{room}.step"), room)
step(**{name: Path(value["path"]) if isinstance(value, dict) else value for name, value in given.items()})
"""


def fresh_pod(demo, folder):
    """A workspace in which nothing was trained, with the keys: what a step finds whose pod begins anew."""
    shutil.copytree(demo / ".expunge", folder / ".expunge", symlinks=True,
                    ignore=shutil.ignore_patterns("adapt-*", "unlearn-*", "evaluate-*", "runs", "mlflow"))
    shutil.copytree(demo / ".expunge-keys", folder / ".expunge-keys")
    return folder


def given(demo, room, made, **changed):
    """What the step is given: the demo's own inputs and parameters, and what a test has made so far; as JSON."""
    results = demo / ".expunge/results"
    statement, = results.glob("unlearn-*/statement.json")
    inputs = {folder.name: folder for first in ("fetch_checkpoint", "curate_forget_set")
              for folder in next(results.glob(f"{first}-*-1")).iterdir()}
    wanted = ("checkpoint", "negative", "forget", "retain", *(("oracle", "positive") if room == "unlearn" else ()))
    names = [*((name, inputs[name]) for name in wanted), ("statement", made / f"{room}.json"),
             ("adaptation", made / "adaptation"), *([("candidate", made / "candidate")] if room == "unlearn" else ())]
    said = json.loads(base64.b64decode(json.loads(statement.read_bytes())["payload"]))
    params = said["predicate"]["params"]
    return json.dumps({**params, **changed, **{name: {"path": str(path)} for name, path in names}})


def begin(demo, room, made, folder, **changed):
    """Starts a room in a fresh pod; a process whose output can be read."""
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", ROOM, room, given(demo, room, made, **changed)], cwd=fresh_pod(demo, folder), text=True,
        env={**os.environ, "EXPUNGE_RUN": "forget-8.1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
