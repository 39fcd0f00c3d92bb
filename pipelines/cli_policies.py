"""The verbs about policies: which there are, whose rules they are, and signing one."""

from typing import Annotated, Any, Literal

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson, finish, print_lines

policies_app = typer.Typer(no_args_is_help=True, help="By which rules, and who vouches for them.")

Standing = Literal["shipped", "signed", "unsigned", "does not verify", "unreadable"]


@policies_app.command("list")
def policies_list(as_json: AsJson = False) -> None:
    """List the workspace's policies: shipped with expunge, signed and by whom, or of no effect yet."""
    from expunge.evidence import policies

    workspace = Workspace.locate().require()
    found = [_standing(workspace, name) for name in policies.names(workspace)]
    finish(found, as_json, lambda out: print_lines(out, (
        f"{line['name']}  {_in_words(line)}" for line in found)))


@policies_app.command("sign")
def policies_sign(
    name: Annotated[str, typer.Argument(help="The policy, as its file in the workspace is called, without .yaml.")],
    person: Annotated[str, typer.Option("--as", metavar="PERSON", help="Whose key signs: an admin's.")],
    as_json: AsJson = False,
) -> None:
    """Sign a policy, so that runs may be decided by it; not those that the signer requests."""
    from expunge.evidence import policies

    workspace = Workspace.locate().require()
    signature = policies.sign(workspace, name, person)
    found = {**_standing(workspace, name), "signature": str(signature)}
    finish(found, as_json, lambda out: print_lines(out, [f"{person} signed: policy {name}", str(signature)]))


def _standing(workspace: Workspace, name: str) -> dict[str, Any]:
    """What is to be said of one policy."""
    from expunge.digests import sha256_bytes
    from expunge.errors import BadInput, DoesNotVerify
    from expunge.evidence import policies
    from expunge.evidence.coherence import read_policy

    file = policies.policy_file(workspace, name)
    data, signature = file.read_bytes(), policies.signature_beside(file)
    standing: Standing = "shipped" if policies.is_shipped(data) else "unsigned" if signature is None else "signed"
    signed_by, families, problem = None, None, None
    try:
        families = sorted({family for rule in read_policy(file).rules for family in rule.families})
        if standing == "signed" and signature is not None:
            signed_by = policies.signer_of(data, signature, policies.keyring_for(workspace, signature))
    except BadInput as error:
        standing, problem = "unreadable", error.problem
    except DoesNotVerify as error:
        standing, problem = "does not verify", error.problem
    return {"name": name, "standing": standing, "signed_by": signed_by, "families": families, "problem": problem,
            "sha256": sha256_bytes(data)}


def _in_words(found: dict[str, Any]) -> str:
    said = {
        "shipped": "shipped with expunge",
        "signed": f"signed by {found['signed_by']}",
        "unsigned": f"unsigned: an admin must sign it (expunge policies sign {found['name']} --as ADMIN)",
        "does not verify": f"its signature does not verify: {found['problem']}",
        "unreadable": f"cannot be read: {found['problem']}"}[found["standing"]]
    return f"{said}; for {', '.join(found['families'])}" if found["families"] else said
