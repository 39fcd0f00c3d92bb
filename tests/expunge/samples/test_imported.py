import json
import os
import shutil
import stat
import subprocess

import numpy as np
import pytest
from PIL import Image

from expunge.contracts import read_record
from expunge.digests import write_atomically
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, WorkspaceBusy
from expunge.events import Event
from expunge.room import exclusive
from expunge.samples import RequestKey
from expunge.samples import sample_sets as sets_module
from expunge.samples.images import read_images
from expunge.samples.imported import ImportedSet, import_images, imported_sets, open_imported


def brought(folder, count=6, seed=0, classes=("cat", "dog"), shape=(6, 5, 3)):
    """A folder per class, with images that no other seed gives."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row in range(count // len(classes)):
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{row}.png")
    return folder


def files_of(workspace):
    return [file for file in workspace.root.rglob("*") if file.is_file()]


def test_a_set_is_read_back_by_its_name_as_it_was_brought(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(sets_module, "SHARD_SIZE", 4)
    folder = brought(tmp_path / "pets")
    expected = read_images(folder, strict=True)
    done = import_images(workspace, "pets", folder)
    shutil.rmtree(folder)
    found = open_imported(workspace, "pets")
    np.testing.assert_array_equal(found.table.pixels, expected.table.pixels)
    np.testing.assert_array_equal(found.table.labels, expected.table.labels)
    assert (found.classes, found.skipped) == (("cat", "dog"), ())
    record, = imported_sets(workspace)
    assert record == done.record == read_record(ImportedSet, done.folder)
    assert record.counts_by_name == {"cat": 3, "dog": 3}
    assert (record.count, record.image_shape, len(record.shards), record.skipped) == (6, (3, 6, 5), 2, 0)


def test_a_conversion_is_kept_with_the_set(workspace, tmp_path):
    import_images(workspace, "small", brought(tmp_path / "pets"), size=4, channels=1)
    assert open_imported(workspace, "small").table.images.shape == (6, 1, 4, 4)


def test_no_image_and_no_name_of_one_is_in_the_workspace_in_the_clear(workspace, tmp_path):
    folder = brought(tmp_path / "pets")
    shutil.move(folder / "cat" / "0.png", folder / "cat" / "ada-lovelace.png")
    import_images(workspace, "pets", folder)
    assert sum(file.read_bytes().startswith(b"EXPUNGE") for file in files_of(workspace)) >= 2
    for file in files_of(workspace):
        data = file.read_bytes()
        assert b"\x89PNG" not in data, file
        assert b"PAR1" not in data, file
        assert b"ada-lovelace" not in data, file


def test_what_is_left_out_is_listed_for_the_owner_alone(workspace, tmp_path):
    folder = brought(tmp_path / "pets")
    (folder / "cat" / "empty.png").touch()
    shutil.copy(folder / "cat" / "0.png", folder / "cat" / "again.png")
    shutil.copy(folder / "cat" / "1.png", folder / "dog" / "z.png")
    done = import_images(workspace, "pets", folder)
    assert (done.record.count, done.record.skipped, done.record.duplicates) == (6, 1, 2)
    listed = [json.loads(line) for line in (done.folder / "skipped.jsonl").read_text().splitlines()]
    assert listed == [
        {"where": "cat/empty.png", "why": "is empty"},
        {"where": "cat/again.png", "why": "is the same image as cat/0.png"},
        {"where": "dog/z.png", "why": "is the same image as cat/1.png, whose label is another"},
    ]
    assert stat.S_IMODE((done.folder / "skipped.jsonl").stat().st_mode) == 0o600
    assert "z.png" not in (done.folder / "record.json").read_text()
    assert len(open_imported(workspace, "pets").table) == 6


def test_an_import_is_versioned_like_the_sets_of_a_run(workspace, tmp_path):
    import_images(workspace, "pets", brought(tmp_path / "pets"))
    git = ["git", "-c", "safe.directory=*", "-C", str(workspace.samples)]
    log = subprocess.run([*git, "log", "--format=%an %s"], capture_output=True, text=True, check=True).stdout
    assert log == "expunge pets: 6 samples imported\n"
    assert not subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout


def test_the_same_set_again_changes_nothing(workspace, tmp_path):
    folder = brought(tmp_path / "pets")
    first = import_images(workspace, "pets", folder)
    before = {file: file.read_bytes() for file in files_of(workspace)}
    again = import_images(workspace, "pets", folder)
    assert again.already
    assert not first.already
    assert again.record == first.record
    assert {file: file.read_bytes() for file in files_of(workspace)} == before


@pytest.mark.parametrize("change", ["an image", "a label", "a class's name", "an order"])
def test_other_content_under_a_taken_name_is_refused(workspace, tmp_path, change):
    folder = brought(tmp_path / "pets")
    import_images(workspace, "pets", folder)
    if change == "an image":
        brought(folder, seed=1)
    elif change == "a label":
        shutil.move(folder / "cat" / "2.png", folder / "dog" / "2a.png")
    elif change == "a class's name":
        shutil.move(folder / "cat", folder / "cats")
    else:
        shutil.move(folder / "cat" / "0.png", folder / "cat" / "9.png")
    with pytest.raises(BadInput, match="another set of 6 images has this name: choose another name"):
        import_images(workspace, "pets", folder)


def test_an_image_that_is_in_another_set_is_refused_with_that_sets_name(workspace, tmp_path):
    first, second = brought(tmp_path / "a"), brought(tmp_path / "b", seed=1, classes=("x", "y"))
    import_images(workspace, "first", first)
    for name in ("0.png", "1.png"):
        shutil.copy(first / "cat" / name, second / "y" / f"copy-{name}")
    with pytest.raises(BadInput, match=r"2 of 8 images are in other imported sets already: 2 in 'first': .*samples://first"):
        import_images(workspace, "second", second)
    assert [record.name for record in imported_sets(workspace)] == ["first"]
    for name in ("0.png", "1.png"):
        (second / "y" / f"copy-{name}").unlink()
    assert import_images(workspace, "second", second).record.count == 6
    assert [record.name for record in imported_sets(workspace)] == ["first", "second"]


def test_the_digests_of_images_say_nothing_without_the_key(workspace, tmp_path):
    folder = brought(tmp_path / "pets")
    one = import_images(workspace, "pets", folder)
    digests = (one.folder / "digests").read_bytes()
    assert len(digests) == 6 * 32
    shutil.rmtree(one.folder)
    shutil.rmtree(workspace.keys / "requests")
    two = import_images(workspace, "pets", folder)
    assert (two.folder / "digests").read_bytes() != digests
    assert two.record.set_id != one.record.set_id


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x", "é", "n" * 64, ".hidden", "a b", "a\0"])
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_written(workspace, tmp_path, name):
    before = files_of(workspace)
    with pytest.raises(BadInput, match="cannot be the name of a set"):
        import_images(workspace, name, brought(tmp_path / "pets"))
    with pytest.raises(BadInput, match="cannot be the name of a set"):
        open_imported(workspace, name)
    assert files_of(workspace) == before


def test_a_set_that_is_not_there_is_refused_with_those_that_are(workspace, tmp_path):
    with pytest.raises(BadInput, match="no set of that name was imported: import it"):
        open_imported(workspace, "pets")
    import_images(workspace, "pets", brought(tmp_path / "pets"))
    with pytest.raises(BadInput, match="use one of pets"):
        open_imported(workspace, "pest")


def test_an_import_that_fails_leaves_no_set_and_can_be_repeated(workspace, tmp_path):
    folder = brought(tmp_path / "pets")
    shutil.rmtree(workspace.sample_remote, ignore_errors=True)
    workspace.sample_remote.write_text("in the way")
    with pytest.raises((ExpungeError, OSError), match="sample-remote"):
        import_images(workspace, "pets", folder)
    assert imported_sets(workspace) == []
    workspace.sample_remote.unlink()
    import_images(workspace, "pets", folder)
    assert len(open_imported(workspace, "pets").table) == 6


def test_a_record_is_what_makes_a_set(workspace, tmp_path):
    folder = brought(tmp_path / "pets")
    done = import_images(workspace, "pets", folder)
    (done.folder / "record.json").unlink()  # as if killed just before it was written
    assert imported_sets(workspace) == []
    assert not import_images(workspace, "pets", folder).already
    assert len(open_imported(workspace, "pets").table) == 6


def test_a_second_import_at_once_is_told_so(workspace, tmp_path):
    with exclusive(workspace.root / "imports.lock", "x", ""), pytest.raises(WorkspaceBusy, match="an import works"):
        import_images(workspace, "pets", brought(tmp_path / "pets"))


def test_a_changed_set_does_not_open(workspace, tmp_path):
    done = import_images(workspace, "pets", brought(tmp_path / "pets"))
    other = import_images(workspace, "other", brought(tmp_path / "other", seed=1))
    write_atomically(done.folder / "record.json",
                     done.record.model_copy(update={"classes": ("dog", "cat")}).to_bytes())
    with pytest.raises(DoesNotVerify, match="samples://pets is not the set that was imported"):
        open_imported(workspace, "pets")
    write_atomically(done.folder / "record.json",
                     done.record.model_copy(update={"shards": other.record.shards}).to_bytes())
    with pytest.raises(DoesNotVerify, match="does not decrypt"):
        open_imported(workspace, "pets")
    md5 = other.record.shards[0].md5
    (workspace.sample_remote / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    with pytest.raises(DoesNotVerify, match="cannot be read"):
        open_imported(workspace, "other")


def test_changed_digests_are_noticed_by_the_next_import(workspace, tmp_path):
    done = import_images(workspace, "pets", brought(tmp_path / "pets"))
    (done.folder / "digests").write_bytes(bytes(6 * 32))
    with pytest.raises(DoesNotVerify, match="samples://pets: its digests are not those of its record"):
        import_images(workspace, "other", brought(tmp_path / "other", seed=1))


def test_a_set_whose_key_is_gone_says_where_it_was(workspace, tmp_path):
    folder = brought(tmp_path / "pets")
    import_images(workspace, "pets", folder)
    key = RequestKey.file(workspace, "_imports/pets")
    assert not key.is_relative_to(workspace.root)
    os.remove(key)
    for attempt in (lambda: open_imported(workspace, "pets"), lambda: import_images(workspace, "pets", folder)):
        with pytest.raises(BadInput, match=f"samples://pets: its key is not at {key}"):
            attempt()


def test_whoever_watches_sees_each_stage_and_how_far_it_is(workspace, tmp_path):
    events: list[Event] = []
    import_images(workspace, "pets", brought(tmp_path / "pets"), watch=events.append)
    assert [event.room for event in events if event.kind == "finished"] == ["read images", "compare", "encrypt"]
    for room in ("read images", "encrypt"):
        assert [(event.step, event.total) for event in events if (event.room, event.kind) == (room, "progress")][-1] == (6, 6)
