"""What an installation is told about the world outside its workspace: `config.yaml` in it, if there is one.

Everything has a default that needs nobody else: a laptop's workspace has no such file.
"""

import re
from ipaddress import ip_network
from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from expunge.contracts import Digest, Frozen, Identifier, Person, Record, read_record
from expunge.settings import Workspace
from expunge.stores.addresses import bucket_misfit

CONFIG_FILE = "config.yaml"

_PREFIX = re.compile(r"s3://[A-Za-z0-9._-]+(/[A-Za-z0-9!_.*'()=-]+)+")

# An InferenceService's: KServe and Knative append to it up to 16 characters of the 63 that DNS allows.
SERVICE_NAME = r"^[a-z]([a-z0-9-]{0,45}[a-z0-9])?$"
ServiceName = Annotated[str, Field(pattern=SERVICE_NAME)]
Command = Annotated[tuple[str, ...], Field(min_length=1)]


def require_prefix(value: str, wanted: str = "s3://bucket/prefix") -> str:
    """An address that objects can be put below; ValueError if none can."""
    misfit = bucket_misfit(value)
    if misfit:
        raise ValueError(misfit)
    if not _PREFIX.fullmatch(value):
        raise ValueError(f"must be {wanted}")
    return value


class Copy(Frozen):
    """One place outside of the operator's reach to which every checkpoint of the ledger is copied: exactly one kind."""

    folder: str | None = None  # an absolute path, of another disk or machine
    s3: str | None = None  # s3://bucket/prefix
    git: str | None = None  # the address of a repository that may be pushed to
    command: Command | None = None  # gets the checkpoint on its standard input

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.model_fields_set & {"folder", "s3", "git", "command"}) != 1:
            raise ValueError("name exactly one of folder, s3, git and command")
        if self.folder is not None and not self.folder.startswith("/"):
            raise ValueError("folder must be an absolute path")
        if self.s3 is not None and bucket_misfit(self.s3):
            raise ValueError(bucket_misfit(self.s3))
        return self


class Notice(Frozen):
    """How reviewers are told that a run waits for them, and that its deadline comes near."""

    before_hours: Annotated[float, Field(gt=0)] = 24.0  # once more, so long before the deadline
    command: Command | None = None  # gets the notice, one JSON object, on its standard input
    webhook: str | None = None  # gets it by POST

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("must begin with http:// or https://")
        return value


class ApiToken(Frozen):
    """Whom a program speaks for that shows a certain token to the console: only the token's digest is kept."""

    person: Person
    sha256: Digest


class ConsoleSettings(Frozen):
    """How the console knows people where it does not serve one person alone: see docs/console.md."""

    address: str  # by which browsers reach it, as https://console.example.org
    proxies: tuple[str, ...] = ()  # addresses or networks from which the header is believed
    person_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "X-Forwarded-User"
    tokens: tuple[ApiToken, ...] = ()

    @field_validator("address")
    @classmethod
    def _is_an_origin(cls, value: str) -> str:
        found = urlsplit(value)
        if found.scheme not in ("http", "https") or not found.netloc or value != f"{found.scheme}://{found.netloc}":
            raise ValueError("must be https://host or https://host:port, and nothing after it")
        return value

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            ip_network(one)
        return value

    @model_validator(mode="after")
    def _somebody_is_known(self) -> Self:
        if not self.proxies and not self.tokens:
            raise ValueError("name proxies, tokens or both: nobody could enter")
        return self


class TrainingState(Frozen):
    """How often training steps keep the state that they continue from, and where a copy of it goes."""

    store: str | None = None  # s3://bucket/prefix, or an absolute path, of a disk that outlives the step's
    every: Annotated[float, Field(ge=0)] = 30.0  # seconds: what a killed step can lose

    @field_validator("store")
    @classmethod
    def _is_a_place(cls, value: str | None) -> str | None:
        if value is None or value.startswith("/"):
            return value
        return require_prefix(value, "s3://bucket/prefix or an absolute path")


class KServe(Frozen):
    """How KServe serves what lies under `releases`: see docs/releases.md."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    model_format: Annotated[str, Field(min_length=1)]  # as your ServingRuntime says that it supports
    runtime: str | None = None  # that ServingRuntime; KServe looks for one by the format, if none is named
    service_account: str | None = None  # by which a pod may read the bucket
    min_replicas: Annotated[int, Field(ge=0)] = 1
    services: dict[Identifier, ServiceName] = Field(default_factory=dict)  # by model, where its own name will not do
    canary_percent: Annotated[int, Field(ge=0, le=99)] = 0  # of all requests, before a release gets all of them
    canary_minutes: Annotated[float, Field(ge=0)] = 0.0  # how long it must be ready with so many
    deadline_minutes: Annotated[float, Field(gt=0)] = 10.0  # to become ready, or else the one before stays

    @model_validator(mode="after")
    def _a_share_takes_time(self) -> Self:
        if bool(self.canary_percent) != bool(self.canary_minutes):
            raise ValueError("canary_percent and canary_minutes go together: give both, or neither")
        return self


class Configuration(Record):
    """All of it."""

    SCHEMA: ClassVar[str] = "expunge/config/v1"

    database: str | None = None  # an SQLAlchemy address; passwords come from the environment or a password file
    database_wait: Annotated[float, Field(ge=0)] = 30.0  # seconds that a database which is away is waited for
    checkpoints: tuple[Copy, ...] = ()
    notice: Notice | None = None
    console: ConsoleSettings | None = None
    releases: str | None = None  # s3://bucket/prefix: where models are served from, if not from the workspace

    kserve: KServe | None = None  # what serves them, if not whoever reads `current` there

    requests: str | None = None  # s3://bucket/prefix: where filed requests wait, if not in the workspace

    training_state: TrainingState | None = None

    pushgateway: str | None = None  # address of the Prometheus Pushgateway that steps tell their numbers

    @field_validator("pushgateway")
    @classmethod
    def _is_an_open_address(cls, value: str | None) -> str | None:
        found = urlsplit(value or "http://none")
        if found.scheme not in ("http", "https") or not found.hostname or found.username or found.query:
            raise ValueError("must be http://host:port or https://host:port, without a user or password")
        return value

    @field_validator("database")
    @classmethod
    def _holds_no_password(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).password:
            raise ValueError("holds a password: leave it out, and set PGPASSWORD or PGPASSFILE")
        return value

    @field_validator("releases", "requests")
    @classmethod
    def _is_a_prefix(cls, value: str | None) -> str | None:
        return value if value is None else require_prefix(value)

    @model_validator(mode="after")
    def _kserve_has_a_bucket(self) -> Self:
        if self.kserve is not None and self.releases is None:
            raise ValueError("'kserve' serves from S3: set 'releases' to s3://bucket/prefix too")
        return self

    @classmethod
    def load(cls, workspace: Workspace) -> "Configuration":
        """The workspace's configuration; the defaults if it has none. BadInput if it cannot be read."""
        file = workspace.root / CONFIG_FILE
        return read_record(cls, file) if file.exists() else cls()
