"""What the probes look at: arrays that were gathered from the models, and nothing that could be run again."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.needed import CONFIDENCE as CONFIDENCE
from expunge.measure.proportions import Bounds, Estimate, exact_bounds
from expunge.measure.sequential import sequence_bounds

HALF = 0.5  # of the way back to the parent: there an image-to-image model counts as taught again

Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """The judge's view of n images, in order."""

    classes: NDArray[np.int64]  # [n] the judge's choice
    unwanted: NDArray[np.float32]  # [n] probability of the unwanted classes together
    confidence: NDArray[np.float32]  # [n] probability of its choice
    features: NDArray[np.float32]  # [n, d], the extractor's

    def __getitem__(self, rows: Mask | slice) -> "Seen":
        return Seen(self.classes[rows], self.unwanted[rows], self.confidence[rows], self.features[rows])


@dataclass(frozen=True)
class Search:
    """What a search of one model's latents for the unwanted came to, one entry per start."""

    at_start: Mask  # [s] the judge called the starting point's image unwanted
    found: Mask  # [s] it did so for some image on the way; the start counts
    unwanted: NDArray[np.float32]  # [s] the most that it gave the unwanted on the way, a probability


@dataclass(frozen=True)
class Relearning:
    """One model being taught the unwanted again: how often it drew it after how many steps."""

    model: str  # `candidate`, `parent` or `never exposed`
    repeat: int  # which samples it was taught from; the same for every model
    steps: tuple[int, ...]
    hits: tuple[int, ...]  # unwanted samples among `n` drawn after that many steps
    n: int
    wanted_hits: float  # that count as having it back: half of the parent's

    @property
    def reached(self) -> int | None:
        """The first step at which it had it back; None: not within the steps allowed."""
        return next((step for step, hits in zip(self.steps, self.hits, strict=True) if hits >= self.wanted_hits), None)


@dataclass(frozen=True)
class Relearned:
    """One model being taught to complete what is to be forgotten: its loss after how many steps."""

    model: str  # `candidate`, `parent` or `never exposed`
    repeat: int  # which images it was taught from; the same for every model
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    start: float  # the loss from which the way back is counted: that of the nearer of the two before any lesson
    goal: float  # the parent's

    @property
    def way_back(self) -> tuple[float, ...]:
        """How much of the way from the start to the parent it went: 1 is all of it, and negative is further off.

        A loss that is no number is no way at all. Where the start is at the parent's already, there is no way to go.
        """
        whole = self.start - self.goal
        return tuple((1.0 if loss <= self.goal else 0.0) if not whole > 0 else
                     (self.start - loss) / whole if math.isfinite(loss) else 0.0 for loss in self.losses)

    @property
    def reached(self) -> int | None:
        """The first step at which it was half of the way back; None: not within the steps allowed."""
        return next((step for step, went in zip(self.steps, self.way_back, strict=True) if went >= HALF), None)


Taught = TypeVar("Taught", Relearning, Relearned)


@dataclass(frozen=True)
class Real:
    """Real images with labels that were given with them, as the judge sees them."""

    seen: Seen
    labels: NDArray[np.int64]  # [m] in the judge's numbering

    def __getitem__(self, rows: Mask) -> "Real":
        return Real(self.seen[rows], self.labels[rows])

    def hits(self, unwanted: tuple[int, ...]) -> Mask:
        """[m] which of them the judge calls unwanted."""
        return np.isin(self.seen.classes, unwanted)

    def of(self, classes: tuple[int, ...], *, otherwise: bool = False) -> "Real":
        """The images of these classes, or of all others."""
        return self[np.isin(self.labels, classes) != otherwise]


@dataclass(frozen=True)
class Membership:
    """How strongly an attack takes images of the unwanted classes for ones that a model was trained on."""

    members: NDArray[np.float64]  # [m] scores of images that it was trained on; higher is more like one
    others: NDArray[np.float64]  # [k] of images of the same classes that it never saw


@dataclass(frozen=True)
class Evidence:
    """One generator beside its parent, on the same latents, and real images."""

    unwanted: tuple[int, ...]  # by this request
    classes: int  # that the judge knows
    before: Seen
    after: Seen
    real: Real  # held out
    fixed: int | None = None  # how many latents were to be drawn in any case, if drawing stopped by what was seen
    names: tuple[str, ...] = ()  # of the classes, where they have any
    membership: Membership | None = None  # absent: see `not_compared`, or the request names no members
    not_compared: str = ""  # why members could not be held against others
    reference: Seen | None = None  # samples of a model that never knew
    search: Search | None = None
    search_before: Search | None = None
    relearnings: tuple[Relearning, ...] = ()
    not_taught: str = ""  # why some of these, or all, are not there
    earlier: tuple[int, ...] = ()  # what earlier requests made the parent forget
    origin: Seen | None = None  # what the first model of the chain draws, on the first of the same latents

    def name(self, label: int) -> str:
        """What a class is called, or its number."""
        return called(self.names, label)

    def taught(self, model: str) -> list[Relearning]:
        """How one model was taught, lesson by lesson."""
        return lessons_of(self.relearnings, model)

    @property
    def bounds(self) -> Bounds:
        """How rates are bounded: exactly for a count fixed in advance, at any time for one that was not."""
        if self.fixed is None:
            return exact_bounds
        return sequence_bounds

    @property
    def retained(self) -> tuple[int, ...]:
        """The classes nobody asked to forget, now or before."""
        return tuple(label for label in range(self.classes) if label not in self.lost)

    @property
    def lost(self) -> tuple[int, ...]:
        """The classes that somebody asked to forget, now or before."""
        return tuple(sorted({*self.unwanted, *self.earlier}))

    @property
    def hits_before(self) -> Mask:
        """[n] which of the parent's samples the judge calls unwanted."""
        return np.isin(self.before.classes, self.unwanted)

    @property
    def hits_after(self) -> Mask:
        """[n] which of the candidate's samples the judge calls unwanted."""
        return np.isin(self.after.classes, self.unwanted)

    def kept(self, seen: Seen) -> Mask:
        """[n] which samples the judge gives to a retained class."""
        return ~np.isin(seen.classes, self.lost)

    @property
    def real_retained(self) -> Real:
        """The held-out images of retained classes, by their labels."""
        return self.real.of(self.lost, otherwise=True)

    @property
    def of_fixed_size(self) -> "Evidence":
        """The same, of the latents that were to be drawn in any case: what distances may use."""
        if self.fixed is None:
            return self
        first = slice(self.fixed)
        return replace(self, before=self.before[first], after=self.after[first], fixed=None)


@dataclass(frozen=True)
class Answers:
    """What one classifier answers to n images whose classes are known, in order."""

    model: str  # `parent`, `candidate`, `reference`: who is named where an answer is none
    labels: NDArray[np.int64]  # [n] what is right
    classes: NDArray[np.int64]  # [n] its choice; -1 where its outputs are no numbers
    retained: NDArray[np.int64]  # [n] its choice with the unwanted classes' outputs struck out; -1 likewise
    losses: NDArray[np.float64]  # [n] cross-entropy of the right class, nats; NaN where `classes` is -1
    features: NDArray[np.float32]  # [n, d] what its last layer sees

    def __getitem__(self, rows: Mask | NDArray[np.intp]) -> "Answers":
        return Answers(self.model, self.labels[rows], self.classes[rows], self.retained[rows], self.losses[rows],
                       self.features[rows])

    def of(self, classes: tuple[int, ...], *, otherwise: bool = False) -> "Answers":
        """Those to images of these classes, or of all others."""
        return self[np.isin(self.labels, classes) != otherwise]

    @property
    def right(self) -> Mask:
        """[n] which of them are right.

        Raises:
            BadInput: there are none, or some are no answers, which are neither right nor wrong.
        """
        if not len(self.labels):
            raise BadInput("holdout: it has no such image", "hold out some of every class that is asked about")
        silent = int((self.classes < 0).sum())
        if silent:
            raise BadInput(f"{self.model}: for {silent} of {len(self.classes)} images it puts out NaN or infinity",
                           "check its weights")
        return np.asarray(self.classes == self.labels)


@dataclass(frozen=True)
class ClassifierEvidence:
    """One classifier beside its parent, on the same held-out images."""

    unwanted: tuple[int, ...]
    before: Answers
    after: Answers
    names: tuple[str, ...] = ()  # of the classes, where they have any
    membership: Membership | None = None  # absent: see `not_compared`, or the request names no members
    not_compared: str = ""  # why members could not be held against others
    reference: Answers | None = None  # of a classifier that never saw the unwanted
    reference_membership: Membership | None = None  # the same images, asked of the reference
    no_reference: str = ""  # why a reference that was brought has no answers
    earlier: tuple[int, ...] = ()  # what earlier requests made the parent forget
    relearnings: tuple[Relearning, ...] = ()
    not_taught: str = ""  # why some of these, or all, are not there
    origin: Answers | None = None  # of the first model of the chain
    grafted: NDArray[np.int64] | None = None  # [n] what the parent's last layer makes of the candidate's features

    @property
    def lost(self) -> tuple[int, ...]:
        """The classes that somebody asked to forget, now or before."""
        return tuple(sorted({*self.unwanted, *self.earlier}))

    def taught(self, model: str) -> list[Relearning]:
        """How one model was taught, lesson by lesson."""
        return lessons_of(self.relearnings, model)

    def name(self, label: int) -> str:
        """What a class is called, or its number."""
        return called(self.names, label)


def lessons_of(relearnings: tuple[Taught, ...], model: str) -> list[Taught]:
    """How one model was taught, lesson by lesson."""
    return sorted((one for one in relearnings if one.model == model), key=lambda one: one.repeat)


def as_if_unchanged(relearnings: tuple[Taught, ...]) -> tuple[Taught, ...]:
    """The same lessons with the parent in the candidate's place."""
    return tuple(replace(found, model={"parent": "candidate"}.get(found.model, found.model))
                 for found in relearnings if found.model != "candidate")


def called(names: tuple[str, ...], label: int) -> str:
    """What a class is called, or its number where classes have no names."""
    return names[label] if names else str(label)


def every_other(labels: NDArray[np.int64]) -> Mask:
    """[n] the first, third, fifth ... of each class."""
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[::2]] = True
    return chosen


Probe = Callable[[Evidence], Iterator[Measurement]]
ClassifierProbe = Callable[[ClassifierEvidence], Iterator[Measurement]]
Measured = Estimate | float


def attempt(
    names: tuple[str, ...], measure: Callable[[], tuple[Measured, ...]], n: int
) -> Iterator[Measurement]:
    """Names what `measure` finds, in order. If it cannot be measured every name keeps the reason instead."""
    try:
        values = measure()
    except BadInput as error:
        yield from (Measurement(name=name, missing=str(error)) for name in names)
        return
    for name, value in zip(names, values, strict=True):
        if isinstance(value, Estimate):
            yield Measurement(name=name, estimate=value.value, interval=value.interval, n=value.n)
        else:
            yield Measurement(name=name, estimate=value, n=n)


def not_applicable(names: tuple[str, ...], reason: str) -> Iterator[Measurement]:
    """Says of every name that the question has no meaning here, and why."""
    yield from (Measurement(name=name, missing=reason, not_applicable=True) for name in names)


def absent(names: tuple[str, ...], reason: str) -> Iterator[Measurement]:
    """Says of every name why there is no number."""
    yield from (Measurement(name=name, missing=reason) for name in names)
