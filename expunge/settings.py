"""Where things live: the workspace and what a process is told about its run.

The workspace is ``./.expunge`` unless ``EXPUNGE_WORKSPACE`` says otherwise. Nothing here depends on a Git
identity, a global configuration or the caller's user id.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from expunge.digests import write_atomically
from expunge.errors import BadInput

WORKSPACE_VARIABLE = "EXPUNGE_WORKSPACE"
RUN_VARIABLE = "EXPUNGE_RUN"
IMAGE_VARIABLE = "EXPUNGE_IMAGE_DIGEST"
KEYS_VARIABLE = "EXPUNGE_KEYS"
ROOTS_VARIABLE = "EXPUNGE_ROOTS"
WORKSPACE_VERSION = 1


@dataclass(frozen=True)
class Workspace:
    """The folder in which one installation keeps everything, and the name of each place in it."""

    root: Path

    @classmethod
    def locate(cls, given: Path | None = None) -> "Workspace":
        """The workspace given, else that of the environment, else ``./.expunge``. Need not exist yet."""
        return cls((given or Path(os.environ.get(WORKSPACE_VARIABLE) or ".expunge")).absolute())

    def require(self) -> "Workspace":
        """Returns itself if this is a workspace that this version can use; BadInput otherwise."""
        marker = self.root / "workspace.json"
        try:
            version = json.loads(marker.read_text())["version"]
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(f"workspace: {self.root} is not an expunge workspace",
                           "run 'expunge init', or name another with --workspace") from None
        if version != WORKSPACE_VERSION:
            raise BadInput(f"workspace: {self.root} has version {version}, this expunge reads {WORKSPACE_VERSION}",
                           "use the expunge that made it, or a new workspace")
        return self

    def create(self) -> "Workspace":
        """Makes the folder and its marker; harmless when they are there."""
        self.root.mkdir(parents=True, exist_ok=True)
        marker = self.root / "workspace.json"
        if not marker.exists():
            write_atomically(marker, json.dumps({"version": WORKSPACE_VERSION}).encode())
        return self

    @property
    def runs(self) -> Path:
        """One folder per run: pinned request, state, events, log."""
        return self.root / "runs"

    @property
    def results(self) -> Path:
        """What rooms made, one folder per room and memo key."""
        return self.root / "results"

    @property
    def samples(self) -> Path:
        """The DVC repository of encrypted sample sets."""
        return self.root / "samples"

    @property
    def sample_remote(self) -> Path:
        """DVC's local remote: ciphertext only."""
        return self.root / "sample-remote"

    @property
    def sources(self) -> Path:
        """What was fetched from elsewhere: ``<sha256>/<name>``."""
        return self.root / "sources"

    @property
    def imports(self) -> Path:
        """Sets of labelled images that were imported: one folder per set, by its name."""
        return self.root / "imports"

    @property
    def keys(self) -> Path:
        """Private keys of people and requests: never beside the data, so the workspace can be handed on."""
        return Path(os.environ.get(KEYS_VARIABLE) or self.root.with_name(self.root.name + "-keys"))

    @property
    def keyring(self) -> Path:
        """Public keys, people and roles."""
        return self.root / "keyring.json"

    @property
    def policies(self) -> Path:
        """Policy files, by name."""
        return self.root / "policies"

    @property
    def approvals(self) -> Path:
        """Signed decisions, one folder per run."""
        return self.root / "approvals"

    @property
    def releases(self) -> Path:
        """What is and was served, one folder per model."""
        return self.root / "releases"

    @property
    def ledger(self) -> Path:
        """The audit trail's database."""
        return self.root / "ledger.sqlite"

    @property
    def tracking(self) -> Path:
        """MLflow's database and artifacts."""
        return self.root / "mlflow"


def allowed_roots() -> tuple[Path, ...] | None:
    """The folders that local files may come from, or None if all may; BadInput if one is not an absolute path."""
    given = os.environ.get(ROOTS_VARIABLE)
    if given is None:
        return None
    roots = tuple(Path(root) for root in given.split(os.pathsep) if root)
    for root in roots:
        if not root.is_absolute():
            raise BadInput(f"{ROOTS_VARIABLE}: '{root}' is no absolute path", "name folders from / on")
    return roots


def require_allowed(path: Path) -> None:
    """BadInput if only certain folders are allowed, and the file or folder really lies in none of them."""
    roots = allowed_roots()
    if roots is None:
        return
    from expunge.contracts import shorten  # whatever starts reads its settings, and may need no records

    try:
        real = Path(os.path.realpath(path))
    except ValueError:
        raise BadInput(f"{shorten(str(path))}: is no path", "check the path") from None
    if not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        named = ", ".join(map(str, roots)) or "no folder"
        raise BadInput(f"{shorten(str(path))}: is outside of the allowed folders ({ROOTS_VARIABLE}: {named})",
                       "put it into one of them, or ask whoever runs this installation")


def current_run() -> str:
    """The run this process works for, or ``-`` outside of one."""
    return os.environ.get(RUN_VARIABLE, "-")


def image_digest() -> str:
    """Digest of the container image this process runs in, or ``none``."""
    return os.environ.get(IMAGE_VARIABLE, "none")
