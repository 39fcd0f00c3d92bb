"""A workspace on a PostgreSQL server."""

import pytest

from expunge.configuration import CONFIG_FILE
from expunge.evidence.ledger import Ledger


@pytest.fixture
def on_postgresql(postgresql, workspace, request):
    """The workspace, as if it had been begun with a database of its own on the server."""
    workspace.ledger.unlink()
    address = postgresql(f"t{abs(hash(request.node.nodeid))}")
    (workspace.root / CONFIG_FILE).write_text(f"schema: expunge/config/v1\ndatabase: {address}\n")
    Ledger.open(workspace)
    return workspace
