"""Checkpoints copied outside: kept up to date, never set back, and an alarm where the ledger is another."""

import json
import subprocess

import pytest
from tests_support import call

from expunge.configuration import CONFIG_FILE
from expunge.errors import DoesNotVerify
from expunge.evidence import copies
from expunge.evidence.checkpoints import open_checkpoint
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger
from expunge.evidence.verify import verify_workspace


def configure(workspace, *places):
    (workspace.root / CONFIG_FILE).write_text(json.dumps({"schema": "expunge/config/v1", "checkpoints": places}))


def sizes(workspace):
    """The size of the tree in every place that can be read, and what was wrong with the others."""
    return {place: open_checkpoint(note, Keyring.load(workspace))[0].size if note else problem
            for place, note, problem in copies.kept(workspace)}


@pytest.fixture
def repository(tmp_path):
    """An empty Git repository that may be pushed to."""
    folder = tmp_path / "outside.git"
    subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
    return folder


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


def test_every_place_has_the_newest_checkpoint_after_an_append(workspace, outside, repository, tmp_path):
    heard = tmp_path / "heard"
    configure(workspace, {"folder": str(outside)}, {"git": str(repository)},
              {"command": ["sh", "-c", f"cat >> {heard}"]})
    ledger = Ledger.open(workspace)
    before = ledger.size
    for number in (1, 2):
        ledger.append(b"entry %d" % number)
        assert sizes(workspace) == {str(outside): before + number, str(repository): before + number}
    assert heard.read_bytes().endswith(ledger.checkpoint)
    assert len(list(outside.iterdir())) == 1
    log = subprocess.check_output(["git", "-C", repository, "log", "--format=%s", "expunge-checkpoints"], text=True)
    assert log.split() == [str(before + 2), str(before + 1)], "what was there before is in the history"
    assert [sent.size for sent in copies.send(workspace)] == [before + 2] * 3
    shown = [found.message for found in verify_workspace(workspace, [note for _, note, _ in copies.kept(workspace)])]
    assert shown.count(f"append-only: shown since entry {before + 2}") == 2


def test_a_place_that_cannot_be_reached_is_named_and_tried_again(workspace, outside, tmp_path, caplog):
    away = tmp_path / "away"
    configure(workspace, {"folder": str(away)}, {"git": str(tmp_path / "none.git")}, {"command": ["false"]},
              {"folder": str(outside)})
    ledger = Ledger.open(workspace)
    ledger.append(b"a")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"the checkpoint was not copied to {place}" for place in (away, tmp_path / "none.git", "false")]
    assert sizes(workspace)[str(outside)] == ledger.size
    assert sizes(workspace)[str(away)] == f"{away}: no such folder"
    away.mkdir()
    ledger.append(b"b")
    assert sizes(workspace)[str(away)] == ledger.size


def test_a_newer_copy_is_not_set_back_and_is_an_alarm(workspace, outside):
    configure(workspace, {"folder": str(outside)})
    ledger = Ledger.open(workspace)
    kept = workspace.ledger.read_bytes()
    ledger.append(b"a")
    ledger.append(b"b")
    newer, = outside.iterdir()
    there = newer.read_bytes()
    workspace.ledger.write_bytes(kept)  # as if the last entries had never been
    with pytest.raises(DoesNotVerify, match=f"checkpoint outside: {outside}: its checkpoint is over 2 entries"):
        ledger.append(b"c")
    assert newer.read_bytes() == there
    assert ledger.size == 1, "the append itself is not lost"


def test_a_ledger_that_begins_otherwise_is_an_alarm_and_the_other_places_get_theirs(workspace, outside, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    kept = workspace.ledger.read_bytes()
    configure(workspace, {"folder": str(outside)})
    Ledger.open(workspace).append(b"a")
    workspace.ledger.write_bytes(kept)
    configure(workspace, {"folder": str(outside)}, {"folder": str(other)})
    with pytest.raises(DoesNotVerify, match="does not begin with the 1 entries"):
        Ledger.open(workspace).append(b"forged")
    assert sizes(workspace) == {str(outside): 1, str(other): 1}
    assert not all(found.ok for found in verify_workspace(workspace, [next(outside.iterdir()).read_bytes()]))


def test_a_copy_that_is_no_checkpoint_of_this_ledger_is_an_alarm(workspace, outside):
    configure(workspace, {"folder": str(outside)})
    ledger = Ledger.open(workspace)
    ledger.append(b"a")
    copy, = outside.iterdir()
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(DoesNotVerify, match="not a signed checkpoint"):
        ledger.append(b"b")


@pytest.mark.parametrize("begun", [False, True])
def test_of_two_who_push_at_once_the_slower_one_gives_way(workspace, repository, monkeypatch, begun):
    """As from two machines: what is seen in the place is no longer there when it is to be followed."""
    ledger = Ledger.open(workspace)
    configure(workspace, *[{"git": str(repository)}] * begun)
    ledger.append(b"a")
    configure(workspace, {"git": str(repository)})
    seen = copies._read(copies.Configuration.load(workspace).checkpoints[0], copies._file_of(ledger))
    assert (seen is not None) == begun
    ledger.append(b"by somebody faster")
    configure(workspace)
    ledger.append(b"not copied yet")
    configure(workspace, {"git": str(repository)})
    with monkeypatch.context() as patched:
        patched.setattr(copies, "_read", lambda *_: seen)
        sent, = copies.send(workspace)
    assert sent.problem.startswith("git: ")
    assert sizes(workspace) == {str(repository): ledger.size - 1}


def test_an_object_in_a_bucket_is_kept_up_and_not_written_over(workspace, bucket, monkeypatch):
    configure(workspace, {"s3": "s3://outside/expunge"})
    ledger = Ledger.open(workspace)
    ledger.append(b"a")
    ledger.append(b"b")
    assert sizes(workspace) == {"s3://outside/expunge": ledger.size}
    place, = copies.Configuration.load(workspace).checkpoints
    seen = copies._read(place, copies._file_of(ledger))
    ledger.append(b"by somebody faster")
    configure(workspace)
    ledger.append(b"not copied yet")
    configure(workspace, {"s3": "s3://outside/expunge"})
    for stale in (seen, None):
        with monkeypatch.context() as patched:
            patched.setattr(copies, "_read", lambda *_, stale=stale: stale)
            sent, = copies.send(workspace)
        assert "somebody else has written it meanwhile" in sent.problem
    assert sizes(workspace) == {"s3://outside/expunge": ledger.size - 1}


@pytest.fixture
def bucket(monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    for name, value in {"AWS_ENDPOINT_URL": "http://{}:{}".format(*running.get_host_and_port()), "AWS_REGION": "us-east-1",
                        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "key",
                        "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    yield boto3.resource("s3").create_bucket(Bucket="outside")
    running.stop()


def test_the_verb_sends_and_says_what_came_of_each_place(workspace, outside, tmp_path):
    configure(workspace, {"folder": str(outside)}, {"folder": str(tmp_path / "away")})
    done = call(tmp_path, "audit", "copy", "--json")
    assert done.code == 1, done.err
    assert [(sent["place"], sent["size"], bool(sent["problem"])) for sent in done.json] == [
        (str(outside), 0, False), (str(tmp_path / "away"), None, True)]
    verified = call(tmp_path, "audit", "verify", "--json")
    assert verified.code == 0, verified.out
    assert "append-only: shown since entry 0" in verified.json["notes"]
    assert f"{tmp_path / 'away'}: {tmp_path / 'away'}: no such folder" in verified.json["notes"]
