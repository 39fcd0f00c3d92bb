"""Places to look in: an S3 server on loopback, asked by the real client, and folders."""

import tempfile

import pytest
from planting import PLANTS, plant

from expunge.custody.places import Folder, Prefix, place_of
from expunge.custody.searchers import searchers
from expunge.custody.sweeping import sweep
from expunge.errors import BadInput, ExpungeError
from expunge.samples.encryption import RequestKey

KNOWN = searchers(RequestKey("r", b"r" * 32))


def test_copies_of_every_kind_are_found_in_a_bucket_and_nothing_is_left_on_this_machine(bucket, pixels, wanted, tmp_path,
                                                                                        monkeypatch):
    plant(tmp_path / "here", pixels)
    for file in (tmp_path / "here").iterdir():
        for prefix in ("sets/old/", "other/"):
            bucket.upload_file(str(file), prefix + file.name)
    bucket.put_object(Key="sets/empty/")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    found = sweep([place_of("s3://faces/sets")], wanted, KNOWN)
    assert {one.path for one in found.found if one.copies} == {f"sets/old/{name}" for name, _ in PLANTS.values()}
    assert found.swept[0].files == len(PLANTS)
    assert not list((tmp_path / "temporary").iterdir())
    for searcher, (name, _) in PLANTS.items():
        without = sweep([place_of(f"s3://faces/sets/old/{name}")], wanted, [one for one in KNOWN if one.name != searcher])
        assert not any(one.certain for one in without.found if one.path == f"sets/old/{name}"), searcher


def test_a_bucket_that_is_not_there_or_does_not_answer_is_told(bucket, wanted, monkeypatch):
    with pytest.raises(BadInput, match="no such bucket"):
        sweep([place_of("s3://nowhere/x")], wanted, KNOWN)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ExpungeError, match="cannot be reached"):
        sweep([place_of("s3://faces/x")], wanted, KNOWN)


def test_a_place_is_a_folder_a_file_or_a_prefix(tmp_path):
    (tmp_path / "file").touch()
    assert isinstance(place_of(str(tmp_path)), Folder)
    assert isinstance(place_of("s3://bucket"), Prefix)
    assert [lying.path for lying in place_of(str(tmp_path / "file")).files()] == ["file"]
    with pytest.raises(BadInput, match="no such file or folder"):
        place_of(str(tmp_path / "nothing"))
