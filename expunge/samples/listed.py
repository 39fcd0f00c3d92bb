"""Single images of a set by the names of their files: a text file with one on each line becomes numbers of rows.

What an image's file is called is in no log, record or complaint: those speak of lines and numbers.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from expunge.contracts import shorten
from expunge.contracts.requests import MOST_IMAGES
from expunge.errors import BadInput


def rows_of(listing: Path, names: Sequence[str]) -> tuple[int, ...]:
    """The rows of what a text file lists, ascending, each once; `names` are those of all rows, empty for none.

    Raises:
        BadInput: a line names no image or more than one, there is no line, or there are too many.
    """
    try:
        lines = listing.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise BadInput(f"{listing.name}: is not UTF-8 text", "save it as UTF-8") from None
    places: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        if name:
            places[name].append(row)
    if not places:
        raise BadInput("the images of training have no names of files", "name their numbers instead: forget.images")
    found: set[int] = set()
    for number, line in enumerate(lines, 1):
        wanted = line.strip("\r").removeprefix("./")
        if not wanted.strip():
            continue
        rows = places.get(wanted, [])
        if not rows:
            raise BadInput(f"{listing.name}: line {number}: no image of training is called so",
                           f"write names as training has them, such as '{shorten(next(iter(places)), 60)}'")
        if len(rows) > 1:
            raise BadInput(f"{listing.name}: line {number}: {len(rows)} images of training are called so, "
                           f"{rows[0]} and {rows[1]} for two", "take the line out and name numbers: forget.images")
        found.update(rows)
    if not found:
        raise BadInput(f"{listing.name}: lists no image", "write the name of one on each line")
    if len(found) > MOST_IMAGES:
        raise BadInput(f"{listing.name}: lists {len(found):,} images", f"{MOST_IMAGES:,} at most: ask for classes")
    return tuple(sorted(found))
