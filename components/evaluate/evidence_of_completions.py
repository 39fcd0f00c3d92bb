"""What the probes of an image-to-image model look at: completions of given images, and how near they came."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Mask, Membership, Real, Relearned, Seen, called, every_other, lessons_of
from expunge.errors import BadInput


@dataclass(frozen=True)
class Completed:
    """Images whose hidden part one model drew, or something else did, as the judge sees them."""

    model: str  # `parent`, `candidate`, `reference`, `origin`, or `noise`, `image` itself: who is named in a complaint
    classes: NDArray[np.int64]  # [n] the judge's choice; -1 where a completion is no numbers
    probabilities: NDArray[np.float32]  # [n, K] that the judge gives; NaN likewise
    features: NDArray[np.float32]  # [n, d], the extractor's; NaN likewise
    errors: NDArray[np.float64]  # [n] mean squared error of the hidden part, pixels being from -1 to 1; NaN likewise
    # [n] half the mean squared difference between this image's hidden part and the next one's, where both hide the
    # same pixels, of the first, third, fifth ... image: their mean is the variance from image to image. NaN elsewhere.
    spreads: NDArray[np.float64]

    def __getitem__(self, rows: Mask | slice) -> "Completed":
        return Completed(self.model, self.classes[rows], self.probabilities[rows], self.features[rows],
                         self.errors[rows], self.spreads[rows])

    def __len__(self) -> int:
        return len(self.classes)

    def refuse_spoiled(self) -> None:
        """BadInput, by the model's name, where completions are no numbers."""
        spoiled = int((self.classes < 0).sum())
        if spoiled:
            raise BadInput(f"{self.model}: {spoiled} of {len(self)} of its completions hold NaN or infinity",
                           "check its weights")

    def right(self, labels: NDArray[np.int64]) -> Mask:
        """[n] which the judge recognises as what they are.

        Raises:
            BadInput: there are none, or some are no numbers, which are neither right nor wrong.
        """
        if not len(self):
            raise BadInput("holdout: it has no such image", "hold out some of every class that is asked about")
        self.refuse_spoiled()
        return np.asarray(self.classes == labels)

    def missed(self) -> NDArray[np.float64]:
        """[n] the errors. BadInput where there is none, or some are no numbers."""
        if not len(self):
            raise BadInput("holdout: it has no such image", "hold out some of every class that is asked about")
        self.refuse_spoiled()
        return self.errors

    def as_real(self, labels: NDArray[np.int64]) -> Real:
        """What is compared with, where these are the images themselves."""
        return Real(Seen(self.classes, np.zeros(len(self), np.float32), self.probabilities.max(axis=1), self.features),
                    labels)


@dataclass(frozen=True)
class Completions:
    """The same images, their hidden part filled in several ways: behind the same masks, by the same chance."""

    numbers: NDArray[np.intp]  # [n] of each image, in its set; there again where it was asked about again
    labels: NDArray[np.int64]  # [n] by the judge's numbers
    image: Completed  # the images as they are
    shown: Completed  # what is shown of them, the hole filled with noise
    before: Completed
    after: Completed
    more: Mapping[str, Completed] = field(default_factory=dict)  # of `reference` and `origin`, where they are named

    def __getitem__(self, rows: Mask | slice) -> "Completions":
        more = {name: found[rows] for name, found in self.more.items()}
        return Completions(self.numbers[rows], self.labels[rows], self.image[rows], self.shown[rows],
                           self.before[rows], self.after[rows], more)

    def __len__(self) -> int:
        return len(self.labels)

    def with_candidate(self, other: Completed) -> "Completions":
        """The same with something else in the candidate's place."""
        return replace(self, after=other)

    @property
    def halves(self) -> tuple[Mask, Mask]:
        """Every other image of each class, and the others.

        Completions of the ones are held against the others as they are: a completion is near to its own image for
        what it was shown of it, whoever drew the rest.
        """
        first = every_other(self.labels)
        return first, ~first


@dataclass(frozen=True)
class CompletionEvidence:
    """One image-to-image model beside its parent."""

    unwanted: tuple[int, ...]  # classes that the request is about
    single: bool  # some images of these classes are to be forgotten; the classes themselves stay
    classes: int  # that the judge knows
    forget: Completions  # of what is to be forgotten; single images many times, each time by other chance
    alike: Completions  # of held-out images of these classes
    rest: Completions  # of held-out images of what is to stay
    before: Completions  # of held-out images of what earlier requests were about
    noise_again: Completed  # the images to forget, the hole filled with other noise
    parent_again: Completed  # the first images of the rest, completed by the parent behind other masks, by other chance
    names: tuple[str, ...] = ()  # of the classes, where they have any
    earlier: tuple[int, ...] = ()  # what earlier requests made the parent forget
    membership: Membership | None = None  # absent: see `not_compared`, or the request names no members
    not_compared: str = ""  # why members could not be held against others
    relearnings: tuple[Relearned, ...] = ()
    not_taught: str = ""  # why these are not there
    absent: Mapping[str, str] = field(default_factory=dict)  # why `reference` or `origin` completed nothing

    @property
    def lost(self) -> tuple[int, ...]:
        """The classes of which nothing is to be kept."""
        return tuple(sorted({*(() if self.single else self.unwanted), *self.earlier}))

    def taught(self, model: str) -> list[Relearned]:
        """How one model was taught, lesson by lesson."""
        return lessons_of(self.relearnings, model)

    def name(self, label: int) -> str:
        """What a class is called, or its number."""
        return called(self.names, label)
