"""The plans as Kubeflow Pipelines v2 documents: which image, which machines, which Secrets.

The plans say what is done; nothing of where is in them. What a profile says is put onto their tasks here, so that the
laptop and the cluster run the same plan. See docs/cluster.md, and docs/decisions/profiles.md for what is a parameter.
"""

import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import BadInput
from expunge.settings import IMAGE_VARIABLE, KEYS_VARIABLE, RUN_VARIABLE, WORKSPACE_VARIABLE
from expunge.stores.releases_kserve import ACCOUNT_VARIABLE
from expunge.stores.telemetry import PIPELINE_VARIABLE
from expunge.stores.training_state import EVERY_VARIABLE, STORE_VARIABLE
from expunge.together import PROCESSES_VARIABLE
from pipelines.profiles import KIND_OF, SETTINGS, Cluster, Kind, Profile, Step

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

PLANS = ("unlearning", "release")
# By these labels a step's pod is known to the network's policies: see deploy/.
OURS = {"app.kubernetes.io/part-of": "expunge"}
ROOM_LABEL = "app.kubernetes.io/component"
_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9./:_-]*?(@(?P<digest>sha256:[0-9a-f]{64}))?")
# Kubeflow gives the name of a run, as a person gave it, to each of its pods.
_NAME_OF_THE_RUN = "metadata.annotations['pipelines.kubeflow.org/run_name']"
# Parameters of a compiled plan must be text: of any other type the driver reads nothing (docs/decisions/profiles.md).
_TEXTS = ("cpu_request", "cpu_limit", "memory_request", "memory_limit", "accelerator_type", "accelerator_limit")
_ONCE = ("keep_up",)  # a second try has nothing to do, and would hide what the first one told; the next start is near
_KINDS: dict[str, tuple[Kind, ...]] = {
    "unlearning": ("plain", "training", "measuring"), "release": ("plain",), "upkeep": ("training",)}
TRAINING = ("adapt", "unlearn")  # rooms that keep state to continue from
RELEASING = ("deploy", "keep_up")  # rooms that change what is served
TALKING = ("fetch_checkpoint", "curate_forget_set", "deploy", "keep_up")  # rooms that talk to stores outside


def compile_plan(plan: str, image: str, profile: Profile, run: str | None = None) -> str:
    """One plan as YAML: the pipeline, and what Kubernetes is told of its tasks.

    Args:
        plan: one of `PLANS`, or `upkeep`.
        image: what every step runs in: see `require_digest`.
        profile: what steps ask for.
        run: the name that the run goes by in statements and decisions; without it, the one it is given in Kubeflow.
    """
    from kfp import dsl
    from kfp.compiler import Compiler
    from kfp.dsl.pipeline_context import Pipeline

    wiring = _wiring(plan)
    own = signature(wiring.pipeline_func).parameters
    offered = {**own, **_parameters(profile, _kinds(plan))}

    def placed(*values: Any) -> None:
        given = dict(zip(offered, values, strict=True))
        wiring.pipeline_func(**{name: given[name] for name in own})
        for task in Pipeline.get_default_pipeline().tasks.values():
            task.set_caching_options(False)  # of the importers too, which the plans cannot name
            if task.container_spec is not None:  # importers run in no image of ours
                _place(task, plan, image, profile, given, run)

    def compiled() -> str:
        made = dsl.pipeline(name=wiring.name, description=wiring.description)(placed)
        with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
            file = Path(folder, f"{plan}.yaml")
            Compiler().compile(made, str(file))
            return file.read_text()

    placed.__signature__ = Signature(list(offered.values()))  # type: ignore[attr-defined]
    # kfp looks through the whole stack whenever a task is told something: in a thread of its own that is short.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(compiled).result()


def require_digest(image: str, unpinned: bool = False) -> str:
    """The image, if its name holds the digest of what it is; BadInput otherwise.

    With `unpinned` a tag will do: statements then say nothing of the image, for a tag may be moved.
    """
    found = _IMAGE.fullmatch(image)
    if found is None:
        raise BadInput(f"--image: '{image}' is no image", "write registry/name@sha256:...")
    if found["digest"] is None and not unpinned:
        raise BadInput(f"--image: '{image}' names no digest, and a tag may be moved",
                       "write registry/name@sha256:..., or say --unpinned to try things out")
    return image


def parameters(plan: str, profile: Profile) -> dict[str, Any]:
    """What a profile gives the parameters of a compiled plan, by their names."""
    return {name: each.default for name, each in _parameters(profile, _kinds(plan)).items()}


def _wiring(plan: str) -> Any:
    if plan == "unlearning":
        from pipelines.unlearning import unlearning

        return unlearning
    if plan == "upkeep":
        from pipelines.upkeep import upkeep

        return upkeep
    from pipelines.release import release

    return release


def _kinds(plan: str) -> tuple[Kind, ...]:
    return _KINDS[plan]


def _parameters(profile: Profile, kinds: Iterable[Kind]) -> dict[str, Parameter]:
    """The parameters that a compiled plan has beside its own; their defaults are what the profile says."""

    def parameter(name: str, value: Any) -> Parameter:
        return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation=type(value))

    made = []
    for kind in kinds:
        step: Step = getattr(profile, kind)
        texts = _TEXTS if step.accelerator_limit else _TEXTS[:4]
        made += [parameter(f"{kind}_{field}", str(getattr(step, field))) for field in texts]
        if step.accelerator_limit:
            tolerations = [each.model_dump(exclude_none=True) for each in step.tolerations]
            made += [parameter(f"{kind}_node_selector", step.node_selector),
                     parameter(f"{kind}_tolerations", tolerations)]
    return {each.name: each for each in made}


def _place(task: "PipelineTask", plan: str, image: str, profile: Profile, given: dict[str, Any],
           run: str | None) -> None:
    """Tells one task where it runs, what it may use and how often it is tried."""
    from kfp import kubernetes

    room = _room_of(task)
    kind, step = KIND_OF[room], profile.step(room)
    task.set_container_image(image)
    task.set_cpu_request(given[f"{kind}_cpu_request"]).set_cpu_limit(given[f"{kind}_cpu_limit"])
    task.set_memory_request(given[f"{kind}_memory_request"]).set_memory_limit(given[f"{kind}_memory_limit"])
    if room not in _ONCE:
        task.set_retry(num_retries=step.retries, backoff_duration=f"{step.backoff}s",
                       backoff_factor=step.backoff_factor, backoff_max_duration=f"{step.backoff_max}s")
    kubernetes.set_timeout(task, step.timeout)
    if step.accelerator_limit:
        task.set_accelerator_type(given[f"{kind}_accelerator_type"])
        task.set_accelerator_limit(given[f"{kind}_accelerator_limit"])
        kubernetes.add_node_selector_json(task, given[f"{kind}_node_selector"])
        kubernetes.add_toleration_json(task, given[f"{kind}_tolerations"])
    for label, value in {**OURS, ROOM_LABEL: room.replace("_", "-")}.items():
        kubernetes.add_pod_label(task, label, value)
    _tell(task, plan, image, profile, run)
    _lend(task, room, profile.cluster)


def _room_of(task: "PipelineTask") -> str:
    room: str = task.component_spec.name.replace("-", "_")
    return room


def _tell(task: "PipelineTask", plan: str, image: str, profile: Profile, run: str | None) -> None:
    """What a step is told by its environment: nothing of it is secret."""
    from kfp import kubernetes

    room, cluster, training = _room_of(task), profile.cluster, profile.training
    task.set_env_variable(WORKSPACE_VARIABLE, cluster.workspace_path)
    task.set_env_variable(KEYS_VARIABLE, cluster.keys_path)
    task.set_env_variable(PIPELINE_VARIABLE, plan)
    _, _, digest = image.partition("@")
    if digest:
        task.set_env_variable(IMAGE_VARIABLE, digest)
    if run is None:
        kubernetes.use_field_path_as_env(task, RUN_VARIABLE, _NAME_OF_THE_RUN)
    else:
        task.set_env_variable(RUN_VARIABLE, run)
    if room in (*TRAINING, "keep_up") and cluster.state_store:
        task.set_env_variable(STORE_VARIABLE, cluster.state_store)
        task.set_env_variable(EVERY_VARIABLE, str(cluster.state_every))
    if room in TRAINING and training.together:
        task.set_env_variable(PROCESSES_VARIABLE, training.together)
    if room in RELEASING:
        task.set_env_variable(ACCOUNT_VARIABLE, cluster.deployer_path)
    kubernetes.use_config_map_as_env(task, cluster.settings, SETTINGS, optional=True)


def _lend(task: "PipelineTask", room: str, cluster: Cluster) -> None:
    """The volumes and Secrets that a step may use, all of them by name."""
    from kfp import kubernetes

    kubernetes.mount_pvc(task, cluster.workspace_claim, cluster.workspace_path)
    kubernetes.mount_pvc(task, cluster.request_keys_claim, f"{cluster.keys_path}/requests")
    kubernetes.use_secret_as_volume(task, cluster.operator_secret, f"{cluster.keys_path}/people")
    # The ledger says at which position a signature is judged. With SQLite there is no password.
    kubernetes.use_secret_as_env(task, cluster.database_secret, {"password": "PGPASSWORD"}, optional=True)
    keys_to_s3 = {"access-key-id": "AWS_ACCESS_KEY_ID", "secret-access-key": "AWS_SECRET_ACCESS_KEY"}
    if room in TRAINING and cluster.state_store:
        kubernetes.use_secret_as_env(task, cluster.state_secret, keys_to_s3, optional=True)
    if room in RELEASING:
        kubernetes.use_secret_as_volume(task, cluster.deployer_secret, cluster.deployer_path, optional=True)
    if room in TALKING:
        kubernetes.use_secret_as_env(task, cluster.s3_secret, keys_to_s3, optional=True)
        kubernetes.use_secret_as_env(
            task, cluster.mlflow_secret,
            {"username": "MLFLOW_TRACKING_USERNAME", "password": "MLFLOW_TRACKING_PASSWORD"}, optional=True)
