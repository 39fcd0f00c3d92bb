"""S3, or a server that speaks it: the only file that imports boto3, and only inside of functions.

Where the server is and who asks come from the usual AWS environment, files or roles (``AWS_ENDPOINT_URL``,
``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ...). Object versions and ETags play no part: the digest of the bytes decides.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.contracts import shorten
from expunge.errors import BadInput, ExpungeError
from expunge.settings import Workspace
from expunge.stores.addresses import shown

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 20, 2  # of one answer, not of a whole download
PIECE = 1 << 20  # bytes

_ADDRESS = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,254})/(?P<key>.*[^/])", re.DOTALL)
_MISSING = {"NoSuchBucket": "no such bucket", "NoSuchKey": "no such object", "404": "no such object"}
_NOT_ALLOWED = {"AccessDenied", "AllAccessDisabled", "403"}
_UNKNOWN_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
                        "TokenRefreshRequired", "AuthorizationHeaderMalformed", "InvalidSecurity"}


def fetch(uri: str, folder: Path, workspace: Workspace) -> Path:
    """Fetches the object of ``s3://bucket/key`` into a folder; returns the file.

    Raises:
        BadInput: the URI is none, there is no such object, or the credentials are missing or do not suffice.
        ExpungeError: the server cannot be reached, or answers with something else.
    """
    found = _object(uri)
    return _download(found["bucket"], found["key"], folder / "object", uri)


def listing(bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Key and size in bytes of every object whose key begins with `prefix`; raises as `fetch`."""
    uri = f"s3://{bucket}/{prefix}"
    with _explaining(uri):
        pages = iter(_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix))
    while True:
        with _explaining(uri):
            page = next(pages, None)
        if page is None:
            return
        yield from ((found["Key"], found["Size"]) for found in page.get("Contents", ()))


@contextmanager
def fetched(bucket: str, key: str) -> Iterator[Path]:
    """An object as a file that only this user can read and that is gone afterwards; raises as `fetch`."""
    with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
        yield _download(bucket, key, Path(folder, "object"), f"s3://{bucket}/{key}")


def read_with_tag(uri: str) -> tuple[bytes, str] | None:
    """The bytes of a small object and the tag of this very version of it; None if there is none. Raises as `fetch`."""
    found = _object(uri)
    with _explaining(uri):
        from botocore.exceptions import ClientError

        try:
            answer = _client().get_object(Bucket=found["bucket"], Key=found["key"])
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                return None
            raise
        return answer["Body"].read(), answer["ETag"]


def write_over(uri: str, data: bytes, tag: str | None) -> None:
    """Writes an object in the place of the version of that tag, or where there was none; raises as `fetch`.

    Whoever else has written it meanwhile is not overwritten: that is an ExpungeError too.
    """
    found = _object(uri)
    with _explaining(uri):
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        _client().put_object(Bucket=found["bucket"], Key=found["key"], Body=data, **condition)


def _object(uri: str) -> "re.Match[str]":
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise BadInput(f"{shorten(shown(uri))}: names no object", "write s3://bucket/key")
    return found


def _download(bucket: str, key: str, file: Path, uri: str) -> Path:
    with _explaining(uri):
        answer = _client().get_object(Bucket=bucket, Key=key)
        with file.open("wb") as writing:
            for piece in answer["Body"].iter_chunks(PIECE):
                writing.write(piece)
    return file


@contextmanager
def _explaining(uri: str) -> Iterator[None]:
    """What goes wrong between here and the server, in words for whoever named the URI."""
    try:
        import boto3  # noqa: F401 - whoever has only half of it is told the same
        from botocore import exceptions
    except ImportError:
        raise BadInput("s3:// needs a package that is not installed", "pip install 'expunge[s3]'") from None

    try:
        yield
    except exceptions.ClientError as error:
        raise _explained(error, uri) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError,
            exceptions.ProfileNotFound, exceptions.TokenRetrievalError, exceptions.SSOError) as error:
        raise BadInput(f"{_name(uri)}: there are no usable AWS credentials ({type(error).__name__})",
                       "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise ExpungeError(f"{_name(uri)}: the S3 server cannot be reached ({type(error).__name__})",
                           "check the network and AWS_ENDPOINT_URL, then run the same command again") from None
    except (exceptions.BotoCoreError, ValueError) as error:  # e.g. an endpoint that is no URL
        raise ExpungeError(f"{_name(uri)}: cannot be fetched ({type(error).__name__})",
                           "check AWS_ENDPOINT_URL and the AWS configuration") from None


def _client() -> Any:
    import boto3
    from botocore.config import Config

    # A session of its own: the default one remembers whose credentials it met first.
    return boto3.Session().client("s3", config=Config(
        connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"}))


def _explained(error: "ClientError", uri: str) -> ExpungeError:
    """What the server refused, by its code alone: its message may repeat what was sent."""
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    if code in _MISSING:
        return BadInput(f"{_name(uri)}: {_MISSING[code]}", "check bucket and key")
    if code in _NOT_ALLOWED:
        return BadInput(f"{_name(uri)}: access denied", "ask for s3:GetObject on it, or check its name")
    if code in _UNKNOWN_CREDENTIALS:
        return BadInput(f"{_name(uri)}: the S3 server does not accept the credentials ({code})",
                        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION")
    return ExpungeError(f"{_name(uri)}: the S3 server answers {shorten(code, 60)}",
                        "check AWS_ENDPOINT_URL and AWS_REGION")


def _name(uri: str) -> str:
    return shorten(shown(uri))
