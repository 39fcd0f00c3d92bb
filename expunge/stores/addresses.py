"""Addresses of outside things, taken apart and as they may be shown."""

import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_WHO = re.compile(r"(?<=//)[^/\s]*@")
_QUERY = re.compile(r"[?#]\S*")


def scheme(uri: str) -> str:
    """What stands before ``:/`` of a URI, in lower case; empty for a path."""
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def shown(text: str) -> str:
    """The text without what may be secret in the URIs it holds: user, password, and all from a `?` or `#` on."""
    return _QUERY.sub("", _WHO.sub("", text)) if ":/" in text else text
