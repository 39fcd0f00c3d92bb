"""S3, or a server that speaks it: the only package that imports boto3, and only inside of functions.

Where the server is and who asks come from the usual AWS environment, files or roles (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ...). The digest of the bytes decides what they are. Tags only see to it that
all parts that are read are of one version, and that nobody is overwritten who wrote meanwhile.

A question is asked again by itself: after waits with jitter while the server says that it is busy, a few times where a
connection breaks, and from the byte that was reached.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError, WorkspaceBusy
from expunge.settings import Workspace
from expunge.stores.s3.asking import WORKERS, asked, connect, explaining, is_overtaken, named, place, unless_missing
from expunge.stores.s3.transfer import Stored, abort_uploads, digest, download, stored, upload

__all__ = ["WORKERS", "Stored", "abort_uploads", "delete", "digest", "download", "fetch", "fetched",
           "heeds_conditions", "listing", "read_with_age", "read_with_tag", "stored", "upload", "versions",
           "write_over"]


def fetch(uri: str, folder: Path, workspace: Workspace) -> Path:
    """Fetches the object of ``s3://bucket/key`` into a folder; returns the file.

    Raises:
        BadInput: the URI is none, there is no such object, or the credentials are missing or do not suffice.
        DoesNotVerify: it was uploaded from here, and its bytes have another digest now.
        ExpungeError: the server cannot be reached, or answers with something else.
    """
    file = folder / "object"
    download(uri, file)
    return file


def listing(bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Key and size in bytes of every object whose key begins with `prefix`; raises as `fetch`."""
    for page in _pages(bucket, prefix):
        yield from ((found["Key"], found["Size"]) for found in page.get("Contents", ()))


def versions(bucket: str, prefix: str) -> Iterator[tuple[str, str, float]]:
    """Key, tag and age in seconds, as of `read_with_age`, of every object whose key begins with `prefix`.

    A thousand of them are one question. Raises as `read_with_age`.
    """
    for page in _pages(bucket, prefix):
        for found in page.get("Contents", ()):
            yield found["Key"], found["ETag"], _age(f"s3://{bucket}/{found['Key']}", page, found["LastModified"])


def _pages(bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    uri, onward = f"s3://{bucket}/{prefix}", {"Bucket": bucket, "Prefix": prefix}
    while True:
        with explaining(uri):
            page = asked(partial(connect().list_objects_v2, **onward))
        yield page
        if not page.get("IsTruncated"):
            return
        onward["ContinuationToken"] = page["NextContinuationToken"]


@contextmanager
def fetched(bucket: str, key: str) -> Iterator[Path]:
    """An object as a file that only this user can read and that is gone afterwards; raises as `fetch`."""
    with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
        file = Path(folder, "object")
        download(f"s3://{bucket}/{key}", file)
        yield file


def read_with_tag(uri: str) -> tuple[bytes, str] | None:
    """The bytes of a small object and the tag of this very version of it; None if there is none. Raises as `fetch`."""
    where = place(uri)
    with explaining(uri):
        return unless_missing(partial(_whole, connect(), where))


def read_with_age(uri: str) -> tuple[bytes, str, float] | None:
    """As `read_with_tag`, and how many seconds ago that version was written: both moments are the server's own.

    Raises:
        ExpungeError: the server does not say what time it is; else as `fetch`.
    """
    where = place(uri)
    with explaining(uri):
        found = unless_missing(partial(_whole_answer, connect(), where))
    if found is None:
        return None
    data, answer = found
    return data, answer["ETag"], _age(uri, answer, answer["LastModified"])


def write_over(uri: str, data: bytes, tag: str | None) -> str:
    """Writes an object in the place of the version of that tag, or where there was none; raises as `fetch`.

    Returns the tag of the version that was written. A tag is that of a content: where the same one may come again,
    it must hold something that rises.

    Raises:
        WorkspaceBusy: somebody else has written it meanwhile, and is not overwritten.
    """
    where, condition = place(uri), {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
    with explaining(uri):
        from botocore.exceptions import ClientError

        client = connect()
        try:
            return str(asked(partial(client.put_object, **where, Body=data, **condition))["ETag"])
        except ClientError as error:
            if not is_overtaken(error):
                raise
            # An attempt whose answer was lost may have been done all the same: then what is there is ours.
            there = unless_missing(partial(_whole, client, where))
            if there is None or there[0] != data:
                raise WorkspaceBusy(f"{named(uri)}: somebody else has written it meanwhile",
                                    "give the same command again") from None
            return there[1]


def heeds_conditions(uri: str) -> bool:
    """Whether the server refuses a write whose condition does not hold. Leaves an empty object; raises as `fetch`."""
    where = place(uri)
    with explaining(uri):
        from botocore.exceptions import ClientError

        client = connect()
        asked(partial(client.put_object, **where, Body=b""))
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'}):
            try:
                asked(partial(client.put_object, **where, Body=b"", **condition))
            except ClientError as error:
                if not is_overtaken(error):
                    raise
            else:
                return False
    return True


def delete(uri: str) -> None:
    """Removes an object, if there is one; raises as `fetch`."""
    where = place(uri)
    with explaining(uri):
        asked(partial(connect().delete_object, **where))


def _whole(client: Any, where: dict[str, str]) -> tuple[bytes, str]:
    data, answer = _whole_answer(client, where)
    return data, answer["ETag"]


def _whole_answer(client: Any, where: dict[str, str]) -> tuple[bytes, dict[str, Any]]:
    answer = client.get_object(**where)
    return answer["Body"].read(), answer


def _age(uri: str, answer: dict[str, Any], written: datetime) -> float:
    """How many seconds before an answer something was written, both as the server says."""
    now = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not now:
        raise ExpungeError(f"{named(uri)}: the S3 server does not say what time it is (Date)",
                           "use one that does: clocks of other machines are not asked")
    return (parsedate_to_datetime(now) - written).total_seconds()
