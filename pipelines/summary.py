"""What a run came to, as one plain object: for ``--json``, and for the tables that people read."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

from components.deploy.step import MLFLOW_VERSION_FILE
from expunge.contracts import Measurement, Release, SampleSet, read_record, read_record_if_any
from expunge.custody import receipts
from expunge.deciding import deadline_of
from expunge.digests import sha256_file
from expunge.errors import ExpungeError
from expunge.events import TITLES, Event, events_file
from expunge.evidence.decisions import decisions_of
from expunge.evidence.ledger import Ledger
from expunge.runs import Run, State, is_held
from expunge.settings import Workspace
from expunge.stores.addresses import scheme
from expunge.stores.releases import store_of
from expunge.stores.tracking import Tracking

# What is said of a family's model in short, with its interval; null of another family's.
MEASURED: dict[str, tuple[str, ...]] = {
    "gan": ("pul", "residual_rate"),
    "classifier": ("forget_accuracy", "retained_accuracy", "retained_accuracy_difference"),
    "flow": ("unlikely_share", "forget_unlikely_share", "forget_z_lowest", "forget_z_highest", "quantile_drop",
             "bits_per_dim_change", "kid_ratio", "residual_rate"),
    "image_to_image": ("recognised_excess", "recognised_excess_before", "hidden_error_change", "kid_ratio",
                       "retained_recognised_difference"),
}
DRAWING = ("gan", "flow", "image_to_image")  # families of which it is also said how good what they draw is
# A request is answered when it was released, whatever came later, or when there was nothing to do.
_ANSWERED: frozenset[State] = frozenset({"released", "rolled_back", "withdrawn", "not_needed"})


def tries(workspace: Workspace) -> Counter[str]:
    """How many runs of each request came to a verdict, by its id."""
    return Counter(state.request_id for state in Run.all_states(workspace) if state.came_to_a_verdict)


def standing(run: Run, tried: Mapping[str, int], today: date | None = None) -> dict[str, Any]:
    """A run's state, and beside it what a list of runs is read for; `tried` is what `tries` counts.

    `due` and `retain_until` are dates or null; `overdue` and `retention_overdue` are null without one. `custody` says
    whether what is to be forgotten is still kept. `attempts` counts the runs of its request that came to
    a verdict. `since` is when the state was last written. `progress` is what a run at work is at.
    """
    state, request = run.state(), run.request()
    overdue = None if request.due is None else (
        state.state not in _ANSWERED and (today or datetime.now(UTC).date()) > request.due)
    until = request.retain_until
    custody = receipts.custody_of(run.workspace, request.id)
    at_work = state.state in ("running", "releasing") and is_held(run.lock)
    return {
        **state.model_dump(mode="json", by_alias=True), "due": request.due and request.due.isoformat(),
        "overdue": overdue, "custody": custody, "retain_until": until and until.isoformat(),
        "retention_overdue": None if until is None else custody != "disposed" and (
            today or datetime.now(UTC).date()) > until,
        "attempts": tried.get(state.request_id, 0),
        "since": state.since,
        "at_work": at_work, "progress": _progress(run) if at_work else None}


def _progress(run: Run) -> dict[str, Any] | None:
    """The room that a run is in, how far, and the seconds left by its own estimate; null where it gives none."""
    latest: Event | None = None
    file = events_file(run.workspace, run.name)
    for line in file.read_bytes().splitlines() if file.exists() else ():  # a cluster's rooms write none
        try:
            event = Event.model_validate_json(line)
        except ValueError:
            continue  # cut short by a crash: it tells nothing
        if event.room not in TITLES or event.kind == "note":
            continue
        latest = None if event.kind in ("finished", "failed") else event
    if latest is None:
        return None
    eta = latest.scalars.get("eta_seconds")
    left = None if eta is None else round(max(0.0, eta - (datetime.now(UTC).timestamp() - latest.at)), 1)
    return {"room": latest.room, "step": latest.step, "total": latest.total, "seconds_left": left}


def summarise(run: Run) -> dict[str, Any]:
    """Everything known of a run so far; what it has not come to is null, never zero."""
    state = run.state()
    request = run.request()
    ledger = Ledger.open(run.workspace)
    stands = standing(run, tries(run.workspace))
    deadline = deadline_of(run, state)
    work = sum(done.seconds for done in state.rooms.values() if not done.reused)
    found: dict[str, Any] = {
        "run": run.name, "request_id": request.id, "attempt": state.attempt, "state": state.state,
        **{name: stands[name] for name in ("due", "overdue", "custody", "retain_until",
                                               "retention_overdue", "attempts", "since", "at_work", "progress")},
        "reason": state.reason or None, "verdict": None, "forgotten": list(request.forget.classes),
        "images": list(request.forget.images),
        "method": request.method.model_dump(mode="json"),
        "family": request.family,
        **{name: None for names in MEASURED.values() for name in names}, "fid": None, "kid": None, "shares": None,
        # A room that was served from an earlier run took no time of this one: null, not zero.
        "seconds": {room: None if state.rooms[room].reused else state.rooms[room].seconds
                    for room in TITLES if room in state.rooms} | {"total": state.seconds},
        "overhead_seconds": round(state.seconds - work, 3),
        "deadline": deadline and deadline.isoformat(timespec="seconds"),
        "approval": None, "waived": [], "release": None, "samples": None,
        "mlflow": {"tracking_uri": Tracking.for_workspace(run.workspace).uri, "run_id": state.mlflow_run,
                   "model_version": None},
        "ledger": {"size": ledger.size, "root": ledger.root},
        "report": str(run.page) if run.page.exists() else None,
    }
    if "curate_forget_set" in state.rooms:
        unwanted = _unwanted(run)
        found["samples"] = {"remote": str(run.workspace.root / unwanted.remote), "md5": unwanted.shards[0].md5,
                            "forget_count": unwanted.count}
    if "evaluate" in state.rooms:
        found |= _measured(run)
    if "gate" in state.rooms:
        found["verdict"] = run.verdict().outcome
    if "deploy" in state.rooms:
        released = _released(run)
        found["mlflow"]["model_version"] = released.pop("model_version")
        found |= released
    return found


def _unwanted(run: Run) -> SampleSet:
    """What the run learns from to lose: the model's own samples, or real images where it draws none."""
    own = read_record_if_any(SampleSet, run.output("curate_forget_set", "negative"))
    return own or read_record(SampleSet, run.output("curate_forget_set", "forget"))


def _measured(run: Run) -> dict[str, Any]:
    report = run.report()
    value = {found.name: found for found in report.measurements}

    def estimate(name: str) -> float | None:
        return value[name].estimate if name in value else None

    found: dict[str, Any] = {name: _with_interval(value[name]) for name in MEASURED[report.family] if name in value}
    if report.family not in DRAWING:
        return found
    return found | {
        "fid": {"before": estimate("fid_before"), "after": estimate("fid_after"), "floor": estimate("fid_floor"),
                "extractor_sha256": report.judge_sha256} if "fid_before" in value else None,
        "kid": {"before": estimate("kid_before"), "after": estimate("kid_after"),
                "difference": _with_interval(value["kid_difference"])} if "kid_difference" in value else None,
        "shares": {name: {"before": before, "after": after} for name, (before, after) in report.shares.items()},
    }


def _with_interval(measured: Measurement) -> dict[str, Any]:
    interval = measured.interval
    return {"estimate": measured.estimate, "lower": interval.lower if interval else None,
            "upper": interval.upper if interval else None, "n": measured.n, "missing": measured.missing}


def _released(run: Run) -> dict[str, Any]:
    folder = run.output("deploy", "release")
    release = read_record(Release, folder)
    path, sha256 = _served(run.workspace, release)
    agreed = next(found for found in decisions_of(run.workspace, run.name) if found.sha256 in release.approvals)
    version = folder / MLFLOW_VERSION_FILE
    return {
        "waived": list(release.waived),
        "approval": {"by": agreed.approval.person, "requester": run.request().requester,
                     "key_id": agreed.signer.key_id},
        "model_version": version.read_text() if version.exists() else None,
        "release": {"path": path, "sha256": sha256,
                    "parent_sha256": release.parent_sha256},
    }


def _served(workspace: Workspace, release: Release) -> tuple[str, str | None]:
    """Where a release's weights are served from, and the digest of what is served there."""
    store = store_of(workspace)
    path = store.served_at(release, release.weights.name)
    if not scheme(path):
        file = workspace.root / path
        return str(file), sha256_file(file) if file.exists() else None
    with suppress(ExpungeError):  # a status says what it can while the store is down; 'audit live' reads every byte
        return path, store.digest(release, release.weights, by_bytes=False)
    return path, None
