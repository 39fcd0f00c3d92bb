"""The verbs about keys: entering, listing, revoking and replacing them."""

from typing import Annotated, Any

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson, finish, print_lines

keys_app = typer.Typer(no_args_is_help=True, help="Who may sign.")

Signer = Annotated[str | None, typer.Option("--as", metavar="ADMIN", help="Whose key signs the change: an admin's. "
                                            "As long as nobody is admin, the operator's does.")]
Why = Annotated[str, typer.Option("--reason", help="Why, in your words; it is kept with the change.")]
PublicKey = Annotated[str | None, typer.Option("--public-key", metavar="HEX", help="The public part of a key made "
                                               "elsewhere, as the console's page shows it: none is made here.")]


@keys_app.command("new")
def keys_new(
    person: Annotated[str, typer.Argument(help="Whose key: a name or an address, without spaces.")],
    role: Annotated[list[str], typer.Option(help="requester, reviewer, operator or admin; may be given twice.")],
    by: Signer = None,
    reason: Why = "",
    public_key: PublicKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a signing key for a person, and enter it."""
    from expunge.evidence.keys import create_key

    workspace = Workspace.locate().require()
    entry = create_key(workspace, person, role, by, reason,  # type: ignore[arg-type]  # checked there, with advice
                       public_key)
    _say(workspace, entry, by, as_json)


@keys_app.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """List people, their keys and roles, and from which entry of the ledger to which each key counts."""
    from expunge.evidence.keys import Keyring

    entries = Keyring.load(Workspace.locate().require()).entries
    finish([_told(entry) for entry in entries], as_json, lambda out: print_lines(out, (
        f"{entry.key_id[:12]}  {entry.person}  {', '.join(entry.roles)}  {_validity(entry)}" for entry in entries)))


@keys_app.command("revoke")
def keys_revoke(
    whose: Annotated[str, typer.Argument(metavar="NAME|KEYID", help="Whose key, or the beginning of its id.")],
    reason: Why,
    by: Signer = None,
    as_json: AsJson = False,
) -> None:
    """End a key: what it has signed and the ledger does not hold yet counts no longer."""
    from expunge.evidence import key_changes

    entry = key_changes.revoke(Workspace.locate().require(), whose, by=by, reason=reason)
    finish(_told(entry), as_json, lambda out: print_lines(out, [
        f"{entry.person} ({', '.join(entry.roles)})  key {entry.key_id[:12]}  {_validity(entry)}", _signed(by)]))


@keys_app.command("rotate")
def keys_rotate(
    whose: Annotated[str, typer.Argument(metavar="NAME|KEYID", help="Whose key, or the beginning of its id.")],
    by: Signer = None,
    reason: Why = "",
    public_key: PublicKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a person another key with the same roles. What the old one signed goes on counting; its file stays."""
    from expunge.evidence import key_changes

    workspace = Workspace.locate().require()
    entry = key_changes.rotate(workspace, whose, by=by, reason=reason, public_key=public_key)
    _say(workspace, entry, by, as_json)


def _say(workspace: Workspace, entry: Any, by: str | None, as_json: bool) -> None:
    from expunge.errors import ExpungeError
    from expunge.evidence.keys import SigningKey, private_key_file

    try:
        here = SigningKey.load(workspace, entry.person).key_id == entry.key_id
    except ExpungeError:
        here = False
    where = str(private_key_file(workspace, entry.person)) if here else "not here: its owner has it"
    finish(_told(entry), as_json, lambda out: print_lines(out, [
        f"{entry.person} ({', '.join(entry.roles)})  key {entry.key_id[:12]}  {_validity(entry)}",
        f"private part: {where}", _signed(by)]))


def _told(entry: Any) -> dict[str, Any]:
    return {**entry.model_dump(mode="json"), "state": entry.ended or "counts"}


def _validity(entry: Any) -> str:
    since = "the beginning" if entry.valid_from == 0 else f"ledger position {entry.valid_from}"
    if entry.valid_until is None:
        return f"counts from {since} on"
    because = f" ({entry.ended_because})" if entry.ended_because else ""
    return f"{entry.ended}{because}: counted from {since} until before {entry.valid_until}"


def _signed(by: str | None) -> str:
    return f"signed by {by}" if by else "signed with the operator's key: nobody was admin"
