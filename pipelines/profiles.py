"""What a step asks of a cluster: three profiles, and the names under which a cluster keeps what steps need.

A profile has one `Step` for each kind of room: `plain` rooms move and check files, `training` rooms (adapt, unlearn)
and the `measuring` one (evaluate) compute. The numbers are starting points for models of some hundred megabytes, not
measurements; each can be changed by ``--set KIND.FIELD=VALUE``, most of them again when a run is started.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from expunge.configuration import require_prefix
from expunge.contracts import Frozen
from expunge.contracts.records import describe
from expunge.errors import BadInput
from expunge.stores.telemetry import GATEWAY_VARIABLE

Kind = Literal["plain", "training", "measuring"]
KIND_OF: dict[str, Kind] = {
    "fetch_checkpoint": "plain", "curate_forget_set": "plain", "adapt": "training", "unlearn": "training",
    "evaluate": "measuring", "gate": "plain", "deploy": "plain", "keep_up": "training"}

# As Kubeflow's own check has it, which knows fewer units than Kubernetes and says so in a traceback.
Cpu = Annotated[str, Field(pattern=r"^([0-9]*[.])?[0-9]+m?$")]
Memory = Annotated[str, Field(pattern=r"^[0-9]+(E|Ei|P|Pi|T|Ti|G|Gi|M|Mi|K|Ki)?$")]
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
StateStore = Annotated[str, AfterValidator(lambda value: value and require_prefix(value))]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\s]+$")]


class Toleration(Frozen):
    """Which taint of a node does not keep a step away: Kubernetes' own words."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None  # with Equal only
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Step(Frozen):
    """What the steps of one kind ask for."""

    cpu_request: Cpu  # cores, or thousandths of one ("500m")
    cpu_limit: Cpu
    memory_request: Memory
    memory_limit: Memory
    accelerator_limit: Annotated[int, Field(ge=0)] = 0  # how many; with 0 the three below are not used
    accelerator_type: str = "nvidia.com/gpu"  # the resource's name, as the device plugin has it
    node_selector: dict[str, str] = Field(default_factory=dict)  # labels of the nodes to run on
    tolerations: tuple[Toleration, ...] = ()
    processes: Annotated[int, Field(ge=0)] = 0  # in which training rooms train; 0: one for each accelerator, or one
    timeout: Annotated[int, Field(ge=1)] = 3600  # seconds that one try may take
    retries: Annotated[int, Field(ge=0, le=10)] = 3  # further tries after a failed one
    backoff: Annotated[int, Field(ge=0)] = 30  # seconds before the first of them
    backoff_factor: Annotated[float, Field(ge=1)] = 2.0  # each wait is so many times the one before
    backoff_max: Annotated[int, Field(ge=0)] = 600  # seconds that no wait exceeds


    @property
    def together(self) -> str:
        """In how many processes a step trains, as it is told: a number, or one for each device; "" for one."""
        return str(self.processes or "devices") if self.processes > 1 or (
            self.accelerator_limit > 1 and not self.processes) else ""


class Cluster(Frozen):
    """Under which names a cluster keeps what steps need. Secrets are named, never read here."""

    workspace_claim: KubernetesName = "expunge-workspace"  # a volume that all steps can write (ReadWriteMany)
    workspace_path: AbsolutePath = "/var/lib/expunge/workspace"
    keys_path: AbsolutePath = "/var/lib/expunge/keys"
    request_keys_claim: KubernetesName = "expunge-request-keys"  # a volume of its own: keys lie never beside the data
    operator_secret: KubernetesName = "expunge-operator"  # the key that signs the rooms' statements: operator.pem
    database_secret: KubernetesName = "expunge-database"  # key: password
    s3_secret: KubernetesName = "expunge-s3"  # keys: access-key-id, secret-access-key
    mlflow_secret: KubernetesName = "expunge-mlflow"  # keys: username, password
    deployer_secret: KubernetesName = "expunge-deployer"  # of the account that changes what KServe serves
    deployer_path: AbsolutePath = "/var/lib/expunge/service-account"
    settings: KubernetesName = "expunge"  # a ConfigMap with addresses: see SETTINGS
    state_store: StateStore = ""  # where training steps copy the state they continue from; nowhere, if empty
    state_every: Annotated[int, Field(ge=1)] = 60  # seconds between two copies
    state_secret: KubernetesName = "expunge-state"  # as s3_secret, and for nothing else than that prefix


# What the ConfigMap may say, by its key there, and the variable that a step finds it under.
SETTINGS = {"s3-endpoint": "AWS_ENDPOINT_URL", "s3-region": "AWS_REGION", "mlflow-uri": "MLFLOW_TRACKING_URI",
            "pushgateway": GATEWAY_VARIABLE}


class Profile(Frozen):
    """Everything that is not in the plan itself."""

    plain: Step
    training: Step
    measuring: Step
    cluster: Cluster = Cluster()

    def step(self, room: str) -> Step:
        """What the steps of a room ask for."""
        found: Step = getattr(self, KIND_OF[room])
        return found

    @model_validator(mode="after")
    def _no_accelerator_where_none_is_used(self) -> "Profile":
        if self.plain.accelerator_limit:
            raise ValueError("plain.accelerator_limit must be 0: these rooms compute nothing on one")
        if self.plain.processes or self.measuring.processes:
            raise ValueError("processes must be 0 but for training: other rooms work in one")
        return self


_PLAIN = Step(cpu_request="500m", cpu_limit="2", memory_request="2Gi", memory_limit="8Gi")
_ON_CPUS = Step(cpu_request="4", cpu_limit="8", memory_request="8Gi", memory_limit="32Gi", timeout=24 * 3600, retries=2)
_ON_GPU = Step(
    cpu_request="4", cpu_limit="8", memory_request="16Gi", memory_limit="64Gi", accelerator_limit=1,
    node_selector={"nvidia.com/gpu.present": "true"},  # the label that NVIDIA's GPU operator gives
    tolerations=(Toleration(key="nvidia.com/gpu"),), timeout=6 * 3600, retries=2, backoff=60)
# Measuring uses one device, however many there are.
_ON_GPUS = _ON_GPU.model_copy(update={
    "cpu_request": "16", "cpu_limit": "32", "memory_request": "64Gi", "memory_limit": "256Gi", "accelerator_limit": 4})

PROFILES: dict[str, Profile] = {
    "cpu": Profile(plain=_PLAIN, training=_ON_CPUS, measuring=_ON_CPUS),
    "gpu": Profile(plain=_PLAIN, training=_ON_GPU, measuring=_ON_GPU),
    "multi-gpu": Profile(plain=_PLAIN, training=_ON_GPUS, measuring=_ON_GPU),
}

_CHANGE = re.compile(r"(?P<part>[a-z]+)\.(?P<field>[a-z_0-9]+)=(?P<value>.*)", re.DOTALL)


def profile(name: str, changes: Iterable[str] = ()) -> Profile:
    """A profile by its name, with some of its fields changed.

    Args:
        name: one of `PROFILES`.
        changes: each ``PART.FIELD=VALUE``, such as ``training.accelerator_limit=2``. A field that is no text is
            written as in YAML: ``training.node_selector={nvidia.com/gpu.product: NVIDIA-H200}``.

    Raises:
        BadInput: there is no such profile or field, or a value does not fit it.
    """
    if name not in PROFILES:
        raise BadInput(f"--profile: '{name}' is not known", f"profiles are {', '.join(PROFILES)}")
    plain: dict[str, Any] = PROFILES[name].model_dump(mode="json")
    for change in changes:
        found = _CHANGE.fullmatch(change)
        if found is None:
            raise BadInput(f"--set: '{change}' is no change", "write KIND.FIELD=VALUE, such as training.timeout=7200")
        part, field = found["part"], found["field"]
        if field not in plain.get(part, {}):
            known = ", ".join(plain[part]) if part in plain else ", ".join(plain)
            raise BadInput(f"--set: '{part}.{field}' is not known", f"known are {known}")
        plain[part][field] = _read(change, found["value"], plain[part][field])
    try:
        return Profile.model_validate(plain)
    except ValidationError as error:
        raise BadInput(*describe(error, "--set")) from None


def _read(change: str, value: str, before: Any) -> Any:
    """The value as the field wants it: text stays text, so that a number of cores needs no quotes."""
    if isinstance(before, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise BadInput(f"--set: '{change}' cannot be read", "write the value as in YAML") from None
