"""What every record is: frozen, named by its schema, known by the digest of its bytes, read and written whole."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from expunge.digests import canonical_json, write_atomically
from expunge.documents import read_document
from expunge.errors import BadInput

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Person = Annotated[str, Field(min_length=1, max_length=254, pattern=r"^[^\s/\\]+$")]

RECORD_FILE = "record.json"

# What a release may say of itself by the method that made it. Never "proved forgotten".
Claim = Literal["retrained", "approximate removal", "output suppression"]

Reason = Literal["privacy", "safety", "copyright", "bias"]


class Frozen(BaseModel):
    """A value that cannot change after it was made, and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Frozen):
    """A frozen value with a schema name: what one room hands to the next."""

    SCHEMA: ClassVar[str]
    # Fields that came later, and stay out of the bytes where nobody gave them: digests of what was written before,
    # from which a run's random numbers come, are what they were.
    LEFT_OUT: ClassVar[frozenset[str]] = frozenset()
    # `schema` would shadow a pydantic method, hence the alias.
    schema_name: str = Field(default="", alias="schema")

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_schema(cls, data: Any) -> Any:
        if isinstance(data, dict) and "schema" not in data and "schema_name" not in data:
            return {**data, "schema": cls.SCHEMA}
        return data

    @field_validator("schema_name")
    @classmethod
    def _schema_is_ours(cls, value: str) -> str:
        if value != cls.SCHEMA:
            raise ValueError(f"is {value!r}, this version reads {cls.SCHEMA!r}")
        return value

    def to_bytes(self) -> bytes:
        """The record as RFC 8785 JSON: what is stored, and what digests are taken of."""
        plain = self.model_dump(mode="json", by_alias=True)
        return canonical_json({name: value for name, value in plain.items()
                               if value is not None or name not in self.LEFT_OUT})


AnyRecord = TypeVar("AnyRecord", bound=Record)


def parse_record(kind: type[AnyRecord], data: Any, origin: str) -> AnyRecord:
    """Builds a record from plain data; a wrong field is one line that names it and `origin`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadInput(*describe(error, origin)) from None


def shorten(text: str, length: int = 200) -> str:
    """The text, cut to what fits on a line."""
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= length else text[: length - 1] + "…"


_KIND = re.compile(r"int|str|constrained-\w+|function-.+|.+\[.+")


def describe(error: ValidationError, origin: str) -> tuple[str, str]:
    """The first complaint of a validation error as (problem naming the field, remedy)."""
    first = error.errors()[0]
    # Where a field takes one of two kinds, pydantic adds the kind's own name to the place; nobody wrote that.
    place = [str(part) for part in first["loc"] if not _KIND.fullmatch(str(part))]
    field = ".".join(place) or "the document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{origin}: unknown key '{field}'{more}", "remove it or correct its spelling"
    if first["type"] == "missing":
        return f"{origin}: '{field}' is missing{more}", "add it"
    return f"{origin}: '{field}' {_lower_first(first['msg'])}{more}", "correct it"


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def read_record(kind: type[AnyRecord], path: Path) -> AnyRecord:
    """Reads a record from its file, or from the `record.json` of its folder."""
    file = path / RECORD_FILE if path.is_dir() else path
    data = read_document(file)
    if not isinstance(data, dict):
        raise BadInput(f"{file}: holds {type(data).__name__}, not a {kind.__name__}", "write key: value lines")
    return parse_record(kind, data, str(file.name if file.name != RECORD_FILE else file.parent.name))


class Absent(Record):
    """In the place of a record that a run need not have: said, so that nobody takes a lost one for none."""

    SCHEMA: ClassVar[str] = "expunge/absent/v1"

    reason: str


def read_record_if_any(kind: type[AnyRecord], path: Path) -> AnyRecord | None:
    """Reads a record, or None where an `Absent` stands in its place. BadInput if there is neither."""
    file = path / RECORD_FILE if path.is_dir() else path
    data = read_document(file)
    if isinstance(data, dict) and data.get("schema") == Absent.SCHEMA:
        parse_record(Absent, data, file.parent.name)
        return None
    return read_record(kind, path)


def write_record(path: Path, record: Record) -> Path:
    """Writes a record to `path`, or to `record.json` if `path` is a folder. Returns the file."""
    file = path / RECORD_FILE if path.is_dir() else path
    write_atomically(file, record.to_bytes())
    return file
