"""What the probes of a flow look at: how likely it and its parent find the same images, and what they draw."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Evidence, Mask, Membership, Seen, called

FORGET_POINTS = 10  # of the bins of each image that is to be forgotten: its own number is asked for
POINTS = 2  # of each other image, of which only many together are spoken of


@dataclass(frozen=True)
class Likely:
    """How likely one flow finds n images, in order, each by some points of its bins."""

    model: str  # `parent`, `candidate`, `reference`: who is named where a likelihood is none
    bits: NDArray[np.float64]  # [n] bits per dimension, the mean over the points; not finite where one of them is not
    errors: NDArray[np.float64]  # [n] standard error of that mean
    points: int

    def __getitem__(self, rows: Mask | slice | NDArray[np.intp]) -> "Likely":
        return Likely(self.model, self.bits[rows], self.errors[rows], self.points)

    def __len__(self) -> int:
        return len(self.bits)


@dataclass(frozen=True)
class Compared:
    """Images of which both flows say how likely they are, at the same points."""

    labels: NDArray[np.int64]  # [n] by the judge's numbers
    before: Likely
    after: Likely

    def __getitem__(self, rows: Mask) -> "Compared":
        return Compared(self.labels[rows], self.before[rows], self.after[rows])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Ruined:
    """What controls are made of: images that the parent cannot find likely, and draws that nobody takes for good."""

    noise: Likely  # images of nothing but noise
    worn: Likely  # held-out images of the rest, a part of their pixels drawn at random
    again: Likely  # the same images as they are, at other points than those that parent and candidate were asked at
    draws: Seen | None = None  # some of the parent's draws, worn likewise


@dataclass(frozen=True)
class FlowEvidence:
    """One flow beside its parent: likelihoods of given images, and samples."""

    unwanted: tuple[int, ...]  # classes that the request is about
    single: bool  # some images of these classes are to be forgotten; the classes themselves stay
    forget: Compared  # all that are to be forgotten: nothing here speaks of others like them
    retain: Compared  # their mean and standard deviation are what the forget images are measured in
    held_out: Compared
    near: Mask  # [m] which held-out images of the rest are nearest to a forget image
    ruined: Ruined
    drawn: Evidence | None  # what both draw, and real images; its unwanted classes are those that nothing is kept of
    no_draws: str = ""  # why there are none
    names: tuple[str, ...] = ()  # of the classes, where they have any
    earlier: tuple[int, ...] = ()  # what earlier requests made the parent forget
    membership: Membership | None = None  # absent: see `not_compared`, or the request names no members
    not_compared: str = ""  # why members could not be held against others
    never: tuple[Likely, Likely] | None = None  # forget and retain images, asked of a flow that never saw the former
    no_reference: str = ""  # why a reference that was brought says nothing
    came_before: bool = False  # whether some request made the parent what it is, if only about single images
    first: Likely | None = None  # the held-out images, asked of the first model of the chain
    first_retain: Likely | None = None  # retained images, asked of the same
    no_first: str = ""  # why a first model that was brought says nothing

    @property
    def lost(self) -> tuple[int, ...]:
        """The classes of which nothing is to be kept."""
        return tuple(sorted({*(() if self.single else self.unwanted), *self.earlier}))

    @property
    def kept(self) -> Mask:
        """[m] which held-out images are of the rest: what is to stay as likely as it was."""
        return ~np.isin(self.held_out.labels, self.lost)

    @property
    def alike(self) -> Mask:
        """[m] which held-out images are of the forget images' classes."""
        return np.isin(self.held_out.labels, self.unwanted)

    def name(self, label: int) -> str:
        """What a class is called, or its number."""
        return called(self.names, label)
