"""Making a workspace ready for its first run."""

from pathlib import Path

from expunge.digests import write_atomically
from expunge.evidence.keys import OPERATOR, Keyring, create_key
from expunge.evidence.ledger import Ledger
from expunge.settings import Workspace


def initialise(workspace: Workspace) -> Workspace:
    """Makes what is missing: the marker, the operator's key, the policies, an empty ledger."""
    import expunge.measure

    if workspace.root.exists() and not (workspace.root / "workspace.json").exists() and any(workspace.root.iterdir()):
        from expunge.errors import BadInput

        raise BadInput(f"workspace: {workspace.root} holds something else", "name an empty folder with --workspace")
    workspace.create().require()
    if OPERATOR not in Keyring.load(workspace).people():
        create_key(workspace, OPERATOR, ["operator"])
    for shipped in sorted((Path(expunge.measure.__file__).parent / "policies").glob("*.yaml")):
        policy = workspace.policies / shipped.name
        if not policy.exists():
            write_atomically(policy, shipped.read_bytes())
    Ledger.open(workspace)
    return workspace
