"""A few images on the same latents, before and after: which are kept, and which must not be shown."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.digests import canonical_json, write_atomically
from expunge.measure.policy import preset
from expunge.pictures import INDEX

UNWANTED_SHOWN = 24
RETAINED_PER_CLASS = 3
RETAINED_SHOWN = 27  # three of each of nine classes
LARGEST = 64  # pixels on a side: 102 tiles of photographs stay well under the page's 3 MB


def may_show_before(reason: str, wish: bool | None = None) -> bool:
    """Whether images of the unwanted may be put before a reader, by the request's reason; its wish can forbid it.

    The rule stands in one place, `show_before` of the shipped policy `standard`: safety and bias yes, for a
    reviewer has to see what is said to be gone; privacy no, because the picture may be the person who asked;
    copyright no, because showing the work copies it once more. The policy of a run is no input of this room
    (the measurements must not depend on the limits), so a stricter policy is obeyed when the page is rendered
    with its verdict.
    """
    return wish is not False and reason in preset("standard").show_before


@dataclass
class Pictures:
    """Keeps the first images that qualify, in the order of the latents: nobody picks the good ones.

    Two groups: latents that the parent turned into something unwanted, and latents that it did not. Where
    the unwanted may not be shown, no image that the judge calls unwanted is kept, from either model. Nor is one, ever,
    of what only earlier requests were about: their reasons are not known here, and what is left of it is not to be
    shown around.
    """

    unwanted: tuple[int, ...]
    show_before: bool
    earlier: tuple[int, ...] = ()
    _pairs: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"unwanted": [], "retained": []})
    _withheld: int = 0

    def consider(
        self,
        first: int,
        images: tuple[NDArray[np.float32], NDArray[np.float32]],
        classes: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        """Looks through a batch, before and after: images [b, C, H, W], the judge's classes [b].

        `first` is the number of the batch's first latent.
        """
        for row, (was, is_now) in enumerate(zip(*(side.tolist() for side in classes), strict=True)):
            group = "unwanted" if was in self.unwanted else "retained"
            if was in self.earlier or is_now in self.earlier or not self._wanted(group, was):
                continue
            if not self.show_before and is_now in self.unwanted:
                self._withheld += 1
                continue
            hidden = group == "unwanted" and not self.show_before
            self._pairs[group].append(
                {
                    "latent": first + row,
                    "before": was,
                    "after": is_now,
                    "images": (None if hidden else pixels(images[0][row]), pixels(images[1][row])),
                }
            )

    def _wanted(self, group: str, was: int) -> bool:
        kept = self._pairs[group]
        if group == "unwanted":
            return len(kept) < UNWANTED_SHOWN
        return len(kept) < RETAINED_SHOWN and sum(p["before"] == was for p in kept) < RETAINED_PER_CLASS

    def save(self, folder: Path) -> None:
        """Writes one PNG strip per group and side, and an index that says what each tile is."""
        index: dict[str, Any] = {"before_shown": self.show_before, "withheld": self._withheld, "groups": {}}
        for group, pairs in self._pairs.items():
            pairs = sorted(pairs, key=lambda pair: (pair["before"], pair["latent"]))
            strips = {}
            for side, name in enumerate(("before", "after")):
                images = [pair["images"][side] for pair in pairs if pair["images"][side] is not None]
                if images:
                    strips[name] = save_strip(folder / f"{group}-{name}.png", images)
            index["groups"][group] = {
                "strips": strips,
                "tiles": [{key: pair[key] for key in ("latent", "before", "after")} for pair in pairs],
            }
        write_atomically(folder / INDEX, canonical_json(index))


def pixels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[C, H, W] in [-1, 1] to [h, w, 1 or 3] in 0..255, at most `LARGEST` on a side."""
    from PIL import Image

    levels = np.clip(np.nan_to_num(image + 1) * 127.5, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    levels = levels if levels.shape[2] in (1, 3) else levels[:, :, :1]
    if max(levels.shape[:2]) <= LARGEST:
        return levels
    smaller = Image.fromarray(levels.squeeze(2) if levels.shape[2] == 1 else levels)
    smaller.thumbnail((LARGEST, LARGEST))
    return np.atleast_3d(np.asarray(smaller))


def save_strip(file: Path, images: list[NDArray[np.uint8]]) -> str:
    """Writes images of one size beside each other; the file's name."""
    from PIL import Image

    strip = np.concatenate(images, axis=1)
    Image.fromarray(strip.squeeze(2) if strip.shape[2] == 1 else strip).save(file, "PNG", optimize=True)
    return file.name
