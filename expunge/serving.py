"""Changing what is served, and saying so in the state of the run that made it: the entry and the state at once."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from expunge.evidence.keys import SigningKey
from expunge.runs import Run, State
from expunge.settings import Workspace
from expunge.stores import releases
from expunge.stores.releases import Served, Tell

if TYPE_CHECKING:
    from sqlalchemy import Connection


def change(workspace: Workspace, action: Literal["rollback", "withdraw"], model: str, person: str,
           reason: str, tell: Tell = lambda _: None) -> Served:
    """Rolls a model back or withdraws it, for a person who has a key here.

    Raises:
        BadInput: the model is not served, or the person has no key.
        WorkspaceBusy: the run that made it has been changed meanwhile.
    """
    SigningKey.load(workspace, person)

    def recording(served: Served, entry: str) -> "Callable[[Connection], None]":
        marks = []
        if served.was is not None:
            after: State = "rolled_back" if served.now is not None else "withdrawn"
            marks += _mark(workspace, served.was.run, after, served.text, entry)
        if served.now is not None:
            marks += _mark(workspace, served.now.run, "released", "", entry)

        def write(connection: "Connection") -> None:
            for mark in marks:
                mark(connection)

        return write

    act = releases.rollback if action == "rollback" else releases.withdraw
    return act(workspace, model, by=person, reason=reason, recording=recording, tell=tell)


def _mark(workspace: Workspace, name: str, state: State, reason: str,
          entry: str) -> "list[Callable[[Connection], object]]":
    run = next((run for run in Run.all(workspace) if run.name == name), None)
    if run is None:
        return []  # nothing here says where it stands: what it released can be taken out all the same
    known = run.state()
    if state == "released" and known.state not in ("released", "rolled_back", "withdrawn"):
        return []  # its release was cut before it could say so: 'expunge release' ends it
    return [run.writing(known.model_copy(update={"state": state, "reason": reason}), entry)]
