"""What was measured, the rules that it is held against, and what came of that."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from expunge.contracts.artifacts import StoredFile
from expunge.contracts.records import Claim, Digest, Frozen, Identifier, Reason, Record
from expunge.contracts.requests import EarlierRequest
from expunge.contracts.sources import ClassName


class Interval(Frozen):
    """Where the true value lies, how sure, and by which method."""

    lower: float
    upper: float
    confidence: Annotated[float, Field(gt=0, lt=1)]
    method: str


class Measurement(Frozen):
    """One number of a report. Without an estimate it says why: absent is not zero."""

    name: str
    estimate: float | None = None
    interval: Interval | None = None
    n: int | None = None
    missing: str | None = None  # why there is no number
    not_applicable: bool = False  # there is none because the question has no meaning here

    @model_validator(mode="after")
    def _number_or_reason(self) -> Self:
        if (self.estimate is None) == (self.missing is None):
            raise ValueError(f"measurement {self.name!r} needs either an estimate or a reason why there is none")
        if self.not_applicable and self.missing is None:
            raise ValueError(f"measurement {self.name!r} has an estimate, so it does apply")
        return self


class Control(Frozen):
    """A candidate whose verdict is known beforehand, measured with the same ruler."""

    name: str
    must: Literal["FAIL", "not FAIL"]
    measurements: tuple[Measurement, ...]
    covers: tuple[str, ...]  # the rules that it puts to the test


class Curve(Frozen):
    """One line of a plot: how a value went while something was done to a model, step by step."""

    name: str  # of the metric
    model: str  # whose: `candidate`, `parent`, `never exposed`
    repeat: Annotated[int, Field(ge=0)]
    steps: tuple[Annotated[int, Field(ge=0)], ...]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _one_value_per_step(self) -> Self:
        if len(self.steps) != len(self.values):
            raise ValueError(f"curve {self.name!r} has {len(self.steps)} steps and {len(self.values)} values")
        return self


class Stopping(Frozen):
    """When sampling ended, of a report whose sample count was not fixed in advance."""

    planned: Annotated[int, Field(ge=1)]  # the most that would have been drawn
    drawn: Annotated[int, Field(ge=1)]
    fixed: Annotated[int, Field(ge=1)]  # of these, what was to be drawn in any case: distances use no more
    decided: str  # what ended it, in a reviewer's words
    seconds_saved: Annotated[float, Field(ge=0)]  # at the pace of what was drawn


class MadeBy(Frozen):
    """By which method a candidate was made, and what it may say of itself."""

    method: str
    preset: str
    changed: dict[str, Any]  # parameters that differ from the preset
    chosen: str | None  # why this method, where the request left the choice to us
    claim: Claim


class Report(Record):
    """What evaluation found: every number with its interval, and the files that hold the per-sample scores."""

    SCHEMA: ClassVar[str] = "expunge/report/v1"
    LEFT_OUT: ClassVar[frozenset[str]] = frozenset({"extractor", "single_images"})

    family: str = "gan"
    request_sha256: Digest
    parent_sha256: Digest
    candidate_sha256: Digest
    made_by: MadeBy | None = None  # absent in reports of version 0.1
    judge_sha256: Digest | None = None  # absent of a classifier, whose images' labels say what is right
    extractor_sha256: Digest | None = None  # whose features were compared; of no extractor but the judge if absent
    extractor: str | None = None  # its architecture; absent in earlier reports
    reference_sha256: Digest | None = None  # the model that never knew, if there was one
    origin_sha256: Digest | None = None  # the first model of the chain, if requests came before this one
    holdout_id: Digest
    members_id: Digest | None = None
    forget_id: Digest | None = None  # of real images that training could read, as the candidate names them
    retain_id: Digest | None = None
    holdout_lacks: tuple[int, ...] = ()  # retained classes of which there is something, but no real image
    latent_seed: Digest  # H(candidate digest || request digest)
    unwanted: tuple[int, ...]  # by the judge's numbers
    earlier: tuple[int, ...] = ()  # what was forgotten before, by the same numbers
    single_images: int | None = None  # how many were to go, where it was not whole classes; absent in earlier reports
    came_before: tuple[EarlierRequest, ...] = ()  # by which requests, as far as that is known; oldest first
    classes: tuple[ClassName, ...] = ()  # the judge's names, where it has any
    measurements: tuple[Measurement, ...]
    controls: tuple[Control, ...]
    shares: dict[str, tuple[float, float]]  # class -> (before, after), as fractions of all samples
    curves: tuple[Curve, ...] = ()
    stopping: Stopping | None = None  # absent: the number of samples was fixed in advance
    files: tuple[StoredFile, ...]

    def measurement(self, name: str) -> Measurement:
        """The measurement of that name."""
        for found in self.measurements:
            if found.name == name:
                return found
        raise KeyError(name)


class Rule(Frozen):
    """A limit on a metric's whole interval."""

    metric: str
    side: Literal["at most", "at least"]
    limit: float
    confidence: Annotated[float, Field(gt=0, lt=1)]
    one_sided: bool = False
    reason: str  # why this number
    families: tuple[str, ...] = ()  # of models that it is for; all of them if none is named
    breach: str | None = None  # what a model that breaks it is guilty of, where that has a name
    if_earlier: bool = False  # asked only where earlier requests made the checkpoint what it is
    about: Literal["images", "classes"] | None = None  # asked only where single images, or whole classes, are to go


class Policy(Record):
    """The rules a candidate must meet and how many people must agree."""

    SCHEMA: ClassVar[str] = "expunge/policy/v1"

    name: Identifier
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    approvals: Annotated[int, Field(ge=1)] = 1  # distinct people, the requester never counts
    valid_days: Annotated[float, Field(gt=0)] = 30.0
    deadline_days: Annotated[float, Field(gt=0)] | None = None  # that a run may await approval; for ever if it is None
    show_before: tuple[Reason, ...] = ()


Outcome = Literal["PASS", "INCONCLUSIVE", "FAIL", "INVALID"]


class RuleOutcome(Frozen):
    """How one rule came out, in words a reviewer reads."""

    rule: Rule
    outcome: Outcome
    reason: str


class Verdict(Record):
    """f(report, policy): it never changes."""

    SCHEMA: ClassVar[str] = "expunge/verdict/v1"

    outcome: Outcome
    report_sha256: Digest
    policy_sha256: Digest
    candidate_sha256: Digest
    rules: tuple[RuleOutcome, ...]
    controls: dict[str, str]  # name -> "as expected" or what went wrong
