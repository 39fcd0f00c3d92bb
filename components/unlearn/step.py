"""Unlearn: the parent is made to forget, and a candidate leaves the room."""

import json
import shutil
from pathlib import Path

from expunge.contracts import (
    Adaptation,
    Candidate,
    Checkpoint,
    SampleSet,
    StoredFile,
    read_record,
    read_record_if_any,
    write_record,
)
from expunge.digests import sha256_file
from expunge.errors import DoesNotVerify, Refused
from expunge.room import Entered, room
from expunge.together import together

WEIGHTS = "model.safetensors"


@room(outputs=("candidate",))
@together
def unlearn(entered: Entered, *, checkpoint: Path, oracle: Path, adaptation: Path, negative: Path, positive: Path,
            forget: Path, retain: Path, method: str, preset: str, overrides: str, seed: int, threads: int,
            candidate: Path) -> None:
    """Runs the method's second stage and stores the candidate.

    Raises:
        Refused: the method left the weights as they were.
        NonFiniteLoss: training diverged.
    """
    import torch
    from safetensors.torch import load

    from expunge import methods, models
    from expunge.methods.sessions import RoomSession, key_of, load_samples, lost
    from expunge.methods.training import ClassifierOracle, Material

    parent_record, oracle_record = read_record(Checkpoint, checkpoint), read_record_if_any(Checkpoint, oracle)
    learned = read_record(Adaptation, adaptation)
    negatives, positives, forgotten, retained = (
        read_record_if_any(SampleSet, folder) for folder in (negative, positive, forget, retain))
    chosen = methods.find(method, parent_record.family)
    params = chosen.parameters(preset, json.loads(overrides))
    key = key_of(entered, negatives, forgotten)
    session = RoomSession(entered, key, seed, threads)
    sealed = adaptation / learned.tensors.name
    if sha256_file(sealed) != learned.tensors.sha256:
        raise DoesNotVerify("adaptation: its tensors are not those of its record", "run the request again")

    parent, gone = models.load_recorded(checkpoint, parent_record), lost(negatives, forgotten)
    guide = None if oracle_record is None else ClassifierOracle(models.load_recorded(oracle, oracle_record), gone)
    material = Material(
        negative=load_samples(entered, negatives), positive=load_samples(entered, positives),
        forget=load_samples(entered, forgotten), retain=load_samples(entered, retained), oracle=guide, restricted=gone)
    with session.training():
        state = chosen.unlearn(parent, load(key.open(sealed.read_bytes(), sealed.name)), material, params, session)
    # Of a generator's pair only itself is served. Compared as tensors: the file's bytes would differ already by what
    # its header says.
    served = "generator." if isinstance(parent, models.Gan) else ""
    if all(torch.equal(tensor, state[name]) for name, tensor in parent.state_dict().items() if name.startswith(served)):
        raise Refused(f"unlearn: '{method}' left the weights as they were", "check its parameters")

    weights = candidate / WEIGHTS
    models.save(weights, parent.as_in_file(state), models.ModelSpec(
        architecture=parent_record.architecture, config=parent_record.config, family=parent_record.family,
        classes=parent_record.interface.classes))
    if parent_record.factory is not None:
        shutil.copyfile(checkpoint / parent_record.factory.name, candidate / parent_record.factory.name)
    write_record(candidate, Candidate(
        method=method, claim=chosen.claim, params=params.model_dump(mode="json"), seed=seed,
        parent_sha256=parent_record.weights.sha256, adaptation_sha256=sha256_file(adaptation / "record.json"),
        oracle_sha256=oracle_record and oracle_record.weights.sha256, negative_id=negatives and negatives.set_id,
        positive_id=positives and positives.set_id,
        forget_id=forgotten and forgotten.set_id, retain_id=retained and retained.set_id,
        compute=session.compute(), family=parent_record.family, architecture=parent_record.architecture,
        config=parent_record.config, weights=StoredFile.of(weights), factory=parent_record.factory,
        interface=parent_record.interface))
