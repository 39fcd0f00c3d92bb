"""What a room says while it works: JSON lines that the supervisor, a log collector or a person can follow.

No line may carry a pixel, a file name of a sample, a plain content digest or a subject's name.
"""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from expunge.contracts import Frozen
from expunge.settings import Workspace, current_run

TITLES = {
    "fetch_checkpoint": "fetch checkpoint", "curate_forget_set": "curate forget set", "adapt": "adapt",
    "unlearn": "unlearn", "evaluate": "evaluate", "gate": "gate", "deploy": "deploy",
}
"""What people call the rooms, in the order in which a request passes through them."""

Kind = Literal["started", "progress", "note", "finished", "failed"]


class Event(Frozen):
    """One line of a run's event file. `seconds` is the time inside the room's own work."""

    at: float = Field(default_factory=time.time)
    room: str
    kind: Kind
    step: int | None = None
    total: int | None = None
    scalars: dict[str, float] = Field(default_factory=dict)
    text: str = ""
    seconds: float | None = None
    reused: bool = False
    result: str | None = None  # the result's folder, relative to the workspace
    error: str | None = None  # class name in expunge.errors
    remedy: str = ""


def events_file(workspace: Workspace, run: str) -> Path:
    """Where the events of a run are."""
    return workspace.runs / run / "events.jsonl"


def emit(workspace: Workspace, event: Event) -> None:
    """Appends one event to the run's file; outside of a run it goes to standard output.

    A line is one `write` on a file opened for appending, so concurrent writers do not mix within a line. What
    a full disk cut short before ends where the new line begins. OSError if this one does not fit either.
    """
    line = (event.model_dump_json(exclude_defaults=True, exclude={"at"})[:-1] + f',"at":{event.at:.3f}}}\n').encode()
    file = events_file(workspace, current_run())
    if not file.parent.is_dir():
        print(line.decode(), end="", flush=True)
        return
    with file.open("a+b", buffering=0) as handle:
        size = handle.seek(0, os.SEEK_END)
        if size and os.pread(handle.fileno(), 1, size - 1) != b"\n":
            line = b"\n" + line
        if handle.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


class Follower:
    """Reads a growing event file from where it left off.

    A last line without its end is left for later. A line that ends in its middle was cut short by a full disk
    or a crash: it tells nothing, and whoever wrote it has failed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._position = file.stat().st_size if file.exists() else 0

    def new_events(self) -> Iterator[Event]:
        """The events written since the last call."""
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._position += len(complete)
        for line in complete.splitlines():
            try:
                event = Event.model_validate_json(line)
            except ValueError:
                continue
            yield event


class Progress:
    """Turns steps into throughput and an estimate of the time left; says so at most five times a second."""

    def __init__(self, workspace: Workspace, room: str, interval: float = 0.2) -> None:
        self._workspace, self._room, self._interval = workspace, room, interval
        self._began: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, step: int, total: int, **scalars: float) -> None:
        """Records that `step` of `total` steps are done. `scalars` are losses and the like."""
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)  # a resumed job begins in the middle
        if step < total and now - self._last < self._interval:
            return
        self._last = now
        since, first = self._began
        measured = {name: value for name, value in scalars.items() if value == value and abs(value) < 1e300}
        if now > since and step > first:
            measured["per_second"] = (step - first) / (now - since)
            measured["eta_seconds"] = (total - step) / measured["per_second"]
        emit(self._workspace, Event(room=self._room, kind="progress", step=step, total=total, scalars=measured))
