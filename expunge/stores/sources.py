"""Where models and data come from: what ships with expunge, and local files."""

from pathlib import Path

from expunge.contracts import Request, Source
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, Refused
from expunge.samples.table import SampleTable

BUILTIN = "builtin://"


def model_file(uri: str) -> Path:
    """The local file that a model's URI names; BadInput if there is none."""
    if uri.startswith(BUILTIN):
        from expunge.assets import resolve

        found = resolve(uri)
        if not isinstance(found, Path):
            raise BadInput(f"{uri} is a data set, not a model", "name a model")
        return found
    if "://" in uri and not uri.startswith("file://"):
        raise BadInput(f"{uri}: this kind of source is not supported", f"use a path, file:// or {BUILTIN}")
    file = Path(uri.removeprefix("file://"))
    if not file.is_file():
        raise BadInput(f"{uri}: no such file", "check the path")
    return file


def images(uri: str) -> SampleTable:
    """Labelled images of a data set; BadInput if it names none."""
    from expunge.assets import digits, resolve

    found = resolve(uri)
    if isinstance(found, Path):
        raise BadInput(f"{uri} is a model, not a data set", "name a data set")
    return SampleTable(*digits(found))


def digest(field: str, source: Source) -> str:
    """SHA-256 of what a source holds now; Refused if the request pins another digest."""
    if field == "holdout":
        table = images(source.uri)
        found = sha256_bytes(table.images.tobytes() + table.labels.tobytes())
    else:
        found = sha256_file(model_file(source.uri))
    if source.sha256 not in (None, found):
        raise Refused(f"{field}.sha256: {source.uri} has digest {found[:12]}…, the request pins {source.sha256[:12]}…",
                      "get the bytes that were meant, or correct the request")
    return found


def pin(request: Request) -> Request:
    """The request with every source made absolute and pinned by the digest of its bytes."""

    def pinned(field: str, source: Source) -> Source:
        uri = source.uri if "://" in source.uri else str(Path(source.uri).absolute())
        made_absolute = source.model_copy(update={"uri": uri})
        return made_absolute.model_copy(update={"sha256": digest(field, made_absolute)})

    fields = ("checkpoint", "oracle", "judge", "holdout", "labels")
    sources = {field: getattr(request, field) for field in fields}
    return request.model_copy(
        update={field: pinned(field, source) for field, source in sources.items() if source is not None})
