"""A few images with what was shown of them, and what parent and candidate completed: which are kept, and which are not.

They are the first in the order of the report's seed: nobody picks the good ones. Where the unwanted may not be shown
(see `pictures.may_show_before`), no pixel of any real image is kept: of completions there is then only the hidden part,
as a model drew it, and of an image to forget only the candidate's, unless the judge calls that unwanted. Nor is one
kept, ever, that the judge calls what only earlier requests were about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence_of_completions import Completions
from components.evaluate.pictures import (
    RETAINED_PER_CLASS,
    RETAINED_SHOWN,
    UNWANTED_SHOWN,
    pixels,
    save_strip,
)
from expunge.digests import canonical_json, write_atomically
from expunge.pictures import HOLE, INDEX

if TYPE_CHECKING:
    import torch

GREY = 0.0  # in the place of what is not shown, pixels being from -1 to 1


class Kept:
    """Keeps some of the images that are completed, with their masks and what came of them."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._wanted, self._first = {*rows}, 0
        self.found: dict[int, tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]] = {}

    def __call__(self, images: "torch.Tensor", mask: "torch.Tensor", drawn: "torch.Tensor") -> None:
        """Takes the next batch."""
        for place in range(len(images)):
            if self._first + place in self._wanted:
                which = place if len(mask) > 1 else 0
                self.found[self._first + place] = (images[place].numpy(), mask[which].numpy(), drawn[place].numpy())
        self._first += len(images)


@dataclass
class CompletionPictures:
    """The tiles of both groups: images to forget, and held-out ones of the rest."""

    unwanted: tuple[int, ...]
    show_before: bool
    earlier: tuple[int, ...] = ()  # what only earlier requests were about
    _groups: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"unwanted": [], "retained": []})
    _withheld: int = 0

    def rows(self, group: str, labels: NDArray[np.int64]) -> list[int]:
        """The images that are kept of a group, if they qualify."""
        if group == "unwanted":
            return list(range(min(UNWANTED_SHOWN, len(labels))))
        first = [row for label in np.unique(labels) for row in np.flatnonzero(labels == label)[:RETAINED_PER_CLASS]]
        return sorted(map(int, first))[:RETAINED_SHOWN]

    def take(self, group: str, asked: Completions, before: Kept, after: Kept) -> None:
        """Takes what both models made of the rows of a group."""
        for row, (image, mask, was) in before.found.items():
            classes = int(asked.before.classes[row]), int(asked.after.classes[row])
            if min(classes) < 0 or any(label in self.earlier for label in classes):
                continue
            if not self.show_before and classes[1] in self.unwanted:
                self._withheld += 1
                continue
            drawn = {"before": was, "after": after.found[row][2]}
            tiles = {f"{side}{HOLE}": np.where(mask, found, GREY) for side, found in drawn.items()
                     if (group, side) != ("unwanted", "before")}
            if self.show_before:
                tiles |= {"image": image, "shown": np.where(mask, GREY, image), **drawn}
            self._groups[group].append({"latent": row, "label": int(asked.labels[row]), "before": classes[0],
                                        "after": classes[1],
                                        "images": {name: pixels(found) for name, found in tiles.items()}})

    def save(self, folder: Path) -> None:
        """Writes one PNG strip per group and side, and an index that says what each tile is."""
        index: dict[str, Any] = {"before_shown": self.show_before, "withheld": self._withheld, "groups": {}}
        for group, tiles in self._groups.items():
            found = sorted(tiles, key=lambda tile: (tile["label"], tile["latent"]))
            sides = list(found[0]["images"]) if found else []
            index["groups"][group] = {
                "strips": {side: save_strip(folder / f"{group}-{side}.png", [tile["images"][side] for tile in found])
                           for side in sides},
                "tiles": [{key: tile[key] for key in ("latent", "label", "before", "after")} for tile in found]}
        write_atomically(folder / INDEX, canonical_json(index))
