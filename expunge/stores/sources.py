"""Where models and data come from: what ships with expunge, files, and three kinds of store. See docs/sources.md.

Every function takes the field of the request that it works for (`checkpoint`, `holdout`, ...), and names it in
every complaint. What comes from elsewhere is kept in the workspace under ``sources/<sha256>/<name>``, complete or
not at all, and hashed again before each use. A request pins content: a name is only how to get at it.
"""

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import numpy as np

from expunge.contracts import (
    AUTO,
    ClassifierSource,
    Family,
    MethodChoice,
    ModelSource,
    ParentSource,
    Release,
    Request,
    Source,
    shorten,
)
from expunge.digests import atomic_path, canonical_json, sha256_file
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, Refused
from expunge.families import refuse_what_does_not_fit, words
from expunge.model_files import spec_in
from expunge.room import exclusive
from expunge.settings import Workspace, require_allowed
from expunge.stores import hub, releases, s3
from expunge.stores.addresses import scheme, shown
from expunge.stores.earlier import with_its_past
from expunge.stores.tracking import Tracking

if TYPE_CHECKING:
    from expunge.samples.images import LabelledImages

FIELDS = ("checkpoint", "discriminator", "oracle", "judge", "extractor", "reference", "origin", "holdout", "training",
          "proxy", "members", "labels")
DATA_SETS = ("holdout", "training", "proxy", "members")
MARKED = "marked"  # the scheme of samples that a person marked in the console
RELEASE = "release"  # the scheme of what this workspace released
HUB = "hf"
CONFIG = "config.json"  # in which libraries say what their folder holds
SUFFIXES = ((".safetensors",), (".pt", ".pth", ".bin"))  # of a model file, in the order of preference
KINDS = "a path, file://, builtin://, samples://, release://, s3://, models:/ or hf://"
LONGEST_NAME = 200  # bytes; file systems take 255, and ours has a prefix while it is written
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_RELEASE = re.compile(r"release://(?P<model>[^/]+)(?:/(?P<generation>\d{1,9}))?")
_FACTORY = re.compile(r"(?P<file>.*\.py):(?P<name>.*)", re.DOTALL)

Fetcher = Callable[[str, Path, Workspace], Path]
"""Brings what a URI names to this machine: (URI, empty folder, workspace) to the file, or a folder that holds it."""


def model_file(field: str, source: Source, workspace: Workspace) -> Path:
    """The local file that holds a model's weights, or any other single file.

    Raises:
        BadInput: there is none, it cannot be had with these credentials, or it may not be used.
        Refused: what was fetched has another digest than the request pins.
        ExpungeError: the store that has it cannot be reached.
    """
    with _naming(field):
        kind = scheme(source.uri)
        if kind in _FETCHERS:
            return _fetched(field, source, _FETCHERS[kind], workspace)
        if kind == "builtin":
            from expunge.assets import resolve

            found = resolve(source.uri)
            if not isinstance(found, Path):
                raise BadInput(f"{source.uri} is a data set, not a model", "name a model")
            return found
        if kind == "samples":
            raise BadInput(f"{shown(source.uri)} is a data set, not a single file", "name a file")
        if kind == MARKED:
            from expunge.samples.marked import marked_file

            if field != "labels":
                raise BadInput(f"{shown(source.uri)} says what samples show, and nothing else", "name it as labels")
            return marked_file(workspace, source.uri)
        if kind == RELEASE:
            release = _release(source.uri, workspace)
            file = releases.folder_of(workspace, release) / release.weights.name
            if sha256_file(file) != release.weights.sha256:
                raise DoesNotVerify(f"{file.relative_to(workspace.root)}: not the bytes that were released")
            return file
        file = _local(source.uri)
        if file.is_dir() and isinstance(source, ModelSource):
            file = _only_model(file, file.iterdir())
            require_allowed(file)
        return _usable(file)


def says_nothing(field: str, source: Source) -> BadInput:
    """The complaint of a model of which neither its file nor the request says what it is."""
    return BadInput(f"{field}.architecture: {shorten(shown(source.uri))} does not say what it is",
                    "name a built-in architecture or path/to/file.py:factory, or a folder that its library wrote "
                    "(docs/sources.md lists which are known)")


def factory_file(field: str, source: Source) -> Path | None:
    """The Python file of a model's own factory, or None if its architecture is built in or not given.

    Raises:
        BadInput: there is no such file, or it may not be used.
    """
    parts = _factory_parts(source)
    if parts is None:
        return None
    with _naming(field, "architecture"):
        file, name = parts
        if not name.isidentifier():
            raise BadInput(f"'{shorten(name)}' is no name of a function", "write path/to/file.py:factory")
        return _usable(_local(file))


def on_this_machine(request: Request) -> Iterator[Path]:
    """The files and folders of this machine that a pinned request names, factories' files too, if they are there."""
    for field in FIELDS:
        source: Source | None = getattr(request, field)
        if source is None:
            continue
        named = [_path(source.uri)] if scheme(source.uri) in ("", "file") else []
        if parts := _factory_parts(source):
            named.append(_path(parts[0]))
        yield from (path for path in named if path.exists())


def is_own_code(source: Source) -> bool:
    """Whether a model is built by a Python file of its owner's."""
    return _factory_parts(source) is not None


def images(field: str, source: Source, workspace: Workspace) -> "LabelledImages":
    """The labelled images of a data set, every one readable.

    Raises:
        BadInput: there is no such data set, an image cannot be read, or it may not be used.
        Refused: the images are not those that the request pins.
    """
    with _naming(field):
        found = _read_images(source.uri, workspace)
    _refuse_other(field, source, _digest_of(found))
    return found


def digest(field: str, source: Source, workspace: Workspace) -> str:
    """SHA-256 of what a source holds now: of a file's bytes, or of a data set's images, labels and class names.

    Raises:
        Refused: the request pins another digest, of the source or of its factory's file.
    """
    if field in DATA_SETS:
        return _digest_of(images(field, source, workspace))
    found = sha256_file(model_file(field, source, workspace))
    _refuse_other(field, source, found)
    factory = factory_file(field, source)
    if factory is not None and isinstance(source, ModelSource) and source.factory_sha256 is not None:
        _refuse_unless(sha256_file(factory), source.factory_sha256, f"{field}.factory_sha256", str(factory))
    return found


def pin(request: Request, folder: Path, workspace: Workspace) -> Request:
    """The request with every source made absolute and pinned by the digest of its bytes, factories' files too.

    Paths in the request are relative to `folder`, where its file lies. A release is pinned by its number, for which
    one is served may change. The family of the model is read off its file where the request does not say it, and what a
    library's folder says of its model is written down: the request's digest stands for that too.
    `method: auto` is decided here, so that the pinned request's digest stands for one method; it is also what a
    request about anything but a generator comes to that says nothing of a method. If the checkpoint came of earlier
    requests here, what they were about is filled in.

    Raises:
        BadInput: a source cannot be used, or the request does not fit its model's family.
        Refused: a source has another digest than the request pins.
    """
    def opened(field: str, source: Source) -> Source:
        if not isinstance(source, ModelSource):
            return source
        with _naming(field):
            return source.model_copy(update=_said_by_folder(source, workspace))

    found = _with_content_pinned(request, folder, workspace, opened)
    found = found.model_copy(update={
        field: source.model_copy(update={"family": _family(field, source, workspace)})
        for field in FIELDS if isinstance(source := getattr(found, field), ParentSource)})
    refuse_what_does_not_fit(found)
    found = _with_files_as_numbers(found, folder, workspace)
    choice = found.method
    if found.family != "gan" and "method" not in request.model_fields_set:
        choice = MethodChoice(name=AUTO)  # the method that is the default suits no other family
    if choice.name == AUTO or choice.chosen is not None:
        from expunge.methods.choosing import decided  # brings torch along, which naming a method does not need

        found = found.model_copy(update={"method": decided(found.model_copy(update={"method": choice}), found.family)})
    found = with_its_past(found, workspace)
    if found.origin is not None:
        digest("origin", found.origin, workspace)  # the chain's own is known by its digest: is it still there?
    return found


def pin_content(request: Request, folder: Path, workspace: Workspace) -> Request:
    """The part of `pin` that opens no model, and never imports torch: the same bytes are meant from here on.

    What a library's folder says, the family, `method: auto` and what came before are left to `pin`, which takes the
    result as it takes any request. Raises as `pin`.
    """
    unopened = _with_content_pinned(request, folder, workspace, lambda field, source: source)
    return _with_files_as_numbers(unopened, folder, workspace)


def _with_content_pinned(
    request: Request, folder: Path, workspace: Workspace, look: Callable[[str, Source], Source]
) -> Request:
    """The request with absolute places and the digests of what lies there, each source looked at before its digest."""

    def pinned(field: str, source: Source) -> Source:
        changes = {"uri": _absolute(source.uri, folder)}
        if scheme(source.uri) == RELEASE:
            with _naming(field):
                release = _release(source.uri, workspace)
            changes["uri"] = f"{RELEASE}://{release.model}/{release.generation}"
        parts = _factory_parts(source)
        if parts is not None:
            changes["architecture"] = f"{_absolute(parts[0], folder)}:{parts[1]}"
        made = look(field, source.model_copy(update=changes))
        changes = {"sha256": digest(field, made, workspace)}
        factory = factory_file(field, made)
        if factory is not None:
            changes["factory_sha256"] = sha256_file(factory)
        return made.model_copy(update=changes)

    given = {field: getattr(request, field) for field in FIELDS}
    return request.model_copy(update={
        field: pinned(field, source) for field, source in given.items() if source is not None})


def names_of_this_machine(request: Request) -> Iterator[tuple[str, str]]:
    """The fields of a request that name a file or folder here, by their dotted names, and what they say."""
    for field in FIELDS:
        source: Source | None = getattr(request, field)
        if source is None:
            continue
        if scheme(source.uri) in ("", "file"):
            yield f"{field}.uri", source.uri
        if (parts := _factory_parts(source)) is not None:
            yield f"{field}.architecture", f"{parts[0]}:{parts[1]}"


def _with_files_as_numbers(request: Request, folder: Path, workspace: Workspace) -> Request:
    """The request with what `forget.files` lists among the numbers of its images, and no name of a file."""
    asked = request.forget
    if asked.files is None or request.training is None:
        return request
    from expunge.samples.listed import rows_of

    with _naming("forget", "files"):
        listing = _usable(_local(_absolute(asked.files, folder)))
        rows = rows_of(listing, names_of_images(request.training.uri, workspace))
    return request.model_copy(update={
        "forget": asked.model_copy(update={"files": None, "images": tuple(sorted({*asked.images, *rows}))})})


def _said_by_folder(source: ModelSource, workspace: Workspace) -> dict[str, Any]:
    """What a library's folder says of the model in it, where the request does not; else nothing."""
    if source.architecture is not None or scheme(source.uri) not in ("", "file", HUB):
        return {}
    from expunge.models.library_folders import described_in

    folder = _folder_on_hub(source.uri, workspace) if scheme(source.uri) == HUB else _local(source.uri)
    if folder is None or not folder.is_dir():
        return {}
    found = described_in(folder)
    if found is None:
        return {}
    said: dict[str, Any] = {"architecture": found.architecture, "config": {**found.config, **source.config}}
    if isinstance(source, ParentSource | ClassifierSource) and not source.classes and found.classes:
        said["classes"] = found.classes
    return said


def _folder_on_hub(uri: str, workspace: Workspace) -> Path | None:
    """The folder of a file on the Hub, with what its library reads beside it; None if it is no library's."""
    from expunge.models.library_folders import WEIGHTS, read_with_weights

    if uri.rpartition("/")[2] not in WEIGHTS or spec_in(hub.fetch(uri, Path(), workspace)) is not None:
        return None
    return hub.fetch_with(uri, lambda folder: (CONFIG, *read_with_weights(folder)), workspace)


def _family(field: str, source: ParentSource, workspace: Workspace) -> Family:
    """The family of a parent: as its file or its architecture says, else as the request does, else a generator's.

    Raises:
        BadInput: the file cannot be read, or says nothing of its model; the request says otherwise than the file.
    """
    said: str | None
    if source.architecture is not None:
        from expunge.models import checkpoints

        said = checkpoints.family_of(source.architecture)
    else:
        with _naming(field):
            file = model_file(field, source, workspace)
            said = spec.family if (spec := spec_in(file)) else _family_by_names(file)
        if said is None:
            raise says_nothing(field, source)
    if said is None:
        return source.family or "gan"
    if said not in get_args(Family):
        raise BadInput(f"{field}.uri: {shown(source.uri)} is {words(said)}",
                       f"name {' or '.join(map(words, get_args(Family)))}")
    if source.family not in (None, said):
        raise BadInput(f"{field}.family: the request says {source.family}, the model is {words(said)}", "leave it out")
    return cast(Family, said)


def _family_by_names(file: Path) -> str | None:
    """The family of a model whose file does not say it, by what its tensors are called; None if that tells nothing."""
    from expunge.models import checkpoints  # brings torch along, which most files do without

    return checkpoints.family_in(file)


# --------------------------------------------------------------------------------------- on this machine


def _absolute(uri: str, folder: Path) -> str:
    return uri if scheme(uri) else str(folder.absolute() / uri)


def _factory_parts(source: Source) -> tuple[str, str] | None:
    """File and function of ``path/to/file.py:factory``, or None."""
    architecture = source.architecture if isinstance(source, ModelSource) else None
    found = _FACTORY.fullmatch(architecture or "")
    return (found["file"], found["name"]) if found else None


def _local(uri: str) -> Path:
    """The file or folder that a path or file:// URI names; it is there, and may be used."""
    path = _path(uri)
    require_allowed(path)
    return _there(path)


def _there(path: Path) -> Path:
    try:
        path.stat()
    except FileNotFoundError:
        raise BadInput(f"{shorten(str(path))}: no such file", "check the path") from None
    except (OSError, ValueError) as error:  # a name may also be one that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"{shorten(str(path))}: cannot be read ({reason})", "check the path") from None
    return path


def _path(uri: str) -> Path:
    """The path that is given, or that of a ``file://`` URI: percent-encoded bytes, however the file system names it."""
    kind = scheme(uri)
    if kind == "":
        return Path(uri).absolute()
    if kind != "file":
        raise BadInput(f"{shorten(shown(uri))}: this kind of source is not supported", f"use {KINDS}")
    try:
        parts = urlsplit(uri)
    except ValueError:
        parts = None
    if parts is None or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadInput(f"{shorten(shown(uri))}: not a file URI with an absolute path",
                       "write file:///folder/name, with %23 for # and %3F for ?")
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))


def _usable(file: Path) -> Path:
    """The file, which is one, can be read and holds something."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{shorten(str(file))}: is {'a folder' if file.is_dir() else 'no regular file'}", "name a file")
    if not os.access(file, os.R_OK):
        raise BadInput(f"{shorten(str(file))}: may not be read", "check its permissions")
    if not found.st_size:
        raise BadInput(f"{shorten(str(file))}: is empty", "write it again or fetch it again")
    return file


def _only_model(folder: Path, files: Iterable[Path]) -> Path:
    """The one model file of a folder."""
    candidates = sorted(file for file in files if not file.name.startswith(".") and not file.is_dir())
    for suffixes in SUFFIXES:
        found = [file for file in candidates if file.suffix in suffixes]
        if len(found) > 1:
            named = ", ".join(str(file.relative_to(folder)) for file in found)
            raise BadInput(f"{shorten(str(folder))}: holds {len(found)} model files ({shorten(named)})",
                           "name one of them")
        if found:
            return found[0]
    kinds = ", ".join(suffix for suffixes in SUFFIXES for suffix in suffixes)
    raise BadInput(f"{shorten(str(folder))}: holds no model file", f"name a folder with one file of {kinds}")


def _read_images(uri: str, workspace: Workspace) -> "LabelledImages":
    from expunge.samples.images import LabelledImages, read_images

    kind = scheme(uri)
    if kind == "builtin":
        from expunge.assets import digits, resolve
        from expunge.samples import SampleTable

        found = resolve(uri)
        if isinstance(found, Path):
            raise BadInput(f"{uri} is a model, not a data set", "name a data set")
        return LabelledImages(SampleTable(*digits(found)), (), ())
    if kind == "samples":
        from expunge.samples.imported import open_imported

        return open_imported(workspace, uri.partition("://")[2])
    if kind == RELEASE:
        raise BadInput(f"{shown(uri)} is a model, not a data set", "name a data set")
    if kind in _FETCHERS:
        raise BadInput(f"{shorten(shown(uri))}: images are not fetched from there",
                       "download them, then name the folder or import them with 'expunge samples import'")
    return read_images(_local(uri), strict=True)


def names_of_images(uri: str, workspace: Workspace) -> list[str]:
    """What the files of a data set's images are called, by their places in it; empty where one has none."""
    from expunge.samples.formats import Entry, list_images
    from expunge.samples.imported import names_in

    if scheme(uri) == "samples":
        return list(names_in(workspace, uri.partition("://")[2]))
    if scheme(uri) == "builtin":
        return []
    return [one.file if isinstance(one, Entry) else "" for one in list_images(_local(uri)).entries]


# ---------------------------------------------------------------------------------------------- digests


def _digest_of(found: "LabelledImages") -> str:
    """Over images [N, C, H, W] and labels [N] as they lie in memory, then the classes' names if there are any."""
    made = hashlib.sha256(np.ascontiguousarray(found.table.images).data)
    made.update(np.ascontiguousarray(found.table.labels).data)
    if found.classes:
        made.update(canonical_json(list(found.classes)))
    return made.hexdigest()


def _refuse_other(field: str, source: Source, found: str) -> None:
    if source.sha256 is not None:
        _refuse_unless(found, source.sha256, f"{field}.sha256", shown(source.uri))


def _refuse_unless(found: str, wanted: str, field: str, what: str) -> None:
    if found != wanted:
        raise Refused(f"{field}: {shorten(what)} has digest {found[:12]}…, the request pins {wanted[:12]}…",
                      "get the bytes that were meant, or correct the request")


@contextmanager
def _naming(field: str, key: str = "uri") -> Iterator[None]:
    """Whatever cannot be used is complained of by the field that named it."""
    try:
        yield
    except ExpungeError as error:
        if type(error) not in (BadInput, ExpungeError):
            raise  # no fault of this field: a digest that another one pins, a full disk, a busy workspace
        raise type(error)(f"{field}.{key}: {error.problem}", error.remedy) from error.__cause__


# --------------------------------------------------------------------------------------- from elsewhere


def _fetched(field: str, source: Source, fetch: Fetcher, workspace: Workspace) -> Path:
    """The file that a store holds, in the workspace; fetched only if it is not there already, undamaged."""
    kept = _kept(source, workspace)
    if kept is not None:
        return kept
    with exclusive(workspace.sources / ".lock", "another process fetches a source into this workspace",
                   "wait until it is done"):
        for left in workspace.sources.glob(".incoming-*"):  # by a fetch that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=workspace.sources) as scratch:
            got = fetch(source.uri, Path(scratch), workspace)
            file = _only_model(got, got.rglob("*")) if got.is_dir() else got
            name = file.name if scheme(source.uri) == "models" else source.uri.rpartition("/")[2]
            taken = Path(scratch, _name_here(name))
            if not file.is_relative_to(scratch):
                shutil.copyfile(file, taken)
            elif file != taken:
                file.rename(taken)
            if not taken.stat().st_size:
                raise BadInput(f"{shown(source.uri)}: is empty", "check what was stored there")
            found = sha256_file(taken)
            _refuse_other(field, source, found)
            target = workspace.sources / found / taken.name
            with atomic_path(target) as place:
                shutil.move(taken, place)  # a copy, where fetched files lie on another file system
            return target


def _kept(source: Source, workspace: Workspace) -> Path | None:
    """What was fetched before and has the pinned digest. A damaged copy is removed."""
    if source.sha256 is None:
        return None
    for file in sorted(workspace.sources.joinpath(source.sha256).glob("[!.]*")):
        if sha256_file(file) != source.sha256:
            file.unlink()
        elif file.suffix == Path(source.uri).suffix or scheme(source.uri) == "models":
            return file
    return None


def _name_here(name: str) -> str:
    """A name by which the file can be kept: its own, unless that is too long or not fit to be seen."""
    fits = name.isprintable() and len(os.fsencode(name)) <= LONGEST_NAME and not name.startswith(".")
    return name if fits else "model" + next((end for ends in SUFFIXES for end in ends if name.endswith(end)), "")


def _from_registry(uri: str, folder: Path, workspace: Workspace) -> Path:
    """What a version of MLflow's model registry stands for: its artifacts, or a release of this workspace."""
    found = _REGISTERED.fullmatch(uri)
    if found is None:
        raise BadInput(f"{shorten(shown(uri))}: names no registered version",
                       "write models:/name/1 (a version's number) or models:/name@alias")
    registry = Tracking.for_workspace(workspace)
    version = registry.registered(unquote(found["name"]), found["version"], found["alias"])
    if version.released_sha256 is not None:
        return _released(uri, version.released_sha256, workspace)
    if scheme(version.uri) not in ("", "file"):
        return registry.download(version.uri, folder)
    place = _path(version.uri)
    # What the workspace's own MLflow holds is as much allowed as the workspace itself.
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(workspace.tracking)):
        require_allowed(place)
    return _there(place)


def _release(uri: str, workspace: Workspace) -> Release:
    """The release that ``release://model`` stands for now, or ``release://model/2`` for ever."""
    named = _RELEASE.fullmatch(uri)
    if named is None:
        raise BadInput(f"{shorten(shown(uri))}: names no release",
                       "write release://model for what is served now, or release://model/1 for its first generation")
    known = releases.models(workspace)
    if named["model"] not in known:
        raise BadInput(f"{shorten(uri)}: nothing was released under that name here",
                       f"released were: {', '.join(known) or 'none yet'}")
    there = {release.generation: release for release in releases.history(workspace, named["model"])}
    found = (there.get(int(named["generation"])) if named["generation"]
             else releases.current(workspace, named["model"]))
    if found is None:
        raise BadInput(f"{uri}: {'there is no such generation' if named['generation'] else 'it is not in service'}",
                       "name a generation: " + ", ".join(f"{RELEASE}://{named['model']}/{one}" for one in there))
    return found


def _released(uri: str, sha256: str, workspace: Workspace) -> Path:
    for model in releases.models(workspace):
        for release in releases.history(workspace, model):
            file = releases.folder_of(workspace, release) / release.weights.name
            if release.weights.sha256 == sha256 and file.is_file():
                return file
    raise BadInput(f"{uri}: is a release that this workspace does not hold, and MLflow has no copy of its weights",
                   "name the released file itself")


_FETCHERS: dict[str, Fetcher] = {"s3": s3.fetch, HUB: hub.fetch, "models": _from_registry}
