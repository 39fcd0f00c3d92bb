"""Releases and taint on one machine: what is served, what a crash leaves, what may never be served again."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from expunge.contracts import Release, StoredFile
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import WithdrawalPredicate, open_statement
from expunge.stores import releases, taint
from expunge.stores.taint import Mark, tainting


def describe(parent="f" * 64, run="run.1"):
    def made(generation, weights, beside):
        return Release(
            model="digits", generation=generation, run=run, request_id="r", request_sha256="a" * 64,
            parent_sha256=parent, candidate_sha256=weights.sha256, verdict_sha256="b" * 64, report_sha256="c" * 64,
            approvals=(), weights=weights, beside=beside, released_at="2026-11-20T00:00:00+00:00")
    return made


@pytest.fixture
def publish(workspace, tmp_path):
    def go(weights, **more):
        file = tmp_path / "weights"
        file.write_bytes(weights)
        return releases.publish(workspace, "digits", file, sha256_bytes(weights), describe(**more), {})
    return go


def mark(parent, approved, request="r", pending=False):
    return Mark(request_id=request, request_sha256=sha256_bytes(request.encode()), parent_sha256=parent,
                approved_sha256=approved, pending=pending)


def test_generations_grow_and_current_points_at_the_newest(workspace, publish):
    assert [publish(weights).generation for weights in (b"one", b"two", b"three")] == [1, 2, 3]
    link = workspace.releases / "digits" / "current"
    assert os.readlink(link) == f"3-{sha256_bytes(b'three')[:12]}"  # relative: the workspace may move
    assert (link / "model.safetensors").read_bytes() == b"three"


def test_what_a_library_reads_beside_the_weights_is_released_with_them_and_checked_before_it_is_served_again(
        workspace, publish, tmp_path):
    (tmp_path / "weights").write_bytes(b"one")
    first = releases.publish(workspace, "digits", tmp_path / "weights", sha256_bytes(b"one"), describe(),
                             {"config.json": b"{}"})
    assert [(file.name, file.sha256) for file in first.beside] == [("config.json", sha256_bytes(b"{}"))]
    publish(b"two")
    beside = releases.folder_of(workspace, first) / "config.json"
    beside.write_bytes(b"[]")
    with pytest.raises(DoesNotVerify, match=r"config\.json: not the bytes that were released"):
        releases.rollback(workspace, "digits")
    beside.write_bytes(b"{}")
    assert releases.rollback(workspace, "digits").now == first


def test_a_digest_that_is_current_already_is_not_released_again(workspace, publish):
    assert publish(b"one", run="run.1") == publish(b"one", run="run.2")
    assert len(releases.history(workspace, "digits")) == 1


def test_bytes_that_are_not_the_approved_ones_are_refused(workspace, tmp_path):
    (tmp_path / "weights").write_bytes(b"other")
    with pytest.raises(Refused):
        releases.publish(workspace, "digits", tmp_path / "weights", sha256_bytes(b"one"), describe(), {})
    assert releases.current(workspace, "digits") is None


@pytest.mark.parametrize("where", ["_copy_hashing", "flush", "_flip"])
def test_a_crash_before_the_flip_leaves_the_old_release_and_the_next_try_finishes(workspace, publish, tmp_path, where):
    old = publish(b"old")
    (tmp_path / "new").write_bytes(b"new")
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(f"""
        import os
        from pathlib import Path
        from expunge.contracts import Release
        from expunge.digests import sha256_bytes
        from expunge.settings import Workspace
        from expunge.stores import releases
        releases.{where} = lambda *_: os._exit(9)
        released = Release.model_validate_json({old.model_dump_json(by_alias=True)!r})
        releases.publish(Workspace(Path({str(workspace.root)!r})), "digits", Path({str(tmp_path / 'new')!r}),
            sha256_bytes(b"new"), lambda generation, weights, _: released.model_copy(update=dict(
                generation=generation, weights=weights, candidate_sha256=weights.sha256)), dict())
        """)], check=False)
    assert died.returncode == 9
    assert releases.current(workspace, "digits") == old
    new = publish(b"new")
    assert (workspace.releases / "digits" / "current" / "model.safetensors").read_bytes() == b"new"
    assert new.generation == 2
    assert releases.history(workspace, "digits") == (old, new)


def test_a_reader_never_sees_half_a_release(workspace, publish):
    publish(b"0" * 100_000)
    seen, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                folder = workspace.releases / "digits" / os.readlink(workspace.releases / "digits" / "current")
                seen.append((folder.name.rsplit("-", 1)[1], sha256_file(folder / "model.safetensors")[:12]))
            except OSError as error:
                seen.append((str(error), ""))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 100):
        publish(str(number % 10).encode() * 100_000)
    stop.set()
    reader.join()
    assert len(set(seen)) > 1
    assert [(named, found) for named, found in seen if named != found] == []


def test_rollback_goes_to_the_newest_earlier_release_and_is_signed_first(workspace, publish):
    one, two = publish(b"one"), publish(b"two")
    served = releases.rollback(workspace, "digits", by="grace", reason="blurred")
    assert (served.was, served.now) == (two, one)
    assert (workspace.releases / "digits" / "current" / "model.safetensors").read_bytes() == b"one"
    assert Ledger.open(workspace).size == 1


def test_rollback_skips_what_a_request_taints_and_takes_what_it_does_not(workspace, publish):
    clean, tainted = publish(b"clean"), publish(b"tainted")
    live = publish(b"live", parent=tainted.weights.sha256)
    taint.place(mark(tainted.weights.sha256, live.weights.sha256), workspace)
    assert releases.rollback(workspace, "digits").now == clean


def test_rollback_withdraws_and_names_the_request_when_all_that_is_left_is_tainted(workspace, publish):
    old = publish(b"old")
    live = publish(b"live", parent=old.weights.sha256)
    taint.place(mark(old.weights.sha256, live.weights.sha256, "forget-8"), workspace)
    served = releases.rollback(workspace, "digits")
    assert served.now is None
    assert served.request_id == "forget-8"
    assert "forget-8" in served.text
    assert not (workspace.releases / "digits" / "current").is_symlink()
    (entry,) = Ledger.open(workspace).entries()
    said, _ = open_statement(entry.envelope, Keyring.load(workspace), WithdrawalPredicate)
    assert said.predicate.request_id == "forget-8"


def test_the_first_release_rolls_back_to_nothing_and_names_the_request_that_taints_its_parent(begin_run):
    run = begin_run().release()
    served = releases.rollback(run.workspace, "digits")
    assert (served.now, served.request_id) == (None, "forget-8")


def test_a_pending_mark_lets_the_old_release_go_on_serving(workspace, publish):
    old, live = publish(b"old"), publish(b"live")
    taint.place(mark(old.weights.sha256, "9" * 64, pending=True), workspace)
    assert releases.rollback(workspace, "digits").now == old
    assert live.generation == 2


def test_a_pending_mark_holds_as_soon_as_its_release_is_live(workspace, publish):
    old = publish(b"old")
    live = publish(b"live", parent=old.weights.sha256)
    taint.place(mark(old.weights.sha256, live.weights.sha256, pending=True), workspace)
    assert releases.rollback(workspace, "digits").now is None


def test_rollback_refuses_a_release_whose_bytes_changed(workspace, publish):
    one, _ = publish(b"one"), publish(b"two")
    (releases.folder_of(workspace, one) / "model.safetensors").write_bytes(b"eno")
    with pytest.raises(DoesNotVerify, match=r"releases/digits/1-.*model.safetensors"):
        releases.rollback(workspace, "digits")


def test_what_is_not_served_cannot_be_withdrawn(workspace, publish):
    publish(b"one")
    assert releases.withdraw(workspace, "digits").now is None
    with pytest.raises(BadInput, match="'digits' is not in service: in service: nothing"):
        releases.withdraw(workspace, "digits")
    with pytest.raises(BadInput):
        releases.rollback(workspace, "../elsewhere")


def lineage(**parents):
    return {child: frozenset(parent) for child, parent in parents.items()}


def test_taint_covers_the_parent_and_its_descendants_but_not_the_approved_candidate_or_its_own():
    parents = lineage(sibling=["parent"], nephew=["sibling"], approved=["parent"], child=["approved"])
    placed = [Mark.model_construct(request_id="r", request_sha256="r", parent_sha256="parent",
                                   approved_sha256="approved", pending=False)]
    tainted = {name for name in ("parent", "sibling", "nephew", "approved", "child", "stranger")
               if tainting(name, placed, parents)}
    assert tainted == {"parent", "sibling", "nephew"}


def test_a_second_candidate_approved_for_the_same_request_does_not_taint_the_first():
    parents = lineage(first=["parent"], second=["parent"])
    first, second = (Mark.model_construct(request_id="r", request_sha256="r", parent_sha256="parent",
                                          approved_sha256=name, pending=False) for name in ("first", "second"))
    assert tainting("second", [first], parents)
    assert tainting("second", [first], parents, approving="r") is None
    assert tainting("first", [first, second], parents) is None


def test_lineage_that_leads_in_a_circle_ends():
    assert tainting("a", [Mark.model_construct(request_sha256="r", parent_sha256="z", approved_sha256="y")],
                    lineage(a=["b"], b=["a"])) is None


def test_a_mark_that_cannot_be_read_is_not_skipped(workspace):
    (workspace.root / "taint").mkdir()
    (workspace.root / "taint" / "x.json").write_text("{}")
    with pytest.raises(BadInput, match=r"x\.json"):
        taint.marks(workspace)


def test_stored_files_describe_what_was_copied(workspace, publish):
    assert publish(b"one").weights == StoredFile(name="model.safetensors", sha256=sha256_bytes(b"one"), size=3)
