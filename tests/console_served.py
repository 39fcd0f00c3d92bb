"""A console on loopback, over a workspace with finished runs, and somebody who asks it things."""

import secrets
import socket
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import requests
from finished_run import FinishedRun
from tests_support import key_for, write_policy

from expunge.digests import sha256_bytes
from expunge.measure.policy import preset_bytes
from expunge.settings import RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace


class SeenRun(FinishedRun):
    """A finished run whose report has pictures: real digits in the place of what models draw."""

    def write_tables(self, folder):
        from components.evaluate.pictures import Pictures, may_show_before
        from expunge.assets import digits

        super().write_tables(folder)
        images, labels = digits("holdout")
        order = np.random.default_rng(8).permutation(len(labels))
        was = np.concatenate([order[labels[order] == 8][:6], order[labels[order] != 8][:24]])
        became = np.concatenate([order[labels[order] == 3][:6], was[6:]])
        after = images[became].copy()
        after[6:, :, 10:14, 10:14] *= 0.6
        pictures = Pictures((8,), may_show_before(self.request.reason))
        pictures.consider(0, (images[was], after), (labels[was], labels[became]))
        pictures.save(folder)


def waiting_runs(root, names, days=None, undecided=(), seen=()):
    """A workspace in a folder, with keys of ada, grace and linus, and runs that await approval.

    `days` are what a run's policy gives people to decide. Those of `undecided` are INCONCLUSIVE, and those of `seen`
    have pictures.
    """
    from pipelines.workspace import initialise

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        workspace = initialise(Workspace(root / ".expunge"))
        patch.setenv(WORKSPACE_VARIABLE, str(workspace.root))
        for person, role in (("ada", "requester"), ("grace", "reviewer"), ("linus", "reviewer")):
            key_for(workspace, person, role)
        for name in names:
            patch.setenv(RUN_VARIABLE, f"{name}.1")
            run = (SeenRun if name in seen else FinishedRun)(
                workspace, name=f"{name}.1", weights=name.encode(), request_id=name, model=name,
                residual=0.04 if name in undecided else 0.001)
            if days and name in days:
                write_policy(workspace, "debug", preset_bytes("debug") + f"deadline_days: {days[name]}\n".encode(),
                             run_folder=run.policy_file.parent)
            run.make()
            assert run.gate() == ("closed" if name in undecided else "waiting")
            run.as_run("inconclusive" if name in undecided else "awaiting_approval")
            (workspace.runs / run.name / "report.html").write_text("<style>h1 { color:teal }</style><h1>Report</h1>")
    return workspace


@contextmanager
def served(workspace, settings=None, person=None, around=lambda app: app, metrics=lambda: "expunge_runs 1\n"):
    """The console at work; its application and its address. `around` may put something before it."""
    from expunge.console.app import create
    from expunge.console.serving import server

    listening = socket.create_server(("127.0.0.1", 0))
    origin = settings.address if settings else f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = create(workspace, settings, origin, metrics, person)
    at_work = server(around(app))
    thread = threading.Thread(target=at_work.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until = time.monotonic() + 60
        while not at_work.started and time.monotonic() < until:
            time.sleep(0.02)
        yield app, f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        at_work.should_exit = True
        thread.join()


class Visitor(requests.Session):
    """Somebody with a browser's manners, without one."""

    def __init__(self, address, link=None):
        super().__init__()
        self.address = address
        self.headers["Origin"] = address
        if link:
            assert self.get(f"{address}/enter?token={link}").status_code == 200
            self.headers["X-CSRF-Token"] = self.get("/api/v1/me").json()["csrf"]

    def request(self, method, url, **given):
        return super().request(method, url if "://" in url else self.address + url, timeout=60, **given)

    def decide(self, run, envelope, reason="the grids are clean"):
        """Hands in a signed decision."""
        return self.post(f"/api/v1/runs/{run}/decisions", json={"envelope": envelope, "reason": reason})


def signed(workspace, run, person="grace", decision="approve", reason="the grids are clean", /, **changes):
    """A decision as a browser would sign it, with the key of that person that lies here."""
    from expunge.contracts import Approval
    from expunge.deciding import subject_of
    from expunge.evidence.decisions import PAYLOAD_TYPE
    from expunge.evidence.envelopes import seal
    from expunge.evidence.keys import SigningKey
    from expunge.runs import Run

    now = datetime.now(UTC)
    fields = {
        **subject_of(Run(workspace, run)).model_dump(mode="json"), "run": run, "person": person, "decision": decision,
        "waives": (), "reason_sha256": sha256_bytes(reason.encode()), "decided_at": now.isoformat(timespec="seconds"),
        "not_after": (now + timedelta(hours=1)).isoformat(timespec="seconds"), "nonce": secrets.token_hex(16), **changes}
    return seal(Approval(**fields).to_bytes(), PAYLOAD_TYPE, SigningKey.load(workspace, person)).decode()
