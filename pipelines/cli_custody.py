"""The verb about custody: what was to be forgotten is disposed of, and a receipt says so."""

from typing import Annotated, Literal

import typer

from expunge.settings import Workspace
from pipelines.output import AsJson, finish, out


def dispose(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="A request, or one of its runs.")],
    person: Annotated[str | None, typer.Option("--as", metavar="PERSON", help="Who disposes: somebody with a key here; "
                                                                              "the operator by default.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, in your words; it is kept with the receipt.")] = None,
    parent: Annotated[Literal["quarantined", "destroyed", "kept"] | None, typer.Option(
        help="What becomes of the model that had learned it. 'destroyed' removes it from this workspace; the others "
             "are your word. 'kept' by default.")] = None,
    parent_reason: Annotated[str | None, typer.Option(help="Why the parent is kept, or where it is now.")] = None,
    also: Annotated[list[str] | None, typer.Option(help="Look there too: a folder, a file or s3://bucket/prefix; may "
                                                        "be given several times.")] = None,
    leave_found: Annotated[bool, typer.Option("--leave-found", help="Go on although copies remain that you could "
                                                                    "remove; the receipt names them.")] = False,
    key_lost: Annotated[bool, typer.Option("--key-is-lost", help="The request's key is gone: remove what it sealed, by "
                                                                 "its records; nothing can be looked for.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only look: what would go, what would remain. Changes "
                                                      "nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find every copy of what a request wanted forgotten, remove ours, destroy its key, sign a receipt."""
    from expunge.contracts import Wish
    from pipelines import disposing
    from pipelines.showing_disposals import Counter, describe_outlook, describe_receipt, show_outlook, show_receipt

    workspace = Workspace.locate().require()
    wish = Wish(by=person, reason=reason, parent=parent, parent_reason=parent_reason, also=tuple(also or ()),
                leave_found=leave_found, key_lost=key_lost)
    with Counter(out(as_json)) as counter:
        if plan:
            outlook = disposing.look(workspace, request, wish, counter.count)
        else:
            receipt = disposing.dispose(workspace, request, wish, counter.count)
    if plan:
        finish(describe_outlook(outlook), as_json, lambda console: show_outlook(console, outlook))
        return
    finish(describe_receipt(workspace, receipt), as_json, lambda console: show_receipt(console, workspace, receipt))
