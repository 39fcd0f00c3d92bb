"""What a release can show, as a record and as a page: what is claimed, the bounds, who agreed, and what is not shown.

Nothing here is a fixed text where it could be a fact: what is not shown follows from this run's own records. From the
same record come a summary for the public, which names nobody, and a letter to the person who asked.
"""

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from expunge.contracts import Claim, Digest, Frozen, Identifier, Interval, Outcome, Person, Reason, Record
from expunge.evidence.bundle.gathered import Gathered
from expunge.evidence.statements import (
    DisposalPredicate,
    KeyringPredicate,
    ReceiptPredicate,
    RollbackPredicate,
    WithdrawalPredicate,
)
from expunge.measure import words
from expunge.measure.policy import WEIGHT_READING

if TYPE_CHECKING:
    from jinja2 import Template

COUNTED = frozenset({
    "residual_rate", "residual_rate_earlier", "pul", "kept_share", "search_rate", "search_ratio", "forget_accuracy",
    "forget_accuracy_earlier", "retained_accuracy_difference", "retained_accuracy_drift", "recognised_excess",
    "recognised_excess_earlier", "retained_recognised_difference"})
"""Metrics that `verify.py` counts again from single answers, of the families that it does so for."""

_OF = {"gan", "classifier", "image_to_image"}
_OF_FLOWS = {"unlikely_share", "unlikely_share_earlier", "forget_unlikely_share", "forget_outlying_share"}

OF_FEATURES = frozenset({
    "kid_before", "kid_after", "kid_difference", "kid_difference_fixed_shares", "kid_ratio", "drift", "coverage"})
"""Metrics that `verify.py --deep` computes again from features."""


class Bound(Frozen):
    """One rule, what was measured, and whether a stranger can count it again."""

    metric: str
    rule: str  # in words
    estimate: float | None
    interval: Interval | None
    n: int | None
    outcome: Outcome
    reason: str
    shown_by: Literal["counted again from single answers", "computed again from features", "attested, not recomputed"]


class Agreed(Frozen):
    """Somebody who approved exactly these bytes."""

    person: Person
    decided_at: str
    envelope_sha256: Digest


class Certificate(Record):
    """What a release can show. Never that something was forgotten."""

    SCHEMA: ClassVar[str] = "expunge/certificate/v1"

    claim: Claim
    method: str
    model: Identifier
    generation: int
    family: str
    run: Identifier
    request_id: Identifier
    requester: Person
    asked_for: Reason
    released_at: str
    released_sha256: Digest
    parent_sha256: Digest
    request_sha256: Digest
    report_sha256: Digest
    policy: Identifier
    policy_sha256: Digest
    verdict_sha256: Digest
    outcome: Outcome
    bounds: tuple[Bound, ...]
    controls: dict[str, str]
    agreed: tuple[Agreed, ...]
    waivers: tuple[str, ...] = ()
    destroyed: tuple[str, ...] = ()  # what receipts in the ledger say was destroyed, when and why
    samples_destroyed: bool  # whether the samples themselves are among that
    service: str  # whether it is served, as the ledger says
    ledger_origin: str
    ledger_size: int
    ledger_root: Digest
    operator_key: Digest
    not_shown: tuple[str, ...]


def of(found: Gathered, *, deep: bool = False) -> Certificate:
    """The certificate of a release; `deep`: its bundle has features."""
    release, report, verdict = found.release, found.report, found.verdict
    measured = {one.name: one for one in report.measurements}
    bounds = []
    for one in verdict.rules:
        number = measured.get(one.rule.metric)
        bounds.append(Bound(
            metric=one.rule.metric, rule=f"{words.title(one.rule.metric)}, {words.limit(one.rule)}",
            estimate=number.estimate if number else None, interval=number.interval if number else None,
            n=number.n if number else None, outcome=one.outcome, reason=one.reason,
            shown_by="counted again from single answers" if _counted(found, one.rule.metric)
            else "computed again from features" if deep and one.rule.metric in OF_FEATURES
            else "attested, not recomputed"))
    return Certificate(
        claim=found.candidate.claim, method=found.candidate.method, model=release.model,
        generation=release.generation, family=found.candidate.family, run=found.run, request_id=release.request_id,
        requester=found.request.requester, asked_for=found.request.reason, released_at=release.released_at,
        released_sha256=release.weights.sha256, parent_sha256=release.parent_sha256,
        request_sha256=release.request_sha256, report_sha256=release.report_sha256, policy=found.policy.name,
        policy_sha256=verdict.policy_sha256, verdict_sha256=release.verdict_sha256, outcome=verdict.outcome,
        bounds=tuple(bounds), controls=verdict.controls,
        agreed=tuple(Agreed(person=approval.person, decided_at=approval.decided_at, envelope_sha256=entry.sha256)
                     for entry, approval in found.approvals),
        waivers=tuple(f"{words.title(rule)}, which was inconclusive" for rule in release.waived),
        destroyed=_destroyed(found), samples_destroyed=_samples_destroyed(found), service=_service(found),
        ledger_origin=found.head.origin, ledger_size=found.head.size, ledger_root=found.head.root,
        operator_key=found.operator_key, not_shown=tuple(_not_shown(found, bounds)))


def _counted(found: Gathered, metric: str) -> bool:
    has_answers = any(file.name.endswith(".csv") for file in found.report.files)
    counted = _OF_FLOWS if found.candidate.family == "flow" else COUNTED if found.candidate.family in _OF else ()
    return metric in counted and has_answers


def _destroyed(found: Gathered) -> tuple[str, ...]:
    return (*(f"{len(said.subjects)} {'file' if len(said.subjects) == 1 else 'files'}, {said.predicate.at}: "
              f"{said.predicate.reason}" for _, said in found.statements(DisposalPredicate)),
            *(f"the samples and their key, {said.predicate.receipt.checked_at}: {said.predicate.receipt.key}"
              for _, said in found.statements(ReceiptPredicate)))


def _samples_destroyed(found: Gathered) -> bool:
    return any(True for _ in found.statements(ReceiptPredicate))


def _service(found: Gathered) -> str:
    after = found.rooms["deploy"].entry.position
    text = f"in service since {found.release.released_at}"
    for one, said in found.statements(RollbackPredicate, WithdrawalPredicate):
        if one.entry.position < after:
            continue
        back = getattr(said.predicate, "to_sha256", None) == found.release.weights.sha256
        text = f"served again since {said.predicate.at}" if back else f"out of service since {said.predicate.at}"
    return text


def _not_shown(found: Gathered, bounds: list[Bound]) -> list[str]:
    """What this run's evidence leaves open, one line each; every line is there for a reason of this run."""
    report, lines = found.report, ["That it is forgotten. Shown is what was done, what was measured, and who agreed."]
    if found.candidate.claim == "output suppression":
        lines.append("That the weights no longer hold it: the method works on what the model puts out.")
    measured = {one.name for one in report.measurements if one.estimate is not None}
    asked = {bound.metric for bound in bounds}
    if asked.isdisjoint(WEIGHT_READING):
        looked = measured & set(WEIGHT_READING)
        what = "it was looked at, and no rule asks for it" if looked else "nothing looked at them"
        lines.append(f"Whether the weights can be made to give it back: {what}.")
    if measured.isdisjoint(("relearning_ratio", "relearning_steps")):
        lines.append("How fast it can be learned again: nobody was taught.")
    if report.reference_sha256 is None:
        lines.append("How a model behaves that never knew it: no reference was given.")
    if "membership_auc" not in measured:
        lines.append("Whether an attacker can tell what the parent was trained on: membership was not measured.")
    if report.judge_sha256 is not None and "residual_rate_corrected" not in asked:
        lines.append("What the judge overlooks: the rates are as it sees them.")
    attested = [words.title(bound.metric) for bound in bounds if bound.shown_by == "attested, not recomputed"]
    if attested:
        lines.append(f"{', '.join(attested)}: attested, a reader of the bundle cannot compute them again.")
    if report.holdout_lacks:
        lines.append(f"Anything about {len(report.holdout_lacks)} retained classes: none of their images was held out.")
    if report.stopping is not None:
        lines.append("Distances at the full number of samples: drawing stopped when rates were decided.")
    if not _samples_destroyed(found):
        lines.append("That the samples were destroyed: there is no receipt in the ledger.")
    for _, said in found.statements(ReceiptPredicate):
        unseen = (*said.predicate.receipt.not_searched, "whatever is outside of the places that were searched")
        lines.append(f"That no copy is left: nobody looked at {', at '.join(unseen)}.")
    if not list(found.statements(KeyringPredicate)):
        lines.append("Who entered the keys: the ledger says nothing of the keyring.")
    if len(found.keys_here) > 1:
        lines.append(f"That the {len(found.keys_here)} who signed are different people: their private keys lay on one "
                     "machine when this was written.")
    else:
        lines.append("That those who signed are different people: a signature shows a key, not who used it.")
    lines.append("That nobody rewrote the ledger: only a checkpoint kept out of the operator's reach can show that; "
                 "give it to verify.py.")
    lines.append("What a later request has to say of this model: only the ledger as it is then.")
    return lines


# ------------------------------------------------------------------------------------------ for whom it is read


def page(made: Certificate) -> str:
    """The certificate as one HTML page: no script, no network."""
    return _render("certificate.html.j2", made)


def summary(made: Certificate) -> str:
    """The public summary, in Markdown: names no person, no request, no reason and no run."""
    return _render("summary.md.j2", made)


def letter(made: Certificate) -> str:
    """The letter to the person who asked, in plain words."""
    return _render("letter.txt.j2", made)


CLAIMS: dict[Claim, str] = {
    "retrained": "a new model was trained without what was to go",
    "approximate removal": "the model itself was changed, so that it behaves as if it had not learned this; this is an "
                           "approximation, and its limits were measured",
    "output suppression": "the model was changed so that it no longer puts this out; that its weights hold nothing of "
                          "it any more is not claimed"}


@functools.cache
def _template(name: str) -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("expunge.evidence.bundle", "."), undefined=StrictUndefined,
                       autoescape=name.endswith(".html.j2"), trim_blocks=True, lstrip_blocks=True,
                       keep_trailing_newline=True).get_template(name)


def _render(template: str, made: Certificate) -> str:
    more: dict[str, Any] = {"claims": CLAIMS, "title": words.title, "interval": words.interval,
                            "number": words.number, "meaning": words.meaning}
    return _template(template).render(made=made, **more)
