"""Releases on S3: one deployer wins, a crash leaves the old one, and what is served is what was released."""

import json
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests_support import blocks
from two_deployers import two_deployers_at_once

from expunge.configuration import CONFIG_FILE
from expunge.contracts import Release
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, WorkspaceBusy
from expunge.live import live
from expunge.settings import Workspace
from expunge.stores import releases, s3
from expunge.stores.releases_s3 import Pointer, S3Releases
from expunge.stores.s3 import transfer

PREFIX = "s3://models/served"


def describe(generation, weights, beside):
    return Release(
        model="digits", generation=generation, run="run.1", request_id="r", request_sha256="a" * 64,
        parent_sha256="f" * 64, candidate_sha256=weights.sha256, verdict_sha256="b" * 64, report_sha256="c" * 64,
        approvals=(), weights=weights, beside=beside, released_at="2026-11-20T00:00:00+00:00")


@pytest.fixture
def served_from_s3(workspace, bucket):
    (workspace.root / CONFIG_FILE).write_text(f"releases: {PREFIX}\n")
    return workspace


def publish(workspace, weights):
    file = workspace.root.parent / f"weights-{sha256_bytes(weights)[:8]}"
    file.write_bytes(weights)
    return releases.publish(workspace, "digits", file, sha256_bytes(weights), describe, {"config.json": b"{}"})


def pointer(bucket):
    return json.loads(bucket.Object("served/digits/current").get()["Body"].read())


def served(bucket):
    """The weights that somebody gets who reads `current` and then what it names."""
    folder = pointer(bucket)["folder"]
    return folder and bucket.Object(f"served/digits/{folder}/model.safetensors").get()["Body"].read()


def names(bucket):
    return sorted(found.key.removeprefix("served/") for found in bucket.objects.all())


def test_each_release_is_a_folder_and_current_names_the_newest(served_from_s3, bucket):
    one, two = publish(served_from_s3, b"one"), publish(served_from_s3, b"two")
    assert (one.generation, two.generation) == (1, 2)
    assert releases.current(served_from_s3, "digits") == two
    assert served(bucket) == b"two"
    folders = [releases.folder_name(release) for release in (one, two)]
    assert names(bucket) == sorted([".conditional-writes", "digits/current", *(
        f"digits/{folder}/{name}" for folder in folders
        for name in ("config.json", "model.safetensors", "release.json"))])
    assert not (served_from_s3.releases / "digits" / "current").exists()
    assert publish(served_from_s3, b"two") == two
    assert pointer(bucket)["change"] == 2


def test_whoever_serves_reads_it_as_the_page_says(workspace, bucket, tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "releases.md").read_text()
    (workspace.root / CONFIG_FILE).write_text(blocks(page, "yaml")[0])
    publish(workspace, b"one")
    monkeypatch.chdir(tmp_path)
    reader, = blocks(page, "python")
    exec(reader, {})
    assert (tmp_path / "model.safetensors").read_bytes() == b"one"
    assert (tmp_path / "config.json").read_bytes() == b"{}"
    assert json.loads(blocks(page, "json")[0])["Statement"]
    releases.withdraw(workspace, "digits")
    with pytest.raises(SystemExit, match="withdrawn"):
        exec(reader, {})


def test_a_change_is_counted_whichever_way_it_goes(served_from_s3, bucket):
    one, two = publish(served_from_s3, b"one"), publish(served_from_s3, b"two")
    assert releases.rollback(served_from_s3, "digits").now == one
    assert (served(bucket), pointer(bucket)["generation"], pointer(bucket)["change"]) == (b"one", 1, 3)
    assert releases.withdraw(served_from_s3, "digits").now is None
    assert (served(bucket), pointer(bucket)["change"]) == (None, 4)
    with pytest.raises(BadInput, match="'digits' is not in service: in service: nothing"):
        releases.rollback(served_from_s3, "digits")
    assert publish(served_from_s3, b"three").generation == 3
    assert pointer(bucket)["change"] == 5
    assert releases.history(served_from_s3, "digits")[1] == two


def test_who_read_current_before_it_went_away_and_came_back_does_not_change_it(served_from_s3, bucket):
    """By its content alone it would look as if nothing had happened (ABA)."""
    one = publish(served_from_s3, b"one")
    store = releases.store_of(served_from_s3)
    before = store.pointed("digits")
    store.serve("digits", None, before)
    store.serve("digits", one, store.pointed("digits"))
    after = store.pointed("digits")
    assert (after.folder, after.release_sha256) == (before.folder, before.release_sha256)
    with pytest.raises(WorkspaceBusy, match=r"^s3://models/served/digits/current: somebody else has changed"):
        store.serve("digits", None, before)
    assert served(bucket) == b"one"


def test_of_two_deployers_at_once_one_wins_and_the_other_is_told_and_leaves_nothing(served_from_s3, bucket, monkeypatch):
    publish(served_from_s3, b"old")
    copy, won, lost = two_deployers_at_once(monkeypatch, S3Releases, served_from_s3, publish)
    assert "give the same command again" in lost
    assert won.generation == 2
    assert sha256_bytes(served(bucket)) == won.weights.sha256
    assert {name.split("/")[1] for name in names(bucket) if name.startswith("digits/")} == {
        "current", f"1-{sha256_bytes(b'old')[:12]}", releases.folder_name(won)}
    kept = [len(releases.history(one, "digits")) for one in (served_from_s3, copy)]
    assert sorted(kept) == [1, 2]


def test_two_deployers_in_one_workspace_have_a_generation_each(served_from_s3, bucket):
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda weights: publish(served_from_s3, weights), (b"one", b"two")))
    assert sorted(release.generation for release in made) == [1, 2]
    assert sha256_bytes(served(bucket)) == max(made, key=lambda one: one.generation).weights.sha256
    assert len(releases.history(served_from_s3, "digits")) == 2


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["s3.transfer.count", "s3.write_over"])
def test_who_is_killed_before_current_is_flipped_leaves_the_old_one_and_the_next_try_finishes(
        served_from_s3, bucket, where):
    old, large = publish(served_from_s3, b"old"), b"new" * transfer.PART
    (served_from_s3.root.parent / "large").write_bytes(large)
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(f"""
        import os
        from pathlib import Path
        from expunge.contracts import Release
        from expunge.settings import Workspace
        from expunge.stores import releases, s3
        {where} = lambda *_: os._exit(9)
        released = Release.model_validate_json({old.model_dump_json(by_alias=True)!r})
        releases.publish(Workspace(Path({str(served_from_s3.root)!r})), "digits",
            Path({str(served_from_s3.root.parent / 'large')!r}), {sha256_bytes(large)!r},
            lambda generation, weights, beside: released.model_copy(update=dict(
                generation=generation, weights=weights, candidate_sha256=weights.sha256, beside=beside)),
            {{"config.json": b"{{}}"}})
        """)], check=False)
    left = [upload.object_key for upload in bucket.multipart_uploads.all()]
    assert (died.returncode, len(left)) == (9, 1 if where.endswith("count") else 0)
    assert releases.current(served_from_s3, "digits") == old
    assert served(bucket) == b"old"
    bucket.Object("served/digits/2-000000000000/model.safetensors").initiate_multipart_upload()  # killed before that
    new = publish(served_from_s3, large)
    assert (new.generation, served(bucket)) == (2, large)
    assert releases.history(served_from_s3, "digits") == (old, new)
    assert list(bucket.multipart_uploads.all()) == []


@pytest.mark.thorough
def test_while_the_server_is_down_nothing_is_said_and_nothing_changed(served_from_s3, bucket, environment, s3_server):
    one = publish(served_from_s3, b"one")
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for asked in (lambda: live(served_from_s3), lambda: publish(served_from_s3, b"two"),
                  lambda: releases.withdraw(served_from_s3, "digits")):
        with pytest.raises(ExpungeError, match=r"^s3://models/served/.*the S3 server cannot be reached") as told:
            asked()
        assert told.value.exit_code == 1
    environment.setenv("AWS_ENDPOINT_URL", s3_server)
    assert releases.current(served_from_s3, "digits") == one


def test_a_server_that_fails_half_of_the_time_ends_in_one_release(served_from_s3, bucket, between):
    fails = iter([True, False] * 1000)
    between.trouble = lambda *_: "busy" if next(fails) else None
    assert publish(served_from_s3, b"one").generation == 1
    between.trouble = lambda *_: None
    assert served(bucket) == b"one"
    assert len(releases.history(served_from_s3, "digits")) == 1


def test_a_server_that_overlooks_conditions_serves_nothing(served_from_s3, bucket, between):
    def overlook(method, path, headers):
        for name in [name for name in headers if name.lower() in ("if-match", "if-none-match")]:
            del headers[name]

    between.trouble = overlook
    with pytest.raises(ExpungeError, match="does not heed If-Match and If-None-Match: serve from one that has"):
        publish(served_from_s3, b"one")
    assert names(bucket) == [".conditional-writes"]
    assert releases.history(served_from_s3, "digits") == ()


def test_a_prefix_belongs_to_one_workspace(served_from_s3, bucket, tmp_path):
    publish(served_from_s3, b"one")
    other = Workspace(tmp_path / "other").create()
    (other.root / CONFIG_FILE).write_text(f"releases: {PREFIX}\n")
    with pytest.raises(DoesNotVerify, match="current: points at no release of this workspace"):
        publish(other, b"two")
    assert served(bucket) == b"one"


@pytest.mark.parametrize("content", [b"no pointer", Pointer(
    model="elsewhere", change=9, generation=None, folder=None, release_sha256=None, at="", nonce="").to_bytes()])
def test_a_current_that_is_not_ours_is_said_and_not_written_over(served_from_s3, bucket, content):
    publish(served_from_s3, b"one")
    bucket.put_object(Key="served/digits/current", Body=content)
    with pytest.raises(DoesNotVerify, match="current: is "):
        publish(served_from_s3, b"two")
    assert bucket.Object("served/digits/current").get()["Body"].read() == content
    (found,) = live(served_from_s3).served
    assert (found.standing, live(served_from_s3).exit_code) == ("not what was released", 40)


@pytest.mark.thorough
def test_what_was_changed_in_the_bucket_is_found_and_not_gone_back_to(served_from_s3, bucket):
    one, _ = publish(served_from_s3, b"one"), publish(served_from_s3, b"two")
    weights = bucket.Object(f"served/digits/{releases.folder_name(one)}/model.safetensors")
    weights.put(Body=b"eno", Metadata={transfer.SHA256: one.weights.sha256})
    with pytest.raises(DoesNotVerify, match=r"^s3://models/served/digits/1-.*model\.safetensors: not the bytes"):
        releases.rollback(served_from_s3, "digits")
    assert served(bucket) == b"two"
    (found,) = live(served_from_s3).served
    assert (found.standing, found.path) == (
        "clean", f"{PREFIX}/digits/{pointer(bucket)['folder']}/model.safetensors")
    bucket.put_object(Key=f"served/digits/{pointer(bucket)['folder']}/config.json", Body=b"[]")
    (found,) = live(served_from_s3).served
    assert (found.standing, found.problem) == (
        "not what was released", "config.json: not the bytes that were released")
    weights.delete()
    assert releases.rollback(served_from_s3, "digits").now == one  # the workspace's copy goes up again
    assert served(bucket) == b"one"


def test_an_object_that_says_no_digest_is_read_even_where_its_size_would_do(served_from_s3, bucket):
    release = publish(served_from_s3, b"one")
    there = f"served/digits/{releases.folder_name(release)}/model.safetensors"
    bucket.put_object(Key=there, Body=b"eno")
    store = releases.store_of(served_from_s3)
    assert store.digest(release, release.weights, by_bytes=False) == sha256_bytes(b"eno")


@pytest.mark.thorough
def test_a_workspace_that_served_from_its_own_folder_goes_over_with_the_next_change(workspace, bucket):
    one, two = publish(workspace, b"one"), publish(workspace, b"two")
    (workspace.root / CONFIG_FILE).write_text(f"releases: {PREFIX}\n")
    assert releases.current(workspace, "digits") == two
    assert live(workspace).served[0].path == "releases/digits/current/model.safetensors"
    assert releases.rollback(workspace, "digits").now == one
    assert served(bucket) == b"one"
    assert not os.path.lexists(workspace.releases / "digits" / "current")
    assert publish(workspace, b"three").generation == 3
    assert s3.stored(f"{PREFIX}/digits/{pointer(bucket)['folder']}/release.json")
