"""The one file that talks to DVC: ciphertext goes in, the md5 under which the remote keeps it comes out.

The repository is a real one (Git and DVC) inside the workspace. Its remote is verified on every transfer,
which DVC does not do by itself. Git runs without the caller's configuration or identity.
"""

import fcntl
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from expunge.digests import sweep_halves, write_atomically
from expunge.errors import DoesNotVerify, ExpungeError, NoSpace, out_of_space, says_out_of_space
from expunge.settings import Workspace

# Git must neither need nor read anything of the caller's: not an identity, not a global file, not the uid.
_GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "expunge", "GIT_AUTHOR_EMAIL": "expunge@localhost",
    "GIT_COMMITTER_NAME": "expunge", "GIT_COMMITTER_EMAIL": "expunge@localhost",
    "GIT_CONFIG_COUNT": "3", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
    # Nothing of Git's goes on in the background once a step has ended, and a crash loses no object.
    "GIT_CONFIG_KEY_1": "maintenance.auto", "GIT_CONFIG_VALUE_1": "false",
    "GIT_CONFIG_KEY_2": "core.fsync", "GIT_CONFIG_VALUE_2": "all",
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
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # its advice goes to standard output, where JSON may be wanted
    with _one_writer(workspace):
        _take_back_halves(workspace)
        _prepare(workspace)
        for name, data in files.items():
            write_atomically(workspace.samples / name, data)
        try:
            with Repo(str(workspace.samples)) as repo:
                stages = repo.add([str(workspace.samples / name) for name in files])
                repo.push(targets=[stage.relpath for stage in stages])
                digests = {Path(out.fs_path): out.hash_info.value for stage in stages for out in stage.outs}
        except DvcException as error:
            # Of a failed upload DVC says how many, not why.
            if out_of_space(error) or shutil.disk_usage(workspace.sample_remote).free < sum(map(len, files.values())):
                raise NoSpace.on(workspace.sample_remote) from error
            raise ExpungeError(f"DVC could not store the sample sets: {error}",
                               f"check the permissions of {workspace.sample_remote}") from error
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


@contextmanager
def _one_writer(workspace: Workspace) -> Iterator[None]:
    """One process at a time works in the repository; it takes seconds, so the others wait."""
    workspace.samples.mkdir(parents=True, exist_ok=True)
    with (workspace.root / "samples.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _take_back_halves(workspace: Workspace) -> None:
    """Removes what a killed writer left: Git's and DVC's own lock files, and files that were half written.

    Both would refuse to work, or work on, until somebody removes them. Only the one writer may.
    """
    git, dvc = workspace.samples / ".git", workspace.samples / ".dvc"
    left = [*git.glob("*.lock"), *git.glob("refs/**/*.lock"), *git.glob("objects/??/tmp_obj_*"),
            dvc / "tmp" / "rwlock",
            *(half for place in (dvc / "cache", workspace.sample_remote) for half in place.rglob(".*.tmp"))]
    for path in left:
        path.unlink(missing_ok=True)
    sweep_halves([workspace.samples, *(path for path in workspace.samples.iterdir() if path.is_dir()), dvc])


def _prepare(workspace: Workspace) -> None:
    workspace.sample_remote.mkdir(parents=True, exist_ok=True)
    _git(workspace, "init", "--quiet", "--initial-branch", "main")  # harmless when done, and mends a half done one
    config_file = workspace.samples / ".dvc" / "config"
    if not config_file.is_file() or not config_file.read_bytes().strip():  # DVC begins with an empty one
        from dvc.repo import Repo

        Repo.init(str(workspace.samples), force=True).close()
        write_atomically(config_file, _CONFIG.format(remote=workspace.sample_remote.name).encode())


def _git(workspace: Workspace, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(workspace.samples), *arguments], check=True, capture_output=True,
                              text=True, stdin=subprocess.DEVNULL, env={**os.environ, **_GIT_ENVIRONMENT})
    except FileNotFoundError:
        raise ExpungeError("git is not installed", "install it: sample sets are versioned with it") from None
    except subprocess.CalledProcessError as error:
        if says_out_of_space(error.stderr):
            raise NoSpace.on(workspace.samples) from None
        raise ExpungeError(f"git {arguments[0]} failed in {workspace.samples}: {error.stderr.strip()}") from error
    return done.stdout
