"""Fetch checkpoint: the models of a request come in by URI and leave as safetensors with their digests."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.contracts import (
    Absent,
    Checkpoint,
    ClassifierSource,
    DiscriminatorSource,
    Family,
    Hidden,
    Interface,
    ModelSource,
    ParentSource,
    Request,
    StoredFile,
    StoredModel,
    read_record,
    write_record,
)
from expunge.digests import sha256_file
from expunge.errors import BadInput
from expunge.families import refuse_what_does_not_fit, words
from expunge.room import Entered, room
from expunge.samples import as_known_to, as_known_to_judge
from expunge.settings import Workspace
from expunge.stores import sources

if TYPE_CHECKING:
    from expunge.models import Model

NO_REQUEST = "0" * 64  # in the place of a request's digest, of what is fetched for none
WEIGHTS, FACTORY = "model.safetensors", "factory.py"
DISCRIMINATOR = "discriminator"  # the prefix of a separate discriminator's files
TRIED = 16  # held-out images that a flow is asked about, or that are completed
OF_GIVEN_IMAGES = ("flow", "image_to_image")  # families of which given images are asked, in the judge's numbers
OF_THE_PARENTS_KIND = ("parent", "reference", "origin")  # every other model is a classifier, who looks at images


@room(outputs=("checkpoint", "oracle", "judge", "extractor", "reference", "origin"))
def fetch_checkpoint(entered: Entered, *, request: Path, checkpoint: Path, oracle: Path, judge: Path,
                     extractor: Path, reference: Path, origin: Path) -> None:
    """Brings in the parent and whatever else the request names, and tries the models out on each other.

    Raises:
        Refused: a file's digest is not the pinned one.
        BadInput: a file cannot be loaded without running code, or does not fit its architecture; a model does
            not do what its declaration says; the method or one of its parameters is not known, or it needs what the
            request does not bring.
    """
    from expunge.methods import choosing
    from expunge.models import trial

    wanted = read_record(Request, request)
    refuse_what_does_not_fit(wanted)
    # A method that cannot work on this request is better known now than after an hour of curating.
    choosing.suited(wanted, wanted.family)
    if wanted.method.chosen is not None:
        entered.note(f"auto chose {wanted.method.name}, {wanted.method.chosen}")
    fetch = _Fetch(entered.workspace, sha256_file(request), wanted.family, wanted.checkpoint.hidden)
    named: dict[str, tuple[ModelSource | None, Path]] = {
        "oracle": (wanted.oracle, oracle), "judge": (wanted.judge, judge), "extractor": (wanted.extractor, extractor),
        "reference": (wanted.reference, reference), "origin": (wanted.origin, origin)}
    for name, (source, folder) in named.items():
        if source is None:
            write_record(folder, Absent(reason=f"the request names no {name}"))
        else:
            fetch.model(name, name, source, folder)
    fetch.model("parent", "checkpoint", wanted.checkpoint, checkpoint, wanted.discriminator)
    held = sources.images("holdout", wanted.holdout, entered.workspace)
    there = {name: str(folder) for name, (source, folder) in named.items() if source is not None}
    known = trial.try_out(trial.Wanted(
        checkpoint=str(checkpoint), forget=wanted.forget, image_shape=held.table.images.shape[1:],
        pixels=held.table[:TRIED].pixels.tobytes() if wanted.family in OF_GIVEN_IMAGES else b"",
        range_declared=wanted.checkpoint.range is not None,
        reference_range_declared=bool(wanted.reference and wanted.reference.range),
        origin_range_declared=bool(wanted.origin and wanted.origin.range), **there))
    if wanted.judge is None:
        names = read_record(Checkpoint, checkpoint).interface.classes
        as_known_to("the checkpoint", "holdout", held.table.labels, held.classes, names, known, "leave them out")
    else:
        names = read_record(Checkpoint, judge).interface.classes
        as_known_to_judge(held.table.labels, held.classes, names, known)  # for its complaint
        _refuse_strangers(wanted, entered.workspace, names, known)


def bring(workspace: Workspace, field: str, source: ModelSource, folder: Path,
          family: Family) -> "tuple[Model, Checkpoint]":
    """One model with its record into an empty folder, outside of any run, as a run would have it.

    Raises:
        Refused: its digest is not the pinned one.
        BadInput: it cannot be loaded without running code, does not fit its architecture, or is of another family.
    """
    from expunge import models

    folder.mkdir()
    role = "parent" if field == "checkpoint" else field
    _Fetch(workspace, NO_REQUEST, family, None).model(role, field, source, folder)
    record = read_record(Checkpoint, folder)
    return models.load_recorded(folder, record), record


def _refuse_strangers(wanted: Request, workspace: Workspace, names: tuple[str, ...], known: int) -> None:
    """BadInput for real images of a class that the judge does not know where it numbers all of the sample sets."""
    if wanted.family not in OF_GIVEN_IMAGES:
        return
    for field, source in (("training", wanted.training), ("proxy", wanted.proxy), ("members", wanted.members)):
        if source is not None:
            found = sources.images(field, source, workspace)
            as_known_to_judge(found.table.labels, found.classes, names, known, field)


class _Fetch:
    """Brings in the models of one request."""

    def __init__(self, workspace: Workspace, request_sha256: str, family: Family, hidden: Hidden | None) -> None:
        self.workspace, self.request_sha256, self.family, self.hidden = workspace, request_sha256, family, hidden
        self.judges: tuple[str, ...] = ()  # the names of the judge's classes, once it is there

    def model(self, role: str, field: str, source: ModelSource, folder: Path,
              discriminator: ModelSource | None = None) -> None:
        needed: Family = self.family if role in OF_THE_PARENTS_KIND else "classifier"
        stored, family = self._store(field, source, folder, "", needed)
        if family not in (None, needed):
            raise BadInput(f"{field}.uri: {source.uri} is {words(family)}, {words(needed)} is needed",
                           "name another model")
        critic = discriminator and self._store(DISCRIMINATOR, discriminator, folder, f"{DISCRIMINATOR}-", needed)[0]
        if role == "judge":
            self.judges = stored.interface.classes
        if needed in OF_GIVEN_IMAGES:
            stored = stored.model_copy(update={
                "interface": stored.interface.model_copy(update={"classes": self.judges})})
        write_record(folder, Checkpoint(
            role=role, request_sha256=self.request_sha256, uri=source.uri, family=needed,
            discriminator=critic, **dict(stored)))

    def _store(self, field: str, source: ModelSource, folder: Path, prefix: str,
               family: Family) -> tuple[StoredModel, str | None]:
        """Puts a model's files into the folder; returns what builds it, and the family that its file names."""
        from expunge import models

        sources.digest(field, source, self.workspace)
        origin = sources.model_file(field, source, self.workspace)
        state, spec = models.read(origin)
        architecture, config = source.architecture, source.config
        if architecture is None:
            spec = spec or models.recognised(state, f"{field}.uri: {source.uri}")
            if spec is None:
                raise sources.says_nothing(field, source)
            if models.is_factory(spec.architecture):  # a release of ours: its code is the user's, and is not in it
                raise BadInput(f"{field}.architecture: {source.uri} was built by {spec.architecture}",
                               "name your factory: path/to/file.py:factory")
            architecture, config = spec.architecture, spec.config
        config = models.completed(architecture, config, state, f"{field}.config")
        factory = self._factory(field, source, folder, f"{prefix}{FACTORY}")
        if factory is not None:
            architecture = f"{factory.name}:{architecture.rpartition(':')[2]}"
        weights = folder / f"{prefix}{WEIGHTS}"
        if origin.suffix == ".safetensors":
            shutil.copyfile(origin, weights)  # the very bytes, so that their digest is the one people know
        else:
            models.save(weights, state, models.ModelSpec(architecture=architecture, config=config, family=family))
        stored = StoredModel(architecture=architecture, config=config, factory=factory,
                             weights=StoredFile.of(weights),
                             interface=_interface(source, spec.classes if spec else (), family,
                                                  self._own(field, architecture, config), self.hidden))
        return stored, spec.family if spec and source.architecture is None else None

    def _own(self, field: str, architecture: str, config: dict[str, Any]) -> Interface | None:
        from expunge import models

        try:
            return models.own_interface(architecture, config)
        except BadInput as error:
            raise BadInput(f"{field}: {error.problem}", error.remedy) from error

    def _factory(self, field: str, source: ModelSource, folder: Path, name: str) -> StoredFile | None:
        """A copy of the user's code as it is now: the one that the digest names, whatever becomes of the original."""
        origin = sources.factory_file(field, source)
        if origin is None:
            return None
        return StoredFile.of(Path(shutil.copyfile(origin, folder / name)))


def _interface(source: ModelSource, names: tuple[str, ...], family: str, own: Interface | None,
               hidden: Hidden | None) -> Interface:
    """How the model is spoken to: as the request declares, else as ours are; classes by its file's names, if any.

    Models that are compared complete the same, so that what is `hidden` is said once, of the parent. What the model
    says of itself (`own`) stands where the request is silent. Where it is not, the trial compares.
    """
    own = own or Interface()
    said = Interface(range=source.range or own.range, channels=source.channels)
    if isinstance(source, DiscriminatorSource):
        return said.model_copy(update={"output": source.output})
    assert isinstance(source, ParentSource | ClassifierSource)
    if isinstance(source, ParentSource) and family == "gan":
        return said.model_copy(update={"latent": source.latent, "latent_distribution": source.latent_distribution,
                                       "output": source.discriminator_output})
    if isinstance(source, ParentSource) and family == "flow":
        return said.model_copy(update={"bits": source.bits or own.bits})
    if isinstance(source, ParentSource) and family == "image_to_image":
        return said.model_copy(update={"hidden": hidden or Hidden()})
    return said.model_copy(update={"output": source.output, "classes": source.classes or names,
                                   "features": source.features})
