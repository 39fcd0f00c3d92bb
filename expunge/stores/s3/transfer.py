"""Files to S3 and back: in parts, several at once, hashed on the way, in memory that does not grow with the file."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from expunge.errors import DoesNotVerify, ExpungeError, Refused
from expunge.stores.s3.asking import (
    ATTEMPTS,
    WORKERS,
    Answer,
    asked,
    code,
    connect,
    explaining,
    is_overtaken,
    named,
    place,
    unless_missing,
    wait,
)

PIECE = 1 << 20  # bytes
PART = 8 << 20  # bytes, at least; S3 takes none under 5 MiB but the last, and no more than 10,000
MOST_PARTS = 10_000
LOSSES = 6  # connections in a row that may break in one part before another byte of it arrives
SHA256 = "expunge-sha256"  # in an object's metadata: the digest of the file that was uploaded


@dataclass(frozen=True)
class Stored:
    """What a server says of an object, without the bytes."""

    size: int  # bytes
    sha256: str | None  # as it was when it was uploaded from here; None if somebody else did


def download(uri: str, file: Path) -> str:
    """Writes an object to a file, in parallel parts; returns the SHA-256 of what was written. Raises as `fetch`."""
    with file.open("wb") as writing:
        found, said = _read(uri, writing)
    if said not in (None, found):
        raise DoesNotVerify(f"{named(uri)}: not the bytes that were uploaded",
                            f"their digest was {str(said)[:12]}, and is {found[:12]}")
    return found


def digest(uri: str) -> str:
    """The SHA-256 of an object's bytes, of which no more than a few parts are here at a time. Raises as `fetch`."""
    return _read(uri, None)[0]


def upload(file: Path, uri: str, sha256: str) -> None:
    """Writes a file to an object that says its digest, in parallel parts if it is large; raises as `fetch`.

    The object appears whole or not at all. Where it does not, no part of it is left, unless this process is killed:
    `abort_uploads` removes what is.

    Raises:
        Refused: the file's bytes are not those of `sha256`; there is no such object then.
    """
    where, size = place(uri), file.stat().st_size
    with explaining(uri), file.open("rb") as reading:
        client = connect()
        if size <= PART:
            data = reading.read()
            _require(hashlib.sha256(data).hexdigest(), sha256, file)
            asked(partial(client.put_object, **where, Body=data, Metadata={SHA256: sha256}))
        else:
            _upload_in_parts(client, reading, where, sha256, max(PART, -(-size // MOST_PARTS)), file)


def abort_uploads(bucket: str, prefix: str) -> int:
    """Ends uploads that were never finished, of all keys that begin with `prefix`; returns how many.

    Raises as `fetch`. Whoever is uploading one of these at the moment fails.
    """
    with explaining(f"s3://{bucket}/{prefix}"):
        return _abort(connect(), {"Bucket": bucket, "Key": prefix}, lambda _: True)


def stored(uri: str) -> Stored | None:
    """What the server says of an object; None if there is none. Raises as `fetch`."""
    where = place(uri)
    with explaining(uri):
        answer = unless_missing(partial(connect().head_object, **where))
        return answer and Stored(answer["ContentLength"], answer.get("Metadata", {}).get(SHA256))


def _read(uri: str, writing: BinaryIO | None) -> tuple[str, str | None]:
    """The SHA-256 of an object, read in parts, into a file if there is one; and the one that it says it has."""
    where, hashing = place(uri), hashlib.sha256()
    with explaining(uri):
        version = _Version(connect(), uri, where)
        for buffer, size in _in_order(version.parts()):
            with memoryview(buffer)[:size] as data:
                hashing.update(data)
                if writing is not None:
                    writing.write(data)
            version.free.append(buffer)
    return hashing.hexdigest(), version.sha256


class _Version:
    """One version of an object, read in ranges; each is asked for until it is whole."""

    def __init__(self, client: Any, uri: str, where: dict[str, str]) -> None:
        self._client, self._uri, self._where = client, uri, dict(where)
        self.sha256: str | None = None  # as the object says, once it has answered
        self.free: list[bytearray] = []  # of PART bytes: whoever has done with one puts it here, and it is filled again
        self._size: int | None = None

    def parts(self) -> Iterator[Callable[[], tuple[bytearray, int]]]:
        """What fetches each part, in a buffer of its own. The first is fetched at once: it says how many there are."""
        first = self._fetch(bytearray(PART), 0, PART)
        yield lambda: first
        for start in range(first[1], self._size or 0, PART):
            buffer = self.free.pop() if self.free else bytearray(PART)
            yield partial(self._fetch, buffer, start, min(start + PART, self._size or 0))

    def _fetch(self, buffer: bytearray, start: int, end: int) -> tuple[bytearray, int]:
        """The bytes from `start` to before `end`, or to the object's end. Goes on from the byte that was reached."""
        from botocore import exceptions

        reached, losses = start, 0
        while True:
            before, broke = reached, None
            try:
                for piece in self._pieces(reached, end):
                    buffer[reached - start:reached - start + len(piece)] = piece
                    reached += len(piece)
                if reached >= min(end, self._size or 0):
                    return buffer, reached - start
            except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
                broke = error
            losses = 1 if reached > before else losses + 1
            if losses >= (LOSSES if self._size is not None else ATTEMPTS):
                raise broke or ExpungeError(f"{named(self._uri)}: the S3 server sends less than there is",
                                            "check what stands between here and there")
            wait(losses)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        """What one answer holds of a range."""
        from botocore.exceptions import ClientError

        span = f"bytes={start}-{end - 1}"
        try:
            answer = asked(partial(self._client.get_object, **self._where, Range=span), attempts=1)
        except ClientError as error:
            if code(error) in ("InvalidRange", "416") and end == PART:
                self._size = 0  # an empty object has no first byte
                return
            if is_overtaken(error):
                raise ExpungeError(f"{named(self._uri)}: it changed while it was read",
                                   "give the same command again") from None
            raise
        whole = "ContentRange" not in answer  # a server that knows no ranges sends everything
        size = answer["ContentLength"] if whole else int(answer["ContentRange"].rpartition("/")[2])
        if self._size is None:
            self._size, self.sha256 = size, answer.get("Metadata", {}).get(SHA256)
            if "ETag" in answer:
                self._where["IfMatch"] = answer["ETag"]
        at, end = 0 if whole else start, min(end, size)
        with closing(answer["Body"]) as body:
            for piece in body.iter_chunks(PIECE):
                yield piece[max(0, start - at):max(0, end - at)]
                at += len(piece)
                if at >= end and whole:
                    return


def _upload_in_parts(client: Any, reading: BinaryIO, where: dict[str, str], sha256: str, size: int,
                     file: Path) -> None:
    from botocore.exceptions import ClientError

    began = asked(partial(client.create_multipart_upload, **where, Metadata={SHA256: sha256}))
    upload, hashing = {**where, "UploadId": began["UploadId"]}, hashlib.sha256()

    def parts() -> Iterator[Callable[[], Any]]:
        for number in count(1):
            data = reading.read(size)
            if not data:
                return
            hashing.update(data)
            yield partial(asked, partial(client.upload_part, **upload, PartNumber=number, Body=data), attempts=LOSSES)

    try:
        tags = [{"PartNumber": number, "ETag": answer["ETag"]} for number, answer in enumerate(_in_order(parts()), 1)]
        _require(hashing.hexdigest(), sha256, file)
        try:
            asked(partial(client.complete_multipart_upload, **upload, MultipartUpload={"Parts": tags}), attempts=LOSSES)
        except ClientError as error:  # an attempt whose answer was lost may have been done all the same
            there = unless_missing(partial(client.head_object, **where)) if code(error) == "NoSuchUpload" else None
            if there is None or there.get("Metadata", {}).get(SHA256) != sha256:
                raise
    finally:  # ours if it failed, and any that the server began without our hearing of it
        with suppress(Exception):  # what went wrong is told; what is left, the next upload of this key removes
            _abort(client, where, lambda key: key == where["Key"])


def _abort(client: Any, where: dict[str, str], of: Callable[[str], bool]) -> int:
    onward, removed = {"Bucket": where["Bucket"], "Prefix": where["Key"]}, 0
    while True:
        page = asked(partial(client.list_multipart_uploads, **onward))
        for left in page.get("Uploads", ()):
            if of(left["Key"]):
                unless_missing(partial(client.abort_multipart_upload, Bucket=where["Bucket"], Key=left["Key"],
                                       UploadId=left["UploadId"]))
                removed += 1
        if not page.get("IsTruncated"):
            return removed
        onward |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _in_order(tasks: Iterable[Callable[[], Answer]]) -> Iterator[Answer]:
    """Does several at once, and hands out what they give in their order; no more are begun than there is room for."""
    pool = ThreadPoolExecutor(WORKERS)
    begun: deque[Future[Answer]] = deque()
    try:
        for task in tasks:
            begun.append(pool.submit(task))
            if len(begun) > WORKERS:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _require(found: str, sha256: str, file: Path) -> None:
    if found != sha256:
        raise Refused(f"{file.name}: its bytes are not the approved ones ({found[:12]})", "nothing was uploaded")


