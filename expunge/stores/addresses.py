"""Addresses of outside things, taken apart and as they may be shown."""

import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_WHO = re.compile(r"(?<=//)[^/\s]*@")
_QUERY = re.compile(r"[?#]\S*")
_IN_BUCKET = re.compile(r"s3://([^/]+)")
# Capitals and `_` are in buckets that are older than AWS's rules, and on other servers.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")


def scheme(uri: str) -> str:
    """What stands before ``:/`` of a URI, in lower case; empty for a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def shown(text: str) -> str:
    """The text without what may be secret in the URIs it holds: user, password, and all from a `?` or `#` on."""
    return _QUERY.sub("", _WHO.sub("", text)) if ":/" in text else text


def bucket_misfit(uri: str) -> str:
    """Why no server of S3 can have the bucket of ``s3://bucket/...``; empty if one can, or if none is named.

    The rules are AWS's for general purpose buckets, which other servers keep to.
    """
    found = _IN_BUCKET.match(shown(uri))
    if found is None or _BUCKET.fullmatch(found[1]):
        return ""
    name = found[1] if len(found[1]) <= 70 else found[1][:63] + "..."
    return f"'{name}' is no bucket: its name has 3 to 63 characters, of letters, digits, '.', '-' and '_'"
