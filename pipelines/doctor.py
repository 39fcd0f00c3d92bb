"""Is everything here that a run needs? Each check says what it found, and what to do where that is not enough.

Nothing is changed, repaired or trained, and no key material or credential is printed. A check that itself goes
wrong is a failing line: one thing that is broken must not hide the others.
"""

import os
import platform
import shutil
import socket
import sqlite3
import stat
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.filesize import decimal as in_bytes

from expunge import __version__
from expunge.configuration import Configuration
from expunge.contracts import Frozen
from expunge.custody import receipts
from expunge.digests import files_below
from expunge.errors import DoesNotVerify, ExpungeError
from expunge.evidence.coherence import read_policy
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey, private_key_file
from expunge.evidence.ledger import Ledger
from expunge.evidence.policies import has_shipped, is_shipped, keyring_for, signature_beside, signer_of
from expunge.runs import Run, is_held
from expunge.samples.encryption import RequestKey
from expunge.settings import IMAGE_VARIABLE, ROOTS_VARIABLE, Workspace, allowed_roots, image_digest
from expunge.stores.addresses import shown
from expunge.stores.releases import store_of
from expunge.stores.tracking import Tracking

Level = Literal["ok", "warn", "fail"]
PACKAGES = ("torch", "kfp", "mlflow", "dvc", "pyarrow", "safetensors", "cryptography")
PATIENCE = 5.0  # seconds that a server may take to answer
LIBRARIES = {"transformers": "transformers", "diffusers": "image-to-image"}  # of models, and the extra that brings each
_S3_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Check(Frozen):
    """One thing that was looked at."""

    name: str
    level: Level
    found: str
    remedy: str = ""


Checks = Iterator[Check]


def examine(workspace: Workspace) -> tuple[Check, ...]:
    """Looks at the machine and, where there is a workspace, at that."""
    machine: tuple[Callable[[], Checks], ...] = (
        _versions, _libraries, _git, _cores, _gpu, _memory, _image, _roots, _s3)
    checks = [check for look in machine for check in _safely(look)]
    checks += _safely(partial(_disk, workspace))
    there = list(_safely(partial(_marker, workspace)))
    checks += there
    if all(check.level == "ok" for check in there):
        inside: tuple[Callable[[Workspace], Checks], ...] = (
            _operator, _private, _request_keys, _keyring, _policies, _ledger, _samples, _mlflow, _kserve, _locks)
        checks += [check for look in inside for check in _safely(partial(look, workspace))]
    return tuple(checks)


_NAMES = {"_marker": "workspace", "_operator": "operator's key", "_roots": "allowed folders", "_s3": "S3",
          "_gpu": "GPU", "_samples": "sample sets", "_mlflow": "MLflow", "_kserve": "KServe", "_locks": "at work",
          "_private": "private keys"}


def _safely(look: Callable[[], Checks]) -> Checks:
    function = look.func.__name__ if isinstance(look, partial) else look.__name__
    name = _NAMES.get(function, function.strip("_").replace("_", " "))
    try:
        yield from look()
    except ExpungeError as error:
        yield Check(name=name, level="fail", found=error.problem, remedy=error.remedy)
    except Exception as error:  # noqa: BLE001 - whatever is broken here, the other checks are made
        yield Check(name=name, level="fail", found=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                    remedy="mend or restore what it names")


# ------------------------------------------------------------------------------------------- the machine


def _versions() -> Checks:
    yield Check(name="expunge", level="ok", found=f"{__version__}, Python {platform.python_version()}")
    for package in PACKAGES:
        try:
            yield Check(name=package, level="ok", found=metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Check(name=package, level="fail", found="not installed",
                        remedy="install expunge again, with all it needs")


def _libraries() -> Checks:
    """Those whose model folders open here; a run about other models needs none."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in metadata.requires("expunge") or ()]
    for library, extra in LIBRARIES.items():
        bring = f"pip install 'expunge[{extra}]'"
        try:
            version = metadata.version(library)
        except metadata.PackageNotFoundError:
            yield Check(name=library, level="ok", found=f"not installed: its models do not open; {bring} brings it")
            continue
        fits = all(each.specifier.contains(version) for each in needed if each.name == library)
        yield Check(name=library, level="ok" if fits else "warn",
                    found=version if fits else f"{version}, which expunge was not tried with",
                    remedy="" if fits else bring)


def _git() -> Checks:
    place = shutil.which("git")
    if place is None:
        yield Check(name="git", level="fail", found="not installed",
                    remedy="install it: sample sets are versioned with it")
        return
    said = subprocess.run([place, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    yield Check(name="git", level="ok", found=said.stdout.strip().removeprefix("git version "))


def _cores() -> Checks:
    threads = os.environ.get("OMP_NUM_THREADS")
    yield Check(name="cores", level="ok", found=f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} usable"
                + (f", OMP_NUM_THREADS {threads}" if threads else ""))


def _gpu() -> Checks:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check(name="GPU", level="fail", found=f"torch cannot be loaded: {error}", remedy="install torch again")
        return
    if not torch.cuda.is_available():
        yield Check(name="GPU", level="ok", found="none: training runs on the CPU")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(number)
        yield Check(name="GPU", level="ok", found=f"{device.name}, {in_bytes(device.total_memory)}")


def _memory() -> Checks:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    yield Check(name="memory", level="ok", found=f"{in_bytes(total)}, {in_bytes(free)} of it unused")


def _image() -> Checks:
    image = image_digest()
    if image == "none":
        yield Check(name="image", level="ok", found="none: steps run in this environment")
    elif image.startswith("sha256:") and len(image) == 71:
        yield Check(name="image", level="ok", found=image)
    else:
        yield Check(name="image", level="warn", found=f"{IMAGE_VARIABLE} is no digest",
                    remedy="set it to sha256:… of the image, or unset it")


def _roots() -> Checks:
    roots = allowed_roots()
    if roots is None:
        yield Check(name="allowed folders", level="ok", found=f"all: {ROOTS_VARIABLE} is not set")
    for root in roots or ():
        there = root.is_dir()
        yield Check(name="allowed folders", level="ok" if there else "warn",
                    found=f"{root}" if there else f"{root} is no folder",
                    remedy="" if there else f"make it, or take it out of {ROOTS_VARIABLE}")


def _s3() -> Checks:
    configured = [name for name in _S3_VARIABLES if os.environ.get(name)]
    if not configured:
        return
    try:
        metadata.version("boto3")
    except metadata.PackageNotFoundError:
        yield Check(name="S3", level="fail", found=f"{configured[0]} is set, and boto3 is not installed",
                    remedy="install it: pip install 'expunge[s3]'")
        return
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is None:
        yield Check(name="S3", level="ok", found=f"{configured[0]} is set; AWS's own endpoint is not asked")
        return
    parts = urllib.parse.urlsplit(endpoint)
    place = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        socket.create_connection(place, PATIENCE).close()
        yield Check(name="S3", level="ok", found=f"{place[0]}:{place[1]} answers")
    except OSError as error:
        yield Check(name="S3", level="warn", found=f"{place[0]}:{place[1]} does not answer ({error.strerror or error})",
                    remedy="start it, or correct the endpoint; s3:// sources need it")


def _disk(workspace: Workspace) -> Checks:
    place = next(folder for folder in (workspace.root, *workspace.root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK):
        yield Check(name="disk", level="fail", found=f"{place} cannot be written", remedy="correct its permissions")
        return
    needed = max((_size_of(run) for run in Run.all(workspace)), default=None)
    if needed is None:
        yield Check(name="disk", level="ok",
                    found=f"{in_bytes(free)} free at {place}; no earlier run says what one needs")
    else:
        enough = free >= needed
        yield Check(name="disk", level="ok" if enough else "warn",
                    found=f"{in_bytes(free)} free at {place}; the largest run here took {in_bytes(needed)}",
                    remedy="" if enough else "make space: 'expunge gc' shows what nothing needs")


def _size_of(run: Run) -> int:
    """Bytes of a run's folder and of all results that it names."""
    folders = [run.folder, *(run.workspace.root / done.result for done in run.state().rooms.values())]
    return sum(file.stat().st_size for folder in folders for file in files_below(folder).values())


# ----------------------------------------------------------------------------------------- the workspace


def _marker(workspace: Workspace) -> Checks:
    if not workspace.root.exists():
        yield Check(name="workspace", level="warn", found=f"there is none at {workspace.root}",
                    remedy="run 'expunge init', or name another with --workspace")
        return
    workspace.require()
    yield Check(name="workspace", level="ok", found=str(workspace.root))


def _operator(workspace: Workspace) -> Checks:
    key = SigningKey.load(workspace, OPERATOR)
    known = key.key_id in {entry.key_id for entry in Keyring.load(workspace).entries_of(OPERATOR)}
    yield Check(name="operator's key", level="ok" if known else "fail",
                found=f"{key.key_id[:12]}" if known else f"{key.key_id[:12]} is not in the keyring",
                remedy="" if known else "restore the key or the keyring that belong together")


def _private(workspace: Workspace) -> Checks:
    """Private parts are their owner's alone."""
    open_to_others = [path for path in (workspace.keys, *sorted(workspace.keys.rglob("*")))
                      if path.exists() and stat.S_IMODE(path.stat().st_mode) & _OTHERS]
    for path in open_to_others:
        yield Check(name="private keys", level="fail", found=f"{path} can be used by others than its owner",
                    remedy=f"chmod {'700' if path.is_dir() else '600'} {path}")
    if not open_to_others:
        count = sum(path.is_file() for path in workspace.keys.rglob("*"))
        yield Check(name="private keys", level="ok", found=f"{count} in {workspace.keys}, their owner's alone")


def _request_keys(workspace: Workspace) -> Checks:
    """A request has a key as soon as samples were drawn for it, until they are disposed of."""
    drawn = sorted({run.state().request_id for run in Run.all(workspace) if "curate_forget_set" in run.state().rooms
                    and receipts.custody_of(workspace, run.state().request_id) != "disposed"})
    lost = [request for request in drawn if not RequestKey.file(workspace, request).is_file()]
    for request in lost:
        yield Check(name="request keys", level="warn", found=f"the key of request '{request}' is not there",
                    remedy="restore it, unless it was destroyed on purpose: its sample sets cannot be read")
    if not lost:
        yield Check(name="request keys", level="ok", found=f"{len(drawn)} of {len(drawn)} there")


def _keyring(workspace: Workspace) -> Checks:
    keyring = Keyring.load(workspace)
    missing = [person for person in keyring.people() if not private_key_file(workspace, person).is_file()]
    elsewhere = f"; private parts elsewhere: {', '.join(missing)}" if missing else ""
    yield Check(name="keyring", level="ok",
                found=f"{len(keyring.entries)} keys of {len(keyring.people())} people{elsewhere}")
    if not keyring.holders("reviewer"):
        yield Check(name="reviewers", level="warn", found="nobody may approve",
                    remedy="expunge keys new NAME --role reviewer")


def _policies(workspace: Workspace) -> Checks:
    files = sorted(workspace.policies.glob("*.yaml"))
    if not files:
        yield Check(name="policies", level="fail", found="there is none", remedy="run 'expunge init' again")
    sound = []
    for file in files:
        try:
            name = read_policy(file).name
        except ExpungeError as error:
            yield Check(name="policies", level="fail", found=f"{file.name}: {error.problem}", remedy=error.remedy)
            continue
        why_not = _not_standing(workspace, file)
        if why_not:
            yield Check(name="policies", level="warn", found=f"{name} {why_not}: no run can be judged by it",
                        remedy=f"expunge policies sign {file.stem} --as ADMIN")
        else:
            sound.append(name)
    if sound:
        yield Check(name="policies", level="ok", found=", ".join(sound))


def _not_standing(workspace: Workspace, policy: Path) -> str:
    """Why a policy's file does not count; empty if it does. That its signer is the requester is for a run to find."""
    data, signature = policy.read_bytes(), signature_beside(policy)
    if is_shipped(data):
        return ""
    if signature is None:
        return ("shipped with an earlier expunge ('expunge init' brings today's)" if has_shipped(data) else
                "does not ship with expunge, and no admin has signed it")
    try:
        signer_of(data, signature, keyring_for(workspace, signature))
    except DoesNotVerify as error:
        return f"has a signature that does not verify ({error.problem})"
    return ""


def _ledger(workspace: Workspace) -> Checks:
    ledger = Ledger.existing(workspace)
    head, damage = ledger.head, ledger.damage()
    if damage:
        yield Check(name="ledger", level="fail", found=damage, remedy="restore it, then run 'expunge audit verify'")
    else:
        yield Check(name="ledger", level="ok", found=f"{head.size} entries, the last checkpoint verifies; "
                                                     f"{len(Run.all(workspace))} runs")


def _samples(workspace: Workspace) -> Checks:
    if not (workspace.samples / ".dvc" / "config").is_file():
        yield Check(name="sample sets", level="ok", found="no DVC repository yet: the first run makes it")
        return
    if not workspace.sample_remote.is_dir() or not os.access(workspace.sample_remote, os.R_OK | os.W_OK):
        yield Check(name="sample sets", level="fail", found=f"the remote {workspace.sample_remote} cannot be used",
                    remedy="restore it, or correct its permissions")
        return
    from dvc.repo import Repo

    with Repo(str(workspace.samples)) as repo:
        repo.cloud.get_remote_odb()  # complains if the configuration names none that can be used
    count = sum(path.is_file() for path in workspace.sample_remote.rglob("*"))
    yield Check(name="sample sets", level="ok",
                found=f"DVC repository, {count} objects in its remote")


def _kserve(workspace: Workspace) -> Checks:
    settings = Configuration.load(workspace).kserve
    if settings is not None:
        store_of(workspace).pointed("nothing")  # whoever may not ask for one is told so
        yield Check(name="KServe", level="ok",
                    found=f"the Kubernetes API answers, for InferenceServices in {settings.namespace}")


def _mlflow(workspace: Workspace) -> Checks:
    uri = Tracking.for_workspace(workspace).uri
    parts = urllib.parse.urlsplit(uri)
    remedy = "start it, or correct MLFLOW_TRACKING_URI; runs complete without it, and say so"
    try:
        if parts.scheme in ("http", "https"):
            place = parts.netloc.rpartition("@")[2]
            health = urllib.parse.urlunsplit((parts.scheme, place, f"{parts.path.rstrip('/')}/health", "", ""))
            with urllib.request.urlopen(health, timeout=PATIENCE):
                yield Check(name="MLflow", level="ok", found=f"{shown(uri)} answers")
        elif parts.scheme == "sqlite":
            file = Path(uri.removeprefix("sqlite:///"))
            if not file.exists():
                yield Check(name="MLflow", level="ok", found="no database yet: the first run makes it")
                return
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=PATIENCE)) as database:
                (count,) = database.execute("SELECT count(*) FROM runs").fetchone()
            yield Check(name="MLflow", level="ok", found=f"{file}, {count} runs")
        else:
            yield Check(name="MLflow", level="ok", found=f"a {parts.scheme or 'file'} store, not asked")
    except urllib.error.HTTPError as error:
        yield Check(name="MLflow", level="warn", found=f"{shown(uri)} answers with {error.code}", remedy=remedy)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "reason", None) or error
        yield Check(name="MLflow", level="warn", found=f"{shown(uri)} does not answer ({reason})", remedy=remedy)


def _locks(workspace: Workspace) -> Checks:
    """Whether somebody works here, and runs that say so of themselves and are alone."""
    busy = is_held(workspace.root / "supervisor.lock")
    yield Check(name="at work", level="ok", found="a run works here now" if busy else "nobody")
    if busy:
        return
    for run in Run.all(workspace):
        state = run.state().state
        if state in ("running", "releasing"):
            again = f"expunge release {run.name}" if state == "releasing" else f"expunge run {run.request_file}"
            yield Check(name="cut off", level="warn", found=f"{run.name} is {state}, and nobody works on it",
                        remedy=f"go on: {again}")
