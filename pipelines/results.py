"""Rooms' results in the workspace, by their signed statements: what each was made from and what it gave."""

import json
from collections.abc import Iterator
from typing import Any

from expunge.contracts import Request
from expunge.digests import canonical_json, sha256_bytes
from expunge.errors import ExpungeError
from expunge.evidence.keys import Keyring
from expunge.evidence.statements import RoomPredicate, open_statement
from expunge.room import STATEMENT_FILE, RoomStatement
from expunge.settings import Workspace

TRAINING = ("adapt", "unlearn")  # rooms that are given the recipe


def recipe(request: Request) -> dict[str, Any]:
    """What the plan gives the rooms that train: method, parameters, seed and threads."""
    choice = request.method
    return {"method": choice.name, "preset": choice.preset, "overrides": json.dumps(choice.params, sort_keys=True),
            "seed": request.seed, "threads": request.threads}


def statements(workspace: Workspace) -> Iterator[tuple[str, RoomStatement]]:
    """Every result's folder and its statement, of those whose signature verifies, the newest of a key first."""
    keyring = Keyring.load(workspace)
    for file in sorted(workspace.results.glob(f"[!.]*/{STATEMENT_FILE}"), reverse=True):
        try:
            statement, _ = open_statement(file.read_bytes(), keyring, RoomPredicate)
        except ExpungeError:
            continue
        yield file.parent.relative_to(workspace.root).as_posix(), statement


def outputs(statement: RoomStatement, folder: str) -> set[str]:
    """The digests under which later rooms know a result's outputs: as `sha256_tree` of each folder."""
    trees: dict[str, dict[str, str]] = {}
    for name, digest in statement.subjects.items():
        output, _, file = name.removeprefix(f"{folder}/").partition("/")
        trees.setdefault(output, {})[file] = digest
    return {tree(files) for files in trees.values()}


def tree(files: dict[str, str]) -> str:
    """What `sha256_tree` gives for files of these names and digests."""
    return sha256_bytes(canonical_json(dict(sorted(files.items()))))
