"""What a stranger gets: a bundle that one file checks, a certificate, a summary that names nobody, a letter."""

import ast
import base64
import copy
import csv
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests_support import call

from expunge.contracts import Request, read_record
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence import copies
from expunge.evidence.bundle import certificate
from expunge.evidence.bundle.certificate import Certificate
from expunge.evidence.bundle.gathered import gather
from expunge.evidence.bundle.writing import export, verifier
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.standalone import verify
from expunge.evidence.statements import DisposalPredicate, Statement, sign_statement
from expunge.settings import WORKSPACE_VARIABLE, Workspace
from expunge.stores import releases
from pipelines.cli import carry_out

PROGRAM = Path(verify.__file__)


@pytest.fixture(scope="module")
def found(demo):
    return gather(Workspace(demo[0] / ".expunge"), "forget-8.1")


@pytest.fixture(scope="module")
def bundle(found, tmp_path_factory):
    file = tmp_path_factory.mktemp("bundle") / "bundle.zip"
    export(found, file)
    return file


@pytest.fixture(scope="module")
def served(demo):
    return demo[0] / ".expunge" / "releases" / "digits" / "current" / "model.safetensors"


def said(bundle, **more):
    lines, problem = verify.check(bundle, **more)
    assert problem is None, problem
    return {kind: "\n".join(text for found, text in lines if found == kind)
            for kind in ("NOT RELEASED", "PROVED", "ATTESTED", "NOT SHOWN")}


def wrong(bundle, **more):
    problem = verify.check(bundle, **more)[1]
    assert problem is not None
    return ": ".join(problem)


# ----------------------------------------------------------------------------------------- the program itself


def test_a_stranger_checks_the_bundle_with_the_published_program_alone(bundle, served, tmp_path):
    shutil.copyfile(PROGRAM, tmp_path / "verify.py")
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    for what in (bundle, tmp_path / "unpacked"):
        done = subprocess.run([sys.executable, "-I", "verify.py", what, "--served", served], cwd=tmp_path, text=True,
                              capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[0] == f"verify.py {sha256_bytes(verifier())}"
        assert done.stdout.splitlines()[-1] == "nothing is wrong"
        assert "PROVED" in done.stdout
        assert "append-only: not shown" in done.stdout


def test_the_program_needs_nothing_but_python_3_9_and_cryptography_and_numpy_to_go_deep():
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 9))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names} | {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names)
    assert others == {"cryptography", "numpy"}
    assert not [node for node in tree.body if isinstance(node, ast.Import) and node.names[0].name == "numpy"]
    assert imported.isdisjoint({"socket", "urllib", "http", "subprocess", "pickle", "ssl"})


def test_the_program_is_published_apart_from_any_bundle_with_its_digest(expunge, bundle, tmp_path):
    done = expunge(tmp_path, "audit", "verifier", "--json")
    assert done.json == {"file": "verify.py", "sha256": sha256_file(tmp_path / "verify.py")}
    with zipfile.ZipFile(bundle) as archive:
        assert archive.read("verify.py") == (tmp_path / "verify.py").read_bytes() == PROGRAM.read_bytes()
        assert done.json["sha256"] in archive.read("README.txt").decode()


# ------------------------------------------------------------------------------------------------ the bundle


def test_the_verb_writes_the_bundle_the_summary_and_the_letter(demo, expunge, tmp_path):
    done = expunge(demo[0], "audit", "export", "forget-8", tmp_path / "b.zip", "--summary", tmp_path / "s.md",
                   "--letter", tmp_path / "l.txt", "--json")
    assert done.code == 0, done.err
    assert done.json["sha256"] == sha256_file(tmp_path / "b.zip")
    assert done.json["claim"] == "output suppression"
    assert set(done.json["written"]) == {"bundle", "summary", "letter"}
    assert said(tmp_path / "b.zip")
    done = expunge(demo[0], "audit", "export", "forget-8", tmp_path / "deep.zip", "--deep", "--json")
    assert done.code == 0, done.err
    with zipfile.ZipFile(tmp_path / "deep.zip") as archive:
        assert len([name for name in archive.namelist() if name.endswith("/features.safetensors")]) == 1
    assert "the features themselves" in said(tmp_path / "deep.zip", deep=True)["ATTESTED"]


def test_the_same_evidence_gives_the_same_bytes(found, bundle, tmp_path):
    again = export(gather(found.workspace, found.run), tmp_path / "again.zip")
    assert again.sha256 == sha256_file(bundle)


def test_nothing_of_the_forget_set_and_no_picture_is_in_it(demo, bundle):
    remote = demo[0] / ".expunge" / "sample-remote"
    ciphertext = {sha256_file(file) for file in remote.rglob("*") if file.is_file()}
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        content = {name: archive.read(name) for name in names}
    assert not [name for name in names if name.endswith((".png", ".parquet", ".pem")) or "page" in name
                or "features" in name or "members.csv" in name or "approvals" in name]
    assert ciphertext.isdisjoint(sha256_bytes(data) for data in content.values())
    for name, data in content.items():
        assert b"\x89PNG" not in data, name
        assert b"PAR1" not in data, name
        assert b"PRIVATE KEY" not in data, name
    assert b"data:image" not in content["certificate.html"]


def test_the_rates_that_decide_are_counted_again_from_single_answers(bundle):
    proved = said(bundle)["PROVED"]
    for metric in ("residual_rate", "pul"):
        assert f"{metric} at " in proved
    assert proved.count("counted again from the answers") == 2


def test_every_table_of_answers_has_the_table_s_own_columns(demo):
    for file in (demo[0] / ".expunge").glob("results/evaluate-*/report/*.csv"):
        table = pq.read_table(file.with_suffix(".parquet")).to_pydict()
        with file.open() as opened:
            rows = list(csv.DictReader(opened))
        for name in rows[0]:
            assert [str(int(x)) if not isinstance(x, str) else x for x in table[name]] == [row[name] for row in rows]


def test_a_number_in_the_report_that_its_answers_do_not_give_is_found(bundle):
    check = verify.Check(verify.Bundle(bundle), [], [], None)
    for step in (check.serving, check.digests, check.signatures, check.inclusion, check.consistency):
        step()
    rate = next(one for one in check.report["measurements"] if one["name"] == "residual_rate")
    rate["interval"] = {**rate["interval"], "upper": rate["interval"]["upper"] - 1e-4}
    with pytest.raises(verify.Wrong, match="residual_rate is not what its answers give"):
        check.rules()


def test_the_file_that_is_served_is_what_it_begins_with(bundle, served, tmp_path, demo):
    assert f"{served} is the released model.safetensors" in said(bundle, served=[served])["PROVED"]
    assert "which bytes are served" in said(bundle)["NOT SHOWN"]
    (parent,) = (demo[0] / ".expunge").glob("results/fetch_checkpoint-*/checkpoint/model.safetensors")
    assert wrong(bundle, served=[parent]).startswith(f"{parent}: its bytes")


def test_without_weights_only_their_digest_goes_along(found, served, tmp_path):
    export(found, tmp_path / "light.zip", weights=False)
    with zipfile.ZipFile(tmp_path / "light.zip") as archive:
        assert not [name for name in archive.namelist() if name.endswith(".safetensors")]
    assert "the released weights: they are not in the bundle" in said(tmp_path / "light.zip")["NOT SHOWN"]
    assert "is the released" in said(tmp_path / "light.zip", served=[served])["PROVED"]


def test_people_s_own_words_go_along_only_if_asked_for(found, bundle, tmp_path):
    (file,) = found.workspace.approvals.glob("*/*.reason.txt")
    with zipfile.ZipFile(bundle) as archive:
        assert not [name for name in archive.namelist() if file.read_bytes() in archive.read(name)]
    export(found, tmp_path / "told.zip", reasons=True)
    with zipfile.ZipFile(tmp_path / "told.zip") as archive:
        assert [name for name in archive.namelist() if name.endswith(file.name)]
    assert said(tmp_path / "told.zip")


# ------------------------------------------------------------------------------------- against the outside


@pytest.fixture
def later(demo, tmp_path):
    """A copy of the workspace in which the ledger went on after a checkpoint was put aside."""
    shutil.copytree(demo[0], tmp_path / "copy", symlinks=True)
    workspace = Workspace(tmp_path / "copy" / ".expunge")
    ledger = Ledger.open(workspace)
    aside = tmp_path / "aside.txt"
    aside.write_bytes(ledger.checkpoint)
    for number in range(3):
        ledger.append(sign_statement(Statement.over({}, DisposalPredicate(
            request_id="other", request_sha256="0" * 64, reason=f"{number}", by=OPERATOR, at="2026-01-01")),
            SigningKey.load(workspace, OPERATOR)))
    return workspace, aside


def test_a_checkpoint_kept_outside_shows_that_the_ledger_was_only_added_to(later, tmp_path):
    workspace, aside = later
    export(gather(workspace, "forget-8.1"), tmp_path / "b.zip")
    assert "append-only: since entry" in said(tmp_path / "b.zip", outside=[aside])["PROVED"]
    assert "append-only" not in said(tmp_path / "b.zip", outside=[aside])["NOT SHOWN"]
    export(gather(workspace, "forget-8.1"), tmp_path / "c.zip", checkpoints=[aside])
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert json.loads(archive.read("ledger/proofs.json"))["consistency"]
    assert "append-only: since entry" in said(tmp_path / "c.zip", outside=[aside])["PROVED"]


def test_a_long_ledger_s_bundle_has_proofs_for_the_checkpoints_that_were_named(later, tmp_path, monkeypatch):
    workspace, aside = later
    ledger = Ledger.existing(workspace)
    aside.write_bytes(dict(ledger.checkpoints())[ledger.size - 1])
    monkeypatch.setattr("expunge.evidence.bundle.writing.LEAVES_MOST", 5)
    export(gather(workspace, "forget-8.1"), tmp_path / "b.zip")
    assert "ask for a bundle that has" in wrong(tmp_path / "b.zip", outside=[aside])
    export(gather(workspace, "forget-8.1"), tmp_path / "c.zip", checkpoints=[aside])
    assert "append-only: since entry" in said(tmp_path / "c.zip", outside=[aside])["PROVED"]


def test_a_long_ledger_s_bundle_also_has_those_that_were_copied_outside_and_those_of_the_run(later, tmp_path, monkeypatch):
    workspace, _ = later
    (tmp_path / "place").mkdir()
    (workspace.root / "config.yaml").write_text(f"checkpoints:\n  - folder: {tmp_path / 'place'}\n")
    copies.send(workspace)
    (copied,) = (tmp_path / "place").iterdir()
    found = gather(workspace, "forget-8.1")
    monkeypatch.setattr("expunge.evidence.bundle.writing.LEAVES_MOST", 5)
    export(found, tmp_path / "b.zip")
    signed = dict(Ledger.existing(workspace).checkpoints())
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        there = {int(Path(name).stem) for name in archive.namelist() if name.startswith("ledger/checkpoints/")}
        assert "ledger/leaves" not in archive.namelist()
    own = {said.entry.position for said in found.said}
    assert there == ({min(own), *(place + 1 for place in own), found.head.size} - {0})
    for size, note in ((found.head.size, copied.read_bytes()), *((size, signed[size]) for size in sorted(there))):
        (tmp_path / "kept.txt").write_bytes(note)
        assert f"append-only: since entry {size}," in said(tmp_path / "b.zip", outside=[tmp_path / "kept.txt"])["PROVED"]


def test_a_place_outside_that_cannot_be_read_is_named_as_left_out(later, tmp_path, monkeypatch, capsys):
    workspace, _ = later
    places = [tmp_path / "no-more", tmp_path / "empty"]
    places[1].mkdir()
    (workspace.root / "config.yaml").write_text("checkpoints:\n" + "".join(f"  - folder: {place}\n" for place in places))
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(workspace.root))
    assert carry_out(["audit", "export", "forget-8.1", str(tmp_path / "short.zip")]) == 0
    assert "left out" not in capsys.readouterr().out  # all leaves go along, and serve any checkpoint
    monkeypatch.setattr("expunge.evidence.bundle.writing.LEAVES_MOST", 5)
    assert carry_out(["audit", "export", "forget-8.1", str(tmp_path / "long.zip"), "--json"]) == 0
    gone, empty = json.loads(capsys.readouterr().out)["left_out"]
    assert gone.startswith(f"the checkpoint kept at {places[0]}: ")
    assert empty == f"the checkpoint kept at {places[1]}: no checkpoint is there yet"
    assert carry_out(["audit", "export", "forget-8.1", str(tmp_path / "long.zip")]) == 0
    assert f"left out   {gone}" in " ".join(capsys.readouterr().out.splitlines())


def test_a_bundle_older_than_the_checkpoint_shows_nothing_and_says_so(bundle, later, tmp_path):
    workspace, _ = later
    (tmp_path / "newer.txt").write_bytes(Ledger.open(workspace).checkpoint)
    assert "cut off since, or the bundle is older" in wrong(bundle, outside=[tmp_path / "newer.txt"])


def test_another_ledger_s_checkpoint_is_told_apart(bundle, tmp_path, monkeypatch):
    from pipelines.workspace import initialise

    other = initialise(Workspace(tmp_path / "other"))
    (tmp_path / "foreign.txt").write_bytes(Ledger.open(other).checkpoint)
    assert "no operator of this keyring signed this checkpoint" in wrong(bundle, outside=[tmp_path / "foreign.txt"])


def test_the_operator_s_key_can_be_given_from_outside(bundle, found):
    assert "whose key" not in said(bundle, operator=found.operator_key)["NOT SHOWN"]
    assert "not by 0000" in wrong(bundle, operator="0" * 64)


# --------------------------------------------------------------------------------- for whom it is written


def test_the_certificate_types_its_claim_and_lists_what_is_not_shown_for_this_run(found):
    made = certificate.of(found)
    assert made.claim == "output suppression"
    assert Certificate.model_validate_json(made.to_bytes()) == made
    lines = "\n".join(made.not_shown)
    assert "private keys lay on one machine" in lines
    assert "no reference was given" not in lines  # the demo has one
    assert "there is no receipt in the ledger" in lines
    assert "proved forgotten" not in certificate.page(made) + certificate.letter(made)


def test_what_is_not_shown_follows_from_the_records(found):
    from dataclasses import replace

    bare = replace(found)
    bare.__dict__["report"] = found.report.model_copy(update={"reference_sha256": None, "files": ()})
    lines = "\n".join(certificate.of(bare).not_shown)
    assert "no reference was given" in lines
    assert "attested, a reader of the bundle cannot compute them again" in lines


def test_the_public_summary_and_the_card_name_nobody(found, bundle):
    request = read_record(Request, found.folder / "request.json")
    reason = next(found.workspace.approvals.glob("*/*.reason.txt")).read_text()
    with zipfile.ZipFile(bundle) as archive:
        card = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/README.md"))
    for text in (certificate.summary(certificate.of(found)), card):
        for personal in ({*found.people} - {OPERATOR}) | {request.id, found.run, reason, request.checkpoint.uri}:
            assert not re.search(rf"\b{re.escape(personal)}\b", text), personal


def test_the_letter_is_in_plain_words_and_promises_nothing(found):
    text = certificate.letter(certificate.of(found))
    assert "You need not believe this letter" in text
    assert "That is: samples that the judge still calls unwanted." in text
    assert "grace" not in text
    assert found.release.weights.sha256 in text
    assert "have not been destroyed" in text


# ------------------------------------------------------------------------- standards, by other people's tools


def test_the_envelopes_verify_by_securesystemslib_alone(bundle):
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    with zipfile.ZipFile(bundle) as archive:
        keyring = json.loads(archive.read("keyring.json"))
        envelopes = {name: json.loads(archive.read(name)) for name in archive.namelist()
                     if name == "manifest.json" or name.startswith("ledger/entries/")}
    keys = {entry["key_id"]: SSlibKey(entry["key_id"], "ed25519", "ed25519", {"public": entry["public_key"]})
            for entry in keyring["entries"]}
    assert len(envelopes) > 5
    for name, document in envelopes.items():
        (key_id,) = (signed["keyid"] for signed in document["signatures"])
        assert key_id in keys, name  # one that is not known would be skipped
        parsed = Envelope.from_dict(copy.deepcopy(document))  # which takes the document apart
        assert set(parsed.verify(list(keys.values()), 1)) == {key_id}
        parsed.payload += b" "
        with pytest.raises(VerificationError):
            parsed.verify(list(keys.values()), 1)
    statement = json.loads(base64.b64decode(envelopes["manifest.json"]["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert all(set(subject["digest"]) == {"sha256"} for subject in statement["subject"])


@pytest.fixture
def with_model_signature(copy_of_demo, workspace_of, tmp_path):
    pytest.importorskip("model_signing")
    found = gather(workspace_of(copy_of_demo), "forget-8.1")
    first, second = (export(found, tmp_path / name, sign_model=True) for name in ("one.zip", "two.zip"))
    assert first.sha256 == second.sha256
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        archive.extractall(tmp_path / "signed")
    (model,) = (tmp_path / "signed" / "releases" / "digits").glob("*/")
    return model


def verified_by_its_own_command(model):
    return subprocess.run([sys.executable, "-m", "model_signing", "verify", "key", "--signature", f"{model}.sig",
                           "--public_key", f"{model}.pub.pem", str(model)], text=True, capture_output=True, check=False)


def test_the_released_model_s_signature_is_verified_by_its_own_command(with_model_signature):
    model = with_model_signature
    done = verified_by_its_own_command(model)
    assert done.returncode == 0, done.stdout + done.stderr
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert verified_by_its_own_command(model).returncode != 0


def test_the_model_card_is_one_that_the_hub_s_library_reads(bundle, tmp_path):
    from huggingface_hub import ModelCard, ModelCardData

    with zipfile.ZipFile(bundle) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/README.md"))
        archive.extract(name, tmp_path)
    card = ModelCard.load(tmp_path / name)
    assert isinstance(card.data, ModelCardData)
    assert card.data.library_name == "safetensors"
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert "machine-unlearning" in card.data.tags
    assert card.data.to_dict()["expunge"]["claim"] == "output suppression"
    assert "# digits, generation 1" in card.text


# ----------------------------------------------------------------------------- a release that is no longer served


def test_a_release_that_was_withdrawn_says_so(copy_of_demo, workspace_of, tmp_path):
    workspace = workspace_of(copy_of_demo)
    file = releases.folder_of(workspace, gather(workspace, "forget-8.1").release) / "model.safetensors"
    releases.withdraw(workspace, "digits", reason="to see")
    found = gather(workspace, "forget-8.1")
    export(found, tmp_path / "b.zip")
    assert "this release is no longer in service" in said(tmp_path / "b.zip")["ATTESTED"]
    assert "was taken out of service, and its bytes are served" in wrong(tmp_path / "b.zip", served=[file])
    assert certificate.of(found).service.startswith("out of service")


def test_a_waiver_shows_in_the_certificate_and_in_what_the_verifier_says(begin_run, tmp_path):
    run = begin_run(residual=0.04).make()  # debug's limit is 0.05, and the interval reaches from 0.02 to 0.08
    for person in ("grace", "hopper"):
        run.sign(person, waives=("residual_rate",))
    assert run.gate() == "open"
    run.deploy()
    run.conclude()
    found = gather(run.workspace, run.name)
    export(found, tmp_path / "b.zip")
    proved = said(tmp_path / "b.zip")["PROVED"]
    assert "the verdict is INCONCLUSIVE" in proved
    assert "WAIVED: residual_rate" in proved
    assert "grace and hopper approved" in proved
    made = certificate.of(found)
    assert made.waivers == ("residual rate, which was inconclusive",)
    assert "Waived: residual rate" in certificate.page(made)
    assert "people took it upon themselves" in certificate.letter(made)
    assert "Rules waived: 1" in certificate.summary(made)


# ----------------------------------------------------------------------------------- runs that released nothing


REJECTED, WAITING = "rejected", "awaiting_approval"


def not_released(begin_run, residual, state, decision=None, **more):
    """A run that ended at the gate: what is gathered of it."""
    run = begin_run(residual=residual).make()
    if decision:
        run.sign("grace", decision, **more)
    assert run.gate() != "open"
    return gather(run.workspace, run.conclude(state).name)


@pytest.mark.parametrize(("residual", "state", "decision", "verdict"), [
    (0.2, "refused", None, "FAIL"), (0.04, "inconclusive", None, "INCONCLUSIVE"), (0.001, WAITING, None, "PASS"),
    (0.001, WAITING, "reject", "PASS"), (0.2, "refused", "reject", "FAIL")])
def test_a_run_that_released_nothing_is_shown_for_what_it_is(begin_run, tmp_path, residual, state, decision, verdict):
    found = not_released(begin_run, residual, state, decision)
    exported = export(found, tmp_path / "b.zip", reasons=True)
    lines = said(tmp_path / "b.zip")
    assert lines["NOT RELEASED"] == (
        f"run {found.run} released nothing; its last statement in this bundle says: {state.replace('_', ' ')}")
    assert f"the verdict is {verdict}: 2 rules and 2 controls" in lines["PROVED"]
    assert ("grace rejected exactly these bytes, on" in lines["PROVED"]) == (decision == "reject")
    assert "that nothing was released of it later" in lines["ATTESTED"]
    assert not re.search(r"approved|WAIVED|is the released|marked as", "\n".join(lines.values()))
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        names = archive.namelist()
        assert "IT RELEASED NOTHING" in archive.read("README.txt").decode()
    assert not [name for name in names if name.startswith(("releases", "taint", "certificate"))
                or name.endswith(".safetensors")]
    assert len([name for name in names if name.endswith(".reason.txt")]) == (decision is not None)
    assert export(gather(found.workspace, found.run), tmp_path / "again.zip", reasons=True).sha256 == exported.sha256


def test_its_program_says_so_first_and_last(begin_run, tmp_path):
    export(not_released(begin_run, 0.2, "refused"), tmp_path / "b.zip")
    done = subprocess.run([sys.executable, "-I", PROGRAM, tmp_path / "b.zip"], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].startswith("NOT RELEASED  run forget-8.1 released nothing")
    assert done.stdout.splitlines()[-1] == "nothing is wrong, and nothing was released"


def test_a_candidate_that_was_not_released_and_is_served_is_named(begin_run, tmp_path):
    found = not_released(begin_run, 0.001, WAITING, "reject")
    export(found, tmp_path / "b.zip")
    served, other = found.record_file("unlearn").parent / "model.safetensors", tmp_path / "other.safetensors"
    assert wrong(tmp_path / "b.zip", served=[served]) == (
        f"{served}: it is the candidate of a run that released nothing, and is served")
    other.write_bytes(b"another")
    assert f"{other} is not the candidate of this run" in said(tmp_path / "b.zip", served=[other])["PROVED"]


def test_an_approval_that_came_to_nothing_does_not_read_as_one(begin_run, tmp_path):
    found = not_released(begin_run, 0.04, "expired", "approve", waives=("residual_rate",))  # it takes two to waive
    export(found, tmp_path / "b.zip")
    lines = said(tmp_path / "b.zip")
    assert "grace signed an approval of exactly these bytes, by which nothing was released, on" in lines["PROVED"]
    assert "says: expired" in lines["NOT RELEASED"]


def test_a_release_whose_record_was_left_out_is_not_taken_for_a_run_without_one(bundle, found, tmp_path):
    from dataclasses import replace

    bare = replace(found, rooms={room: said for room, said in found.rooms.items() if room != "deploy"})
    assert not bare.is_released
    with pytest.raises(DoesNotVerify, match=r"releases: the release of run forget-8\.1 is missing"):
        export(bare, tmp_path / "b.zip")


def test_the_verb_writes_no_letter_on_what_was_not_released_and_nothing_before_a_verdict(begin_run, tmp_path):
    run = begin_run(residual=0.2).make()
    with pytest.raises(BadInput, match="has come to no verdict"):
        gather(run.workspace, run.conclude("failed").name)
    run.gate()
    run.conclude("refused")
    run.as_run("refused")
    done = call(run.workspace.root.parent, "audit", "export", run.name, "b.zip", "--letter", "l.txt",
                EXPUNGE_WORKSPACE=str(run.workspace.root), EXPUNGE_KEYS=str(run.workspace.keys))
    assert done.code == 2
    assert f"letter: run {run.name} released nothing" in done.err
    done = call(run.workspace.root.parent, "audit", "export", run.name, "b.zip", "--json",
                EXPUNGE_WORKSPACE=str(run.workspace.root), EXPUNGE_KEYS=str(run.workspace.keys))
    assert done.code == 0, done.err
    assert done.json["released"] is False
    assert done.json["written"] == {"bundle": "b.zip"}
