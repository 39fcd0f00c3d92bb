"""Keys that have ended since, seen from outside: a release they signed verifies, by the program for strangers too."""

from tests_support import write_policy

from expunge.contracts import Release, read_record
from expunge.evidence.bundle.gathered import gather
from expunge.evidence.bundle.writing import export
from expunge.evidence.key_changes import revoke, rotate
from expunge.evidence.keys import OPERATOR, create_key
from expunge.evidence.standalone import verify
from expunge.evidence.verify import verify_workspace


def test_a_waived_release_verifies_after_every_key_that_signed_it_has_ended(begin_run, tmp_path):
    made = begin_run(residual=0.04)
    workspace = made.workspace
    write_policy(workspace, "debug", made.policy_file.read_bytes() + b"# ours\n", run_folder=made.policy_file.parent)
    made.make()
    for person in ("grace", "linus"):
        made.sign(person, waives=["residual_rate"])
    assert made.gate() == "open"
    made.deploy()
    made.conclude()
    run = made.as_run("awaiting_approval")
    run.write(run.state().model_copy(update={"state": "released"}))
    rotate(workspace, OPERATOR, by="olga")
    rotate(workspace, "grace", by="olga")
    revoke(workspace, "linus", by="olga", reason="left")
    create_key(workspace, "peter", ["admin"], by="olga")
    rotate(workspace, "olga", by="peter")
    assert not [found for found in verify_workspace(workspace) if not found.ok]
    assert read_record(Release, run.output("deploy", "release")).waived == ("residual_rate",)

    export(gather(workspace, run.name), tmp_path / "bundle.zip")
    lines, problem = verify.check(tmp_path / "bundle.zip")
    assert problem is None, problem
    proved = "\n".join(text for kind, text in lines if kind == "PROVED")
    assert "WAIVED: residual_rate" in proved
    assert "grace and linus approved exactly these bytes" in proved
    assert "8 entries of the ledger made it, signed by olga and operator and peter" in proved
