"""Each room in a container of its own, on this machine: what the Docker engine is asked for, and what is left nowhere.

`kfp.local` has a runner for Docker. What it does for one step is replaced here (`run_in_container`): its own takes a
step whose container is gone before it looks for one that succeeded, pulls what is not there, and gives every step the
same. See docs/containers.md for what a room gets, and docs/decisions/containers.md for why.

    python -m pipelines.containers          # build arguments of this code's images: see the Makefile
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import IMAGE
from expunge import __version__
from expunge.configuration import Configuration
from expunge.contracts import Request, read_record, shorten
from expunge.digests import canonical_json, sha256_bytes, sha256_file
from expunge.errors import BadInput, ExpungeError
from expunge.events import Event, emit
from expunge.evidence.keys import OPERATOR, private_key_file
from expunge.room import DATA_SUFFIXES, OUR_PACKAGES, ROOT, START_VARIABLE
from expunge.settings import (
    IMAGE_VARIABLE,
    KEYS_VARIABLE,
    ROOTS_VARIABLE,
    RUN_VARIABLE,
    WORKSPACE_VARIABLE,
    Workspace,
)
from expunge.stores import sources, training_state
from expunge.stores.telemetry import GATEWAY_VARIABLE, PIPELINE_VARIABLE
from expunge.together import PROCESSES_VARIABLE
from pipelines.compiling import TALKING, TRAINING

if TYPE_CHECKING:
    from docker.client import DockerClient
    from docker.models.containers import Container

VERSION_LABEL, CODE_LABEL = "org.opencontainers.image.version", "expunge.code"
WORKSPACE_LABEL, RUN_LABEL, START_LABEL, ROOM_LABEL = (
    "expunge.workspace", "expunge.run", "expunge.start", "expunge.room")
_BUILD = "build it: make images"
_LOOK = "see that it runs ('docker info'), then give the same command again"
_NOBODY_ANSWERED = 137  # what a killed process ends with: a container that nobody saw end did not end well

# What a room is told by its environment, if this process was told it. Nothing else goes in.
_EVERY_ROOM = (
    WORKSPACE_VARIABLE, RUN_VARIABLE, START_VARIABLE, ROOTS_VARIABLE, GATEWAY_VARIABLE, PIPELINE_VARIABLE,
    "EXPUNGE_FACTORY_SECONDS", "TMPDIR", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "TZ", "GOMP_SPINCOUNT",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
_OF_THE_DATABASE = ("PGPASSWORD", "PGUSER", "PGHOST", "PGPORT", "PGDATABASE", "PGSSLMODE")
_OF_TRAINING = (PROCESSES_VARIABLE, training_state.STORE_VARIABLE, training_state.EVERY_VARIABLE)
_OF_S3 = ("AWS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")  # so names begin
_OF_STORES = (*_OF_S3, "MLFLOW_", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")


@dataclass(frozen=True)
class Mount:
    """A file or folder of this machine that a room sees, under the same path."""

    path: Path
    writable: bool = False


@dataclass(frozen=True)
class Asked:
    """What one room asks of the engine."""

    room: str
    mounts: tuple[Mount, ...]
    environment: dict[str, str]
    network: bool  # this machine's, or none
    user: str  # uid:gid
    labels: dict[str, str]


def find_image(name: str = IMAGE) -> str:
    """The id (``sha256:...``) of an image in this machine's engine that holds this very code.

    Raises:
        BadInput: there is no engine here, or none that sees this machine's files as their owner; there is no such
            image, or it holds another expunge.
    """
    from docker.errors import DockerException, ImageNotFound

    with _engine() as engine:
        _require_usable(engine)
        try:
            image = engine.images.get(name)
        except ImageNotFound:
            raise BadInput(f"--image: there is no image '{shorten(name)}' on this machine", _BUILD) from None
        except DockerException as error:
            raise BadInput(f"--image: '{shorten(name)}': {_said(error)}", "name an image of this machine") from None
        require_ours(name, image.labels)
        return str(image.id)


def require_ours(name: str, labels: Mapping[str, str]) -> None:
    """BadInput if an image's labels say that it holds another expunge than this one, or say nothing of it."""
    version = labels.get(VERSION_LABEL)
    if version is None:
        raise BadInput(f"--image: '{shorten(name)}' does not say which expunge is in it", _BUILD)
    if version != __version__:
        raise BadInput(f"--image: '{shorten(name)}' holds expunge {shorten(version)}, this is {__version__}", _BUILD)
    if labels.get(CODE_LABEL) != code_here():
        raise BadInput(f"--image: '{shorten(name)}' holds other code than this expunge {__version__}", _BUILD)


def code_here() -> str:
    """One digest over this installation's code that rooms run, and the data beside it that they read."""
    kept = {".py", *DATA_SUFFIXES}
    files = (file for package in OUR_PACKAGES for file in ROOT.joinpath(package).rglob("*") if file.suffix in kept)
    return sha256_bytes(canonical_json({file.relative_to(ROOT).as_posix(): sha256_file(file) for file in files}))


def ask_for(room: str, workspace: Workspace, request: Request, image_id: str, environment: Mapping[str, str]) -> Asked:
    """What a room gets, from what this process has: the least that its work needs.

    Args:
        room: one of the seven.
        workspace: seen by every room, under its own path: there lies all that rooms hand on.
        request: the pinned one. The files of this machine that it names are for the rooms that fetch.
        image_id: as `find_image` gives it; it goes into statements.
        environment: of which names that a room has use for are handed on.
    """
    configured = Configuration.load(workspace)
    database = configured.database is not None
    monitored = configured.pushgateway is not None or GATEWAY_VARIABLE in environment
    copied_to = _place_of_state(workspace, environment) if room in TRAINING else ""
    copied_far = copied_to.startswith("s3://")
    names = {name for name in environment
             if name in _EVERY_ROOM or (database and name in _OF_THE_DATABASE)
             or (room in TALKING and name.startswith(_OF_STORES))
             or (room in TRAINING and name in _OF_TRAINING) or (copied_far and name.startswith(_OF_S3))}
    told = {name: environment[name] for name in names}
    run, start = environment.get(RUN_VARIABLE, ""), environment.get(START_VARIABLE, "")
    keys = workspace.keys.absolute()  # a room works in another folder
    mounts = [Mount(workspace.root, writable=True), Mount(keys / "requests", writable=room == "curate_forget_set"),
              Mount(private_key_file(workspace, OPERATOR).absolute())]
    if room in ("fetch_checkpoint", "curate_forget_set"):
        mounts += [Mount(path) for path in sources.on_this_machine(request)]
    if copied_to and not copied_far and Path(copied_to).is_dir():  # one that cannot be had costs a note, in the room
        mounts.append(Mount(Path(copied_to), writable=True))
    return Asked(
        room, tuple(_outermost(mounts)),
        {**told, KEYS_VARIABLE: str(keys), IMAGE_VARIABLE: image_id, "HOME": "/tmp", "USER": "expunge"},
        network=room in TALKING or database or monitored or copied_far, user=f"{os.getuid()}:{os.getgid()}",
        labels={WORKSPACE_LABEL: str(workspace.root), RUN_LABEL: run, START_LABEL: start, ROOM_LABEL: room})


def _place_of_state(workspace: Workspace, environment: Mapping[str, str]) -> str:
    """Where training copies the state to that it continues from: an address, a path, or nowhere."""
    with suppress(BadInput):  # what is not usable the room refuses, in its own words
        return training_state.settings(workspace, environment).store or ""
    return ""


def _outermost(mounts: Iterable[Mount]) -> Iterator[Mount]:
    """Without those that another one shows already: what lies in the workspace is one file system with it."""
    seen: list[Mount] = []
    for mount in sorted(mounts, key=lambda each: (len(each.path.parts), not each.writable)):
        if not any(mount.path.is_relative_to(other.path) and other.writable >= mount.writable for other in seen):
            seen.append(mount)
            yield mount


def steps_in_containers(image_id: str, request_file: Path) -> Any:
    """A runner for `kfp.local.init` that puts each step of this process into a container."""
    from kfp import local
    from kfp.local import docker_task_handler

    workspace, request = Workspace.locate(), read_record(Request, request_file)

    def run_in_container(client: "DockerClient", command: list[str], **more: object) -> int:
        # kfp mounts its root by itself; it lies in the workspace, and as a mount of its own would be another file
        # system, to which results cannot be linked.
        room = command[command.index("--function_to_execute") + 1]
        return _run(client, command, ask_for(room, workspace, request, image_id, os.environ), image_id, workspace)

    docker_task_handler.run_docker_container = run_in_container
    (workspace.keys / "requests").mkdir(parents=True, exist_ok=True, mode=0o700)
    if (copied_to := _place_of_state(workspace, os.environ)).startswith("/"):
        with suppress(OSError):
            Path(copied_to).mkdir(parents=True, exist_ok=True, mode=0o700)
    return local.DockerRunner()


def _run(engine: "DockerClient", command: list[str], asked: Asked, image_id: str, workspace: Workspace) -> int:
    """Runs a step to its end, its words on standard output; returns its exit code. Its container is removed."""
    from docker.errors import DockerException, NotFound

    try:
        container = engine.containers.create(image_id, command, **_as_docker_says(asked))
        said = container.attach(stream=True)
        with ThreadPoolExecutor(1) as pool:
            # Asked for before it starts: afterwards there may be nobody left to say how it ended.
            ended = pool.submit(container.wait, condition="removed")
            try:
                container.start()
            except DockerException:
                with suppress(NotFound):
                    container.remove(force=True)  # one that never ran would never be said to have ended
                raise
            for words in said:
                sys.stdout.write(words.decode(errors="replace"))
            sys.stdout.flush()
            return int(ended.result()["StatusCode"])
    except DockerException as error:
        emit(workspace, Event(room=asked.room, kind="failed", text=f"the Docker engine says: {_said(error)}",
                              remedy=_LOOK, error=ExpungeError.__name__))
        return _NOBODY_ANSWERED


def _as_docker_says(asked: Asked) -> dict[str, Any]:
    from docker.types import LogConfig
    from docker.types import Mount as Bind

    return {
        "mounts": [Bind(str(mount.path), os.path.realpath(mount.path), type="bind", read_only=not mount.writable)
                   for mount in asked.mounts],
        "environment": asked.environment, "user": asked.user, "labels": asked.labels,
        # Without a network a container's own name leads nowhere, and several processes look for each other by it.
        **({"network_mode": "host"} if asked.network else {"network_mode": "none", "hostname": "localhost"}),
        "read_only": True, "tmpfs": {"/tmp": "mode=1777"}, "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"], "log_config": LogConfig(type="none"), "auto_remove": True}


def remove_containers(label: str, value: str) -> int:
    """Ends and removes the containers that carry a label of ours with that value; how many there were."""
    from docker.errors import APIError

    with _engine() as engine:
        left: list[Container] = engine.containers.list(  # one that goes while they are listed is no trouble
            all=True, ignore_removed=True, filters={"label": f"{label}={value}"})
        for container in left:
            try:
                container.remove(force=True)
            except APIError as error:
                if error.status_code not in (404, 409):  # gone, or going
                    raise
        return len(left)


@contextmanager
def _engine() -> Iterator["DockerClient"]:
    """A connection to this machine's engine."""
    from docker.client import from_env  # the package itself mypy takes for this repository's folder of that name
    from docker.errors import DockerException

    try:
        engine = from_env()
    except DockerException as error:
        raise BadInput(f"--runner docker: no Docker engine answers ({_said(error)})",
                       "start one, set DOCKER_HOST, or leave out --runner docker") from None
    try:
        yield engine
    except DockerException as error:
        raise ExpungeError(f"the Docker engine says: {_said(error)}", _LOOK) from None
    finally:
        engine.close()


def _require_usable(engine: "DockerClient") -> None:
    """BadInput for an engine of another machine, or one in which this user is somebody else."""
    at = str(engine.api.base_url)
    if at != "http+docker://localhost":  # what docker-py calls a socket of this machine
        raise BadInput(f"--runner docker: the engine at {shorten(at)} is not on this machine",
                       "set DOCKER_HOST to a local socket: containers see this machine's files")
    mapped = [option for option in engine.info().get("SecurityOptions") or ()
              if option.startswith(("name=rootless", "name=userns"))]
    if mapped:
        raise BadInput(f"--runner docker: the engine gives users other ids ({mapped[0].partition(',')[0]})",
                       "use one that does not: containers write the workspace as you")


def _said(error: Exception) -> str:
    """What went wrong, in one line."""
    return shorten(str(getattr(error, "explanation", None) or error).splitlines()[0], 200)


def main() -> None:
    """Prints the build arguments that say what is in an image of this code."""
    print(f"--build-arg VERSION={__version__} --build-arg CODE={code_here()}")


if __name__ == "__main__":
    main()
