"""`expunge samples` as a user calls it."""

import gzip
import json
import random
import shutil
import signal
import struct
import subprocess
import time

import numpy as np
import pytest
from PIL import Image
from tests_support import EXPUNGE, bare_environment, call

from expunge.room import exclusive
from expunge.samples.imported import open_imported
from expunge.settings import Workspace


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    assert call(folder, "init").code == 0
    for seed, (name, file) in enumerate([("été", "1.png"), ("été", "2.png"), ("[bold]dog", "1.png")]):
        (folder / "pets" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pets" / name / file)
    shutil.copy(folder / "pets" / "été" / "1.png", folder / "pets" / "été" / "3.png")
    for number in range(12):
        (folder / "pets" / "été" / f"broken-{number:02}.png").write_bytes(b"x")
    return folder


@pytest.fixture
def fresh(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "it")
    return tmp_path / "it"


def test_import_says_what_came_in_and_what_did_not(fresh):
    assert "no set was imported yet" in call(fresh, "samples", "list").out
    assert call(fresh, "samples", "list", "--json").json == []
    done = call(fresh, "samples", "import", "pets", "pets")
    assert done.code == 0, done.err
    assert "samples://pets  imported: 3 images of 9×8 grey" in done.out
    assert "2: [bold]dog (1), été (2)" in done.out
    assert "12 that cannot be used, 1 that were there twice" in done.out
    assert done.out.count("is no image of a known kind") == 10
    listed = (fresh / ".expunge" / "imports" / "pets" / "skipped.jsonl").read_text().splitlines()
    assert len(listed) == 13
    assert len(open_imported(Workspace(fresh / ".expunge"), "pets").table) == 3
    shown = call(fresh, "samples", "list").out
    for word in ("pets", "3", "9×8 grey", "12", "[bold]dog", "20"):
        assert word in shown
    again = call(fresh, "samples", "import", "pets", "pets")
    assert (again.code, "nothing was changed" in again.out) == (0, True)


def test_json_is_one_object_and_progress_goes_elsewhere(fresh):
    done = call(fresh, "samples", "import", "pets", "pets", "--json", "--size", 4, "--channels", 3)
    assert done.code == 0, done.err
    found = done.json
    assert found["uri"] == "samples://pets"
    assert found["classes"] == {"[bold]dog": 1, "été": 2}
    assert (found["images"], found["skipped"], found["duplicates"]) == (3, 12, 1)
    assert found["image_shape"] == [3, 4, 4]
    assert len(found["left_out"]) == 10
    assert "read images" in done.err
    listed, = call(fresh, "samples", "list", "--json").json
    assert listed == {key: found[key] for key in listed}


@pytest.mark.parametrize(("arguments", "words"), [
    (["pets", "nowhere"], "nowhere: no such file or folder"),
    (["../pets", "pets"], "samples://../pets: cannot be the name of a set"),
    (["n" * 64, "pets"], "cannot be the name of a set"),
    (["pets", "pets/été"], "has no subfolders"),
    (["pets", "pets/été/1.png"], "not a form of labelled images"),
    (["pets", "pets", "--channels", "2"], "--channels: 2"),
    (["pets", "pets", "--size", "0"], "--size"),
    (["pets", "pets", "--size", "100000"], "--size"),
    (["pets"], "Missing argument"),
    (["pets", "bad.csv"], "bad.csv: line 2: ../x.png leads out of the list's own folder"),
])
def test_what_cannot_be_imported_is_refused_in_one_line(prepared, arguments, words):
    (prepared / "bad.csv").write_text("file,label\n../x.png,1\n")
    done = call(prepared, "samples", "import", *arguments, "--json")
    assert done.code == done.json["exit_code"] == 2, done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("expunge: ")
    assert words in last
    assert "Traceback" not in done.err + done.out
    assert not (prepared / ".expunge" / "imports").exists()
    assert not (prepared / ".expunge" / "samples").exists()


def test_a_folder_that_is_no_workspace_is_said(tmp_path):
    for arguments in (["import", "a", "."], ["list"]):
        done = call(tmp_path, "samples", *arguments)
        assert (done.code, "is not an expunge workspace" in done.err) == (2, True)


def test_what_was_imported_is_no_rubbish(fresh):
    assert call(fresh, "samples", "import", "pets", "pets").code == 0
    assert "a sample set of samples://pets" in {item["why"] for item in call(fresh, "gc", "--json").json["items"]}
    assert call(fresh, "gc", "--remove").code == 0
    assert len(open_imported(Workspace(fresh / ".expunge"), "pets").table) == 3


def test_nothing_is_removed_while_images_are_imported(fresh):
    with exclusive(Workspace(fresh / ".expunge").root / "imports.lock", "", ""):
        done = call(fresh, "gc", "--remove", "--json")
    assert done.code == done.json["exit_code"] == 75


def test_images_from_outside_of_the_allowed_folders_are_not_imported(fresh):
    done = call(fresh, "samples", "import", "pets", "pets", EXPUNGE_ROOTS=str(fresh / "elsewhere"))
    assert (done.code, "pets: is outside of the allowed folders" in done.err) == (2, True)
    assert call(fresh, "samples", "import", "pets", "pets", EXPUNGE_ROOTS=str(fresh)).code == 0


def save_mnist_like(folder, count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    header = struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape)
    (folder / "x-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels.tobytes(), 1))
    labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(row % 10 for row in range(count))
    (folder / "x-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder / "x-images-idx3-ubyte.gz"


@pytest.mark.slow
def test_an_import_that_is_killed_leaves_no_set_and_the_same_command_does_it_again(tmp_path):
    assert call(tmp_path, "init").code == 0
    file = save_mnist_like(tmp_path, 3000)
    began = time.monotonic()
    done = call(tmp_path, "samples", "import", "whole", file, "--json")
    assert done.code == 0, done.err
    takes = time.monotonic() - began
    shutil.rmtree(tmp_path / ".expunge" / "imports")
    for share in (0.5, 0.8, random.uniform(0.3, 1)):
        killed = subprocess.Popen([str(EXPUNGE), "samples", "import", "x", str(file)], cwd=tmp_path,
                                  env=bare_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  start_new_session=True)
        time.sleep(takes * share)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        for listed in call(tmp_path, "samples", "list", "--json").json:  # it may have come to its end
            assert listed["images"] == 3000
    (tmp_path / ".expunge" / "imports" / "x").mkdir(parents=True, exist_ok=True)
    (tmp_path / ".expunge" / "imports" / "x" / ".skipped.jsonl.killed.half").write_bytes(b"{")  # whatever the moment was
    done = call(tmp_path, "samples", "import", "x", file, "--json")
    assert done.code == 0, done.err
    found = open_imported(Workspace(tmp_path / ".expunge"), "x")
    assert len(found.table) == 3000
    assert not [path for path in (tmp_path / ".expunge").rglob("*.half")]
    assert json.loads((tmp_path / ".expunge" / "imports" / "x" / "record.json").read_text())["count"] == 3000
