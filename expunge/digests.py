"""Digests of stored bytes, canonical JSON, and writing files so that no reader sees half of one."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Hands out a scratch path beside `target` and renames it into place when the block ends well.

    The bytes are flushed to disk before the rename, so a crash leaves either the old file or the new one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", dir=target.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def write_atomically(target: Path, data: bytes) -> None:
    """Writes `data` to `target` in one step: a reader sees the old file or the new one."""
    with atomic_path(target) as scratch:
        scratch.write_bytes(data)
