"""Rooms on one machine begin as forks of a process that has imported already what they need.

Importing is most of what a small room does. `kfp.local` starts every room as a Python of its own; here that Python is
`beginning.py`, which hands its command line, environment, folder and streams to the prepared process and waits. Each
room still is a process of its own, which nothing but these reaches, and it ends when whoever waits for it ends.

What a room imported of `WORTH_KEEPING` is imported here once it has ended, so that the rooms after it find it.

`python -m pipelines.preparing SOCKET`, SOCKET being the number of a listening one; it ends with its standard input.
"""

import importlib
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What all rooms import, or those that take longest.
AHEAD = ("kfp.dsl.executor_main", "kfp.dsl", "torch", "PIL.Image", "expunge.models", "expunge.methods",
         "expunge.evidence.statements", "cryptography.hazmat.primitives.asymmetric.ed25519",
         "cryptography.hazmat.primitives.serialization", "components.evaluate.step", "components.fetch_checkpoint.step",
         "components.curate_forget_set.step", "components.gate.step")
WORTH_KEEPING = ("diffusers", "transformers", "normflows", "sklearn", "scipy", "pyarrow", "mlflow")
RUNTIME = {"_KFP_RUNTIME": "true"}  # kfp imports no compiler where a step runs, and reads it when it is imported


@contextmanager
def prepared() -> Iterator[str]:
    """Starts the process, and gives what stands for `python3` in the command of a step, quoted for a shell."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind("")  # a name that Linux finds, of no file: nothing is left behind
        listening.listen()
        number = listening.fileno()
        with subprocess.Popen([sys.executable, "-m", "pipelines.preparing", str(number)], stdin=subprocess.PIPE,
                              pass_fds=[number], env={**os.environ, **RUNTIME}) as process:
            try:
                script = Path(__file__).with_name("beginning.py")
                yield shlex.join([sys.executable, "-IS", str(script), listening.getsockname()[1:].decode()])
            finally:
                process.kill()


def main() -> None:
    """Serves until standard input ends; in a fork, is the room."""
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        asked.carry_out()


@dataclass
class _Asked:
    """A room that is to begin."""

    module: str
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    streams: list[int]
    report: int  # where to say what was imported: a file in memory

    def carry_out(self) -> None:
        """Is `python -m MODULE ARGUMENTS`, where and as it was asked for."""
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.argv = [self.module, *self.arguments]
        known = set(sys.modules)
        try:
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)
        finally:
            with os.fdopen(self.report, "w") as report:
                report.write("\n".join(name for name in sys.modules
                                       if name not in known and name.partition(".")[0] in WORTH_KEEPING))


@dataclass
class _Room:
    """A room that has begun: who waits for it, its process, and where it says what it imported."""

    waiting: socket.socket
    pid: int
    ended: int  # a handle of the process, readable once it has
    report: int

    def end(self) -> None:
        """Kills it, if it has not ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _serve(listening: socket.socket) -> _Asked | None:
    """Forks a room for whoever asks, and tells them how it ended; gives in a fork what it is to do."""
    with selectors.DefaultSelector() as watched:
        watched.register(sys.stdin, selectors.EVENT_READ, None)
        for name in AHEAD:
            importlib.import_module(name)
        watched.register(listening, selectors.EVENT_READ, None)
        while True:
            for key, _ in watched.select():
                if key.fileobj is sys.stdin:
                    for other in watched.get_map().values():
                        if isinstance(other.data, _Room):
                            other.data.end()
                    return None
                if key.fileobj is listening:
                    waiting, _ = listening.accept()
                    if (asked := _begun(waiting, watched)) is not None:
                        watched.close()
                        listening.close()
                        return asked
                    continue
                room: _Room = key.data
                if key.fd == room.ended:
                    _ended(room, watched)
                else:  # nobody waits for it any more
                    room.end()
                    watched.unregister(room.waiting)


def _begun(waiting: socket.socket, watched: selectors.BaseSelector) -> _Asked | None:
    """In the fork what it is to do; here nothing, and the room is watched."""
    _, user, _ = struct.unpack("3i", waiting.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user != os.getuid():  # the name can be reached by all on this machine
        waiting.close()
        return None
    first, streams, _, _ = socket.recv_fds(waiting, 65536, 3)
    length, _, text = first.partition(b"\n")
    while length and len(text) < int(length) and (more := waiting.recv(65536)):
        text += more
    if not length or len(text) < int(length):  # whoever asked was killed while they did
        for handle in streams:
            os.close(handle)
        waiting.close()
        return None
    said: dict[str, Any] = json.loads(text)
    report = os.memfd_create("imported")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        waiting.close()
        return _Asked(said["module"], said["arguments"], said["environment"], said["folder"], list(streams), report)
    for stream in streams:
        os.close(stream)
    room = _Room(waiting, pid, os.pidfd_open(pid), report)
    watched.register(room.waiting, selectors.EVENT_READ, room)
    watched.register(room.ended, selectors.EVENT_READ, room)
    return None


def _ended(room: _Room, watched: selectors.BaseSelector) -> None:
    """Tells who waits how the room ended, and imports what it did."""
    code = os.waitstatus_to_exitcode(os.waitpid(room.pid, 0)[1])
    watched.unregister(room.ended)
    os.close(room.ended)
    with suppress(KeyError):
        watched.unregister(room.waiting)
    with room.waiting, suppress(OSError):
        room.waiting.sendall(str(code).encode())
    os.lseek(room.report, 0, os.SEEK_SET)
    with os.fdopen(room.report) as report:
        for name in report.read().splitlines():
            with suppress(ImportError):
                importlib.import_module(name)


if __name__ == "__main__":
    main()
