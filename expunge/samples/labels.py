"""Class numbers of different origin: a folder of images, an oracle and a judge need not number alike."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.errors import BadInput

UNKNOWN = -1
UNWANTED_FROM = 0.5  # more likely unwanted than not
WANTED_BELOW = 0.05  # clearly something else
FEWEST_NEGATIVES = 20  # the papers' smallest forget set (MNIST: 200 draws, one digit in ten); and as many to keep


def by_probability(probabilities: NDArray[np.floating], unwanted: Sequence[int],
                   earlier: Sequence[int] = ()) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples [N] an oracle finds unwanted, and which clearly wanted, by its probabilities [N, K].

    What it is unsure of is neither; nor is what earlier requests made the model forget (`earlier`).
    """
    lost = sorted({*unwanted, *earlier})
    chance, of_either = (probabilities[:, list(classes)].sum(1) for classes in (unwanted, lost))
    return (chance >= UNWANTED_FROM,
            (of_either < WANTED_BELOW) & ~np.isin(probabilities.argmax(1), lost))


def renumbered(labels: NDArray[np.int64], names: Sequence[str], other: Sequence[str]) -> NDArray[np.int64]:
    """Labels [N] that index `names`, as indices of `other`; `UNKNOWN` for a class that `other` has not.

    Where either has no names, a number means the same to both.
    """
    if not names or not other:
        return labels
    place = {name: number for number, name in enumerate(other)}
    table = np.array([place.get(name, UNKNOWN) for name in names], np.int64)
    return np.where(labels >= 0, table[labels], UNKNOWN)


def as_known_to_judge(labels: NDArray[np.int64], names: Sequence[str], judge: Sequence[str],
                      count: int, images: str = "holdout") -> NDArray[np.int64]:
    """Labels [N] of the images of that name, by the numbers of a judge that knows `count` classes.

    Raises:
        BadInput: it does not know one of their classes.
    """
    return as_known_to("the judge", images, labels, names, judge, count,
                       "leave them out, or bring a judge that knows them (judge.classes names what it knows)")


def as_known_to(who: str, images: str, labels: NDArray[np.int64], names: Sequence[str], other: Sequence[str],
                count: int, remedy: str) -> NDArray[np.int64]:
    """Labels [N] of the images of that name, by the numbers of a classifier that knows `count` classes.

    Raises:
        BadInput: it does not know one of their classes.
    """
    found = renumbered(labels, names, other)
    astray = np.flatnonzero((found < 0) | (found >= count))
    if len(astray):
        label = labels[astray[0]]
        known = ", ".join(other) if other else f"0 to {count - 1}"
        raise BadInput(f"{images}: {len(astray)} images are of class {names[label] if names else label}, "
                       f"which {who} does not know (it knows {known})", remedy)
    return found
