"""What several test modules need: the installed command, and an environment like a new user's."""

import atexit
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from expunge.settings import KEYS_VARIABLE, ROOTS_VARIABLE, RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace
from expunge.stores.telemetry import GATEWAY_VARIABLE
from expunge.stores.tracking import QUIET

Images, Labels = NDArray[np.float32], NDArray[np.int64]

EXPUNGE = Path(sys.executable).parent / "expunge"
# The last of them would have every process of every run compile our modules anew, which a new user's do once.
FOREIGN = (KEYS_VARIABLE, ROOTS_VARIABLE, RUN_VARIABLE, WORKSPACE_VARIABLE, GATEWAY_VARIABLE, "MLFLOW_TRACKING_URI",
           "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class Done:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


def bare_environment(**more: str) -> dict[str, str]:
    """As a new user has it: no Git identity, no activated environment, nothing of ours set."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", **more}


def call(folder: Path, *arguments: object, **environment: str) -> Done:
    """Runs the command in a folder, as a process of its own. With an environment of its own it is started as usual.

    Otherwise it is forked from a process that has imported what most verbs need: that is most of what a short one takes.
    """
    words = [str(argument) for argument in arguments]
    if environment:
        done = subprocess.run([str(EXPUNGE), *words], cwd=folder, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, env=bare_environment(**environment), check=False)
        return Done(done.returncode, done.stdout, done.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        process = _prepared().Process(target=_command, args=(folder, words, bare_environment(), out, err))
        process.start()
        process.join()
        code = process.exitcode
        process.close()
        assert code is not None
        return Done(code, out.read_text(), err.read_text())


@cache
def _prepared() -> ForkServerContext:
    """Starts processes that have imported already what the verbs import when they come to need it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "pipelines.cli", "pipelines.planning", "pipelines.supervisor", "expunge.models", "sqlalchemy.dialects.sqlite",
        "alembic.command", "cryptography.hazmat.primitives.serialization", "mlflow.tracking"])
    before = dict(os.environ)
    os.environ.update(QUIET)  # MLflow reads it when it is imported
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _command(folder: Path, words: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """What the installed command does, in a process that was only forked."""
    from pipelines.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate((Path(os.devnull), out, err)):
        handle = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    sys.argv = [str(EXPUNGE), *words]
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # which such a process leaves out


def blocks(page: str, language: str) -> list[str]:
    """What stands on a page of documentation in fences of one language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def typed(commands: Iterable[str], folder: Path, **environment: str) -> list[str]:
    """Types blocks of commands into a shell as a new user would; what each block printed.

    Every block must succeed. It begins in the folder where the one before it ended.
    """
    surroundings, printed = bare_environment(**environment), []
    surroundings["PATH"] = f"{EXPUNGE.parent}:{surroundings['PATH']}"
    with tempfile.TemporaryDirectory() as scratch:
        ended = Path(scratch, "ended")
        for block in commands:
            done = subprocess.run(["bash", "-euc", f"{block}\npwd > {ended}"], cwd=folder, env=surroundings, text=True,
                                  capture_output=True, stdin=subprocess.DEVNULL, check=False)
            assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            folder = Path(ended.read_text().rstrip("\n"))
            printed.append(done.stdout)
    return printed


def two_people(folder: Path) -> None:
    """A workspace in a folder, with keys for whoever files requests and whoever decides on them."""
    assert call(folder, "init").code == 0
    for person, role in (("ada", "requester"), ("grace", "reviewer")):
        assert call(folder, "keys", "new", person, "--role", role).code == 0


def carried_out(folder: Path, request: dict[str, Any], reason: str) -> Any:
    """Runs a request to a verdict that passes, has grace approve it, and releases; what the release printed."""
    (folder / "request.yaml").write_text(yaml.safe_dump(request))
    done = call(folder, "run", "request.yaml", "--json")
    assert done.code == 10, done.err + done.out
    assert done.json["verdict"] == "PASS"
    assert call(folder, "approve", request["id"], "--as", "grace", "--reason", reason).code == 0
    done = call(folder, "release", request["id"], "--json")
    assert done.code == 0, done.err
    return done.json


def without(*classes: int) -> Callable[[Images, Labels], tuple[Images, Labels]]:
    """Leaves images of these classes out."""
    return lambda images, labels: (images[~np.isin(labels, classes)], labels[~np.isin(labels, classes)])


def key_for(workspace: Workspace, person: str, *roles: Any) -> None:
    """Sees to it that a person has a key, entered by whoever may enter one."""
    from expunge.evidence.keys import Keyring, create_key

    keyring = Keyring.load(workspace)
    if person not in keyring.people():
        create_key(workspace, person, roles, by=next((entry.person for entry in keyring.holders("admin")), None))


def write_policy(workspace: Workspace, name: str, data: bytes, admin: str = "olga", run_folder: Path | None = None) -> Path:
    """A policy of one's own in the workspace, signed by an admin; also in the place of a run's copy, if asked for."""
    from expunge.evidence import policies

    key_for(workspace, admin, "admin")
    file = workspace.policies / f"{name}.yaml"
    file.write_bytes(data)
    signature = policies.sign(workspace, name, admin)
    if run_folder is not None:
        copy = run_folder / policies.POLICY_FILE
        copy.write_bytes(data)
        policies.signature_file(copy).write_bytes(signature.read_bytes())
    return file


def policy_that_is_met_already(workspace: Workspace) -> None:
    """Softens the policy for runs of debug size until the parent meets it: a request then ends as not needed."""
    from expunge.measure.policy import preset_bytes

    write_policy(workspace, "debug", preset_bytes("debug").replace(b"limit: 0.05", b"limit: 0.9"))


def put(run, **changes):
    """Has the database say where a run stands, past every guard."""
    from sqlalchemy import text

    from expunge.evidence.database import Database

    state = run.state().model_copy(update=changes)
    with Database(run.workspace).writing() as connection:
        connection.execute(
            text("UPDATE runs SET state = :state, record = :record, revision = revision + 1 WHERE run = :run"),
            {"run": run.name, "state": state.state, "record": state.record})


def without_triggers(workspace, *commands):
    """Does to a workspace's ledger what its triggers would refuse."""
    import sqlite3

    with sqlite3.connect(workspace.ledger) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for command in commands:
            database.execute(command)


def counted_again(folder: Path) -> set[str]:
    """The names of a report's numbers that the program for strangers counts again from its answers, and gets the same."""
    import csv

    import pytest

    from expunge.contracts import Report, read_record
    from expunge.evidence.standalone import verify

    report = read_record(Report, folder)
    tables = {file.stem: list(csv.DictReader(file.read_text().splitlines())) for file in folder.glob("*.csv")}
    measured = {one.name: one for one in report.measurements}
    found = set()
    for name, number in verify.recount(report.family, report.model_dump(mode="json"), tables, False):
        one = measured.get(name)
        if one is None or one.interval is None:
            continue
        expected = (one.estimate, one.interval.lower, one.interval.upper)
        assert number(1 - one.interval.confidence) == pytest.approx(expected, abs=1e-9), name
        found.add(name)
    return found


def exported_and_disposed_of(released: Path, request: str, scratch: Path, *options: str) -> tuple[str, Any]:
    """What the stranger's program says of a release, and the receipt of its request's disposal; in a copy of a folder.

    `options`, as `--deep`, are given to the export and to the program.
    """
    import shutil

    from expunge.evidence.standalone import verify

    folder = scratch / "again"
    shutil.copytree(released, folder, symlinks=True)
    for name, gone in (("before", False), ("after", True)):
        bundle = scratch / f"{name}.zip"
        if gone:
            done = call(folder, "dispose", request, "--reason", "it is over", "--json")
            assert done.code == 0, done.err
        exported = call(folder, "audit", "export", request, bundle, *options)
        assert exported.code == 0, exported.out + exported.err
        said = subprocess.run([sys.executable, "-I", verify.__file__, bundle, *options], capture_output=True, text=True,
                              check=False)
        assert said.returncode == 0, said.stdout + said.stderr
    audit = call(folder, "audit", "verify")
    assert audit.code == 0, audit.out + audit.err
    assert not list((folder / ".expunge").rglob(f"samples/{request}/*.sealed"))
    return said.stdout, done.json


def release_record(generation: int = 1, run: str = "forget-8.1") -> Any:
    """What is said of a release that nobody made."""
    from expunge.contracts import Release, StoredFile

    return Release(
        model="digits", generation=generation, run=run, request_id="forget-8", request_sha256="a" * 64,
        parent_sha256="b" * 64, candidate_sha256="c" * 64, verdict_sha256="d" * 64, report_sha256="e" * 64,
        approvals=(), weights=StoredFile(name="model.safetensors", sha256="c" * 64, size=1), released_at="now")


@contextmanager
def mlflow_server(store: Path | str, artifacts: str, folder: Path) -> Iterator[str]:
    """A real server of MLflow on loopback, which hands artifacts out itself; its address.

    It keeps what it is told in a file of SQLite, or in the database at an address.
    """
    backend = f"sqlite:///{store}" if isinstance(store, Path) else store
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    served = subprocess.Popen(
        [EXPUNGE.with_name("mlflow"), "server", "--host", "127.0.0.1", "--port", address.partition(":")[2], "--workers", "1",
         "--backend-store-uri", backend, "--artifacts-destination", artifacts], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://{address}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://{address}"
    finally:
        os.killpg(served.pid, signal.SIGKILL)
        served.wait()
