"""Copies of the newest checkpoint where the operator cannot reach them: they show that the ledger only ever grew.

The places are those of ``config.yaml``. After every append each is brought up to the newest checkpoint, unless what
lies there is newer already. A copy that the ledger does not begin with is an alarm: somebody has shortened or forked
the ledger, or changed the copy. A place that cannot be reached is named in a warning and tried again after the next
append. One process at a time sends; one on another machine that is overtaken gives way.

A copy shows nothing to somebody who believes that the operator can write to the place: see docs/trust.md.
"""

import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from expunge.configuration import Configuration, Copy
from expunge.contracts import Frozen, shorten
from expunge.digests import write_atomically
from expunge.errors import DoesNotVerify, ExpungeError
from expunge.evidence.checkpoints import open_checkpoint
from expunge.evidence.keys import OPERATOR, Keyring
from expunge.evidence.ledger import Ledger
from expunge.evidence.tree import verify_consistency
from expunge.settings import Workspace

PATIENCE = 60.0  # seconds for one call of a command or of Git
_UNREACHABLE = (ExpungeError, OSError, subprocess.SubprocessError)
_BRANCH = "refs/heads/expunge-checkpoints"


class Sent(Frozen):
    """What came of one place."""

    place: str
    size: int | None = None  # of the tree whose checkpoint now lies there
    problem: str = ""


def send(workspace: Workspace) -> tuple[Sent, ...]:
    """Brings every configured place up to the newest checkpoint; one that cannot be reached is a problem of its own.

    Raises:
        DoesNotVerify: a copy is not how this ledger began. The other places have got theirs.
    """
    ledger, alarms, sent = Ledger.existing(workspace), [], []
    with (workspace.root / "copies.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for place in Configuration.load(workspace).checkpoints:
            try:
                sent.append(Sent(place=name_of(place), size=_bring_up(place, ledger, Keyring.load(workspace))))
            except DoesNotVerify as alarm:
                alarms.append(f"{name_of(place)}: {alarm.problem}")
            except _UNREACHABLE as error:
                sent.append(Sent(place=name_of(place), problem=_in_a_line(error)))
    if alarms:
        raise DoesNotVerify(f"checkpoint outside: {'; '.join(alarms)}", "run 'expunge audit verify'")
    return tuple(sent)


def kept(workspace: Workspace) -> Iterator[tuple[str, bytes | None, str]]:
    """What lies in every place that can be read: its name, the checkpoint if there is one, what was wrong if not."""
    for place in Configuration.load(workspace).checkpoints:
        if place.command is None:
            try:
                found = _read(place, _file_of(Ledger.existing(workspace)))
                yield name_of(place), found.note if found else None, "" if found else "no checkpoint is there yet"
            except _UNREACHABLE as error:
                yield name_of(place), None, _in_a_line(error)


def name_of(place: Copy) -> str:
    """What a place is called in messages: no credentials that an address may hold."""
    from expunge.stores.addresses import shown

    return shown(place.folder or place.s3 or place.git or (place.command or ("",))[0])


@dataclass(frozen=True)
class _Found:
    """A copy, and the tag of this very version of it where the place has one."""

    note: bytes
    tag: str = ""


def _bring_up(place: Copy, ledger: Ledger, keyring: Keyring) -> int:
    file = _file_of(ledger)
    found = None if place.command is not None else _read(place, file)
    there = _size_of(found.note, ledger, keyring) if found else -1  # before the head is read, which may have grown
    note = ledger.checkpoint
    head, _ = open_checkpoint(note, keyring)
    if there < head.size:
        _write(place, file, note, found)
    return max(there, head.size)


def _size_of(copy: bytes, ledger: Ledger, keyring: Keyring) -> int:
    older, head = open_checkpoint(copy, keyring)[0], ledger.head
    if older.origin != head.origin:
        raise DoesNotVerify(f"its checkpoint is of {older.origin}, not of this ledger")
    if older.size > head.size:
        raise DoesNotVerify(f"its checkpoint is over {older.size} entries, the ledger has {head.size}")
    proof = ledger.consistency(older.size, head.size)
    if not verify_consistency(older.size, head.size, proof, bytes.fromhex(older.root), bytes.fromhex(head.root)):
        raise DoesNotVerify(f"the ledger does not begin with the {older.size} entries of its checkpoint")
    return older.size


def _in_a_line(error: Exception) -> str:
    return shorten(" ".join(str(error).split()))


def _file_of(ledger: Ledger) -> str:
    return f"{ledger.head.origin.rpartition(':')[2]}.checkpoint"


def _read(place: Copy, file: str) -> _Found | None:
    from expunge.stores import s3

    if place.folder is not None:
        path = _folder(place.folder) / file
        return _Found(path.read_bytes()) if path.exists() else None
    if place.s3 is not None:
        found = s3.read_with_tag(f"{place.s3.rstrip('/')}/{file}")
        return _Found(*found) if found else None
    assert place.git is not None
    commit = _git("ls-remote", place.git, _BRANCH).split(b"\t")[0].decode()
    if not commit:
        return None
    with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
        _fetch(place.git, folder, commit)
        path = Path(folder, file)
        return _Found(path.read_bytes(), commit) if path.exists() else None


def _write(place: Copy, file: str, note: bytes, found: _Found | None) -> None:
    from expunge.stores import s3

    if place.folder is not None:
        write_atomically(_folder(place.folder) / file, note)
    elif place.s3 is not None:
        s3.write_over(f"{place.s3.rstrip('/')}/{file}", note, found.tag if found else None)
    elif place.git is not None:
        with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
            _fetch(place.git, folder, found.tag if found else "")
            Path(folder, file).write_bytes(note)
            _git("-C", folder, "add", "--", file)
            _git("-C", folder, "-c", f"user.name=expunge {OPERATOR}", "-c", "user.email=expunge@localhost", "-c",
                 "commit.gpgsign=false", "commit", "--quiet", "--message", note.decode().splitlines()[1])
            _git("-C", folder, "push", "--quiet", "origin", f"HEAD:{_BRANCH}")  # refused if somebody else was faster
    elif place.command is not None:
        subprocess.run(place.command, input=note, check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)


def _folder(given: str) -> Path:
    if not Path(given).is_dir():  # one that is made here would hide that a disk is not mounted
        raise ExpungeError(f"{given}: no such folder")
    return Path(given)


def _fetch(address: str, folder: str, commit: str) -> None:
    """Checks out the commit that was seen, so that what is pushed on top of it cannot go over anything newer."""
    _git("-C", folder, "init", "--quiet")
    _git("-C", folder, "remote", "add", "origin", address)
    if commit:
        _git("-C", folder, "fetch", "--quiet", "--depth", "1", "origin", commit)
        _git("-C", folder, "checkout", "--quiet", "--detach", commit)


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], check=False, capture_output=True, timeout=PATIENCE,
                          stdin=subprocess.DEVNULL, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    if done.returncode:
        raise ExpungeError(f"git: {(done.stderr.decode(errors='replace').strip().splitlines() or ['failed'])[-1]}")
    return done.stdout
