"""MLflow: where lineage is told to, and a user's model may come from. The only file that imports it, inside methods.

MLflow carries news out and decides nothing. No method that tells raises: each returns `Told`, with a value or with
the reason why there is none, so that a dead MLflow never fails a run. Nothing of what is to be forgotten is
told: counts, keyed digests, remotes of ciphertext, finite numbers, and a page whose pictures its maker chose.
The methods that ask for a model do raise: without its bytes there is no run.

Without ``MLFLOW_TRACKING_URI`` it is a SQLite file in the workspace, with the artifacts beside it. Its tables
come from ``mlflow_schema.sql``, which MLflow's own migrations made: those take five to nine seconds, reading
the file 40 ms. If the installed MLflow wants other tables it makes them itself.
"""

import json
import logging
import math
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from expunge.contracts import Measurement, Release, Report, SampleSet
from expunge.errors import BadInput, ExpungeError
from expunge.patience import Patience
from expunge.settings import Workspace
from expunge.stores.addresses import scheme, shown

if TYPE_CHECKING:
    from mlflow.entities import FileInfo
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.store.entities import PagedList
    from mlflow.tracking import MlflowClient

Answer = TypeVar("Answer")

EXPERIMENT = "expunge"
CHAMPION = "champion"
RUN_TAG = "expunge.run"
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet",
    # A server that does not answer is given up in seconds, not in MLflow's default of minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # there stand our own words, or one JSON object and nothing else
}
BUSY_SECONDS = 20.0  # how long a server is asked again that answers that its database is away
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOT_ALLOWED = re.compile(r"error code (401|403)")  # MLflow has a class of its own for neither


@dataclass(frozen=True)
class Told:
    """What came of telling MLflow: an identifier of its own, or why there is none."""

    value: str | None
    reason: str = ""


@dataclass(frozen=True)
class Registered:
    """One version of a registered model."""

    uri: str  # where its artifacts are: a path, or an address that `Tracking.download` understands
    released_sha256: str | None  # of the weights, if it is a release of ours: MLflow holds no copy of those


@dataclass(frozen=True)
class Version:
    """A version of a registered model that says by its tags which weights it is, and which it descends from."""

    model: str
    version: str
    sha256: str
    parent_sha256: str | None
    request_id: str | None
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Versions:
    """What the model registry says of descent; `reason` is why it could not be asked, or empty."""

    versions: tuple[Version, ...]
    reason: str = ""


@dataclass(frozen=True)
class Stores:
    """Addresses below which MLflow keeps files; `reason` is why it could not be asked, or empty."""

    uris: tuple[str, ...]
    reason: str = ""


class Tracking:
    """One workspace's MLflow."""

    def __init__(self, uri: str, home: Path | None) -> None:
        self.uri = uri
        self._home = home  # of the database file, if it is ours to make
        self._unreachable = ""
        self._patience = Patience(BUSY_SECONDS)

    @classmethod
    def for_workspace(cls, workspace: Workspace) -> "Tracking":
        """The workspace's own MLflow, or the one that ``MLFLOW_TRACKING_URI`` names. Touches nothing yet."""
        given = os.environ.get(_URI_VARIABLE)
        if given:
            return cls(given, None)
        return cls(f"sqlite:///{workspace.tracking}/mlflow.db", workspace.tracking)

    @property
    def is_own(self) -> bool:
        """Whether it lies in the workspace, and is not somebody's server."""
        return self._home is not None

    def start_run(self, run: str, tags: Mapping[str, str], params: Mapping[str, object]) -> Told:
        """Begins the run of that name, or goes on with it. The value is MLflow's id of it."""

        def tell() -> str:
            from mlflow.entities import Param, RunTag

            found = self._run_of(run)
            if found is None:
                found = self._client.create_run(
                    self._experiment, run_name=run, tags={**tags, RUN_TAG: run}).info.run_id
                self._client.log_batch(found, params=[
                    Param(name, value if isinstance(value, str) else json.dumps(value))
                    for name, value in params.items()])
            else:
                self._client.log_batch(found, tags=[RunTag(*tag) for tag in tags.items()])
                self._client.update_run(found, status="RUNNING")
            return found

        return self._safely(tell)

    def log_sample_set(self, mlflow_run: str, sample_set: SampleSet) -> Told:
        """Names a sample set as a run's input: its keyed digest, its role, where its ciphertext lies."""

        def tell() -> str:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            source = {"remote": sample_set.remote, "md5": [shard.md5 for shard in sample_set.shards]}
            dataset = Dataset(
                name=f"{sample_set.request_id}-{sample_set.role}",
                digest=sample_set.set_id[:36],  # as much as MLflow's column holds; the whole is in the tag
                source_type="dvc", source=json.dumps(source), profile=json.dumps({"count": sample_set.count}))
            tags = [InputTag("mlflow.data.context", sample_set.role), InputTag("set_id", sample_set.set_id)]
            self._client.log_inputs(mlflow_run, [DatasetInput(dataset, tags)])
            return sample_set.set_id

        return self._safely(tell)

    def log_report(self, mlflow_run: str, report: Report, page: Path | None = None) -> Told:
        """Tells every finite number of a report, with the ends of its interval, and hands over the page."""

        def tell() -> str:
            import time

            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            numbers = {name: value for measured in report.measurements
                       for name, value in _numbers(measured).items() if math.isfinite(value)}
            self._client.log_batch(
                mlflow_run, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()])
            if page is not None:
                self._client.log_artifact(mlflow_run, str(page))
            return str(len(numbers))

        return self._safely(tell)

    def log_lineage(self, mlflow_run: str, lineage: Mapping[str, str]) -> Told:
        """Tells by digests what came of what, in order: a tag for each, and all of it where the UI describes a run."""

        def tell() -> str:
            from mlflow.entities import RunTag

            rows = "\n".join(f"| {name} | `{value}` |" for name, value in lineage.items())
            self._client.log_batch(mlflow_run, tags=[
                RunTag("mlflow.note.content", f"| what came of what | |\n|---|---|\n{rows}"),
                *(RunTag(f"lineage.{name}", value) for name, value in lineage.items())])
            return str(len(lineage))

        return self._safely(tell)

    def register_release(self, release: Release) -> Told:
        """Enters a release in the model registry as `champion`. The value is the version's number.

        MLflow holds no copy of the weights: it points at them by digest. The same release keeps its version.
        """

        def tell() -> str:
            client, source_run = self._client, self._run_of(release.run)
            self._register_name(release.model)
            tags = {
                "parent_sha256": release.parent_sha256, "candidate_sha256": release.candidate_sha256,
                "run": release.run, "request_id": release.request_id, "generation": str(release.generation)}
            version = next(
                (found.version for found in client.search_model_versions(f"name = '{release.model}'")
                 if tags.items() <= found.tags.items()), None)
            if version is None:
                external = client.create_logged_model(
                    self._experiment, name=release.model, source_run_id=source_run,
                    model_type="expunge.release", params={"sha256": release.weights.sha256},
                    tags={"mlflow.model.isExternal": "true", **tags})
                client.finalize_logged_model(external.model_id, "READY")
                version = client.create_model_version(  # a server takes no such source without the model's own name
                    release.model, f"models:/{external.model_id}", run_id=source_run, tags=tags,
                    model_id=external.model_id).version
            client.set_registered_model_alias(release.model, CHAMPION, version)
            return str(version)

        return self._safely(tell)

    def versions(self) -> Versions:
        """Every registered version that names its weights: tags ``candidate_sha256`` and ``parent_sha256``.

        Anybody who registers a model made elsewhere can set these two. Tags that are no digests are passed over.
        """
        if self._home is not None and not (self._home / "mlflow.db").exists():
            return Versions(())  # nothing was ever registered, and looking would make the tables
        found: list[Version] = []
        aliases: dict[str, Mapping[str, str]] = {}

        def tell() -> str:
            for one in _pages(lambda token: self._client.search_model_versions(max_results=1000, page_token=token)):
                sha256, parent = (one.tags.get(name, "") for name in ("candidate_sha256", "parent_sha256"))
                if not _DIGEST.fullmatch(sha256):
                    continue
                if one.name not in aliases:  # a search leaves them out
                    aliases[one.name] = self._client.get_registered_model(one.name).aliases
                found.append(Version(
                    one.name, str(one.version), sha256, parent if _DIGEST.fullmatch(parent) else None,
                    one.tags.get("request_id"),
                    tuple(sorted(name for name, version in aliases[one.name].items()
                                 if str(version) == str(one.version)))))
            return str(len(found))

        told = self._safely(tell, opens=False)  # whoever only asks makes no experiment
        return Versions(tuple(found) if told.value is not None else (), told.reason)

    def registered(self, model: str, version: str | None, alias: str | None) -> Registered:
        """One version of a registered model, by its number or by an alias.

        Raises:
            BadInput: there is no such model or version, or MLflow does not let us see it.
            ExpungeError: MLflow cannot be asked.
        """

        def ask() -> Registered:
            from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository

            found = (self._client.get_model_version_by_alias(model, alias) if alias is not None
                     else self._client.get_model_version(model, str(version)))
            released = found.tags.get("candidate_sha256") if "generation" in found.tags else None
            place = self._client.get_model_version_download_uri(model, str(found.version))
            if RunsArtifactRepository.is_runs_uri(place):
                place = RunsArtifactRepository.get_underlying_uri(place)
            return Registered(place, released)

        named = f"version {version}" if alias is None else f"alias '{alias}'"
        return self._ask(ask, f"no {named} of a model '{model}' is registered")

    def download(self, uri: str, folder: Path) -> Path:
        """Brings artifacts into a folder. Returns the file, or the folder that holds several; raises as above."""

        def ask() -> Path:
            from mlflow.artifacts import download_artifacts

            return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=self.uri))

        return self._ask(ask, "the registered version's files are no longer there")

    def stores(self) -> Stores:
        """Where every experiment, run and model keeps its files, deleted ones as well; none lies below another."""
        found: set[str] = set()

        def tell() -> str:
            from mlflow.entities import ViewType

            client, everything = self._client, ViewType.ALL
            experiments = list(_pages(lambda token: client.search_experiments(view_type=everything, page_token=token)))
            names = [one.experiment_id for one in experiments]
            found.update(one.artifact_location for one in experiments)
            found.update(one.info.artifact_uri for one in _pages(
                lambda token: client.search_runs(names, run_view_type=everything, page_token=token)))
            found.update(one.artifact_location for one in _pages(
                lambda token: client.search_logged_models(names, page_token=token)))
            return str(len(found))

        told = self._safely(tell, opens=False)
        tops: list[str] = []
        for one in sorted(found, key=_as_folder):  # what lies below another comes right after it
            if not tops or not one.startswith(_as_folder(tops[-1])):
                tops.append(one)
        return Stores(tuple(tops) if told.value is not None else (), told.reason)

    @staticmethod
    def folder_of(store: str) -> Path | None:
        """The folder that an address names on whichever machine is meant; None if it is no path."""
        if scheme(store) not in ("", "file"):
            return None
        from mlflow.utils.file_utils import local_file_uri_to_path

        return Path(local_file_uri_to_path(store))

    def listing(self, store: str) -> Iterator[tuple[str, int | None]]:
        """Path and size in bytes, if it is said, of every file below an address; raises as `registered`."""
        def within(folder: str) -> "list[FileInfo]":
            return self._files_of(store).list_artifacts(folder or None)

        folders = [""]
        while folders:
            for entry in self._ask(partial(within, folders.pop(0)), f"nothing is at {shown(store)}"):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    yield entry.path, entry.file_size

    @contextmanager
    def fetched(self, store: str, path: str) -> Iterator[Path]:
        """A file below an address, as one that only this user can read and that is gone afterwards; raises as above."""
        with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
            yield Path(self._ask(lambda: self._files_of(store).download_artifacts(path, folder), "no such file"))

    def _files_of(self, store: str) -> "ArtifactRepository":
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(store, tracking_uri=self.uri)

    def finish(self, mlflow_run: str, state: str, *, failed: bool = False) -> Told:
        """Ends a run and says in which state of ours it ended."""

        def tell() -> str:
            status: Literal["FAILED", "FINISHED"] = "FAILED" if failed else "FINISHED"
            self._client.set_tag(mlflow_run, "expunge.state", state)
            self._client.set_terminated(mlflow_run, status)
            return status

        return self._safely(tell)

    def _ask(self, ask: Callable[[], Answer], missing: str) -> Answer:
        """What MLflow answers. Its own messages are not passed on: they may hold passwords."""
        from mlflow.exceptions import MlflowException

        where = f"in MLflow at {shown(self.uri)}"
        try:
            with _only(self.uri):
                return self._insisting(ask)
        except ImportError as error:
            raise BadInput(f"MLflow needs the package {error.name} to get it", f"pip install {error.name}") from None
        except MlflowException as error:
            # What an alias is called that nobody gave is, to MLflow, an invalid value.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise BadInput(f"{missing} {where}", f"check the name and {_URI_VARIABLE}") from None
            if error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED") or _NOT_ALLOWED.search(str(error)):
                raise BadInput(f"access denied {where}", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
                               "or MLFLOW_TRACKING_TOKEN") from None
            raise ExpungeError(f"no usable answer {where} ({error.error_code})",
                               f"check {_URI_VARIABLE} and that the server runs") from None
        except Exception as error:
            raise ExpungeError(f"no usable answer {where} ({type(error).__name__})",
                               f"check {_URI_VARIABLE} and that the server runs") from error

    def _safely(self, tell: Callable[[], str], opens: bool = True) -> Told:
        """Runs `tell`; an MLflow that could not even be opened is not asked twice."""
        if self._unreachable:
            return Told(None, self._unreachable)
        try:
            with _only(self.uri):
                if opens:
                    self._insisting(self._open)
                return Told(self._insisting(tell))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong over there, the run goes on
            reason = f"{type(error).__name__}: {shown((str(error).splitlines() or [''])[0])}"
            if isinstance(error, ModuleNotFoundError) and error.name == "mlflow":  # as in the console's image
                reason = "it is not installed here"
            if not opens or "_experiment" not in self.__dict__:
                self._unreachable = reason
            return Told(None, reason)

    def _insisting(self, do: Callable[[], Answer]) -> Answer:
        """Does what may be done twice, again if a server says that it cannot just now: its own database is away.

        One that does not answer at all is not waited for. After a wait in vain nothing more is, until it answers again.
        """
        from mlflow.exceptions import MlflowException

        while True:
            try:
                done = do()
            except MlflowException as error:
                on_a_server = scheme(self.uri).startswith(("http", "postgresql"))
                if error.error_code != "TEMPORARILY_UNAVAILABLE" or not on_a_server or not self._patience.wait():
                    raise
            else:
                self._patience = Patience(BUSY_SECONDS)
                return done

    def _open(self) -> None:
        _ = self._experiment

    @cached_property
    def _client(self) -> "MlflowClient":
        from mlflow.tracking import MlflowClient

        if self._home is not None:
            _lay_tables(self._home / "mlflow.db")
            _follow(self._home)
        return MlflowClient(self.uri, self.uri)

    @cached_property
    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        place = _artifacts(self._home) if self._home is not None else None
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=place))

    def _run_of(self, run: str) -> str | None:
        found = self._client.search_runs([self._experiment], f"tags.`{RUN_TAG}` = '{run}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _register_name(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _as_folder(uri: str) -> str:
    return uri.rstrip("/") + "/"


def _pages(ask: "Callable[[str | None], PagedList[Answer]]") -> Iterator[Answer]:
    """Everything that is found, page by page."""
    token: str | None = None
    while token is None or token:
        page = ask(token)
        yield from page
        token = page.token or ""


def _numbers(measured: Measurement) -> dict[str, float]:
    if measured.estimate is None:
        return {}
    # MLflow takes no brackets, and little else that the name of a class may hold.
    name = re.sub(r"\[(.*)\]", lambda part: "/" + re.sub(r"[^\w :-]", "_", part[1]), measured.name)
    ends = {} if measured.interval is None else {
        f"{name}.lower": measured.interval.lower, f"{name}.upper": measured.interval.upper}
    return {name: measured.estimate, **ends}


def _lay_tables(database: Path) -> None:
    """Makes MLflow's tables from the kept schema, unless they are there or MLflow is of another schema."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    schema = resources.files("expunge.stores").joinpath("mlflow_schema.sql").read_text()
    wanted = f"INSERT INTO \"alembic_version\" VALUES('{_get_latest_schema_revision()}')"
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.exists() or wanted not in schema:
        return
    with tempfile.TemporaryDirectory(dir=database.parent) as scratch:
        made = Path(scratch, "mlflow.db")
        with closing(sqlite3.connect(made)) as connection:
            connection.executescript(schema)
        try:
            os.link(made, database)  # unlike a rename, this never replaces what somebody else made meanwhile
        except FileExistsError:
            return


_PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
           ("model_versions", "storage_location"), ("model_versions", "source"))


def _artifacts(home: Path) -> str:
    return (home / "artifacts").as_uri()


def _follow(home: Path) -> None:
    """MLflow notes where artifacts lie from / on: in a workspace that was moved, they are told where they lie now."""
    with closing(sqlite3.connect(home / "mlflow.db", timeout=10)) as connection:
        found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)).fetchone()
        before, now = found and found[0], _artifacts(home)
        if before is None or before == now:
            return
        with connection:
            for table, column in _PLACES:
                connection.execute(f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                                   f"WHERE substr({column}, 1, ?) = ?", (now, len(before) + 1, len(before), before))


@contextmanager
def _only(uri: str) -> Iterator[None]:
    """While MLflow is used: no telemetry, no look for Git, no log lines among ours, and no other MLflow.

    A client asks the process-wide server about `models:/` sources, whatever server it was made for; unset,
    that is a new database in the current folder.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401 - it sets its loggers' levels when it is imported: later, it would undo ours

    kept = os.environ.get(_URI_VARIABLE)
    levels = {logger: logger.level for logger in map(logging.getLogger, ("mlflow", "alembic"))}
    os.environ[_URI_VARIABLE] = uri
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if kept is None:
            del os.environ[_URI_VARIABLE]
        else:
            os.environ[_URI_VARIABLE] = kept
