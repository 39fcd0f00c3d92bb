"""Reading what people write: YAML or JSON, of a sane size, with nothing in it that means two things."""

import json
import stat
from collections.abc import Hashable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import yaml

from expunge.errors import BadInput

LARGEST = 1 << 20  # bytes; a request has a few hundred, and YAML is read at about a megabyte per second
DEEPEST = 30  # levels of nesting
LARGEST_INTEGER = 2**53 - 1  # what JSON (RFC 8785) can say without loss
YAML_SUFFIXES = frozenset({".yaml", ".yml"})


def read_document(file: Path) -> Any:
    """Plain data from a YAML file, by its suffix, or else from a JSON file.

    Raises:
        BadInput: it cannot be read, is too large, or says what JSON cannot say.
    """
    try:
        found = file.stat()
        if stat.S_ISDIR(found.st_mode):
            raise BadInput(f"{file}: is a folder", "name a file")
        if not stat.S_ISREG(found.st_mode):  # a pipe or a device may never end
            raise BadInput(f"{file}: is no regular file", "write the document into a file")
        if found.st_size > LARGEST:
            raise BadInput(f"{file}: has {found.st_size:,} bytes, at most {LARGEST:,} are read",
                           "check that it is the file that was meant")
        return parse_document(file.read_bytes(), str(file), is_yaml=file.suffix in YAML_SUFFIXES)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}", "check the path") from None


def parse_document(data: bytes, origin: str, is_yaml: bool = True) -> Any:
    """Plain data from the bytes of a document; JSON is YAML, only slower to read."""
    try:
        found = yaml.load(data, _Strict) if is_yaml else json.loads(data)
    except (ValueError, yaml.YAMLError, RecursionError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"{origin}: not a readable document ({said})", "check that it is JSON or YAML") from None
    _refuse_unsayable(found, origin, "the document", 0)
    return found


class _Strict(yaml.SafeLoader):
    """YAML without aliases, which can unfold to more than a machine holds, and without a key said twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "has an alias (*name)", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"says {key!r} twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _refuse_unsayable(found: Any, origin: str, where: str, depth: int) -> None:
    if depth > DEEPEST:
        raise BadInput(f"{origin}: {where} is nested more than {DEEPEST} levels deep", "write it flatter")
    if isinstance(found, dict):
        for key, value in found.items():
            if not isinstance(key, str):
                raise BadInput(f"{origin}: the key {str(key)[:40]!r} is no text", "quote it")
            _refuse_half_characters(key, origin, f"a key of {where}")
            _refuse_unsayable(value, origin, f"'{key[:40]}'", depth + 1)
    elif isinstance(found, list):
        for value in found:
            _refuse_unsayable(value, origin, where, depth + 1)
    elif isinstance(found, int) and abs(found) > LARGEST_INTEGER:
        raise BadInput(f"{origin}: {where} holds a whole number beyond {LARGEST_INTEGER:,}", "write a smaller one")
    elif isinstance(found, str):
        _refuse_half_characters(found, origin, where)
    elif not isinstance(found, int | float | bool | date | None) or isinstance(found, datetime):
        raise BadInput(f"{origin}: {where} holds a {type(found).__name__}", "write text, numbers, lists or keys")


def _refuse_half_characters(text: str, origin: str, where: str) -> None:
    """BadInput for a surrogate: neither UTF-8 nor canonical JSON can say it. YAML also makes two of JSON's pairs."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadInput(f"{origin}: {where} holds half a character", "write it as Unicode text")
