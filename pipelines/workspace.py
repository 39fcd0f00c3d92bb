"""Making a workspace ready for its first run."""

from pathlib import Path

from expunge.configuration import CONFIG_FILE
from expunge.digests import write_atomically
from expunge.evidence.keys import OPERATOR, Keyring, create_key
from expunge.evidence.ledger import Ledger
from expunge.evidence.policies import ENDING, has_shipped, signature_beside
from expunge.measure.policy import preset_bytes, preset_names
from expunge.settings import Workspace


def initialise(workspace: Workspace) -> Workspace:
    """Makes what is missing: the marker, the operator's key, the policies as they ship today, an empty ledger."""
    marker = workspace.root / "workspace.json"
    # What it is told about the outside, a database for one, may be there before it.
    if not marker.exists() and set(workspace.root.glob("*")) - {workspace.root / CONFIG_FILE}:
        from expunge.errors import BadInput

        raise BadInput(f"workspace: {workspace.root} holds something else", "name an empty folder with --workspace")
    workspace.create().require()
    if OPERATOR not in Keyring.load(workspace).people():
        create_key(workspace, OPERATOR, ["operator"])
    for name in preset_names():
        policy = workspace.policies / f"{name}{ENDING}"
        if not policy.exists() or _is_of_an_earlier_expunge(policy):
            write_atomically(policy, preset_bytes(name))
    Ledger.open(workspace)
    return workspace


def _is_of_an_earlier_expunge(policy: Path) -> bool:
    """Whether a policy's file is as it once shipped, and nobody here has signed it."""
    return has_shipped(policy.read_bytes()) and signature_beside(policy) is None
