"""The table of tampering: what is changed, who could, and who notices. docs/tampering.md has the same rows.

Of each file some bytes are flipped, one at a time. The bundle is looked at twice: as somebody changed it on its way,
and with a new manifest that the operator signed over what was changed, for that is who could.
"""

import random
import re
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from finished_run import FinishedRun

from expunge.digests import sha256_file
from expunge.errors import ExpungeError
from expunge.evidence.bundle.gathered import gather
from expunge.evidence.bundle.writing import MANIFEST, BundlePredicate, export
from expunge.evidence.envelopes import open_envelope, seal
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.standalone import verify
from expunge.evidence.statements import DisposalPredicate, Statement, sign_statement
from expunge.evidence.verify import verify_workspace
from expunge.settings import RUN_VARIABLE, Workspace

PAGE = Path(__file__).parents[2] / "docs" / "tampering.md"
SAMPLED = 4  # positions of each file: the first byte, the last, and others
UNSEEN = "not seen"


@dataclass(frozen=True)
class Row:
    """One way to tamper, and what is said of it: the object that is named, or that nobody notices and why."""

    what: str
    bundle: str = ""  # what is flipped in the bundle, as a pattern
    named: str = ""  # by verify.py
    resealed: str = ""  # by verify.py, if the operator signs a new manifest over it
    workspace: str = ""  # what is flipped in the workspace, as a pattern
    audit: str = ""  # what `expunge audit verify` names
    deploy: tuple[int, ...] = ()  # exit codes of deploy where it is flipped before; none: deploy does not read it
    before_deploy: Callable[[FinishedRun], Path] | None = None
    stored: tuple[str, str] | None = None  # what is flipped in the workspace's ledger: table and column


def of_outputs(name: str) -> Callable[[FinishedRun], Path]:
    return lambda run: run.outputs / name


FLIPPED = (
    Row("released weights", "releases/*/*/model.safetensors", "releases/…/model.safetensors",
        "releases/…/model.safetensors", "releases/*/*-*/model.safetensors", "releases/…/model.safetensors", (40,),
        of_outputs("candidate/model.safetensors")),
    Row("record of the release", "releases/*/*/release.json", "releases/…/release.json", "releases/…/release.json",
        "releases/*/*-*/release.json", "releases/…/release.json"),
    Row("report", "results/evaluate-*/report/record.json", "results/…/report/record.json",
        "results/…/report/record.json", "results/evaluate-*/report/record.json", "results/…/report/record.json", (40,),
        of_outputs("report/record.json")),
    Row("single answers that rates are counted from", "results/evaluate-*/report/scores.csv",
        "results/…/report/scores.csv", "results/…/report/scores.csv", "results/evaluate-*/report/scores.csv",
        "results/…/report/scores.csv", (40,), of_outputs("report/scores.csv")),
    Row("features that distances are computed from, in a bundle with `--deep`",
        "results/evaluate-*/report/features.safetensors", "results/…/report/features.safetensors",
        "results/…/report/features.safetensors", "results/evaluate-*/report/features.safetensors",
        "results/…/report/features.safetensors", (40,), of_outputs("report/features.safetensors")),
    Row("policy", "runs/*/policy.yaml", "runs/…/policy.yaml", "runs/…/policy.yaml", "runs/*/policy.yaml",
        "runs/…/policy.yaml", (40,), lambda run: run.policy_file),
    Row("request", "runs/*/request.json", "runs/…/request.json", "runs/…/request.json", "runs/*/request.json",
        "runs/…/request.json", (40,), lambda run: run.request_file),
    Row("pointer to a sample set", "results/curate_forget_set-*/positive/record.json",
        "results/…/positive/record.json", "results/…/positive/record.json",
        "results/curate_forget_set-*/positive/record.json", "results/…/positive/record.json"),
    Row("candidate's record", "results/unlearn-*/candidate/record.json", "results/…/candidate/record.json",
        "results/…/candidate/record.json", "results/unlearn-*/candidate/record.json",
        "results/…/candidate/record.json", (40, 41), of_outputs("candidate/record.json")),
    Row("verdict", "results/gate-*/verdict/record.json", "results/…/verdict/record.json",
        "results/…/verdict/record.json", "results/gate-*/verdict/record.json", "results/…/verdict/record.json", (40,),
        of_outputs("verdict/record.json")),
    Row("any entry of the ledger", "ledger/entries/*.json", "ledger/entries/….json", "ledger/entries/….json",
        stored=("entries", "envelope"), audit="ledger entry …"),
    Row("a person's decision", "", "", "", "approvals/*/*.json", "approvals/….json", (40,),
        lambda run: next((run.workspace.approvals / run.name).glob("*.json"))),
    Row("the checkpoint", "ledger/checkpoint.txt", "ledger/checkpoint.txt", "ledger/checkpoint.txt",
        stored=("checkpoints", "note"), audit="ledger checkpoint …"),
    Row("a Merkle proof, or a subtree that it is made of", "ledger/proofs.json", "ledger/proofs.json",
        "ledger/entries/….json, ledger/proofs.json", stored=("nodes", "hash"), audit="ledger tree…"),
    Row("the keyring", "keyring.json", "keyring.json", "keyring.json", "keyring.json", "keyring.json", (40,),
        lambda run: run.workspace.keyring),
    Row("the mark on the parent", "taint/*.json", "taint/….json", "taint/….json", "taint/*.json", "taint/….json"),
    Row("the manifest", "manifest.json", "manifest.json", ""),
    Row("certificate, model card, README: the operator's own words", "certificate.json", "certificate.json",
        f"{UNSEEN}: verify.py does not read it"),
)


def pattern(named: str) -> str:
    """A name with `…` for any part of a path, as an expression; of several, any."""
    return "|".join(re.escape(one).replace("…", ".*") for one in named.split(", "))


@pytest.fixture(scope="module")
def shown(demo):
    """The workspace that the bundle is of."""
    return Workspace(demo[0] / ".expunge")


@pytest.fixture(scope="module")
def unpacked(shown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tampering")
    export(gather(shown, "forget-8.1"), folder / "bundle.zip", deep=True)
    with zipfile.ZipFile(folder / "bundle.zip") as archive:
        archive.extractall(folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def bundle(unpacked, tmp_path):
    return Path(shutil.copytree(unpacked, tmp_path / "bundle"))


def flips(file, count=SAMPLED):
    """The file with one byte flipped, at one position after the other; whole again at the end."""
    data, told = file.read_bytes(), random.Random(0)
    places = {0, len(data) - 1, *(told.randrange(len(data)) for _ in range(count - 2))}
    for place in sorted(places):
        spoiled = bytearray(data)
        spoiled[place] ^= 1
        file.unlink()
        file.write_bytes(spoiled)
        yield place
    file.write_bytes(data)


def reseal(folder, workspace):
    """The manifest of what lies there now, signed by the operator. Returns the one that lay there before."""
    before = (folder / MANIFEST).read_bytes()
    payload, _ = open_envelope(before, "application/vnd.in-toto+json", Keyring.load(workspace))
    said = BundlePredicate.model_validate(verify.parse(payload, MANIFEST)["predicate"])
    listed = {file.relative_to(folder).as_posix(): sha256_file(file) for file in folder.rglob("*") if file.is_file()}
    listed.pop(MANIFEST)
    (folder / MANIFEST).write_bytes(sign_statement(Statement.over(listed, said), SigningKey.load(workspace, OPERATOR)))
    return before


def complaint(folder, **more):
    problem = verify.check(folder, **more)[1]
    return ": ".join(problem) if problem else ""


@pytest.mark.parametrize("row", [row for row in FLIPPED if row.bundle], ids=lambda row: row.what)
def test_one_byte_of_the_bundle(row, bundle, shown):
    files = sorted(bundle.glob(row.bundle))
    assert files
    for file in files:
        for place in flips(file, SAMPLED if len(files) == 1 else 3):
            found = verify.check(bundle)[1]
            assert found is not None, (file, place)
            assert re.fullmatch(pattern(row.named), found[0]), (file, place, found)
            if not row.resealed:
                continue
            before = reseal(bundle, shown)
            found = verify.check(bundle)[1]
            (bundle / MANIFEST).write_bytes(before)
            if row.resealed.startswith(UNSEEN):
                assert found is None, (file, place, found)
            else:
                assert found is not None, (file, place)
                assert re.fullmatch(pattern(row.resealed), found[0]), (file, place, found)
    assert complaint(bundle) == ""


@pytest.fixture
def copied(copy_of_demo, workspace_of):
    return workspace_of(copy_of_demo)


@pytest.mark.parametrize("row", [row for row in FLIPPED if row.workspace], ids=lambda row: row.what)
def test_one_byte_of_the_workspace(row, copied):
    last = sorted(copied.root.glob(row.workspace))[-1]
    for place in flips(last, 3):
        wrong = [finding.object for finding in verify_workspace(copied) if not finding.ok]
        assert any(re.fullmatch(pattern(row.audit), name) for name in wrong), (place, wrong)
    assert not [finding for finding in verify_workspace(copied) if not finding.ok]


@pytest.mark.parametrize("row", [row for row in FLIPPED if row.stored], ids=lambda row: row.what)
def test_one_byte_of_the_ledger(row, copied):
    (table, column), told = row.stored, random.Random(0)
    whole = copied.ledger.read_bytes()
    with sqlite3.connect(copied.ledger) as database:
        stored = [data for data, in database.execute(f"SELECT {column} FROM {table}")]
    for data in told.sample(stored, SAMPLED):
        spoiled = bytearray(data)
        spoiled[told.randrange(len(data))] ^= 1
        spoil(copied.ledger, (f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (bytes(spoiled), data)))
        wrong = [finding.object for finding in verify_workspace(copied) if not finding.ok]
        assert any(re.fullmatch(pattern(row.audit), name) for name in wrong), wrong
        copied.ledger.write_bytes(whole)


@pytest.mark.parametrize("row", [row for row in FLIPPED if row.before_deploy], ids=lambda row: row.what)
def test_one_byte_before_deploy(row, begin_run):
    run = begin_run().make()
    run.sign()
    assert run.gate() == "open"
    codes = set()
    for place in flips(row.before_deploy(run)):
        try:
            run.deploy()
        except ExpungeError as error:
            codes.add(error.exit_code)
        else:
            pytest.fail(f"deployed with byte {place} flipped")
    assert not list(run.workspace.releases.glob("*/current"))
    assert codes
    assert codes <= set(row.deploy)
    run.deploy()


# ------------------------------------------------------------------------------------- entries and whole logs


MOVED = {
    "an entry is left out of the bundle": "its name, by the manifest; resealed by the operator, what lacks it: the "
    "run's statement names every room's, and the release every approval",
    "two entries are swapped": "the first of them: it is not in the tree at this position",
    "the tail of the ledger is cut off, and the rest signed": "only against a checkpoint kept outside: that one is "
    "named (40). Without one: `append-only: not shown`, and nothing is wrong",
    "the ledger is forked: an entry is replaced, and all that follows signed again": "only against a checkpoint kept "
    "outside: that one is named (40). Without one: `append-only: not shown`",
    "an approval of another run is put in the place of this one's": "the entry: it is not in the tree. Entered "
    "properly it is a decision on another run, and does not count",
    "a newer policy is put in the place of the one that decided": "runs/…/policy.yaml: it is not the verdict's",
    "a checkpoint is replaced by an older one": "the manifest: it is of another size of the ledger; resealed, the "
    "first entry that the older tree does not have",
    "a number of features is made up by the operator before anybody approves": "not seen, and `attested, not "
    "recomputed`; with `--deep` and features in the bundle: results/…/report/record.json, and which number",  # test_deep
}
"""What is done with whole entries and files, and what `verify.py` says of it."""


def test_an_entry_is_left_out(bundle, shown):
    said = {file.name: open_envelope(file.read_bytes(), verify.parse(file.read_bytes(), "")["payloadType"],
                                     Keyring.load(shown))[0] for file in bundle.glob("ledger/entries/*")}
    needed = 0
    for name, payload in said.items():
        file = bundle / "ledger" / "entries" / name
        data = file.read_bytes()
        file.unlink()
        assert complaint(bundle) == f"ledger/entries/{name}: missing"
        before = reseal(bundle, shown)
        if (b"predicate:room:" in payload and b'"gate"' not in payload) or b"expunge/approval" in payload:
            assert re.search(r"is missing|are not the approvals", complaint(bundle))
            needed += 1
        (bundle / MANIFEST).write_bytes(before)
        file.write_bytes(data)
    assert needed >= 7
    assert complaint(bundle) == ""


def test_two_entries_are_swapped(bundle, shown):
    first, second = sorted(bundle.glob("ledger/entries/*"))[2:4]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    reseal(bundle, shown)
    assert complaint(bundle).startswith(f"ledger/entries/{first.name}: it is not in the ledger's tree at this position")


def spoil(ledger, *commands):
    """Does to the database what its triggers forbid, as somebody can who may write its file."""
    with sqlite3.connect(ledger) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for command, *values in commands:
            database.execute(command, *values)


def rebuilt(workspace, envelopes):
    """The ledger made anew from these envelopes, in the same name, with the operator's key: what the operator can do."""
    ledger = Ledger.existing(workspace)
    from expunge.evidence.checkpoints import Checkpoint, sign_checkpoint
    from expunge.evidence.tree import EMPTY_ROOT

    head = ledger.head
    note = sign_checkpoint(Checkpoint(origin=head.origin, size=0, root=EMPTY_ROOT.hex()),
                           SigningKey.load(workspace, OPERATOR))
    spoil(workspace.ledger, *((f"DELETE FROM {table}",) for table in (
        "entries", "nodes", "digests", "keyring_changes", "checkpoints")),
          ("INSERT INTO checkpoints VALUES (0, ?)", (note,)))
    for envelope in envelopes:
        ledger.append(envelope)


@pytest.fixture
def rewritten(copy_of_demo, workspace_of, tmp_path):
    """A copy of the workspace, whose ledger had one more entry when a checkpoint was put outside."""
    workspace = workspace_of(copy_of_demo)
    ledger = Ledger.open(workspace)
    ledger.append(sign_statement(Statement.over({}, DisposalPredicate(
        request_id="other", request_sha256="0" * 64, reason="an entry to lose", by=OPERATOR, at="2026-01-01")),
        SigningKey.load(workspace, OPERATOR)))
    outside = tmp_path / "outside.txt"
    outside.write_bytes(ledger.checkpoint)
    return workspace, [entry.envelope for entry in ledger.entries()], outside


def what_is_seen(workspace, outside, tmp_path):
    """Of a rewritten ledger: by `verify.py` and by `audit verify`, each without and with the checkpoint from outside."""
    export(gather(workspace, "forget-8.1"), tmp_path / "bundle.zip")
    alone, aside = verify.check(tmp_path / "bundle.zip"), verify.check(tmp_path / "bundle.zip", outside=[outside])
    assert alone[1] is None
    assert any(text.startswith("append-only: not shown") for kind, text in alone[0] if kind == "NOT SHOWN")
    assert not [found for found in verify_workspace(workspace) if not found.ok]
    assert [found.object for found in verify_workspace(workspace, [outside.read_bytes()]) if not found.ok] == [
        "outside checkpoint 0"]
    return aside[1]


def test_the_tail_is_cut_off(rewritten, tmp_path):
    workspace, envelopes, outside = rewritten
    rebuilt(workspace, envelopes[:-1])
    named, why = what_is_seen(workspace, outside, tmp_path)
    assert named == str(outside)
    assert "cut off since, or the bundle is older" in why


def test_the_ledger_is_forked(rewritten, tmp_path):
    workspace, envelopes, outside = rewritten
    other = sign_statement(Statement.over({}, DisposalPredicate(
        request_id="other", request_sha256="0" * 64, reason="another history", by=OPERATOR, at="2026-01-01")),
        SigningKey.load(workspace, OPERATOR))
    rebuilt(workspace, [*envelopes[:-1], other])
    named, why = what_is_seen(workspace, outside, tmp_path)
    assert named == str(outside)
    assert "it was rewritten" in why


def test_an_approval_of_another_run_is_replayed(bundle, shown):
    """It does not lie in the tree; and entered, it decides on another run."""
    from expunge.contracts import Approval

    grace = SigningKey.load(shown, "grace")
    file = next(file for file in bundle.glob("ledger/entries/*") if b"approval" in file.read_bytes())
    payload, _ = open_envelope(file.read_bytes(), "application/vnd.expunge.approval+json", Keyring.load(shown))
    other = Approval.model_validate_json(payload).model_copy(update={"run": "other.1"})
    file.write_bytes(seal(other.to_bytes(), "application/vnd.expunge.approval+json", grace))
    reseal(bundle, shown)
    assert complaint(bundle).startswith(f"ledger/entries/{file.name}: it is not in the ledger's tree")
    check = verify.Check(verify.Bundle(bundle), [], [], None)
    for step in (check.serving, check.digests, check.signatures, check.rules, check.verdict):
        step()
    with pytest.raises(verify.Wrong, match="the decisions that count are not the approvals that it was released by"):
        check.decisions()


def test_a_replayed_approval_is_refused_at_deploy(begin_run, monkeypatch):
    first = begin_run().make()
    given = first.sign()
    monkeypatch.setenv(RUN_VARIABLE, "forget-8.2")
    second = FinishedRun(first.workspace, name="forget-8.2", weights=b"other weights").make()
    target = second.workspace.approvals / second.name / given.name
    target.parent.mkdir(parents=True)
    shutil.copyfile(given, target)
    with pytest.raises(ExpungeError, match=r"it decides on run forget-8\.1") as error:
        second.gate()
    assert error.value.exit_code == 40


def test_a_newer_policy_is_swapped_in(bundle, shown, begin_run):
    (file,) = bundle.glob("runs/*/policy.yaml")
    newer = (shown.policies / "standard.yaml").read_bytes()
    file.write_bytes(newer)
    reseal(bundle, shown)
    assert complaint(bundle).startswith(f"{file.relative_to(bundle).as_posix()}: not the verdict's policy")
    run = begin_run().make()
    run.sign()
    assert run.gate() == "open"
    run.policy_file.write_bytes(newer)
    with pytest.raises(ExpungeError) as error:
        run.deploy()
    assert error.value.exit_code in (40, 41)


def test_an_older_checkpoint_is_put_in(bundle, shown):
    older = dict(Ledger.existing(shown).checkpoints())[3]
    (bundle / "ledger" / "checkpoint.txt").write_bytes(older)
    assert complaint(bundle).startswith("ledger/checkpoint.txt: its bytes are not those")
    reseal(bundle, shown)
    assert complaint(bundle).startswith("manifest.json: it is of another ledger size")


# -------------------------------------------------------------------------------------------------- the page


def table():
    """The rows as the page has them."""
    lines = ["| one byte flipped in | `verify.py` names | after the operator signs a new manifest | `audit verify` names "
             "| deploy |", "| --- | --- | --- | --- | --- |"]
    for row in FLIPPED:
        named, resealed, audit = (f"`{name.replace(', ', '`, `')}`" if name and not name.startswith(UNSEEN) else name or "–"
                                  for name in (row.named, row.resealed, row.audit))
        deploy = " or ".join(map(str, row.deploy)) or "–"
        lines.append(f"| {row.what} | {named} | {resealed} | {audit} | {deploy} |")
    lines += ["", "| entries and files | what `verify.py` says |", "| --- | --- |"]
    lines += [f"| {what} | {seen} |" for what, seen in MOVED.items()]
    return "\n".join(lines)


def test_the_page_has_the_rows_that_are_tested():
    begin, end = "<!-- rows: tests/pipelines/test_tampering.py -->\n", "\n<!-- end of rows -->"
    page = PAGE.read_text()
    assert page[page.index(begin) + len(begin):page.index(end)] == table()
