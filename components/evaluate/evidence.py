"""What the probes look at: the judge's view of the parent's, the candidate's and the real images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.proportions import Estimate

CONFIDENCE = 0.95  # two-sided; a policy may ask for less, never for more


@dataclass(frozen=True)
class Seen:
    """The judge's view of n images, in order."""

    classes: NDArray[np.int64]  # [n] the judge's choice
    unwanted: NDArray[np.float32]  # [n] probability of the unwanted classes together
    confidence: NDArray[np.float32]  # [n] probability of its choice
    features: NDArray[np.float32]  # [n, d]

    def __getitem__(self, rows: NDArray[np.bool_]) -> "Seen":
        return Seen(self.classes[rows], self.unwanted[rows], self.confidence[rows], self.features[rows])


@dataclass(frozen=True)
class Evidence:
    """One candidate beside its parent, on the same latents, and the real held-out images."""

    unwanted: tuple[int, ...]
    classes: int  # that the judge knows
    before: Seen
    after: Seen
    real: Seen
    real_labels: NDArray[np.int64]  # [m] given with the images, not the judge's
    names: tuple[str, ...] = ()  # of the classes, where they have any

    def name(self, label: int) -> str:
        """What a class is called, or its number."""
        return self.names[label] if self.names else str(label)

    @property
    def retained(self) -> tuple[int, ...]:
        """The classes nobody asked to forget."""
        return tuple(label for label in range(self.classes) if label not in self.unwanted)

    @property
    def hits_before(self) -> NDArray[np.bool_]:
        """[n] which of the parent's samples the judge calls unwanted."""
        return np.isin(self.before.classes, self.unwanted)

    @property
    def hits_after(self) -> NDArray[np.bool_]:
        """[n] which of the candidate's samples the judge calls unwanted."""
        return np.isin(self.after.classes, self.unwanted)

    @property
    def real_retained(self) -> Seen:
        """The real images of retained classes, by their labels."""
        return self.real[~np.isin(self.real_labels, self.unwanted)]

    @property
    def real_retained_labels(self) -> NDArray[np.int64]:
        """The labels of `real_retained`."""
        return self.real_labels[~np.isin(self.real_labels, self.unwanted)]


Probe = Callable[[Evidence], Iterator[Measurement]]
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
