import io
import json
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from expunge.contracts import Request, SampleSet
from expunge.errors import BadInput, DoesNotVerify
from expunge.samples import (
    NewSampleSet,
    RequestKey,
    SampleTable,
    read_samples,
    refuse_overlap,
    write_sample_sets,
)
from expunge.samples import sample_sets as module

SOURCE = {"uri": "builtin://digits/dcgan"}
REQUEST = Request(id="r", requester="ada", reason="privacy", model="m", checkpoint=SOURCE, oracle=SOURCE,
                  judge=SOURCE, holdout=SOURCE, forget={"classes": [1]})


def table(count, seed=0, channels=1, latents=True):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, channels, 6, 5)).astype(np.float32) / 127.5 - 1
    return SampleTable(images, random.integers(0, 3, count),
                       random.normal(size=(count, 4)).astype(np.float32) if latents else None)


def written(workspace, *sets):
    key = RequestKey.load_or_create(workspace, REQUEST.id)
    return write_sample_sets(workspace, key, REQUEST, "0" * 64, sets)


def assert_same(found, expected):
    np.testing.assert_allclose(found.images, expected.images, atol=1e-6)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.latents is None) == (expected.latents is None)
    if expected.latents is not None:
        np.testing.assert_array_equal(found.latents, expected.latents)


@given(count=st.integers(1, 5), channels=st.sampled_from([1, 3]), latents=st.booleans(), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=25)
def test_parquet_gives_back_what_went_in(count, channels, latents, seed):
    original = table(count, seed, channels, latents)
    assert_same(SampleTable.from_parquet(original.to_parquet()), original)


def test_parquet_follows_the_hugging_face_image_convention():
    stored = pq.read_table(io.BytesIO(table(2).to_parquet()))
    features = json.loads(stored.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    cell = stored["image"][0].as_py()
    assert set(cell) == {"bytes", "path"}
    assert Image.open(io.BytesIO(cell["bytes"])).size == (5, 6)


def test_sets_are_read_back_by_their_record_alone(workspace, monkeypatch):
    monkeypatch.setattr(module, "SHARD_SIZE", 4)
    negative, holdout = table(10), table(3, seed=1, latents=False)
    records = written(workspace, NewSampleSet("negative", negative, {}, (8,)), NewSampleSet("holdout", holdout, {}, (8,)))
    assert [len(record.shards) for record in records] == [3, 1]
    for record, expected in zip(records, (negative, holdout), strict=True):
        again = SampleSet.model_validate_json(record.to_bytes())
        assert_same(read_samples(workspace, again), expected)
        assert again.count == len(expected)


def test_dvc_and_git_see_ciphertext_only(workspace):
    original = table(20)
    written(workspace, NewSampleSet("negative", original, {}, (8,)))
    files = [file for place in (workspace.samples, workspace.sample_remote) for file in place.rglob("*") if file.is_file()]
    assert sum(b"EXPUNGE" in file.read_bytes()[:8] for file in files) >= 2
    for file in files:
        data = file.read_bytes()
        assert b"PAR1" not in data, file
        assert b"\x89PNG" not in data, file


def test_the_sample_repository_is_a_real_one_that_verifies_its_remote(workspace):
    written(workspace, NewSampleSet("negative", table(5), {}, (8,)))
    git = ["git", "-c", "safe.directory=*", "-C", str(workspace.samples)]
    log = subprocess.run([*git, "log", "--format=%an %s"], capture_output=True, text=True, check=True).stdout
    assert log == "expunge r: 5 samples in 1 sets\n"
    assert not subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    assert "verify = true" in (workspace.samples / ".dvc" / "config").read_text()


def test_the_same_images_have_the_same_identity_under_one_key_and_another_under_the_next(workspace):
    first, = written(workspace, NewSampleSet("negative", table(5), {}, (8,)))
    second, = written(workspace, NewSampleSet("negative", table(5), {}, (8,)))
    assert first.set_id == second.set_id
    assert first.shards[0].md5 != second.shards[0].md5, "a ciphertext tells that two sets are equal"
    RequestKey.file(workspace, "r").unlink()
    third, = written(workspace, NewSampleSet("negative", table(5), {}, (8,)))
    assert third.set_id != first.set_id


def test_a_changed_object_of_the_remote_is_refused(workspace):
    record, = written(workspace, NewSampleSet("negative", table(5), {}, (8,)))
    md5 = record.shards[0].md5
    file = workspace.sample_remote / "files" / "md5" / md5[:2] / md5[2:]
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(DoesNotVerify, match="not the file its record names"):
        read_samples(workspace, record)
    file.unlink()
    with pytest.raises(DoesNotVerify, match=f"object {md5} cannot be read"):
        read_samples(workspace, record)


def test_a_record_of_another_set_is_refused(workspace):
    one, other = written(workspace, NewSampleSet("negative", table(5), {}, (8,)), NewSampleSet("positive", table(5, 1), {}, (8,)))
    with pytest.raises(DoesNotVerify, match="not the one recorded"):
        read_samples(workspace, one.model_copy(update={"shards": other.shards}))


def test_an_image_in_two_sets_is_refused_whatever_its_label():
    shared, key = table(4), RequestKey("r", bytes(32))
    other = SampleTable(shared.images[2:3], np.array([9]))
    with pytest.raises(BadInput, match="the same image is in the negative and the holdout set"):
        refuse_overlap(key, [NewSampleSet("negative", shared, {}, (8,)), NewSampleSet("holdout", other, {}, (8,))])
    refuse_overlap(key, [NewSampleSet("negative", shared, {}, (8,)), NewSampleSet("holdout", table(4, 1), {}, (8,))])
