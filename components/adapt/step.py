"""Adapt: the method learns what it is that must be lost."""

import json
from pathlib import Path

from expunge.contracts import (
    Adaptation,
    Checkpoint,
    SampleSet,
    StoredFile,
    read_record,
    read_record_if_any,
    write_record,
)
from expunge.digests import write_atomically
from expunge.room import Entered, room
from expunge.together import together

TENSORS = "tensors.sealed"


@room(outputs=("adaptation",))
@together
def adapt(entered: Entered, *, checkpoint: Path, negative: Path, forget: Path, retain: Path, method: str, preset: str,
          overrides: str, seed: int, threads: int, adaptation: Path) -> None:
    """Runs the method's first stage and stores what it learned, encrypted.

    Raises:
        BadInput: the method, the preset or a parameter is not known, or does not suit the model's family.
        NonFiniteLoss: training diverged.
    """
    from safetensors.torch import save

    from expunge import methods, models
    from expunge.methods.sessions import RoomSession, key_of, load_samples, lost
    from expunge.methods.training import Material

    parent_record = read_record(Checkpoint, checkpoint)
    negatives, forgotten, retained = (read_record_if_any(SampleSet, folder) for folder in (negative, forget, retain))
    chosen = methods.find(method, parent_record.family)
    params = chosen.parameters(preset, json.loads(overrides))
    key = key_of(entered, negatives, forgotten)
    session = RoomSession(entered, key, seed, threads)
    material = Material(negative=load_samples(entered, negatives), forget=load_samples(entered, forgotten),
                        retain=load_samples(entered, retained), restricted=lost(negatives, forgotten))
    with session.training():
        tensors = chosen.adapt(models.load_recorded(checkpoint, parent_record), material, params, session)
    packed = {name: tensor.contiguous() for name, tensor in tensors.items()}  # features may lie otherwise
    write_atomically(adaptation / TENSORS, key.seal(save(packed)))
    write_record(adaptation, Adaptation(
        method=method, params=params.model_dump(mode="json"), seed=seed, parent_sha256=parent_record.weights.sha256,
        negative_id=negatives and negatives.set_id, forget_id=forgotten and forgotten.set_id,
        retain_id=retained and retained.set_id, compute=session.compute(), tensors=StoredFile.of(adaptation / TENSORS)))
