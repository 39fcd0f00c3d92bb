"""The one file that talks to DVC: ciphertext goes in, the md5 under which the remote keeps it comes out.

The repository is a real one (Git and DVC) inside the workspace. Its remote is verified on every transfer,
which DVC does not do by itself. Git runs without the caller's configuration or identity.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from expunge.digests import write_atomically
from expunge.errors import DoesNotVerify, ExpungeError
from expunge.settings import Workspace

# Git must neither need nor read anything of the caller's: not an identity, not a global file, not the uid.
_GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "expunge", "GIT_AUTHOR_EMAIL": "expunge@localhost",
    "GIT_COMMITTER_NAME": "expunge", "GIT_COMMITTER_EMAIL": "expunge@localhost",
    "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
}
# The remote's path is relative to the file that names it, so that a workspace can be moved.
_CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = local
['remote "local"']
    url = ../../{remote}
    verify = true
"""


def store_ciphertext(workspace: Workspace, files: Mapping[str, bytes], message: str) -> dict[str, str]:
    """Versions encrypted files and pushes them. Returns the md5 of each by its name.

    Names are paths inside the repository. The commit's message names counts and request ids only.
    """
    os.environ["DVC_NO_ANALYTICS"] = "1"
    os.environ.update(_GIT_ENVIRONMENT)
    _prepare(workspace)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    for name, data in files.items():
        write_atomically(workspace.samples / name, data)
    try:
        with Repo(str(workspace.samples)) as repo:
            stages = repo.add([str(workspace.samples / name) for name in files])
            repo.push(targets=[stage.relpath for stage in stages])
            digests = {Path(out.fs_path): out.hash_info.value for stage in stages for out in stage.outs}
    except DvcException as error:
        raise ExpungeError(f"DVC could not store the sample sets: {error}",
                           f"check the space and permissions of {workspace.sample_remote}") from error
    _git(workspace, "add", "--all")
    if _git(workspace, "status", "--porcelain"):
        _git(workspace, "commit", "--quiet", "--message", message)
    return {name: digests[workspace.samples / name] for name in files}


def fetch_ciphertext(workspace: Workspace, remote: str, md5: str) -> bytes:
    """Reads one object of the remote by its md5, without Git or DVC; the caller checks the SHA-256."""
    file = workspace.root / remote / "files" / "md5" / md5[:2] / md5[2:]
    try:
        return file.read_bytes()
    except OSError as error:
        raise DoesNotVerify(f"sample remote: object {md5} cannot be read ({error.strerror})",
                            "restore the remote, or run the request again") from None


def _prepare(workspace: Workspace) -> None:
    workspace.sample_remote.mkdir(parents=True, exist_ok=True)
    if not (workspace.samples / ".git").is_dir():
        workspace.samples.mkdir(parents=True, exist_ok=True)
        _git(workspace, "init", "--quiet", "--initial-branch", "main")
    if not (workspace.samples / ".dvc" / "config").is_file():
        from dvc.repo import Repo

        Repo.init(str(workspace.samples), force=True).close()
        config = _CONFIG.format(remote=workspace.sample_remote.name)
        write_atomically(workspace.samples / ".dvc" / "config", config.encode())


def _git(workspace: Workspace, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(workspace.samples), *arguments], check=True, capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, env={**os.environ, **_GIT_ENVIRONMENT})
    except FileNotFoundError:
        raise ExpungeError("git is not installed", "install it: sample sets are versioned with it") from None
    except subprocess.CalledProcessError as error:
        raise ExpungeError(f"git {arguments[0]} failed in {workspace.samples}: {error.stderr.strip()}") from error
    return done.stdout
