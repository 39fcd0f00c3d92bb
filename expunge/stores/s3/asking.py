"""One question to an S3 server: how it is asked, how often, and what goes wrong in words for a person."""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.contracts import shorten
from expunge.errors import BadInput, ExpungeError, WorkspaceBusy
from expunge.stores.addresses import bucket_misfit, shown

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CONNECT_SECONDS, READ_SECONDS = 5, 20  # of one answer, not of a whole file
ATTEMPTS = 2  # to reach a server; a wrong address is told soon
BUSY_ATTEMPTS = 16  # with a server that says it is busy or broken: one that is so half of the time is got through to
FIRST_WAIT, LONGEST_WAIT = 0.1, 4.0  # seconds: the upper end of the first wait, and of any
WORKERS = 6  # questions at once

_ADDRESS = re.compile(r"s3://(?P<bucket>[A-Za-z0-9._-]+)/(?P<key>.*[^/])", re.DOTALL)
_MISSING = {"NoSuchBucket": "no such bucket", "NoSuchKey": "no such object", "404": "no such object"}
_NOT_ALLOWED = {"AccessDenied", "AllAccessDisabled", "403"}
_UNKNOWN_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
                        "TokenRefreshRequired", "AuthorizationHeaderMalformed", "InvalidSecurity"}
_OVERTAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_GONE = {"NoSuchKey", "404", "NoSuchUpload"}
_BUSY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "OperationAborted"}
_BUSY_STATUS = {429, 500, 502, 503, 504}
_PERMISSIONS = {"HeadObject": "s3:GetObject and s3:ListBucket", "ListObjectsV2": "s3:ListBucket",
                "ListMultipartUploads": "s3:ListBucketMultipartUploads", "GetObject": "s3:GetObject",
                "AbortMultipartUpload": "s3:AbortMultipartUpload", "DeleteObject": "s3:DeleteObject"}

Answer = TypeVar("Answer")


def place(uri: str) -> dict[str, str]:
    """Bucket and key of ``s3://bucket/key``, as the client takes them. BadInput if it names no object."""
    misfit = bucket_misfit(uri)
    if misfit:
        raise BadInput(f"{named(uri)}: {misfit}", "name the bucket as its server does")
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise BadInput(f"{named(uri)}: names no object", "write s3://bucket/key")
    return {"Bucket": found["bucket"], "Key": found["key"]}


def named(uri: str) -> str:
    """An address as it is shown: short, and without what is nobody's business."""
    return shorten(shown(uri))


def connect() -> Any:
    """A client for whoever the environment names now. Threads may share it, and do; other processes do not."""
    told = tuple(sorted((name, value) for name, value in os.environ.items()
                        if name.startswith("AWS_") or name == "HOME"))
    return _client(os.getpid(), CONNECT_SECONDS, READ_SECONDS, told)


@lru_cache(maxsize=2)  # making one takes longer than most questions
def _client(process: int, connect_seconds: float, read_seconds: float, told: tuple[tuple[str, str], ...]) -> Any:
    import boto3
    from botocore.config import Config

    # A session of its own: the default one remembers whose credentials it met first.
    return boto3.Session().client("s3", config=Config(
        connect_timeout=connect_seconds, read_timeout=read_seconds, max_pool_connections=WORKERS + 1,
        retries={"total_max_attempts": 1, "mode": "standard"}))  # see `asked`


def asked(ask: Callable[[], Answer], attempts: int = 0) -> Answer:
    """What the server answers, once it does: asked again where it is busy, or not reached `attempts` times in a row.

    Not by botocore's own retries: they count a busy server like one that is not there.
    """
    from botocore import exceptions

    busy = lost = 0
    while True:
        try:
            return ask()
        except exceptions.ClientError as error:
            busy, lost = busy + 1, 0
            if busy >= BUSY_ATTEMPTS or not _is_busy(error):
                raise
        except (exceptions.HTTPClientError, exceptions.ConnectionError):
            lost += 1
            if lost >= (attempts or ATTEMPTS):
                raise
        wait(busy + lost)


def wait(times: int) -> None:
    """Between nothing and twice as long as the last time: those who failed together do not come again together."""
    time.sleep(random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (times - 1))))


def unless_missing(ask: Callable[[], Answer]) -> Answer | None:
    """What the server answers, or None if there is no such object or upload."""
    from botocore.exceptions import ClientError

    try:
        return asked(ask)
    except ClientError as error:
        if code(error) in _GONE:
            return None
        raise


@contextmanager
def explaining(uri: str) -> Iterator[None]:
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
        raise BadInput(f"{named(uri)}: there are no usable AWS credentials ({type(error).__name__})",
                       "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.IncompleteReadError) as error:
        raise ExpungeError(f"{named(uri)}: the S3 server cannot be reached ({type(error).__name__})",
                           "check the network and AWS_ENDPOINT_URL, then run the same command again") from None
    except (exceptions.BotoCoreError, ValueError) as error:  # e.g. an endpoint that is no URL
        raise ExpungeError(f"{named(uri)}: cannot be fetched ({type(error).__name__})",
                           "check AWS_ENDPOINT_URL and the AWS configuration") from None


def code(error: "ClientError") -> str:
    """By which name the server refuses."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def is_overtaken(error: "ClientError") -> bool:
    """Whether the server refuses because an object is not the one that was meant."""
    return code(error) in _OVERTAKEN


def _explained(error: "ClientError", uri: str) -> ExpungeError:
    """What the server refused, by its code alone: its message may repeat what was sent."""
    said = code(error)
    if said in _MISSING:
        return BadInput(f"{named(uri)}: {_MISSING[said]}", "check bucket and key")
    if said in _NOT_ALLOWED:
        needed = _PERMISSIONS.get(error.operation_name, "s3:PutObject")
        return BadInput(f"{named(uri)}: access denied", f"ask for {needed} on it, or check its name")
    if said in _UNKNOWN_CREDENTIALS:
        return BadInput(f"{named(uri)}: the S3 server does not accept the credentials ({said})",
                        "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION")
    if said == "NoSuchUpload":
        return WorkspaceBusy(f"{named(uri)}: somebody else has ended this upload meanwhile",
                             "give the same command again")
    if _is_busy(error):
        return ExpungeError(f"{named(uri)}: the S3 server is busy or broken ({shorten(said, 60)})",
                            "give the same command again later")
    return ExpungeError(f"{named(uri)}: the S3 server answers {shorten(said, 60)}",
                        "check AWS_ENDPOINT_URL and AWS_REGION")


def _is_busy(error: "ClientError") -> bool:
    return (code(error) in _BUSY
            or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _BUSY_STATUS)
