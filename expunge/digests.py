"""Digests of stored bytes, canonical JSON, and writing files so that no reader sees half of one."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import rfc8785


def canonical_json(value: Any) -> bytes:
    """RFC 8785 JSON of plain values. Refuses NaN and infinities: absent is not zero."""
    return rfc8785.dumps(value)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> dict[str, Path]:
    """Every file below `folder`, by POSIX path relative to it, sorted; a single file goes by its name."""
    if folder.is_file():
        return {folder.name: folder}
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


def sha256_tree(folder: Path) -> str:
    """One digest of a folder: names and contents, not times or permissions."""
    listing = {name: sha256_file(path) for name, path in files_below(folder).items()}
    return sha256_bytes(canonical_json(listing))


HALF = ".half"
"""How the name of a file ends that is still being written, or was when its writer was killed."""


@contextmanager
def atomic_path(target: Path, mode: int = 0o644, replace: bool = True) -> Iterator[Path]:
    """Hands out a scratch path beside `target` and renames it into place when the block ends well.

    The bytes are flushed to disk before the rename, so a crash leaves either the old file or the new one. The
    scratch file is readable by its owner only until it has `mode`. Without `replace`, a target that is there
    by then stays as it is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = _begin_half(target)
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.chmod(mode)
        if replace:
            scratch.replace(target)
        else:
            with suppress(FileExistsError):
                os.link(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
        os.close(handle)


def _begin_half(target: Path) -> tuple[int, Path]:
    """A new scratch file, locked for as long as it is being written: `sweep_halves` leaves it alone."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=HALF, dir=target.parent)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # swept in the instant before it was locked


def sweep_halves(folders: Iterable[Path]) -> int:
    """Removes what killed writers left half written in these folders; returns how many files."""
    removed = 0
    for folder in folders:
        for half in folder.glob(f".*{HALF}"):
            with suppress(FileNotFoundError), half.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # somebody is writing it
                half.unlink()
                removed += 1
    return removed


def write_atomically(target: Path, data: bytes, mode: int = 0o644, replace: bool = True) -> None:
    """Writes `data` to `target` in one step: a reader sees the old file or the new one."""
    with atomic_path(target, mode, replace) as scratch:
        scratch.write_bytes(data)


def flush(*paths: Path) -> None:
    """Sees to it that files, or the names in folders, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
