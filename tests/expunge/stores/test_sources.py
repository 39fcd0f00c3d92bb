"""Files, folders and what ships: what may be used, how it is named when it may not, and what a request pins."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests_support import bare_environment

from expunge import assets
from expunge.contracts import (
    ClassifierSource,
    DataSource,
    DiscriminatorSource,
    ParentSource,
    Request,
    parse_record,
    read_record,
)
from expunge.digests import canonical_json, sha256_bytes, sha256_file
from expunge.errors import BadInput, Refused
from expunge.samples.imported import import_images
from expunge.settings import ROOTS_VARIABLE
from expunge.stores import sources
from pipelines.demo import request_for

GOLDEN = Path(__file__).parents[2] / "golden" / "0.1.0"


def model(workspace, uri, field="checkpoint"):
    return sources.model_file(field, ParentSource(uri=str(uri)), workspace)


@pytest.fixture
def weights(tmp_path):
    file = tmp_path / "models" / "größe 1#2%20.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    return file


@pytest.fixture
def faces(tmp_path):
    """Two classes of two grey images each."""
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for shade in (0, 100):
            Image.new("L", (8, 8), shade + number).save(tmp_path / "faces" / name / f"{shade}.png")
    return tmp_path / "faces"


def test_a_path_and_its_uri_are_the_same_file(workspace, weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    assert "%C3%B6" in weights.as_uri()
    for uri in (weights, weights.name, weights.as_uri(), weights.as_uri().replace("file://", "FILE://localhost")):
        assert model(workspace, uri).samefile(weights)


def test_a_name_that_is_no_utf8_can_be_given_as_a_uri(workspace, tmp_path):
    file = tmp_path / os.fsdecode(b"\xff.pt")
    file.write_bytes(b"weights")
    assert model(workspace, file.as_uri()) == file
    with pytest.raises(BadInput, match="\N{REPLACEMENT CHARACTER}") as caught:
        model(workspace, (tmp_path / os.fsdecode(b"\xfe.pt")).as_uri())
    str(caught.value).encode()


@pytest.mark.parametrize("uri", ["file://host/m.pt", "file:///m.pt?x", "file:///m.pt#1", "file://[/m.pt"])
def test_a_file_uri_that_is_no_path_says_how_to_write_one(workspace, uri):
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*not a file URI .*: write file:///folder/name"):
        model(workspace, uri)


def test_a_folder_stands_for_its_one_model_file_and_safetensors_come_first(workspace, weights):
    for name in ("g.pt", "notes.txt", ".hidden.safetensors"):
        weights.with_name(name).write_bytes(b"x")
    assert model(workspace, weights.parent) == weights
    weights.unlink()
    assert model(workspace, weights.parent).name == "g.pt"


def test_several_model_files_in_a_folder_are_listed(workspace, weights):
    weights.with_name("b.safetensors").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*holds 2 model files \(b\.safetensors, größe.*: name one"):
        model(workspace, weights.parent)


def test_a_folder_without_a_model_says_what_is_looked_for(workspace, tmp_path):
    with pytest.raises(BadInput, match=r"holds no model file.*\.safetensors, \.pt, \.pth, \.bin"):
        model(workspace, tmp_path)


def unusable(folder):
    (folder / "empty.pt").touch()
    (folder / "loop.pt").symlink_to("loop.pt")
    os.mkfifo(folder / "pipe.pt")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / "socket.pt"))
    bound.close()
    return {"missing.pt": "no such file", "empty.pt": "is empty", "loop.pt": r"cannot be read \(Too many levels",
            "pipe.pt": "is no regular file", "socket.pt": "is no regular file", "empty.pt/x": "cannot be read",
            "\0": "cannot be read", "n" * 300: r"cannot be read \(File name too long", "x/" * 2000: "no such file"}


def test_what_cannot_be_read_is_one_line_that_names_field_path_and_reason(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, said in unusable(tmp_path).items():
        with pytest.raises(BadInput, match=rf"^judge\.uri: .*{said}") as caught:
            model(workspace, name, "judge")
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("uri", "said"), [
    ("https://ada:hidden@example.org/g.pt?X-Amz-Signature=hidden", "https://example.org/g.pt: this kind of source is not"),
    ("builtin://digits/holdout", "is a data set, not a model"), ("samples://faces", "is a data set, not a single file"),
    ("builtin://digits/hands", "nothing built in is called"), ("gs://bucket/g.pt", "use a path, file://, builtin://"),
])
def test_what_is_no_model_says_so_and_shows_no_secret(workspace, uri, said):
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: ") as caught:
        model(workspace, uri)
    assert said in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_labels_are_one_file_and_no_folder(workspace, tmp_path):
    with pytest.raises(BadInput, match=r"^labels\.uri: .*is a folder: name a file"):
        sources.model_file("labels", DataSource(uri=str(tmp_path)), workspace)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.text(min_size=1), st.builds("{}{}".format, st.sampled_from(
    ["file:", "file://", "s3://", "s3://b/", "models:/", "hf://", "hf://a/b/", "builtin://", "samples://", "x://"]), st.text())))
@example("file://[")
@example("s3://x/" + "k" * 2000)
@example("hf://a/b/../../c")
def test_whatever_is_written_ends_in_a_file_or_in_one_line(workspace, monkeypatch, text):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("expunge.stores.s3.asking._client", _ask_nobody)
    monkeypatch.setattr(sources.Tracking, "registered", _ask_nobody)
    with pytest.raises((BadInput, _AskedError)) as caught:
        raise _AskedError(model(workspace, text))
    assert caught.type is _AskedError or str(caught.value).startswith("checkpoint.uri: ")


class _AskedError(Exception):
    """The URI names a file, or what a server would have been asked for."""


def _ask_nobody(*_):
    raise _AskedError


# ----------------------------------------------------------------------------------------- allowed folders


def test_only_the_allowed_folders_are_read_once_there_are_any(workspace, weights, tmp_path, monkeypatch):
    outside = tmp_path / "outside.pt"
    outside.write_bytes(b"x")
    (weights.parent / "link.pt").symlink_to(outside)
    roots = os.pathsep.join((str(tmp_path / "elsewhere"), str(weights.parent)))
    assert model(workspace, outside) == outside
    monkeypatch.setenv(ROOTS_VARIABLE, roots)
    assert model(workspace, weights) == weights
    assert model(workspace, "builtin://digits/dcgan") == assets.path("dcgan")
    for uri in (outside, weights.parent / "link.pt", f"{weights.parent}/../outside.pt", outside.as_uri(), "/missing"):
        with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*is outside of the allowed folders") as caught:
            model(workspace, uri)
        assert all(str(text) in str(caught.value) for text in (uri if uri != outside.as_uri() else outside,
                                                               ROOTS_VARIABLE, *roots.split(os.pathsep)))


def test_a_folders_only_model_may_not_lie_elsewhere(workspace, weights, tmp_path, monkeypatch):
    monkeypatch.setenv(ROOTS_VARIABLE, str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "g.pt").symlink_to(weights)
    with pytest.raises(BadInput, match="outside of the allowed folders"):
        model(workspace, tmp_path / "open")


def test_factories_and_images_are_held_to_the_same_folders(workspace, faces, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("")
    monkeypatch.setenv(ROOTS_VARIABLE, str(tmp_path / "open"))
    with pytest.raises(BadInput, match=r"^oracle\.architecture: .*mine\.py: is outside"):
        sources.factory_file("oracle", ClassifierSource(uri="x", architecture=f"{tmp_path}/mine.py:build"))
    with pytest.raises(BadInput, match=r"^holdout\.uri: .*faces: is outside"):
        sources.images("holdout", DataSource(uri=str(faces)), workspace)


def test_a_link_as_allowed_folder_allows_what_it_leads_to(workspace, weights, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(weights.parent)
    monkeypatch.setenv(ROOTS_VARIABLE, str(tmp_path / "link"))
    assert model(workspace, weights) == weights


def test_a_setting_that_names_no_folder_allows_nothing(workspace, weights, monkeypatch):
    monkeypatch.setenv(ROOTS_VARIABLE, "")
    with pytest.raises(BadInput, match=rf"outside of the allowed folders \({ROOTS_VARIABLE}: no folder\)"):
        model(workspace, weights)
    monkeypatch.setenv(ROOTS_VARIABLE, "models")
    with pytest.raises(BadInput, match=rf"{ROOTS_VARIABLE}: 'models' is no absolute path"):
        model(workspace, weights)


# ------------------------------------------------------------------------------------- digests and pinning


def test_the_built_in_images_keep_the_digest_that_old_requests_pin(workspace):
    old = read_record(Request, GOLDEN / "request.json")
    assert sources.digest("holdout", old.holdout, workspace) == old.holdout.sha256
    found = sources.images("holdout", old.holdout, workspace)
    assert (found.classes, found.table.images.shape[1:]) == ((), (1, 16, 16))


def test_a_data_set_is_pinned_by_its_images_labels_and_names_not_by_how_its_files_are_called(workspace, faces):
    source = DataSource(uri=str(faces))
    found = sources.images("holdout", source, workspace)
    before = sources.digest("holdout", source, workspace)
    assert before == sha256_bytes(
        found.table.images.tobytes() + found.table.labels.tobytes() + canonical_json(["cat", "dog"]))
    (faces / "cat" / "0.png").rename(faces / "cat" / "00.png")
    assert sources.digest("holdout", source, workspace) == before
    (faces / "cat").rename(faces / "cow")
    assert sources.digest("holdout", source, workspace) != before


def test_other_images_than_the_pinned_ones_are_not_handed_out(workspace, faces):
    source = DataSource(uri=str(faces))
    pinned = source.model_copy(update={"sha256": sources.digest("holdout", source, workspace)})
    assert len(sources.images("holdout", pinned, workspace).table) == 4
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(faces / "cat" / "0.png")
    with pytest.raises(Refused, match=r"^holdout\.sha256: .*faces has digest"):
        sources.images("holdout", pinned, workspace)


def test_an_imported_set_is_the_images_that_were_imported_and_has_their_digest(workspace, faces):
    import_images(workspace, "faces", faces)
    imported, read = DataSource(uri="samples://faces"), DataSource(uri=str(faces))
    assert sources.images("holdout", imported, workspace).classes == ("cat", "dog")
    assert sources.digest("holdout", imported, workspace) == sources.digest("holdout", read, workspace)
    with pytest.raises(BadInput, match=r"^holdout\.uri: .*samples://hands"):
        sources.images("holdout", DataSource(uri="samples://hands"), workspace)


def test_an_image_that_cannot_be_read_is_named(workspace, faces):
    (faces / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(BadInput, match=r"^holdout\.uri: .*0\.png is no image"):
        sources.images("holdout", DataSource(uri=str(faces)), workspace)


def test_images_are_not_fetched_from_a_store_of_models(workspace):
    for uri in ("s3://bucket/images", "hf://owner/name/images.parquet", "models:/faces/1"):
        with pytest.raises(BadInput, match=r"^holdout\.uri: .*expunge samples import"):
            sources.images("holdout", DataSource(uri=uri), workspace)


def test_a_model_is_no_data_set(workspace):
    with pytest.raises(BadInput, match=r"^holdout\.uri: .*is a model, not a data set"):
        sources.images("holdout", DataSource(uri="builtin://digits/dcgan"), workspace)


@pytest.fixture
def request_in(tmp_path):
    """A request in a folder of its own, with everything beside it, and itself elsewhere."""
    folder = tmp_path / "wünsche"
    (folder / "models").mkdir(parents=True)
    for name in ("g.pt", "d.pt"):
        (folder / "models" / name).write_bytes(name.encode())
    (folder / "mine.py").write_text("def build(): ...")
    (folder / "labels.csv").write_text("index,label\n")
    document = request_for(8, 0, False) | {
        "checkpoint": {"uri": "models/g.pt", "architecture": "./mine.py:build"},
        "discriminator": {"uri": "models/d.pt", "architecture": "mine.py:build", "output": "probability"},
        "labels": {"uri": (folder / "labels.csv").as_uri()}}
    return folder, parse_record(Request, document, "request")


def test_paths_are_relative_to_the_requests_own_folder_and_everything_is_pinned(workspace, request_in, tmp_path, monkeypatch):
    folder, request = request_in
    monkeypatch.chdir(tmp_path)
    pinned = sources.pin(request, Path(folder.name), workspace)
    factory = sha256_file(folder / "mine.py")
    assert pinned.checkpoint == ParentSource(
        uri=str(folder / "models" / "g.pt"), sha256=sha256_bytes(b"g.pt"), architecture=f"{folder / 'mine.py'}:build",
        factory_sha256=factory, family="gan")
    assert pinned.discriminator == DiscriminatorSource(
        uri=str(folder / "models" / "d.pt"), sha256=sha256_bytes(b"d.pt"), output="probability",
        architecture=f"{folder / 'mine.py'}:build", factory_sha256=factory)
    assert pinned.oracle == ClassifierSource(uri="builtin://digits/oracle", sha256=sha256_file(assets.path("oracle")))
    assert pinned.labels.sha256 == sha256_file(folder / "labels.csv")
    assert pinned.holdout.sha256 == read_record(Request, GOLDEN / "request.json").holdout.sha256
    monkeypatch.chdir("/")
    assert sources.pin(pinned, Path("/elsewhere"), workspace) == pinned


def test_a_factory_that_was_changed_since_is_refused(workspace, request_in):
    folder, request = request_in
    pinned = sources.pin(request, folder, workspace)
    (folder / "mine.py").write_text("def build(): raise SystemExit")
    with pytest.raises(Refused, match=r"^checkpoint\.factory_sha256: .*mine\.py has digest"):
        sources.digest("checkpoint", pinned.checkpoint, workspace)
    with pytest.raises(Refused, match=r"^discriminator\.factory_sha256"):
        sources.digest("discriminator", pinned.discriminator, workspace)


def test_weights_other_than_the_pinned_ones_are_refused(workspace, request_in):
    folder, request = request_in
    pinned = sources.pin(request, folder, workspace)
    (folder / "models" / "d.pt").write_bytes(b"other")
    with pytest.raises(Refused, match=r"^discriminator\.sha256: .*d\.pt has digest"):
        sources.pin(pinned, folder, workspace)


@pytest.mark.parametrize(("architecture", "said"), [
    ("missing.py:build", r"missing\.py: no such file"), ("mine.py:", "'' is no name of a function"),
    ("mine.py:not a name", "'not a name' is no name"), ("mine.py:a:b", "'a:b' is no name"),
    (".py:build", r"\.py: no such file"),
])
def test_a_factory_that_is_not_there_is_named_by_its_field(workspace, request_in, architecture, said):
    folder, request = request_in
    changed = request.model_copy(update={
        "checkpoint": request.checkpoint.model_copy(update={"architecture": architecture})})
    with pytest.raises(BadInput, match=rf"^checkpoint\.architecture: .*{said}"):
        sources.pin(changed, folder, workspace)


@pytest.mark.parametrize("architecture", [None, "dcgan", "no-such-thing", "a/b.pyc:build"])
def test_what_is_built_in_has_no_factory(architecture):
    assert sources.factory_file("checkpoint", ParentSource(uri="x", architecture=architecture)) is None
    assert sources.factory_file("holdout", DataSource(uri="x")) is None


def test_a_model_that_says_what_it_is_in_its_header_is_pinned_without_torch(workspace, tmp_path):
    """Whoever starts a run waits for this."""
    done = subprocess.run([sys.executable, "-c", """
import sys
from pathlib import Path
from expunge.contracts import Request, parse_record
from expunge.settings import Workspace
from expunge.stores.sources import pin
from pipelines.demo import request_for
found = pin(parse_record(Request, request_for(8, 0, True), "request"), Path(), Workspace.locate())
sys.exit(found.family != "gan" or "torch" in sys.modules)
"""], cwd=tmp_path, env=bare_environment(EXPUNGE_WORKSPACE=str(workspace.root)), check=False)
    assert done.returncode == 0
