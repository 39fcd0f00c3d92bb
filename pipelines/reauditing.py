"""Evaluating again what is served, by the policy that it was released by, and saying so in the ledger.

The bytes are those that are served, wherever from. Where the images of a request were disposed of, what can be told
without them is told, and it is said what cannot. See docs/queue.md.
"""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from expunge.contracts import Frozen, Release, Report, read_record
from expunge.custody import receipts
from expunge.deciding import policy_of
from expunge.digests import sha256_bytes, sha256_file, write_atomically
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, Failed, Inconclusive, Invalid
from expunge.evidence.coherence import record_sha256
from expunge.evidence.decisions import inconclusive
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import ReauditPredicate, RuleAsked, Statement, open_statement, sign_statement
from expunge.measure import policy as rules
from expunge.room import STATEMENT_FILE, exclusive
from expunge.runs import Run
from expunge.samples import RequestKey
from expunge.settings import RUN_VARIABLE, Workspace
from expunge.stores import releases, s3
from expunge.stores.addresses import scheme
from expunge.stores.releases import ReleaseStore

FOLDER = "audits"  # of the workspace: the signed statements, by model; the ledger has them as well
_CODES = {"FAIL": Failed.exit_code, "INVALID": Invalid.exit_code, "INCONCLUSIVE": Inconclusive.exit_code, "PASS": 0}
_WORST_FIRST = (DoesNotVerify.exit_code, *_CODES.values())
_FETCHED = ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")
_CURATED = ("forget", "retain", "holdout", "members")


class Reaudited(Frozen):
    """What came of looking at one model again."""

    said: ReauditPredicate
    changed: bool = False  # what is served is not what was released
    waived: tuple[str, ...] = ()  # rules that are INCONCLUSIVE now, and that were let go at the release

    @property
    def exit_code(self) -> int:
        """40 if the bytes are others, 20 if a rule FAILs, 22 if it cannot be told, 21 if it is not decided, else 0."""
        if self.changed:
            return DoesNotVerify.exit_code
        still_open = {rule.metric for rule in self.said.rules if rule.outcome == "INCONCLUSIVE"} - {*self.waived}
        return 0 if self.said.outcome == "INCONCLUSIVE" and not still_open else _CODES[self.said.outcome]


def reaudit(workspace: Workspace, model: str | None = None) -> list[Reaudited]:
    """Looks again at what is in service, or at one model.

    Raises:
        BadInput: that model is not in service.
        WorkspaceBusy: a run works in this workspace.
        ExpungeError: what is served cannot be reached, so that nothing can be told.
    """
    store = releases.store_of(workspace)
    served = [name for name in releases.models(workspace) if store.pointed(name).folder is not None]
    if model is not None and model not in served:
        raise BadInput(f"model: '{model}' is not in service", f"in service: {', '.join(served) or 'nothing'}")
    with exclusive(workspace.root / "supervisor.lock", f"workspace: a run works in {workspace.root}",
                   "wait for it, or stop it with 'expunge cancel'"):
        return [_reaudited(workspace, store, name) for name in served if model in (None, name)]


def worst(found: Iterable[Reaudited]) -> int:
    """The exit code of all together: of what is most urgent."""
    codes = {one.exit_code for one in found}
    return next((code for code in _WORST_FIRST if code in codes), 0)


def _reaudited(workspace: Workspace, store: ReleaseStore, model: str) -> Reaudited:
    release, _ = store.current(model)
    assert release is not None  # it is pointed at; nobody else changes it while we hold the workspace
    run = Run.find(workspace, release.run)
    digests = {file.name: store.digest(release, file) for file in (release.weights, *release.beside)}
    other = next((file.name for file in (release.weights, *release.beside) if digests[file.name] != file.sha256), None)
    audit = secrets.token_hex(16)
    found: dict[str, object] = {"extent": "none", "outcome": "INVALID", "rules": (), "not_asked": {},
                                "report_sha256": None}
    waived: tuple[str, ...] = ()
    if other is not None:
        found["problem"] = f"{other}: what is served is not what was released"
    else:
        try:
            with _as_served(run, store, release) as candidate:
                if receipts.custody_of(workspace, release.request_id) == "kept":
                    measured, waived = _whole(run, release, candidate, audit)
                else:
                    measured = _part(run, candidate, audit)
                found |= measured
        except DoesNotVerify:
            raise
        except ExpungeError as error:
            found["problem"] = error.problem
    said = ReauditPredicate(
        model=model, generation=release.generation, run=release.run, request_id=release.request_id,
        request_sha256=release.request_sha256, policy_sha256=sha256_file(run.policy_file), audit=audit,
        at=datetime.now(UTC).isoformat(timespec="seconds"), **found)
    _enter(workspace, release, digests, said)
    return Reaudited(said=said, changed=other is not None, waived=waived)


def _enter(workspace: Workspace, release: Release, digests: dict[str, str | None], said: ReauditPredicate) -> None:
    folder = releases.folder_of(workspace, release).relative_to(workspace.root).as_posix()
    envelope = sign_statement(Statement.over(
        {f"{folder}/{name}": digest for name, digest in digests.items() if digest is not None}, said),
        SigningKey.load(workspace, OPERATOR))
    position = Ledger.open(workspace).append(envelope)
    write_atomically(workspace.root / FOLDER / release.model / f"{position:012}.json", envelope)


@contextmanager
def _as_served(run: Run, store: ReleaseStore, release: Release) -> Iterator[Path]:
    """The candidate's folder with the weights that are served in the place of its own."""
    folder = run.folder / f"kfp.audit-{secrets.token_hex(8)}"  # so called, the next run removes what a kill left of it
    made = run.output("unlearn", "candidate")
    try:
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns(run.candidate().weights.name))
        target, place = folder / run.candidate().weights.name, store.served_at(release, release.weights.name)
        if scheme(place) == "s3":
            s3.download(place, target)
        else:
            shutil.copyfile(run.workspace.root / place, target)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _whole(run: Run, release: Release, candidate: Path, audit: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """Everything that was asked before the release, of other samples where there are others."""
    from components.evaluate.step import evaluate

    workspace, scratch = run.workspace, candidate.parent / f"{candidate.name}-report"
    given = {name: run.output("fetch_checkpoint", name) for name in _FETCHED}
    given |= {name: run.output("curate_forget_set", name) for name in _CURATED}
    RequestKey.load(workspace, release.request_id)  # before the long work: without it no image can be read
    try:
        with _on_behalf_of(run):
            kept = evaluate(request=run.request_file, policy=run.policy_file, candidate=candidate, audit=audit,
                            report=scratch / "report", statement=scratch / STATEMENT_FILE, **given)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    Ledger.open(workspace).append((kept.folder / STATEMENT_FILE).read_bytes())
    report = kept.folder / "report"
    verdict = rules.decide(read_record(Report, report), policy_of(run), report_sha256=record_sha256(report),
                           policy_sha256=sha256_file(run.policy_file))
    wrong = [f"control '{name}': {came}" for name, came in verdict.controls.items() if rules.went_wrong(came)]
    return {"extent": "whole", "outcome": verdict.outcome, "report_sha256": record_sha256(report),
            "rules": _asked(verdict.rules), "problem": "; ".join(wrong)}, tuple(
                {*inconclusive(verdict)} & {*release.waived})


def _part(run: Run, candidate: Path, audit: str) -> dict[str, object]:
    """What needs the model and the judge alone."""
    from components.evaluate.again import STILL_ASKED, what_it_draws_now

    policy, request, judge = policy_of(run), run.request(), run.output("fetch_checkpoint", "judge")
    wanted = rules.rules_for(policy, run.candidate().family, earlier=bool(request.forget.earlier))
    if request.family != "gan":
        raise BadInput(f"the images of request '{request.id}' were disposed of, and only a generator can be asked "
                       "without them", "nothing but its bytes can be told")
    measured = what_it_draws_now(request, candidate, judge, sha256_bytes(
        f"{run.candidate().weights.sha256} {audit}".encode()))
    asked = [rules.judge_rule(rule, measured) for rule in wanted if rule.metric in STILL_ASKED]
    why = f"the images of request '{request.id}' were disposed of"
    return {"extent": "part", "outcome": rules.worst(one.outcome for one in asked) if asked else "INVALID",
            "rules": _asked(asked), "not_asked": {
                rule.metric: why for rule in wanted if rule.metric not in STILL_ASKED}, "problem": why}


def _asked(outcomes: Iterable[rules.RuleOutcome]) -> tuple[RuleAsked, ...]:
    return tuple(RuleAsked(metric=one.rule.metric, outcome=one.outcome, reason=one.reason) for one in outcomes)


@contextmanager
def _on_behalf_of(run: Run) -> Iterator[None]:
    """Rooms entered here say that they work for this run."""
    before = os.environ.get(RUN_VARIABLE)
    os.environ[RUN_VARIABLE] = run.name
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUN_VARIABLE]
        else:
            os.environ[RUN_VARIABLE] = before


def latest(workspace: Workspace, release: Release) -> ReauditPredicate | None:
    """The last time that a release was looked at again, by a signed statement that the ledger holds; None if never."""
    keyring, ledger = Keyring.load(workspace), Ledger.existing(workspace)
    for file in sorted(workspace.root.joinpath(FOLDER, release.model).glob("*.json"), reverse=True):
        envelope = file.read_bytes()
        position = ledger.position_of(sha256_bytes(envelope))
        if position is None:
            continue
        try:
            said = open_statement(envelope, keyring.at(position), ReauditPredicate)[0].predicate
        except DoesNotVerify:
            continue
        if said.generation == release.generation:
            return said
    return None


def lines(found: Iterable[Reaudited]) -> list[str]:
    """What came of it, for people."""
    told = []
    for one in found:
        said = one.said
        told.append(f"{said.model}: generation {said.generation}, released by {said.run}: {said.outcome}"
                    + (f" ({said.problem})" if said.problem else ""))
        told += [f"  {rule.outcome:12}  {rule.reason}" for rule in said.rules]
        told += [f"  not asked     {metric}: {why}" for metric, why in said.not_asked.items()]
    return told or ["nothing is in service"]
