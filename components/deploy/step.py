"""Deploy: the approved bytes, and no others, go into service."""

from datetime import UTC, datetime
from pathlib import Path

from expunge import serving
from expunge.contracts import Candidate, Release, StoredFile, Verdict, read_record, write_record
from expunge.errors import DoesNotVerify, NotServed, Refused
from expunge.evidence import policies
from expunge.evidence.coherence import Case, evidence, open_case, record_sha256
from expunge.evidence.decisions import Tally, count_valid, decisions_of, inconclusive, token
from expunge.evidence.keys import OPERATOR
from expunge.measure import policy as rules
from expunge.room import Entered, room
from expunge.settings import Workspace, current_run
from expunge.stores import releases, taint
from expunge.stores.tracking import Tracking

OF_LIBRARIES = ("classifier", "image_to_image")  # families of which libraries have models in folders of their own
MLFLOW_VERSION_FILE = "mlflow_version.txt"  # news for people; absent if MLflow could not be told


@room(outputs=("release",), memo=False)
def deploy(entered: Entered, *, request: Path, candidate: Path, report: Path, policy: Path, verdict: Path,
           release: Path) -> None:
    """Checks verdict, approvals, digests and taint itself, whatever led here; then releases.

    Raises:
        Refused: the verdict is neither PASS nor waived, approvals are missing, a digest is not the approved one, or the
            candidate is tainted by another request.
        DoesNotVerify: the evidence does not add up, or nobody who may vouches for the policy.
    """
    workspace = entered.workspace
    case = open_case(request=request, candidate=candidate, report=report, policy=policy)
    policies.require_for_run(workspace, current_run(), case.policy.name, policy.read_bytes(), case.request.requester)
    with evidence():
        given = read_record(Verdict, verdict)
    tally = _refuse_unless_approved(workspace, case, _refuse_unless_passed(case, given))
    mark = taint.Mark(request_id=case.request.id, request_sha256=case.subject.request_sha256,
                      parent_sha256=case.candidate.parent_sha256,
                      approved_sha256=case.candidate.weights.sha256, pending=True)
    _refuse_tainted(entered, mark)

    def describe(generation: int, weights: StoredFile, beside: tuple[StoredFile, ...]) -> Release:
        return Release(
            model=case.request.model, generation=generation, run=current_run(), request_id=case.request.id,
            request_sha256=case.subject.request_sha256, parent_sha256=case.candidate.parent_sha256,
            candidate_sha256=case.candidate.weights.sha256, verdict_sha256=record_sha256(verdict),
            report_sha256=case.subject.report_sha256, approvals=tally.approvals,
            waived=tally.waived, weights=weights, beside=beside,
            released_at=datetime.now(UTC).isoformat(timespec="seconds"))

    taint.place(mark, workspace)  # before the flip: a crash in between leaves a mark, and the old one served
    try:
        live = releases.publish(workspace, case.request.model, case.weights, mark.approved_sha256, describe,
                                *_as_its_library_reads_it(case.candidate), tell=entered.note)
    except NotServed as error:
        raise _with_nothing_tainted_left(entered, case.request.model, error) from error
    taint.place(mark.model_copy(update={"pending": False}), workspace)
    write_record(release, live)
    told = Tracking.for_workspace(workspace).register_release(live)
    if told.value:
        (release / MLFLOW_VERSION_FILE).write_text(told.value)
        entered.note(f"version {told.value} in MLflow")
    else:
        entered.note(f"MLflow was not told: {told.reason}")


def _with_nothing_tainted_left(entered: Entered, model: str, error: NotServed) -> NotServed:
    """What served before serves on, unless it may not any more: then what came before that, or nothing, does."""
    workspace = entered.workspace
    before = releases.current(workspace, model)
    mark = releases.tainted_by(workspace, before) if before else None
    if mark is None:
        return error
    done = serving.change(workspace, "rollback", model, OPERATOR,
                          f"tainted by request {mark.request_id}, and what was to follow did not become ready",
                          entered.note)
    return NotServed(f"{error.problem}; {done.text}", error.remedy.partition(";")[0])


def _as_its_library_reads_it(candidate: Candidate) -> tuple[dict[str, bytes], str]:
    """What the library of the candidate's format reads beside its weights, and what it calls their own file.

    All of it is in the candidate's record.
    """
    if candidate.family not in OF_LIBRARIES:
        return {}, releases.WEIGHTS
    from expunge.models import library_folders

    return (library_folders.read_beside(candidate.architecture, candidate.config),
            library_folders.weights_name(candidate.architecture, releases.WEIGHTS))


def _refuse_unless_passed(case: Case, given: Verdict) -> Verdict:
    """The verdict is computed again: a verdict that somebody else wrote opens nothing. INCONCLUSIVE may be waived."""
    decided = rules.decide(case.report, case.policy, report_sha256=case.subject.report_sha256,
                           policy_sha256=case.subject.policy_sha256)
    if decided != given:
        raise DoesNotVerify("verdict: not what this policy says of this report", "run the gate again")
    if decided.outcome not in ("PASS", "INCONCLUSIVE"):
        raise Refused(f"deploy: the verdict is {decided.outcome}", "only PASS can be released")
    return decided


def _refuse_unless_approved(workspace: Workspace, case: Case, verdict: Verdict) -> Tally:
    tally = count_valid(decisions_of(workspace, current_run()), case.subject, case.policy,
                        case.request.requester, datetime.now(UTC), verdict)
    if tally.rejected_by:
        raise Refused(f"deploy: {tally.rejected_by[0]} rejected this candidate", "make another one")
    if len(tally.approved_by) < tally.needed:
        void = "".join(f"; {found.person}'s does not count, {found.reason}" for found in tally.void)
        waiving = inconclusive(verdict)
        of_what = f"the verdict is INCONCLUSIVE and has {len(tally.approved_by)} of {tally.needed} waivers" if waiving \
            else f"{len(tally.approved_by)} of {tally.needed} approvals"
        how = "".join(f" --waive {rule}" for rule in waiving)
        raise Refused(
            f"deploy: {of_what}{void}",
            f"somebody other than {case.request.requester} must run 'expunge approve {current_run()}{how}'")
    if token(verdict, tally) != "open":
        raise Refused(f"deploy: the verdict is {verdict.outcome}", "only PASS can be released")
    return tally


def _refuse_tainted(entered: Entered, mark: taint.Mark) -> None:
    """By the workspace's records and by what MLflow has registered; that it cannot be asked is said."""
    workspace = entered.workspace
    known = taint.descent(workspace, (mark.approved_sha256, mark.parent_sha256))
    if known.not_asked:
        entered.note(f"what MLflow knows of descent was not looked at: {known.not_asked}")
    tainted_by = taint.tainting(mark.approved_sha256, taint.marks(workspace), known.parents,
                                approving=mark.request_sha256)
    if tainted_by is not None:
        raise Refused(
            f"deploy: {mark.approved_sha256[:12]} is tainted by request {tainted_by.request_id}",
            f"start from a model that descends from {tainted_by.approved_sha256[:12]}")
