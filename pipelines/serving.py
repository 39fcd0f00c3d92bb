"""Changing what is served, and saying so in the state of the run that made it."""

from typing import Literal

from expunge.evidence.keys import SigningKey
from expunge.settings import Workspace
from expunge.stores import releases
from expunge.stores.releases import Served
from pipelines.runs import Run, State


def change(workspace: Workspace, action: Literal["rollback", "withdraw"], model: str, person: str,
           reason: str) -> Served:
    """Rolls a model back or withdraws it, for a person who has a key here.

    Raises:
        BadInput: the model is not served, or the person has no key.
    """
    SigningKey.load(workspace, person)
    act = releases.rollback if action == "rollback" else releases.withdraw
    served = act(workspace, model, by=person, reason=reason)
    if served.was is not None:
        after: State = "rolled_back" if served.now is not None else "withdrawn"
        _mark(workspace, served.was.run, after, served.text)
    if served.now is not None:
        _mark(workspace, served.now.run, "released", "")
    return served


def _mark(workspace: Workspace, name: str, state: State, reason: str) -> None:
    run = Run.find(workspace, name)
    known = run.state()
    if state == "released" and known.state not in ("released", "rolled_back", "withdrawn"):
        return  # its release was cut before it could say so: 'expunge release' ends it
    run.write(known.model_copy(update={"state": state, "reason": reason}))
