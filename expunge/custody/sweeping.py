"""Looking through places for what is wanted: opens every file as far as the searchers can, and says what they found."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import shorten
from expunge.custody.contents import Content, OfOther, Picture, Sealed, Searcher, Tensor, Unread, Values
from expunge.custody.layouts import as_images, levels
from expunge.custody.places import Lying, Place
from expunge.custody.searchers import SqliteDatabases, Texts
from expunge.custody.wanted import LOOKS_LIKE, Wanted, reduced

DEEPEST = 5  # contents inside of contents
_AT_ONCE = 4096  # images
_SHORTEST = 32  # bytes: less is no content of its own
_OF_MORE = (SqliteDatabases.name, Texts.name)  # kinds that never hold images alone


@dataclass
class Found:
    """What one file holds of what is wanted."""

    place: str
    path: str  # relative to the place
    copies: int = 0  # images whose pixels are the same, standing alone
    parts: int = 0  # images whose pixels stand inside of a larger picture
    looks_like: int = 0  # images that are not copies, and look like one
    closest: float = 0.0  # the best cosine of these
    weights: int = 0  # tensors that a method adapted for this request
    sealed: bool = False  # it is sealed under the request's key
    pictures: int = 0  # images in the file, wanted or not
    others: int = 0  # what else it holds: texts, tables, arrays that are no images
    kinds: list[str] = field(default_factory=list)  # searchers that knew something in it
    owners: list[str] = field(default_factory=list)  # whose sealed content it holds, if not the request's
    unread: list[str] = field(default_factory=list)  # what could not be looked into, and why

    @property
    def certain(self) -> bool:
        """Whether it holds what is wanted, and not only what resembles it."""
        return bool(self.copies or self.parts or self.weights or self.sealed)

    @property
    def whole(self) -> bool:
        """Whether it holds nothing but what is wanted, as far as it could be looked into."""
        return self.sealed or (self.copies > 0 and self.copies == self.pictures and not self.others and not self.unread)

    @property
    def is_of_interest(self) -> bool:
        """Whether somebody should know of it."""
        return self.certain or bool(self.looks_like or self.unread)


@dataclass
class Swept:
    """How much was looked at in a place."""

    place: str
    files: int = 0
    bytes: int = 0
    pictures: int = 0
    unknown: int = 0  # files of no kind that any searcher knows


@dataclass
class Sweep:
    """All that a sweep found, and how far it looked."""

    found: list[Found] = field(default_factory=list)
    swept: list[Swept] = field(default_factory=list)


Watch = Callable[[str, int], None]
"""Told the place, and how many of its files were looked at."""


def sweep(places: Iterable[Place], wanted: Wanted, known: Sequence[Searcher],
          watch: Watch = lambda place, files: None) -> Sweep:
    """Looks into every file of every place. Never raises for what lies there: that is a finding."""
    result = Sweep()
    for place in places:
        swept = Swept(place.name)
        result.swept.append(swept)
        for lying in place.files():
            swept.files += 1
            swept.bytes += lying.size
            found = examine(place.name, lying, wanted, known)
            swept.pictures += found.pictures
            swept.unknown += bool(lying.content) and lying.size > 0 and not found.kinds
            if found.is_of_interest:
                result.found.append(found)
            watch(place.name, swept.files)
    return result


def examine(place: str, lying: Lying, wanted: Wanted, known: Sequence[Searcher]) -> Found:
    """One file, and everything inside of it."""
    found = Found(place, lying.path)
    if lying.why:
        found.unread.append(lying.why)
    if lying.content is not None and lying.size:
        _Look(found, wanted, known).into(lying.content)
    return found


class _Look:
    """A look into one file."""

    def __init__(self, found: Found, wanted: Wanted, known: Sequence[Searcher]) -> None:
        self._found, self._wanted, self._known = found, wanted, known

    def into(self, content: Content) -> None:
        """Everybody who knows the content looks at it; what is inside of it comes back here."""
        if content.depth > DEEPEST:
            self._unread(content.name, "lies too deep inside of other files")
            return
        try:
            head = content.head()
        except Exception as error:  # noqa: BLE001 - a broken file leads its reader into anything
            self._unread(content.name, _words(error))
            return
        known = [searcher for searcher in self._known if searcher.knows(head, content)]
        if len(head) >= _SHORTEST and (not known or any(searcher.name in _OF_MORE for searcher in known)):
            self._found.others += 1
        for searcher in known:
            if searcher.name not in self._found.kinds:
                self._found.kinds.append(searcher.name)
            try:
                for piece in searcher.look(content):
                    self._take(piece)
            except Exception as error:  # noqa: BLE001 - as above; none of it is silent
                self._unread(content.name, f"{searcher.name}: {_words(error)}")

    def _take(self, piece: object) -> None:
        match piece:
            case Content():
                self.into(piece)
            case Picture():
                self._picture(piece)
            case Values():
                self._values(piece.values)
            case Tensor():
                self._found.weights += piece.digest in self._wanted.tensors
            case Sealed():
                self._found.sealed = True
            case Unread():
                self._unread(piece.name, piece.why)
            case OfOther():
                if piece.owner not in self._found.owners:
                    self._found.owners.append(piece.owner)
                self.into(piece.content)

    def _picture(self, picture: Picture) -> None:
        self._found.pictures += 1
        pixels = picture.pixels
        versions = [pixels, *reduced(pixels)]
        if any(self._wanted.copies(one[None])[0] for one in versions):
            self._found.copies += 1
            return
        parts = max(self._wanted.parts(one) for one in versions)
        self._found.parts += parts
        if not parts:
            self._resembling(self._wanted.looks_like(pixels[None]))

    def _values(self, values: NDArray[np.generic]) -> None:
        """Numbers, by every layout they may be meant in: the first in which one is a copy is the right one."""
        layouts = list(as_images(values, self._wanted.shapes))
        for images in layouts:
            copies = sum(int(self._wanted.copies(batch).sum()) for meant in levels(images)
                         for batch in _batches(meant))
            if copies:
                self._found.copies += copies
                self._found.pictures += len(images)
                return
        self._found.others += not layouts and values.ndim > 1  # one row of numbers may be labels
        if layouts:
            images = layouts[-1]  # of what ends with three channels that is the one with colours
            self._found.pictures += len(images)
            for layout in layouts:
                for batch in _batches(layout):
                    self._resembling(self._wanted.looks_like(batch))

    def _resembling(self, cosines: NDArray[np.float32]) -> None:
        alike = cosines >= LOOKS_LIKE
        if alike.any():
            self._found.looks_like += int(alike.sum())
            self._found.closest = max(self._found.closest, round(float(cosines.max()), 4))

    def _unread(self, name: str, why: str) -> None:
        self._found.unread.append(f"{name}: {why}" if name else why)


Kind = TypeVar("Kind", bound=np.generic)


def _batches(images: NDArray[Kind]) -> Iterator[NDArray[Kind]]:
    for first in range(0, len(images), _AT_ONCE):
        yield images[first : first + _AT_ONCE]


def _words(error: Exception) -> str:
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"could not be read ({shorten(text or type(error).__name__, 100)})"
