"""What a run would do, said beforehand. Nothing is written, drawn or trained; what is not known is null.

Times come from earlier runs of this workspace and name the run that they were measured in. Results that would
be reused are found by what their statements say they were made from; whether their bytes still are what was
signed is seen when the run comes to them.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from components.evaluate.evidence import CONFIDENCE
from components.evaluate.pictures import may_show_before
from components.evaluate.probes.can_it_be_found import NOT_SEARCHED
from components.evaluate.probes.does_it_stay_forgotten import NO_ORIGIN
from expunge.contracts import Checkpoint, Claim, Family, Frozen, Hidden, Policy, Request, read_record
from expunge.custody import receipts
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, ExpungeError
from expunge.evidence.coherence import read_policy
from expunge.evidence.decisions import same_person
from expunge.evidence.keys import Keyring
from expunge.measure.medians import fewest
from expunge.measure.needed import RATE, SEARCH, Drawing, RuleNeeds, needs
from expunge.measure.policy import rules_for
from expunge.room import code_digest
from expunge.runs import UNFINISHED, Run
from expunge.settings import Workspace, image_digest
from expunge.stores import sources
from pipelines.results import TRAINING, outputs, recipe, statements, tree

HELD_OUT = "held-out images"
REMEMBERED = ("fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate")  # rooms that reuse results


class RoomPlan(Frozen):
    """What one room would do, and how long that took before."""

    room: str
    does: str
    reuses: str | None = None  # the result's folder, relative to the workspace
    seconds: float | None = None  # expected; null: not known
    measured_in: str | None = None  # the run that the time is from
    scaled: str | None = None  # by which counts


class MethodPlan(Frozen):
    """By which means, and why by these."""

    name: str
    preset: str
    changed: dict[str, Any]  # parameters that differ from the preset
    family: str
    claim: Claim
    paper: str
    why: str
    may_read: str  # what training is let see


class SamplesPlan(Frozen):
    """What the policy's rules need, against what the request draws."""

    planned: int
    of: str  # what these are
    unwanted_share: float | None  # of the parent's samples, where an earlier run has measured it
    measured_in: str | None
    rules: tuple[RuleNeeds, ...]
    can_pass: bool | None  # null: depends on what is measured
    at_least: int | None  # sampling.evaluate that could pass, where this request's cannot


class Plan(Frozen):
    """What `expunge run` would do with a request."""

    request_id: str
    request_sha256: str  # of the pinned request
    requester: str
    reason: str
    would: str  # start, continue or nothing
    run: str  # the run that it would start or continue, or that has decided it
    attempts: int  # earlier runs of this request
    verdicts: int  # of them, how many came to a verdict: each was a chance to pass by luck
    forget: tuple[int | str, ...]
    images: tuple[int, ...]  # only these of training, by their numbers; all of the classes if none
    earlier: tuple[int | str, ...]  # what earlier requests made the parent forget, and has to stay forgotten
    earlier_images: tuple[int, ...]  # single images of training of which the same is so
    parent: str
    parent_sha256: str
    architecture: str | None
    method: MethodPlan
    rooms: tuple[RoomPlan, ...]
    samples: SamplesPlan
    seconds: float | None  # in all; null if the time of any room is not known
    due: date | None
    in_time: bool | None  # whether the run can be through by then; null: no due date, or no known time
    policy: str
    approvals: int
    reviewers: tuple[str, ...]  # who may sign: everybody with a reviewer's key but the requester
    not_shown: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _FetchesElsewhere(Workspace):
    """A workspace in which what is fetched goes to another folder."""

    elsewhere: Path

    @property
    def sources(self) -> Path:
        """What was fetched before, by links, and what is fetched now."""
        return self.elsewhere


@contextmanager
def untouched(workspace: Workspace) -> Iterator[Workspace]:
    """The workspace for reading: a source that has to be fetched to be known goes to a folder that vanishes."""
    with tempfile.TemporaryDirectory(prefix="expunge-plan-") as folder:
        for kept in workspace.sources.glob("[!.]*"):
            Path(folder, kept.name).symlink_to(kept, target_is_directory=True)
        yield _FetchesElsewhere(workspace.root, Path(folder))


def plan(workspace: Workspace, request: Request, named: Request, again: bool = False,
         now: datetime | None = None) -> Plan:
    """What a pinned request would come to here. `named` is the request as its file says it.

    Raises:
        BadInput: as the run would: an unknown method, preset, parameter or policy.
        Refused: the request was disposed of.
    """
    moment = now or datetime.now(UTC)
    policy = read_policy(Run.policy_for(workspace, request))
    method = _method(request, named)
    attempts = [run for run in Run.all(workspace) if run.state().request_id == request.id]
    would, name = _what_happens(attempts, request, again)
    if would != "nothing":
        receipts.refuse_disposed(workspace, request.id)
    earlier = _Earlier(workspace, request)
    rooms = tuple(_rooms(workspace, request, earlier))
    times = [room.seconds for room in rooms]
    seconds = None if None in times else round(sum(time or 0.0 for time in times) + earlier.overhead, 1)
    samples = _samples(workspace, request, policy, earlier)
    reviewers = tuple(sorted({
        entry.person for entry in Keyring.load(workspace).holders("reviewer")
        if not same_person(entry.person, request.requester)}))
    in_time = None if request.due is None or seconds is None else (
        (moment + timedelta(seconds=seconds)).date() <= request.due)
    return Plan(
        request_id=request.id, request_sha256=sha256_bytes(request.to_bytes()), requester=request.requester,
        reason=request.reason, would=would, run=name, attempts=len(attempts),
        verdicts=sum(run.state().came_to_a_verdict for run in attempts), forget=request.forget.classes,
        images=request.forget.images, earlier=request.forget.earlier,
        earlier_images=request.forget.earlier_images, parent=request.checkpoint.uri,
        parent_sha256=request.checkpoint.sha256 or "", architecture=earlier.architecture,
        method=method, rooms=rooms, samples=samples, seconds=seconds, due=request.due,
        in_time=in_time, policy=policy.name, approvals=policy.approvals, reviewers=reviewers,
        not_shown=tuple(_not_shown(request, policy, method)),
        warnings=tuple(_warnings(request, policy, reviewers, samples, in_time, moment)))


def _method(request: Request, named: Request) -> MethodPlan:
    from expunge.methods import choosing

    choice, family = request.method, request.family
    method = choosing.suited(request, family)
    if choice.chosen is not None:
        why = f"chosen by auto, {choice.chosen}"
    elif "method" in named.model_fields_set and "name" in named.method.model_fields_set:
        why = "the request names it"
    else:
        why = "the default"
    return MethodPlan(name=method.name, preset=choice.preset, changed=choice.params, family=family,
                      claim=method.claim, paper=method.paper, why=why, may_read=choosing.may_read(request))


def _what_happens(attempts: list[Run], request: Request, again: bool) -> tuple[str, str]:
    """What the supervisor would make of it, and the name of the run."""
    latest = attempts[-1] if attempts else None
    if latest is not None and not again and latest.request_file.read_bytes() == request.to_bytes():
        return ("continue" if latest.state().state in UNFINISHED else "nothing"), latest.name
    return "start", f"{request.id}.{max((run.number for run in attempts), default=0) + 1}"


# ------------------------------------------------------------------------------- rooms, reuse and times


class _Earlier:
    """What earlier runs of this workspace say about a request like this one."""

    def __init__(self, workspace: Workspace, request: Request) -> None:
        self.request = request
        self.runs = [run for run in reversed(Run.all(workspace)) if run.request_file.is_file()]  # newest first
        self.requests = {run.name: run.request() for run in self.runs}
        self.architecture = request.checkpoint.architecture or next(
            (found.architecture for run in self.runs if (found := self._parent(run)) is not None
             and self.requests[run.name].checkpoint.sha256 == request.checkpoint.sha256), None)

    def time_of(self, room: str) -> tuple[float, str, str | None] | None:
        """Expected seconds of a room, the run they are from, and how they were scaled; None if there is no such run."""
        for run in self.runs:
            done = run.state().rooms.get(room)
            if done is None or not self._alike(run, room):
                continue
            scales = _FAMILIES[self.request.family].scales
            if room not in scales:
                return done.seconds, run.name, None
            name = scales[room]
            was, is_now = (getattr(found.sampling, name) for found in (self.requests[run.name], self.request))
            scaled = None if was == is_now else f"sampling.{name} {was:,} → {is_now:,}"
            return done.seconds * is_now / was, run.name, scaled
        return None

    @property
    def overhead(self) -> float:
        """Seconds of the newest decided run that were nobody's work: starting steps, mostly; 0 if there is none."""
        for run in self.runs:
            state = run.state()
            if state.came_to_a_verdict:
                return max(0.0, state.seconds - sum(done.seconds for done in state.rooms.values() if not done.reused))
        return 0.0

    def share(self) -> tuple[float, str] | None:
        """How much of what this parent draws this judge called unwanted, and in which run."""
        for run in self.runs:
            asked = self.requests[run.name]
            same = (asked.checkpoint.sha256 == self.request.checkpoint.sha256
                    and _judge(asked) == _judge(self.request) and asked.forget == self.request.forget)
            if same and "evaluate" in run.state().rooms:
                try:
                    found = run.report().measurement("residual_rate_before").estimate
                except (KeyError, ExpungeError):
                    continue
                if found is not None:
                    return found, run.name
        return None

    def _alike(self, run: Run, room: str) -> bool:
        """Whether a room's time there says something about its time here."""
        asked, parent = self.requests[run.name], self._parent(run)
        if parent is None or self.architecture is None:
            return False
        same_model = asked.checkpoint.sha256 == self.request.checkpoint.sha256 or (
            parent.architecture == self.architecture and parent.config == self.request.checkpoint.config)
        same_work = room not in TRAINING or asked.method == self.request.method
        return same_model and same_work and asked.threads == self.request.threads

    def _parent(self, run: Run) -> Checkpoint | None:
        if "fetch_checkpoint" not in run.state().rooms:
            return None
        try:
            return read_record(Checkpoint, run.output("fetch_checkpoint", "checkpoint"))
        except BadInput:
            return None  # tampered with or gone: `audit verify` names it, a plan does without


def _judge(request: Request) -> str | None:
    return request.judge.sha256 if request.judge else None


def _rooms(workspace: Workspace, request: Request, earlier: _Earlier) -> Iterator[RoomPlan]:
    reused = _reusable(workspace, request, Run.policy_for(workspace, request))
    work = _FAMILIES[request.family].work(request) | {"gate": f"the verdict by the policy '{request.policy}'"}
    for room in (*REMEMBERED, "gate"):
        does = work[room]
        if room in reused:
            yield RoomPlan(room=room, does=does, reuses=reused[room], seconds=0.0)
            continue
        found = earlier.time_of(room)
        if found is None:
            yield RoomPlan(room=room, does=does)
        else:
            seconds, run, scaled = found
            yield RoomPlan(room=room, does=does, seconds=round(seconds, 1), measured_in=run, scaled=scaled)


def _of_generator(request: Request) -> dict[str, str]:
    finds = "a person's labels say" if request.labels else "the oracle says"
    real = "; sorts the training images by their labels" if request.training else ""
    return {
        "fetch_checkpoint": "the parent, the oracle and the judge, against their pinned digests",
        "curate_forget_set": f"draws {request.sampling.curate:,} samples; {finds} what is unwanted{real}",
        "adapt": f"first stage of {request.method.name}, on the unwanted",
        "unlearn": "second stage, on the wanted",
        "evaluate": f"parent and candidate on the same {request.sampling.evaluate:,} latents",
    }


def _of_classifier(request: Request) -> dict[str, str]:
    return {
        "fetch_checkpoint": "the parent, against its pinned digest",
        "curate_forget_set": "sorts the training images by their labels",
        "adapt": f"first stage of {request.method.name}, on what is to be lost",
        "unlearn": "second stage, on what is to be lost and to stay",
        "evaluate": "parent and candidate on the same held-out images",
    }


def _of_flow(request: Request) -> dict[str, str]:
    return _of_given_images(request) | {
        "adapt": f"first stage of {request.method.name}, on what is to stay",
        "evaluate": "how likely parent and candidate find the same images; each draws "
                    f"{request.sampling.evaluate:,} samples",
    }


def _of_image_to_image(request: Request) -> dict[str, str]:
    hidden = request.checkpoint.hidden or Hidden()
    return _of_given_images(request) | {
        "adapt": f"first stage of {request.method.name}: what the parent's encoder finds",
        "evaluate": f"parent and candidate complete up to {request.sampling.evaluate:,} images of each set, "
                    f"{hidden.ratio:.0%} of each hidden ({hidden.mask})",
    }


def _of_given_images(request: Request) -> dict[str, str]:
    count = len(set(request.forget.images))
    takes = (f"takes {'1 image' if count == 1 else f'{count} images'} of training to forget, and keeps the others"
             if count else "sorts the training images by their labels")
    return {
        "fetch_checkpoint": "the parent and the judge, against their pinned digests",
        "curate_forget_set": takes + ("; images of proxy stand in for what is to stay" if request.proxy else ""),
        "unlearn": "second stage, on what is to be lost and to stay",
    }


@dataclass(frozen=True)
class _Family:
    """What a plan says of models of one family.

    Attributes:
        work: what each room up to the gate does, in words with a request's numbers.
        judged_on: what the candidate is judged on, so many of.
        measured: what is measured of it, after "what".
        scales: the rooms whose time goes with a number of `sampling`, and which.
        draws: whether there are pictures of what it draws.
    """

    work: Callable[[Request], dict[str, str]]
    judged_on: str
    measured: str
    scales: Mapping[str, str]
    draws: bool = True


_FAMILIES: dict[Family, _Family] = {
    "gan": _Family(_of_generator, "latents", "the model draws",
                   {"curate_forget_set": "curate", "evaluate": "evaluate"}),
    # How many images there are is not the request's to say.
    "classifier": _Family(_of_classifier, HELD_OUT, "the model answers", {}, draws=False),
    "image_to_image": _Family(_of_image_to_image, "completions of each model", "the model completes",
                              {"evaluate": "evaluate"}),
    "flow": _Family(_of_flow, "draws of each flow", "the model finds likely", {"evaluate": "evaluate"}),
}


def _reusable(workspace: Workspace, request: Request, policy: Path) -> dict[str, str]:
    """Results that this request would be served with, by room.

    A result fits if it was made from nothing but this request, its policy and outputs of results that fit, with
    the same parameters, code and image, and its files are there.
    """
    given = {"request.json": sha256_bytes(request.to_bytes()), "policy.yaml": sha256_file(policy)}
    known = {tree({name: digest}) for name, digest in given.items()}
    asked = recipe(request)
    found: dict[str, str] = {}
    signed = list(statements(workspace))
    for room in REMEMBERED:
        for folder, statement in signed:
            said = statement.predicate
            if (said.room == room and set(said.inputs.values()) <= known and said.image == image_digest()
                    and said.params == (asked if room in TRAINING else {})
                    and said.code_sha256 == code_digest(f"components.{room}.step", said.params)
                    and all((workspace.root / name).is_file() for name in statement.subjects)):
                found[room] = folder
                known |= outputs(statement, folder)
                break
        else:
            return found
    return found


# ----------------------------------------------------------------------- numbers, limits and warnings


def _to_be_asked(workspace: Workspace, request: Request) -> int:
    """On how many samples, or held-out images, the candidate will be judged."""
    if _FAMILIES[request.family].judged_on == HELD_OUT:
        return len(sources.images("holdout", request.holdout, workspace).table)
    return request.sampling.evaluate


def _samples(workspace: Workspace, request: Request, policy: Policy, earlier: _Earlier) -> SamplesPlan:
    measured = earlier.share()
    planned, share = _to_be_asked(workspace, request), measured[0] if measured else None
    rules = needs(policy, Drawing(planned, CONFIDENCE, share, request.sampling.search or None,
                                  request.sampling.sequential, _cannot_have(request), bool(request.forget.earlier),
                                  bool(request.forget.images)),
                  request.family)
    impossible = [rule for rule in rules if rule.can_pass is False]
    hopeless = any(rule.samples is None or rule.metric == SEARCH for rule in impossible)  # starts are another number
    enough = None if hopeless else max(
        (rule.samples or 0 for rule in impossible), default=None)
    can_pass = False if impossible else None if any(rule.can_pass is None for rule in rules) else True
    return SamplesPlan(planned=planned, of=_FAMILIES[request.family].judged_on, unwanted_share=share,
                       measured_in=measured[1] if measured else None, rules=rules, can_pass=can_pass, at_least=enough)


def _cannot_have(request: Request) -> dict[str, str]:
    """Metrics that a run of this request has no number for, and why."""
    missing = {}
    if request.members is None:
        missing["membership_auc"] = "the request names no members"
    own_stranger = request.family == "image_to_image"  # an encoder that was never trained stands beside it
    if request.reference is None:
        of_it = ("reference_difference", "reference_p_value", *(() if own_stranger else ("relearning_ratio",)))
        missing |= dict.fromkeys(of_it, "the request names no reference, a model retrained without the forget data")
    if (request.reference is not None or own_stranger) and (lessons := request.sampling.lessons) < fewest(CONFIDENCE):
        missing["relearning_ratio"] = f"sampling.lessons is {lessons}, an interval needs {fewest(CONFIDENCE)}"
    if not request.sampling.search:
        missing |= dict.fromkeys(("search_rate", "search_ratio"), NOT_SEARCHED)
    if request.origin is None:
        missing |= dict.fromkeys((
            "drift", "retained_accuracy_drift", "bits_per_dim_drift", "hidden_error_drift"), NO_ORIGIN)
    return missing


def _not_shown(request: Request, policy: Policy, method: MethodPlan) -> Iterator[str]:
    family = _FAMILIES[request.family]
    if not family.draws:
        pass  # nothing could be shown
    elif request.show_before is False:
        yield "what the parent drew: the request forbids it (show_before)"
    elif not may_show_before(request.reason, request.show_before):
        yield f"what the parent drew: the reason is {request.reason}"
    elif request.reason not in policy.show_before:
        yield f"what the parent drew: the policy '{policy.name}' does not allow it for {request.reason}"
    yield {"output suppression": "that the weights no longer hold it: the claim is output suppression, what is "
                                 f"measured is what {family.measured}",
           "approximate removal": "that the model is as if it had never seen it: the claim is approximate removal",
           "retrained": "anything beyond what was left out when it was trained anew"}[method.claim]
    if request.reference is None:
        yield "that it is nearer to a model trained without it: there is no reference, so no relative test"
    if request.family == "gan" and request.discriminator is None and request.checkpoint.architecture is not None:
        yield ("what the parent's own discriminator knew, unless the checkpoint holds it: "
               "a generator alone gets a fresh one, warmed up first")


def _warnings(request: Request, policy: Policy, reviewers: tuple[str, ...], samples: SamplesPlan,
              in_time: bool | None, now: datetime) -> Iterator[str]:
    if samples.can_pass is False:
        remedy = f": set sampling.evaluate to {samples.at_least:,} or more" if samples.at_least else (
            f": no number of {samples.of} would change that, the policy's rules must be met otherwise")
        yield f"with {samples.planned:,} {samples.of} this request cannot pass '{policy.name}'{remedy}"
    rules = rules_for(policy, request.family)
    allowed = next((rule.limit for rule in rules if rule.metric == RATE), None)
    if samples.unwanted_share is not None and allowed is not None and samples.unwanted_share <= allowed:
        yield (f"the parent drew it on {samples.unwanted_share:.2%} in {samples.measured_in}, '{policy.name}' allows "
               f"{allowed:.2%}: the run may find that there is nothing to do")
    if len(reviewers) < policy.approvals:
        yield (f"{policy.approvals} must sign and {len(reviewers)} could: make a key with "
               "'expunge keys new NAME --role reviewer'")
    if request.due is not None and request.due < now.date():
        yield f"it was due on {request.due}, {_days((now.date() - request.due).days)} ago"
    elif in_time is False:
        yield f"it is due on {request.due}, and the run alone would take longer"


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"
