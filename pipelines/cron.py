"""Times as cron writes them: six fields for Kubeflow, five for a crontab, and what a systemd timer makes of them.

What is accepted is what Kubeflow's scheduler (robfig/cron 1.2) reads, checked before anything is sent: its client sends
nonsense without a word. Seconds come first; Sunday is 0, and 7 is none.
"""

import re
from dataclasses import dataclass

from expunge.contracts import shorten
from expunge.errors import BadInput

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_BOUNDS = {"second": (0, 59), "minute": (0, 59), "hour": (0, 23), "day of the month": (1, 31), "month": (1, 12),
           "day of the week": (0, 6)}
_NAMES = {"month": {name: number for number, name in enumerate(_MONTHS, 1)},
          "day of the week": {name: number for number, name in enumerate(_DAYS)}}
_ONE = r"[0-9]{1,9}|[A-Za-z]+"
_PART = re.compile(rf"((?P<all>[*?])|(?P<first>{_ONE})(-(?P<last>{_ONE}))?)(/(?P<step>[0-9]{{1,9}}))?")
_FIELDS = tuple(_BOUNDS)


@dataclass(frozen=True)
class Field:
    """One field: which of its values are meant."""

    written: str
    values: tuple[int, ...]
    star: bool  # holds * or ?: then a day must fit both of its fields, and otherwise one of them

    @property
    def crontab(self) -> str:
        """The field as a crontab has it, which knows no names in lists and no question mark."""
        return self.written.replace("?", "*") if self.star else ",".join(map(str, self.values))


@dataclass(frozen=True)
class Cron:
    """Six fields, seconds first, every one of them read."""

    text: str  # as it was written, with the seconds
    fields: dict[str, Field]

    @property
    def crontab(self) -> str:
        """The same times in the five fields of a crontab; BadInput if they need its missing seconds."""
        if self.fields["second"].values != (0,):
            raise BadInput("--cron: a crontab knows no seconds", "begin it with 0, or use the systemd timer")
        return " ".join(field.crontab for name, field in self.fields.items() if name != "second")

    @property
    def calendar(self) -> tuple[str, ...]:
        """The same times as OnCalendar= lines of a systemd timer. Two, where cron means either of two kinds of day."""
        second, minute, hour, day, month = (self._listed(name) for name in _FIELDS[:-1])
        named = ",".join(_DAYS[number].capitalize() for number in self.fields["day of the week"].values)
        weekdays = "" if self._is_full("day of the week") else f"{named} "
        clock = f"{hour}:{minute}:{second}"
        if self.fields["day of the month"].star or self.fields["day of the week"].star:
            return (f"{weekdays}*-{month}-{day} {clock}",)
        return f"*-{month}-{day} {clock}", f"{named} *-{month}-* {clock}"

    def _listed(self, name: str) -> str:
        return "*" if self._is_full(name) else ",".join(f"{value:02}" for value in self.fields[name].values)

    def _is_full(self, name: str) -> bool:
        lowest, highest = _BOUNDS[name]
        return len(self.fields[name].values) == highest - lowest + 1


def read(text: str, fields: int = 6) -> Cron:
    """Reads a cron expression of six fields, or of five where that will do: then it is at second 0.

    Raises:
        BadInput: it has another number of fields, or one of them cannot be read.
    """
    words = text.split()
    if len(words) == 5 and fields == 5:
        words = ["0", *words]
    if len(words) != 6:
        raise BadInput(f"--cron: '{shorten(text, 60)}' has {len(words)} fields instead of six",
                       "begin with the seconds: '0 0 2 * * *' is every night at two")
    return Cron(" ".join(words), {name: _read_field(name, word) for name, word in zip(_FIELDS, words, strict=True)})


def _read_field(name: str, word: str) -> Field:
    values: set[int] = set()
    for part in word.split(","):
        found = _PART.fullmatch(part)
        if found is None:
            raise _unreadable(name, word)
        step = int(found["step"] or 1)
        lowest, highest = _BOUNDS[name]
        if found["all"]:
            first, last = lowest, highest
        else:
            first = _number(name, found["first"], word)
            last = _number(name, found["last"], word) if found["last"] else highest if found["step"] else first
        if not lowest <= first <= last <= highest or step == 0:
            raise _unreadable(name, word)
        values.update(range(first, last + 1, step))
    return Field(word, tuple(sorted(values)), "*" in word or "?" in word)


def _number(name: str, written: str, word: str) -> int:
    found = int(written) if written.isdecimal() else _NAMES.get(name, {}).get(written.lower())
    if found is None:
        raise _unreadable(name, word)
    return found


def _unreadable(name: str, word: str) -> BadInput:
    lowest, highest = _BOUNDS[name]
    return BadInput(f"--cron: '{shorten(word, 40)}' is no {name}",
                    f"write {lowest} to {highest}, *, a list (1,2), a range (1-5) or a step (*/5)")
