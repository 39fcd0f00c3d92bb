"""What pages and the JSON API say: plain values, read from the foundation when they are asked for. Changes nothing."""

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge import auditing, deciding
from expunge import live as served
from expunge.console.index import Index
from expunge.contracts import Measurement, Report, Rule, Verdict, shorten
from expunge.digests import sha256_file
from expunge.errors import BadInput, DoesNotVerify, ExpungeError
from expunge.evidence import decisions
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger
from expunge.measure import words
from expunge.pictures import INDEX, SIDES, require_as_reported, to_show
from expunge.room import STATEMENT_FILE
from expunge.runs import Run, RunState
from expunge.settings import Workspace

PAGE = 50  # rows
EVIDENCE = ("request", "candidate", "report", "policy", "verdict")
_PLOT = 1_000  # units from one end of a plot to the other


def known_run(workspace: Workspace, name: str) -> tuple[Run, RunState]:
    """A run by its exact name; BadInput if there is none."""
    run = Run(workspace, name)
    return run, run.state()


# ------------------------------------------------------------------------------------------------ the queue


def queue(index: Index, state: str | None = None, after: tuple[Any, ...] | None = None,
          limit: int = PAGE) -> dict[str, Any]:
    """Runs, those that wait for people first and by deadline; `next` is where to go on."""
    rows, onward = index.runs(state, after, limit)
    today = datetime.now(UTC)
    return {"states": index.states(), "next": onward, "runs": [
        {**asdict(row), "hours_left": None if row.deadline is None else round(
            (datetime.fromisoformat(row.deadline) - today).total_seconds() / 3600, 1)} for row in rows]}


# ------------------------------------------------------------------------------------------------ one run


def run_page(workspace: Workspace, index: Index, name: str, person: str | None) -> dict[str, Any]:
    """Everything known of a run; what it has not come to is null, never zero."""
    run, state = known_run(workspace, name)
    request = run.request()
    found: dict[str, Any] = {
        "run": run.name, "state": state.state, "reason": state.reason, "remedy": state.remedy,
        "attempt": state.attempt, "attempts": index.attempts(request.id), "started_at": state.started_at,
        "since": state.since, "seconds": state.seconds,
        "request": {"id": request.id, "requester": request.requester, "reason": request.reason,
                    "model": request.model, "family": request.family, "policy": request.policy,
                    "classes": list(request.forget.classes), "images": len(request.forget.images),
                    "due": request.due and request.due.isoformat()},
        "deadline": None, "verdict": None, "measurements": [], "controls": [], "claim": None, "method": None,
        "lineage": [], "graph": None, "subject": None, "deciding": None, "not_shown": [],
        "has_report_page": run.page.exists(), "has_pictures": False}
    if "unlearn" in state.rooms:
        made = run.candidate()
        found |= {"claim": made.claim, "method": made.method}
    if "evaluate" in state.rooms:
        report = run.report()
        found |= {"has_pictures": not report.files or INDEX in {file.name for file in report.files},
                  "measurements": [_measured(one) for one in report.measurements],
                  "not_shown": [{"what": words.title(one.name), "why": one.missing, "applies": not one.not_applicable}
                                for one in report.measurements if one.missing]}
    if "gate" in state.rooms:
        deadline = deciding.deadline_of(run, state)
        found |= {"verdict": _verdict(run.verdict(), run.report()), "deadline": deadline and deadline.isoformat(
                      timespec="seconds"),
                  "controls": _controls(run.report(), run.verdict()),
                  "subject": deciding.subject_of(run).model_dump(mode="json"),
                  "lineage": _lineage(run, state), "deciding": _deciding(run, state, person)}
        found["graph"] = _graph(found["lineage"], found["deciding"], run.verdict(), state)
    return found


def _measured(one: Measurement) -> dict[str, Any]:
    interval = one.interval
    return {"name": one.name, "title": words.title(one.name), "meaning": words.meaning(one.name),
            "estimate": one.estimate, "lower": interval and interval.lower, "upper": interval and interval.upper,
            "confidence": interval and interval.confidence, "method": interval and interval.method, "n": one.n,
            "value": None if one.estimate is None else words.number(one.name, one.estimate, interval),
            "between": interval and words.interval(one.name, interval), "missing": one.missing,
            "not_applicable": one.not_applicable}


def _verdict(verdict: Verdict, report: Report) -> dict[str, Any]:
    measured = {one.name: one for one in report.measurements}
    return {"outcome": verdict.outcome, "waivable": list(decisions.inconclusive(verdict)), "rules": [{
        "metric": one.rule.metric, "title": words.title(one.rule.metric), "outcome": one.outcome, "reason": one.reason,
        "limit": words.limit(one.rule), "why": one.rule.reason,
        "plot": _plot(measured.get(one.rule.metric), one.rule)} for one in verdict.rules]}


def _plot(one: Measurement | None, rule: Rule) -> dict[str, float] | None:
    """Where interval, estimate and limit lie between the ends of a plot; null without a number."""
    if one is None or one.estimate is None:
        return None
    lower, upper = (one.interval.lower, one.interval.upper) if one.interval else (one.estimate, one.estimate)
    ends = (min(lower, rule.limit, 0.0), max(upper, rule.limit, 0.0))
    margin = (ends[1] - ends[0]) * 0.08 or 1.0
    begin, width = ends[0] - margin, ends[1] - ends[0] + 2 * margin

    def at(value: float) -> float:
        return round((value - begin) / width * _PLOT, 1)

    return {"lower": at(lower), "upper": at(upper), "estimate": at(one.estimate), "limit": at(rule.limit),
            "good_from": 0.0 if rule.side == "at most" else at(rule.limit),
            "good_to": at(rule.limit) if rule.side == "at most" else float(_PLOT)}


def _controls(report: Report, verdict: Verdict) -> list[dict[str, Any]]:
    return [{"name": one.name, "must": one.must, "found": verdict.controls.get(one.name, "not asked"),
             "covers": [words.title(rule) for rule in one.covers]} for one in report.controls]


def _lineage(run: Run, state: RunState) -> list[dict[str, Any]]:
    """From the request to what is served, each with its digest."""
    made, report = run.candidate(), run.report()
    subject = deciding.subject_of(run)
    steps = [("request", subject.request_sha256, "what was asked for"),
             ("parent", made.parent_sha256, "the model that was to forget"),
             ("adaptation", made.adaptation_sha256, "what the method learned about what it must lose"),
             ("candidate", made.weights.sha256, f"made by {made.method}, seed {made.seed}"),
             ("report", subject.report_sha256, f"latents from {report.latent_seed[:12]}…"),
             ("policy", subject.policy_sha256, "the rules")]
    return [{"what": what, "sha256": sha256, "says": says} for what, sha256, says in steps if sha256]


# Where a lineage's nodes stand, as (column, row), and what each is made from.
_PLACES = {"request": (0, 0), "samples": (1, 0), "parent": (2, 0), "adaptation": (1, 1), "candidate": (1, 2),
           "policy": (0, 3), "report": (1, 3), "verdict": (1, 4), "decisions": (1, 5), "release": (1, 6)}
_MADE_FROM = (("request", "adaptation"), ("samples", "adaptation"), ("parent", "adaptation"), ("parent", "candidate"),
              ("adaptation", "candidate"), ("candidate", "report"), ("parent", "report"), ("report", "verdict"),
              ("policy", "verdict"), ("verdict", "decisions"), ("decisions", "release"), ("candidate", "release"))
_WIDE, _HIGH, _ACROSS, _DOWN = 104, 42, 128, 66  # of a node, and from one to the next


def _graph(lineage: list[dict[str, Any]], deciding_: dict[str, Any], verdict: Verdict, state: RunState,
           ) -> dict[str, Any]:
    """The lineage as a drawing: nodes with their places, and the lines between them."""
    says = {one["what"]: f"{one['sha256'][:12]}" for one in lineage}
    says["samples"] = "by keyed digests"
    says["verdict"] = verdict.outcome
    if people := [*deciding_["approved_by"], *deciding_["rejected_by"]]:
        said = "rejected by" if deciding_["rejected_by"] else "approved by"
        says["decisions"] = f"{said} {people[0] if len(people) == 1 else len(people)}"
    if "deploy" in state.rooms:
        says["release"] = state.state.replace("_", " ")
    nodes: dict[str, dict[str, Any]] = {name: {"name": name, "says": shorten(says[name], 16),
                                               "x": column * _ACROSS, "y": row * _DOWN}
                                        for name, (column, row) in _PLACES.items() if name in says}
    edges = []
    for above, below in _MADE_FROM:
        if above not in nodes or below not in nodes:
            continue
        x1, y1 = nodes[above]["x"] + _WIDE // 2, nodes[above]["y"] + _HIGH
        x2, y2 = nodes[below]["x"] + _WIDE // 2, nodes[below]["y"]
        if y2 - y1 > _DOWN:  # past what stands between, on its right
            x1 = x1 if x1 != x2 else x1 + _WIDE // 2 - 8
            x2, y2 = nodes[below]["x"] + _WIDE, y2 + _HIGH // 2
            beside = max(x1, x2 + _ACROSS // 3)
            edges.append(f"M{x1} {y1}C{beside} {(y1 + y2) // 2} {beside} {y2} {x2} {y2}")
        else:
            edges.append(f"M{x1} {y1}C{x1} {y2 - 12} {x2} {y1 + 12} {x2} {y2}")
    return {"nodes": list(nodes.values()), "edges": edges, "wide": _WIDE, "high": _HIGH,
            "width": 2 * _ACROSS + _WIDE, "height": max(node["y"] for node in nodes.values()) + _HIGH}


def _deciding(run: Run, state: RunState, person: str | None) -> dict[str, Any]:
    """Who may decide, who has, and what is still needed: shown before anybody tries."""
    request, policy = run.request(), deciding.policy_of(run)
    tally = deciding.tally_of(run)
    now = datetime.now(UTC)
    deadline = deciding.deadline_of(run, state)
    open_ = state.state in deciding.DECIDABLE and (deadline is None or now < deadline)
    reviewers = sorted({entry.person for entry in Keyring.load(run.workspace).holders("reviewer")})
    return {
        "open": open_, "needed": tally.needed, "approved_by": list(tally.approved_by),
        "rejected_by": list(tally.rejected_by), "waived": list(tally.waived), "valid_days": policy.valid_days,
        "requester": request.requester, "you": person,
        "may_approve": [one for one in reviewers if not decisions.same_person(one, request.requester)
                        and not any(decisions.same_person(one, known) for known in tally.approved_by)],
        "may_reject": reviewers, "void": [one.model_dump(mode="json") for one in tally.void],
        "decisions": [{**one.approval.model_dump(mode="json", include={
            "person", "decision", "decided_at", "not_after", "waives"}), "reason": one.reason, "sha256": one.sha256,
            "position": one.position} for one in decisions.decisions_of(run.workspace, run.name)]}


def evidence_file(run: Run, what: str) -> Path:
    """The stored bytes that a decision names by digest; BadInput if the run has not come so far."""
    places = {"request": lambda: run.request_file, "policy": lambda: run.policy_file,
              "candidate": lambda: run.output("unlearn", "candidate") / "record.json",
              "report": lambda: run.output("evaluate", "report") / "record.json",
              "verdict": lambda: run.output("gate", "verdict") / "record.json"}
    file = places[what]()
    if not file.is_file():
        raise DoesNotVerify(f"{what}: it is missing", "run 'expunge audit verify'")
    return file


# ------------------------------------------------------------------------------------------------ pictures


def pictures(run: Run, state: RunState) -> dict[str, Any]:
    """Which pictures of before and after there are, as far as reason and policy allow them, and what each tile is."""
    if "evaluate" not in state.rooms:
        return {"groups": [], "not_shown": ["This run has not been evaluated."]}
    folder, report = run.output("evaluate", "report"), run.report()
    found = to_show(folder, report, deciding.policy_of(run), run.request().reason)
    if not found.kept:
        return {"groups": [], "not_shown": [f"A {report.family.replace('_', ' ')}'s report has no pictures."]}
    require_as_reported(folder, report, INDEX)
    completes = report.family == "image_to_image"

    def called(label: int) -> str:
        return report.classes[label] if report.classes else str(label)

    unwanted = ", ".join(called(label) for label in report.unwanted)
    titles = {"unwanted": f"To be forgotten: class {unwanted}", "retained": "The rest"}
    not_shown = [] if found.before_shown else [
        "What was to be forgotten: the request's reason, or the policy, does not allow it."]
    if found.withheld:
        not_shown.append(f"{found.withheld} images that still show it were left out.")
    return {"not_shown": not_shown, "groups": [{
        "name": name, "title": title, "sides": [side for side in SIDES if side in group.strips],
        "of": "image" if completes else "latent", "width": group.size[0], "height": group.size[1],
        "tiles": [{"number": tile["latent"], "label": called(tile["label"]) if "label" in tile else None,
                   "before": called(tile["before"]), "after": called(tile["after"]), "hidden": place in group.hidden}
                  for place, tile in enumerate(group.tiles)]}
        for name, title in titles.items() if (group := found.groups[name]).tiles]}


def picture(run: Run, state: RunState, group: str, side: str) -> bytes:
    """One strip of tiles as a PNG, its stored file being the one that the report names."""
    if "evaluate" not in state.rooms:
        raise BadInput(f"run '{run.name}': its report is not known", "there is one when it has been evaluated")
    folder, report = run.output("evaluate", "report"), run.report()
    strips = to_show(folder, report, deciding.policy_of(run), run.request().reason).groups[group]
    if side not in strips.strips:
        raise BadInput(f"{side} of {group}: such a picture is not known", "reason and policy decide what is shown")
    require_as_reported(folder, report, INDEX, strips.strips[side].name)
    return strips.png(side)


# ------------------------------------------------------------------------------------------------ the trail


def trail(workspace: Workspace, index: Index, *, request: str | None = None, person: str | None = None,
          kind: str | None = None, digest: str | None = None, before: int | None = None, limit: int = PAGE,
          ) -> dict[str, Any]:
    """Entries of the ledger, the newest first; each is opened and its signature verified."""
    ledger, keyring = Ledger.existing(workspace), Keyring.load(workspace)
    size = ledger.size
    terms = [f"{name}:{value}" for name, value in (("request", request), ("person", person), ("kind", kind)) if value]
    if terms or digest:
        positions = index.positions(terms, digest, before, limit + 1)
    else:
        newest = min(size, before if before is not None else size) - 1
        positions = list(range(newest, max(-1, newest - limit - 1), -1))
    more = len(positions) > limit
    positions = positions[:limit]
    return {"size": size, "next": positions[-1] if more and positions else None,
            "entries": [_line(auditing.open_line(one, keyring)) for one in ledger.entries_at(positions)]}


def trail_of_run(workspace: Workspace, index: Index, run: Run, state: RunState) -> list[dict[str, Any]]:
    """The entries that belong to a run, oldest first; those of its rooms are there though another run made them."""
    ledger, keyring = Ledger.existing(workspace), Keyring.load(workspace)
    positions = set(index.positions([f"run:{run.name}"], None, None, 500))
    for done in state.rooms.values():
        with suppress(OSError, ExpungeError):
            place = ledger.position_of(sha256_file(workspace.root / done.result / STATEMENT_FILE))
            if place is not None:
                positions.add(place)
    return [_line(auditing.open_line(one, keyring)) for one in ledger.entries_at(sorted(positions))]


def _line(line: auditing.Line) -> dict[str, Any]:
    return {**line.to_json(), "at": line.at, "verifies": line.said is not None}


def proofs(workspace: Workspace, positions: list[int], size: int) -> dict[str, Any]:
    """Raw envelopes, and what shows that they are in the tree of `size` entries: for whoever does not believe us."""
    ledger = Ledger.existing(workspace)
    if size > ledger.size:
        raise BadInput(f"size: the ledger has {ledger.size} entries", "ask for a smaller one")
    return {"size": size, "entries": [
        {"position": one.position, "envelope": one.envelope.decode(), "proof": [step.hex() for step in proof]}
        for one, proof in zip(ledger.entries_at(positions), ledger.inclusions(positions, size), strict=True)]}


def consistency(workspace: Workspace, first: int, size: int) -> dict[str, Any]:
    """What shows that the tree of `size` entries begins with that of `first`."""
    ledger = Ledger.existing(workspace)
    return {"first": first, "size": size, "proof": [step.hex() for step in ledger.consistency(first, size)]}


# ------------------------------------------------------------------------------------------------ in service


def in_service(workspace: Workspace) -> dict[str, Any]:
    """What is served and whether it is tainted, by records and sizes: bytes are for `expunge audit live`."""
    return served.live(workspace, by_bytes=False).model_dump(mode="json")


