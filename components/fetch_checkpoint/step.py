"""Fetch checkpoint: three models come in by URI and leave as safetensors with their digests."""

import shutil
from pathlib import Path

from expunge.contracts import Checkpoint, Request, Source, StoredFile, read_record, write_record
from expunge.digests import sha256_file
from expunge.errors import BadInput
from expunge.room import Entered, room
from expunge.stores import sources

WEIGHTS = "model.safetensors"
FAMILIES = {"parent": "gan", "oracle": "classifier", "judge": "classifier"}


@room(outputs=("checkpoint", "oracle", "judge"))
def fetch_checkpoint(entered: Entered, *, request: Path, checkpoint: Path, oracle: Path, judge: Path) -> None:
    """Brings in the parent, the oracle and the judge.

    Raises:
        Refused: a file's digest is not the pinned one.
        BadInput: a file cannot be loaded without running code, or does not fit its architecture; the method
            or one of its parameters is not known.
    """
    from expunge import methods

    wanted = read_record(Request, request)
    # A method that cannot work on this request is better known now than after an hour of curating.
    choice = wanted.method
    methods.find(choice.name, FAMILIES["parent"]).parameters(choice.preset, choice.params)
    _fetch("parent", wanted.checkpoint, checkpoint, request)
    _fetch("oracle", wanted.oracle, oracle, request)
    _fetch("judge", wanted.judge, judge, request)


def _fetch(role: str, source: Source, folder: Path, request: Path) -> None:
    from expunge import models

    field = "checkpoint" if role == "parent" else role
    sources.digest(field, source)
    origin = sources.model_file(source.uri)
    state, spec = models.read(origin)
    if source.architecture is not None:
        spec = models.ModelSpec(architecture=source.architecture, config=source.config, family=FAMILIES[role])
    if spec is None:
        raise BadInput(f"{field}.architecture: {source.uri} does not say what it is", "name its architecture")
    if spec.family != FAMILIES[role]:
        raise BadInput(f"{field}.uri: {source.uri} is a {spec.family}, a {FAMILIES[role]} is needed",
                       "name another model")
    models.fit(models.build(spec.architecture, **spec.config), state, source.uri)
    weights = folder / WEIGHTS
    if origin.suffix == ".safetensors":
        shutil.copyfile(origin, weights)  # the very bytes, so that their digest is the one people know
    else:
        models.save(weights, state, spec)
    write_record(folder, Checkpoint(
        role=role, request_sha256=sha256_file(request), uri=source.uri, family=spec.family,
        architecture=spec.architecture, config=spec.config, weights=StoredFile.of(weights)))
