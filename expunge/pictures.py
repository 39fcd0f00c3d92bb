"""The pictures beside a report, and which of them may be put before a reader: one answer for every page that has any.

`evaluate` keeps a few images as strips of tiles, one PNG for each group and side, and an index of the tiles. What the
request's reason forbids it does not keep; what the run's policy forbids beyond that is left out here, pixel by pixel.
"""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.contracts import Policy, Report
from expunge.digests import sha256_file
from expunge.errors import DoesNotVerify

INDEX = "pictures.json"
HOLE = "-hole"  # how the names of strips end that hold nothing but what a model drew
SIDES = ("image", "shown", "before", "after")
HIDDEN = 128  # the grey in the place of a tile that is not shown


@dataclass(frozen=True)
class Group:
    """Tiles beside each other: a strip for each side, of as many tiles as there are."""

    strips: dict[str, Path] = field(default_factory=dict)
    tiles: tuple[dict[str, Any], ...] = ()  # latent, before, after; of completions also label: classes by number
    hidden: frozenset[int] = frozenset()  # tiles, by their place, of which `after` is not shown

    def png(self, side: str) -> bytes:
        """The strip of a side, with nothing in the place of what is not shown."""
        data = self.strips[side].read_bytes()
        if side != "after" or not self.hidden:
            return data
        from PIL import Image

        with Image.open(io.BytesIO(data)) as strip:
            width = strip.width // len(self.tiles)
            for place in self.hidden:
                grey = HIDDEN if strip.mode == "L" else (HIDDEN,) * len(strip.getbands())
                strip.paste(grey, (place * width, 0, (place + 1) * width, strip.height))
            written = io.BytesIO()
            strip.save(written, "PNG", optimize=True)
        return written.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a tile in pixels; of nothing 1 and 1."""
        from PIL import Image

        if "after" not in self.strips:
            return 1, 1
        with Image.open(self.strips["after"]) as strip:
            return strip.width // len(self.tiles), strip.height


@dataclass(frozen=True)
class Shown:
    """What a reader may see of a report's pictures."""

    groups: dict[str, Group]  # `unwanted` and `retained`
    before_shown: bool  # whether what was to be forgotten may be shown
    withheld: int  # images that evaluation left out because they still show it
    narrowed: bool  # whether the policy forbids more than evaluation did
    kept: bool  # whether evaluation kept any: not every family draws something


def read_index(folder: Path) -> dict[str, Any]:
    """What evaluation wrote about its tiles."""
    found: dict[str, Any] = json.loads((folder / INDEX).read_bytes())
    return found


def to_show(folder: Path, report: Report, policy: Policy | None = None, reason: str | None = None) -> Shown:
    """The pictures in a report's folder that a reader may see.

    Args:
        folder: Where the report and its files lie.
        report: Its record.
        policy: By which the run is judged; None where it is not known, as while evaluation writes its own page.
        reason: The request's.
    """
    if report.files and INDEX not in {file.name for file in report.files}:
        return Shown({"unwanted": Group(), "retained": Group()}, before_shown=True, withheld=0, narrowed=False,
                     kept=False)
    narrowed = not (policy is None or reason is None or reason in policy.show_before)
    index = read_index(folder)
    shown = bool(index["before_shown"]) and not narrowed
    groups = {}
    for name, group in index["groups"].items():
        strips, tiles = group["strips"], tuple(group["tiles"])
        if not shown and any(side.endswith(HOLE) for side in strips):
            strips = {side.removesuffix(HOLE): file for side, file in strips.items() if side.endswith(HOLE)}
        groups[name] = Group(
            strips={side: folder / file for side, file in strips.items()
                    if not side.endswith(HOLE) and (shown or (name, side) != ("unwanted", "before"))},
            tiles=tiles,
            hidden=frozenset(place for place, tile in enumerate(tiles)
                             if narrowed and tile["after"] in report.unwanted))
    return Shown(groups, before_shown=shown, withheld=index["withheld"], narrowed=narrowed, kept=True)


def require_as_reported(folder: Path, report: Report, *names: str) -> None:
    """DoesNotVerify if one of a report's files is not the one that its record names."""
    recorded = {file.name: file.sha256 for file in report.files}
    for name in names:
        file = folder / name
        if not file.is_file() or sha256_file(file) != recorded.get(name):
            raise DoesNotVerify(f"{name}: is not what the report names", "run 'expunge audit verify'")
