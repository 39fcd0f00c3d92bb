"""Disposing of what was to be forgotten: every copy is found, ours go, the key goes, a receipt stays, nothing breaks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest
from planting import PLANTS, encoded, npz, plant
from tests_support import bare_environment

from expunge.auditing import log_lines, show
from expunge.contracts import (
    ClassifierSource,
    Listing,
    ParentSource,
    Receipt,
    Request,
    SampleSet,
    Wish,
    parse_record,
    read_record,
)
from expunge.custody import receipts
from expunge.custody import searchers as all_searchers
from expunge.errors import BadInput, DoesNotVerify, Refused, WorkspaceBusy
from expunge.evidence.keys import Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import DisposalPredicate, ReceiptPredicate, open_statement
from expunge.evidence.verify import verify_workspace
from expunge.room import exclusive
from expunge.runs import Run
from expunge.samples import RequestKey, read_samples
from expunge.samples.marked import WALL, keep_marked
from expunge.settings import Workspace
from expunge.stores.tracking import Tracking
from expunge.stores.walls import SAMPLES_FILE, WallOrder, Walls
from pipelines import disposing, keeping
from pipelines.disposing import dispose, look
from pipelines.summary import standing, summarise

REQUEST = "forget-8"
QUIETLY = Wish(reason="the month is over", parent_reason="it serves another purpose")


@pytest.fixture
def done(copy_of_demo, monkeypatch):
    """A workspace whose run is released; MLflow is its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(copy_of_demo / ".expunge")


@pytest.fixture
def pixels(done):
    """Some of the images that were to be forgotten."""
    file, = done.results.glob("curate_forget_set-*/negative/record.json")
    return read_samples(done, read_record(SampleSet, file)).pixels[:3]


def wrong(workspace):
    return [(found.object, found.message) for found in verify_workspace(workspace) if not found.ok]


def said(workspace, kind):
    keyring = Keyring.load(workspace)
    found = []
    for entry in Ledger.open(workspace).entries():
        statement = None
        try:
            statement = open_statement(entry.envelope, keyring.at(entry.position))[0]
        except DoesNotVerify:  # a decision
            continue
        if isinstance(statement.predicate, kind):
            found.append(statement)
    return found


def ciphertext(workspace):
    return [file for place in (workspace.samples, workspace.sample_remote) for file in place.rglob("*")
            if file.is_file() and file.read_bytes()[:7] == b"EXPUNGE"]


def test_all_that_is_sealed_for_a_request_goes_and_a_receipt_says_so(done):
    before = wrong(done)
    assert len(ciphertext(done)) == 9, "three sets, in the repository, its cache and its remote"
    receipt = dispose(done, REQUEST, QUIETLY)
    assert ciphertext(done) == []
    assert not RequestKey.file(done, REQUEST).exists()
    assert receipt.destroyed == {"copies": 0, "parent": 0, "sealed": 9}
    assert {made.role for made in receipt.sets} == {"negative", "positive", "holdout"}
    assert receipt.redrawn == ("negative", "positive")
    assert receipt.parent.fate == "kept"
    statement, = said(done, ReceiptPredicate)
    assert statement.predicate.receipt == receipt
    assert wrong(done) == before
    assert receipts.custody_of(done, REQUEST) == "disposed"


def test_what_was_marked_in_the_console_goes_and_what_it_was_marked_on(done):
    file, = done.results.glob("curate_forget_set-*/negative/record.json")
    unwanted, walls = read_samples(done, read_record(SampleSet, file)), Walls(done)
    wall = walls.ask(WallOrder(by="ada", of="samples", checkpoint=ParentSource(uri="builtin://digits/dcgan"),
                               oracle=ClassifierSource(uri="builtin://digits/oracle")))
    walls.keep(wall.sha256, SAMPLES_FILE, unwanted.to_parquet())
    keep_marked(done, REQUEST, unwanted, by="ada", by_person=1, made_from={WALL: wall.sha256})
    assert len(ciphertext(done)) == 12
    receipt = dispose(done, REQUEST, QUIETLY)
    assert (ciphertext(done), walls.of("ada"), receipt.destroyed["sealed"]) == ([], [], 12)
    assert not RequestKey.file(done, f"_walls/{wall.sha256}").exists()


def test_verification_names_a_changed_receipt_and_whatever_was_put_back(done, expunge):
    before, key = wrong(done), RequestKey.file(done, REQUEST)
    secret, sealed = key.read_bytes(), ciphertext(done)[0]
    data = sealed.read_bytes()
    dispose(done, REQUEST, QUIETLY)
    doctor = {check["name"]: check["level"] for check in expunge(done.root.parent, "doctor", "--json").json["checks"]}
    assert doctor["request keys"] == "ok"
    sealed.parent.mkdir(parents=True, exist_ok=True)
    sealed.write_bytes(data)
    key.write_bytes(secret)
    file = receipts.receipt_file(done, REQUEST)
    file.write_bytes(file.read_bytes().replace(b'"kept"', b'"gone"'))
    (done.root / "disposals" / "other").mkdir()
    shutil.copyfile(file, done.root / "disposals" / "other" / "receipt.json")
    found = dict(item for item in wrong(done) if item not in before)
    assert "said to be destroyed" in found[sealed.relative_to(done.root).as_posix()]
    assert found["disposals/other/receipt.json"] == "not in the ledger"
    assert [message for name, message in wrong(done) if name == "disposals/forget-8/receipt.json"] == [
        "not what was signed", "the key of its request is said to be destroyed, and is there"]


def test_what_the_request_names_as_its_source_is_named_and_does_not_stop_it(done, pixels, tmp_path):
    from expunge.contracts import DataSource

    folder = tmp_path / "my faces"
    plant(folder, pixels)
    (folder / "list.csv").write_text("file,label\none.png,1\n")
    run = Run.find(done, REQUEST)
    asked = run.request().model_copy(update={
        "training": DataSource(uri=(folder / "some.parquet").as_uri()), "proxy": DataSource(uri=str(folder / "list.csv"))})
    run.request_file.write_bytes(asked.to_bytes())
    receipt = dispose(done, REQUEST, QUIETLY)
    left = {found.place: (found.files, found.why) for found in receipt.found if found.kind == "copies"}
    assert left == {str(folder / "some.parquet"): (1, why := "the request names it as a source: yours to keep or remove"),
                    str(folder): (len(PLANTS), why)}


def test_what_mlflow_keeps_elsewhere_is_searched_and_what_of_it_could_not_be_reached_is_said(done, pixels, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    address = f"sqlite:///{tmp_path}/mlflow.db"
    Tracking(address, tmp_path).start_run("before", {}, {})  # lays the tables
    client = MlflowClient(address)
    there = client.create_experiment("there", artifact_location=(tmp_path / "mlruns").as_uri())
    gone = client.create_experiment("gone", artifact_location="unheard-of://store/of/pictures")
    assert gone
    run = client.create_run(there).info.run_id
    (tmp_path / "one.png").write_bytes(encoded(pixels[0]))
    client.log_artifact(run, str(tmp_path / "one.png"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(Refused, match=r"MLflow: file://.*/mlruns/.*/one\.png"):
        dispose(done, REQUEST, QUIETLY)
    receipt = dispose(done, REQUEST, QUIETLY.model_copy(update={"leave_found": True}))
    place, = (one for one in receipt.places if one.place.startswith("MLflow"))
    assert (place.files, place.pictures) == (1, 1)
    assert [one.files for one in receipt.found if one.place == place.place] == [1]
    assert [text for text in receipt.not_searched if "unheard-of://store/of/pictures" in text]


def test_status_and_the_trail_say_that_it_is_gone_and_the_rest_still_works(done, expunge):
    run = Run.find(done, REQUEST)
    before = summarise(run)
    dispose(done, REQUEST, QUIETLY)
    after = summarise(run)
    assert (before["custody"], after["custody"]) == ("kept", "disposed")
    assert {**after, "custody": None, "ledger": None} == {**before, "custody": None, "ledger": None}
    assert "its key destroyed" in show(done, REQUEST)["entries"][-1]["what"]
    assert "disposed" in expunge(done.root.parent, "status").out
    assert "disposed" in expunge(done.root.parent, "status", REQUEST).out
    assert not [item for item in keeping.survey(done) if item.fate != "kept"]
    keeping.remove(done)
    assert expunge(done.root.parent, "rollback", "digits", "--as", "grace", "--reason", "x").code == 0


def test_the_same_command_again_gives_the_same_receipt(done):
    first = dispose(done, REQUEST, QUIETLY)
    size = Ledger.open(done).size
    assert dispose(done, REQUEST, Wish()) == first
    assert Ledger.open(done).size == size
    with pytest.raises(Refused, match="was disposed of on"):
        look(done, REQUEST, Wish())


def test_another_attempt_at_a_disposed_request_is_refused_and_says_what_is_gone(done, expunge):
    dispose(done, REQUEST, QUIETLY)
    request = done.root.parent / "request.yaml"
    for words in (("--again",), ("--again", "--plan")):
        refused = expunge(done.root.parent, "run", request, *words)
        assert refused.code == 41, refused.err
        assert "its samples and its key are gone" in refused.err


PLACES = ("stray", "results/.x-1.scratch", "sample-remote/files/md5/ab", "samples/.dvc/cache/files/md5/cd",
          "mlflow/artifacts/0/1/artifacts", "runs/forget-8.1/kfp.1/tmp", "imports/faces", "releases/digits/.scratch")


@pytest.fixture
def everywhere(done, pixels, tmp_path):
    """Copies of every kind in every store and in a folder outside; by searcher, their files."""
    planted = {searcher: [] for searcher in PLANTS}
    for place in (*(done.root / name for name in PLACES), tmp_path / "outside"):
        for searcher, file in plant(place, pixels).items():
            planted[searcher].append(file)
    return planted


def named(workspace, outlook, outside):
    roots = {"workspace": workspace.root, "keys": workspace.keys, str(outside): outside}
    return {roots[file.place] / file.path for file in outlook.files if file.copies}


def test_copies_of_every_kind_are_found_in_every_store(done, everywhere, tmp_path):
    outlook = look(done, REQUEST, Wish(also=(str(tmp_path / "outside"),)))
    assert named(done, outlook, tmp_path / "outside") == {file for files in everywhere.values() for file in files}


@pytest.mark.parametrize("searcher", PLANTS)
def test_without_one_of_the_searchers_its_copies_are_missed_in_every_store(done, everywhere, tmp_path, monkeypatch,
                                                                           searcher):
    for name, files in everywhere.items():
        if name != searcher:
            for file in files:
                file.unlink()
    monkeypatch.setattr(disposing, "searchers", lambda *keys: tuple(
        known for known in all_searchers.searchers(*keys) if known.name != searcher))
    outlook = look(done, REQUEST, Wish(also=(str(tmp_path / "outside"),)))
    assert not named(done, outlook, tmp_path / "outside")


def test_ours_go_others_are_named_and_verification_passes(done, everywhere, tmp_path):
    before = wrong(done)
    receipt = dispose(done, REQUEST, Wish(also=(str(tmp_path / "outside"),), leave_found=True))
    left = {file for files in everywhere.values() for file in files if file.exists()}
    assert all(file.is_relative_to(tmp_path / "outside") or file.name in ("some.db", "page.html")
               or file.parent.name == "faces" for file in left)
    assert sum(found.files for found in receipt.found if found.kind == "copies" and not found.removed) == len(left)
    listed = read_record(Listing, receipts.listing_file(done, REQUEST))
    assert {Path(one.path).name for one in listed.files if one.blocks} >= {"some.db", "page.html"}
    assert wrong(done) == before
    assert receipt.destroyed["copies"] >= 30


def test_copies_that_a_person_could_remove_stop_it_before_anything_is_changed(done, pixels, tmp_path, expunge):
    (tmp_path / "one.png").write_bytes(encoded(pixels[0]))
    size, sealed = Ledger.open(done).size, ciphertext(done)
    refused = expunge(done.root.parent, "dispose", REQUEST, "--also", tmp_path / "one.png")
    assert refused.code == 41
    assert "one.png (outside of the workspace: yours to remove)" in refused.err
    assert (Ledger.open(done).size, ciphertext(done), receipts.custody_of(done, REQUEST)) == (size, sealed, "kept")
    (tmp_path / "one.png").unlink()
    assert expunge(done.root.parent, "dispose", REQUEST, "--also", tmp_path).code == 0


def test_looking_changes_nothing(done, everywhere, expunge):
    before = {path: path.read_bytes() for path in done.root.rglob("*") if path.is_file()}
    found = expunge(done.root.parent, "dispose", REQUEST, "--plan", "--json")
    assert found.code == 0, found.err
    assert found.json["blocked"]
    assert {path: path.read_bytes() for path in done.root.rglob("*") if path.is_file()} == before


def test_the_receipt_and_the_ledger_name_no_file_and_hold_no_digest_of_an_image(done, pixels, tmp_path):
    from expunge.digests import sha256_bytes

    data = encoded(pixels[0])
    (tmp_path / "alice-smith.png").write_bytes(data)
    receipt = dispose(done, REQUEST, Wish(also=(str(tmp_path),), leave_found=True))
    trail = b"".join(entry.envelope for entry in Ledger.open(done).entries())
    assert b"alice" not in receipt.to_bytes() + trail
    assert sha256_bytes(data).encode() not in receipt.to_bytes()
    assert sha256_bytes(pixels[0].tobytes()).encode() not in receipt.to_bytes()


def test_what_another_key_seals_is_named_and_stays(done, pixels, tmp_path):
    other = RequestKey.load_or_create(done, "forget-9")
    file = done.sample_remote / "files" / "md5" / "ee" / "f00"
    file.parent.mkdir(exist_ok=True)  # a ciphertext's digest may begin so
    file.write_bytes(other.seal(npz(pixels)))
    receipt = dispose(done, REQUEST, QUIETLY)
    assert file.exists()
    found, = (one for one in receipt.found if one.kind == "copies")
    assert (found.why, found.removed) == ("in what belongs to request 'forget-9'", False)


def test_adapted_weights_that_are_still_there_are_known_by_their_tensors(done):
    import numpy as np
    from safetensors.numpy import load_file, save

    weights = np.random.default_rng(3).normal(size=(64, 9)).astype(np.float32)
    folder, = done.results.glob("adapt-*/adaptation")
    parent = load_file(next(done.results.glob("fetch_checkpoint-*/checkpoint/model.safetensors")))
    (folder / "tensors.sealed").write_bytes(RequestKey.load(done, REQUEST).seal(save({"mean": weights, **parent})))
    exported = done.root / "export" / "adapted.safetensors"
    exported.parent.mkdir()
    exported.write_bytes(save({"x": weights}))
    resume = Run.find(done, REQUEST).folder / "unlearn-0123456789abcdef.resume"
    resume.write_bytes(RequestKey.load(done, REQUEST).seal(b"state"))
    receipt = dispose(done, REQUEST, QUIETLY)
    assert receipt.tensors == 1, "what the parent has as well is not what was learned"
    assert not exported.exists()
    assert not resume.exists()
    assert not (folder / "tensors.sealed").exists()


def test_a_parent_that_is_to_be_destroyed_goes_from_the_workspace_and_is_accounted_for(done):
    before = wrong(done)
    parent, = done.results.glob("fetch_checkpoint-*/checkpoint/model.safetensors")
    receipt = dispose(done, REQUEST, Wish(parent="destroyed", parent_reason="nobody needs it"))
    assert not parent.exists()
    assert receipt.destroyed["parent"] == 1
    assert (receipt.parent.fate, receipt.parent.copies_left) == ("destroyed", 0)
    assert wrong(done) == before


@pytest.mark.parametrize("state", ["running", "failed", "releasing", "awaiting_approval", "approved"])
def test_a_run_that_is_not_over_is_not_disposed_of(done, state, monkeypatch):
    real = Run.state
    monkeypatch.setattr(Run, "state", lambda run: real(run).model_copy(update={"state": state}))
    with pytest.raises(Refused, match="its samples are still needed"):
        dispose(done, REQUEST, QUIETLY)
    assert receipts.custody_of(done, REQUEST) == "kept"


def test_when_the_key_is_lost_what_it_sealed_goes_by_its_records_and_the_receipt_says_what_that_means(done, tmp_path):
    before, key = wrong(done), RequestKey.file(done, REQUEST)
    with pytest.raises(BadInput, match="the key is here"):
        dispose(done, REQUEST, Wish(key_lost=True))
    resume = Run.find(done, REQUEST).folder / "unlearn-0123456789abcdef.resume"
    resume.write_bytes(RequestKey.load(done, REQUEST).seal(b"state"))
    key.rename(tmp_path / "lost.key")
    with pytest.raises(BadInput, match="without it nobody knows what to look for"):
        dispose(done, REQUEST, QUIETLY)
    receipt = dispose(done, REQUEST, Wish(key_lost=True))
    assert ciphertext(done) == []
    assert not resume.exists()
    assert receipt.destroyed["sealed"] == 9
    assert (receipt.images, receipt.key) == (0, "lost before, so nothing could be looked for")
    assert {made.missing for made in receipt.sets if made.role == "negative"} == {"the key is lost"}
    assert wrong(done) == before


def test_a_stranger_to_the_keyring_a_missing_place_and_an_unknown_request_are_told(done):
    for wish, name, words in ((Wish(by="mallory"), REQUEST, "mallory has no private key"),
                              (Wish(also=("/nowhere/at/all",)), REQUEST, "no such file or folder"),
                              (Wish(), "forget-99", "is not known")):
        with pytest.raises(BadInput, match=words):
            dispose(done, name, wish)


def test_it_waits_for_nobody_and_nobody_works_meanwhile(done):
    with exclusive(done.root / "supervisor.lock", "", ""), pytest.raises(WorkspaceBusy):
        dispose(done, REQUEST, QUIETLY)


class Cut(BaseException):
    """What ends a process at a certain step."""


def steps_of(folder, monkeypatch, wish):
    """Every step of a disposal that is not cut."""
    steps = []
    monkeypatch.setattr(disposing, "after_step", steps.append)
    receipt = dispose(Workspace(folder / ".expunge"), REQUEST, wish)
    return steps, receipt


def test_cut_between_any_two_steps_it_is_completed_by_the_same_command(copy_of_demo, tmp_path, monkeypatch):
    """One workspace is cut again and again, each time one step further than before."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(copy_of_demo / ".expunge")
    stray = workspace.root / "mlflow" / "artifacts" / "stray.png"
    file, = workspace.results.glob("curate_forget_set-*/negative/record.json")
    stray.write_bytes(encoded(read_samples(workspace, read_record(SampleSet, file)).pixels[0]))
    shutil.copytree(copy_of_demo, tmp_path / "undisturbed", symlinks=True)
    wish = Wish(by="grace", reason="over", parent="destroyed", parent_reason="gone")
    before = wrong(workspace)
    steps, undisturbed = steps_of(tmp_path / "undisturbed", monkeypatch, wish)
    assert len(steps) > 20
    assert [step for step in steps if "key" in step] == ["the key is overwritten", "the key is gone"]
    seen, receipt = [], None
    while receipt is None:
        assert len(seen) < 3 * len(steps)

        def cut(step):
            if step not in seen:
                seen.append(step)
                raise Cut

        monkeypatch.setattr(disposing, "after_step", cut)
        try:
            receipt = dispose(workspace, REQUEST, Wish() if seen else wish)
        except Cut:
            continue
    assert set(seen) == set(steps)
    moments = {"began_at", "checked_at", "statements", "listing_sha256", "places", "redrawn"}
    assert receipt.model_dump(exclude=moments | {"destroyed"}) == undisturbed.model_dump(exclude=moments | {"destroyed"})
    assert receipt.destroyed == undisturbed.destroyed
    assert wrong(workspace) == before
    assert len(said(workspace, ReceiptPredicate)) == 1
    destroyed = [item for one in said(workspace, DisposalPredicate) for item in one.subjects.items()]
    assert len(destroyed) == len(set(destroyed)), "nothing is said to be destroyed twice"
    assert not stray.exists()


@pytest.mark.slow
def test_killed_for_real_it_is_completed_by_the_same_command(done, expunge):
    for patience in (0.9, 1.3, 1.6):
        process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", "dispose", REQUEST, "--reason", "over"],
                                   cwd=done.root.parent, env=bare_environment(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        time.sleep(patience)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = expunge(done.root.parent, "dispose", REQUEST, "--json")
    assert finished.code == 0, finished.err
    assert parse_record(Receipt, {name: value for name, value in finished.json.items() if name != "listing"}, "it")
    assert ciphertext(done) == []


def test_a_disposal_that_began_keeps_to_what_was_said_then():
    began = Wish(by="grace", parent="destroyed", also=("/a",))
    assert Wish(also=("/b",), reason="x").after(began) == Wish(
        by="grace", reason="x", parent="destroyed", also=("/a", "/b"))
    with pytest.raises(BadInput, match=r"parent: this disposal began with 'destroyed'"):
        Wish(parent="kept").after(began)


def test_a_request_says_how_long_its_samples_may_be_kept_and_status_says_when_that_is_over(done, expunge):
    run = Run.find(done, REQUEST)
    plain = run.request()
    assert b"retain_until" not in plain.to_bytes()
    until = plain.model_copy(update={"retain_until": date(2020, 1, 31)})
    assert parse_record(Request, json.loads(until.to_bytes()), "request") == until
    run.request_file.write_bytes(until.to_bytes())
    stands = standing(run, {}, today=date(2020, 1, 31))
    assert (stands["custody"], stands["retain_until"], stands["retention_overdue"]) == ("kept", "2020-01-31", False)
    listed, = expunge(done.root.parent, "status", "--json").json
    assert listed["retention_overdue"]
    assert "kept too long, since 2020-01-31" in expunge(done.root.parent, "status").out
    dispose(done, REQUEST, QUIETLY)
    assert not standing(run, {})["retention_overdue"]


def test_requests_that_say_nothing_of_keeping_are_the_bytes_that_they_were():
    golden = Path(__file__).parent.parent / "golden" / "0.1.0" / "request.json"
    assert b"retain_until" not in read_record(Request, golden).to_bytes()


def test_log_lines_read_like_what_happened(done):
    dispose(done, REQUEST, QUIETLY)
    assert [line["what"] for line in log_lines(done)][-2:] == [
        "forget-8: destroyed, for it was sealed for what was to be forgotten",
        "forget-8: disposed of by operator, its key destroyed"]
    assert SigningKey.load(done, "operator").person == "operator"
    assert os.listdir(receipts.folder_of(done, REQUEST))
