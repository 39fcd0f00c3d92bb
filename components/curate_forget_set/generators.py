"""The sample sets of a request about a generator: what it draws, as the oracle or a person sorts it.

What the oracle is unsure of goes into neither set: a wrong negative teaches the method to lose the wrong thing. The
oracle is tried first on the held-out images, whose labels are known.

What earlier requests made the checkpoint forget is in neither set. It is not to be kept; and the little of it that is
still drawn is about what an oracle errs by, from which a method would learn to lose something else. The sets say
which classes these are, so that whoever guides the training keeps them away.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.curate_forget_set.labelled import Mask, refuse_other_shape
from expunge.contracts import Checkpoint, DataSource, Interval, Request, SampleRole, read_record
from expunge.digests import sha256_file
from expunge.errors import BadInput, NotNeeded
from expunge.evidence.coherence import read_policy
from expunge.measure.policy import rules_for
from expunge.measure.proportions import clopper_pearson
from expunge.room import Entered
from expunge.samples import UNKNOWN, NewSampleSet, SampleTable, renumbered
from expunge.samples.labels import FEWEST_NEGATIVES, by_probability
from expunge.samples.marked import labels_of
from expunge.settings import Workspace
from expunge.stores import sources
from expunge.stores.addresses import scheme

if TYPE_CHECKING:
    from expunge.models import Classifier, Gan
    from expunge.samples.images import LabelledImages

COIN = 0.5  # an oracle that is certainly right less often than this says nothing
BATCH = 500
DRAWS = "the generator draws"


def sets_of_generator(entered: Entered, wanted: Request, parent: "Gan", checkpoint: Path, oracle: Path,
                      policy: Path) -> list[NewSampleSet]:
    """What it draws, sorted; the held-out images; and of the other real ones those that the request names.

    Raises:
        BadInput: the request matches nothing that it draws or was labelled, or too little; the oracle is worse than a
            coin on real images; the images are of another size than those drawn.
        NotNeeded: it draws less of the unwanted than the policy allows a candidate.
    """
    asked = _Oracle.open(oracle, wanted, parent.image_shape)
    held = sources.images("holdout", wanted.holdout, entered.workspace)
    refuse_other_shape("holdout", held.table, parent.image_shape, DRAWS)
    real = dict(_real_sets(wanted, asked, entered.workspace, parent.image_shape))
    held_unwanted = np.isin(renumbered(held.table.labels, held.classes, asked.names), asked.unwanted)
    sensitivity = asked.tried_on(held.table, held_unwanted)

    drawn = draw(parent, wanted.sampling.curate, wanted.seed)
    said = _ask_person(wanted.labels, asked, drawn, entered.workspace) if wanted.labels else asked.sort(drawn.images)
    if wanted.labels is None:  # a person labels what they please: no rate follows from it
        _stop_if_not_needed(said, sensitivity, policy)
    _refuse_too_few(said, wanted)
    entered.note(f"{_count_of(said, asked)} unwanted and {int(said.wanted.sum())} wanted of {len(drawn)} drawn")

    labelled = SampleTable(drawn.images, said.labels, drawn.latents)
    judged_by = (("labels", sources.digest("labels", wanted.labels, entered.workspace)) if wanted.labels else
                 ("oracle", sha256_file(oracle / "record.json")))
    made_from = dict([("checkpoint", sha256_file(checkpoint / "record.json")), judged_by])
    held_classes = tuple(int(number) for number in np.unique(held.table.labels[held_unwanted]))
    return [
        NewSampleSet("negative", labelled[said.unwanted], made_from, asked.unwanted, asked.names, asked.earlier),
        NewSampleSet("positive", labelled[said.wanted], made_from, asked.unwanted, asked.names, asked.earlier),
        NewSampleSet("holdout", held.table, {"source": sources.digest("holdout", wanted.holdout, entered.workspace)},
                     held_classes, held.classes),
        *(real[role] for role in ("forget", "retain", "members") if role in real)]


def _real_sets(request: Request, asked: "_Oracle", workspace: Workspace,
               drawn: tuple[int, int, int]) -> Iterator[tuple[SampleRole, NewSampleSet]]:
    """The sets made of real images that the request names beside the holdout, by their labels."""
    if request.training is not None:
        chosen = _RealImages.open("training", request.training, asked, workspace, drawn)
        yield "forget", chosen.of("forget", chosen.unwanted)
        if not chosen.wanted.any():
            raise BadInput("training: every image is of an unwanted class", "add images of what is to stay")
        yield "retain", chosen.of("retain", chosen.wanted)
    if request.members is not None:
        chosen = _RealImages.open("members", request.members, asked, workspace, drawn)
        yield "members", chosen.of("members", chosen.unwanted)


@dataclass(frozen=True)
class _RealImages:
    """Labelled images of a request, which of them are of an unwanted class, and which of none, now or before."""

    found: "LabelledImages"
    unwanted: Mask
    wanted: Mask
    digest: str

    @classmethod
    def open(cls, field: str, wanted: DataSource, asked: "_Oracle", workspace: Workspace,
             drawn: tuple[int, int, int]) -> "_RealImages":
        found = sources.images(field, wanted, workspace)
        refuse_other_shape(field, found.table, drawn, DRAWS)
        numbers = renumbered(found.table.labels, found.classes, asked.names)
        unwanted = np.isin(numbers, asked.unwanted)
        if not unwanted.any():
            raise BadInput(f"{field}: no image is of an unwanted class",
                           "name training images of what is to be forgotten")
        return cls(found, unwanted, ~np.isin(numbers, asked.unwanted + asked.earlier),
                   sources.digest(field, wanted, workspace))

    def of(self, role: SampleRole, chosen: Mask) -> NewSampleSet:
        numbers = tuple(int(number) for number in np.unique(self.found.table.labels[self.unwanted]))
        return NewSampleSet(role, self.found.table[chosen], {"source": self.digest}, numbers, self.found.classes)


def draw(parent: "Gan", count: int, seed: int) -> SampleTable:
    """Samples of the parent, from latents that the request's seed decides; labels are not known yet."""
    import torch

    latents = parent.draw_latents(count, torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        images = [parent(batch) for batch in latents.split(BATCH)]
    return SampleTable(torch.cat(images).numpy(), np.full(len(latents), UNKNOWN), latents.numpy())


# ------------------------------------------------------------------------------- who says what is unwanted


@dataclass(frozen=True)
class _Said:
    """What was said of each of n drawn samples; a sample may be in neither mask."""

    unwanted: Mask  # [n]
    wanted: Mask  # [n]
    labels: NDArray[np.int64]  # [n] by the oracle's numbers


def probabilities_of(oracle: "Classifier", images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What an oracle gives to each of its classes [n, K] for images [n, C, H, W] in [-1, 1]."""
    import torch

    with torch.inference_mode():
        parts = [oracle(batch).softmax(1) for batch in torch.from_numpy(images).split(BATCH)]
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


@dataclass(frozen=True)
class _Oracle:
    """A classifier, and which of its classes are unwanted, by this request and by earlier ones."""

    model: "Classifier"
    names: tuple[str, ...]  # of its classes, or empty
    count: int  # of its classes
    unwanted: tuple[int, ...]
    earlier: tuple[int, ...]

    @classmethod
    def open(cls, folder: Path, request: Request, image_shape: tuple[int, int, int]) -> "_Oracle":
        import torch

        from expunge import models

        record = read_record(Checkpoint, folder)
        model = models.load_recorded(folder, record)
        assert isinstance(model, models.Classifier)  # fetch_checkpoint has seen to that
        with torch.inference_mode():
            count = model(torch.zeros(1, *image_shape)).shape[1]
        names = record.interface.classes
        return cls(model, names, count, request.forget.numbers("the oracle", names, count),
                   request.forget.earlier_numbers("the oracle", names, count))

    def sort(self, images: NDArray[np.float32]) -> _Said:
        """What it says of images [n, C, H, W] in [-1, 1]."""
        probabilities = probabilities_of(self.model, images)
        unwanted, wanted = by_probability(probabilities, self.unwanted, self.earlier)
        return _Said(unwanted, wanted, probabilities.argmax(1))

    def tried_on(self, real: SampleTable, unwanted: Mask) -> Interval | None:
        """How often it sees what is unwanted in real images; None if there are none. BadInput if it is blind."""
        sees = self.sort(real.images).unwanted
        hits, misses = int(sees[unwanted].sum()), int(sees[~unwanted].sum())
        with_it, without = int(unwanted.sum()), int((~unwanted).sum())
        remedy = "bring another oracle, or check forget.classes, oracle.range and oracle.classes"
        if with_it and clopper_pearson(hits, with_it).upper < COIN:
            raise BadInput(f"oracle: it sees the unwanted in {hits} of {with_it} held-out images that show it", remedy)
        if without and clopper_pearson(misses, without).lower > COIN:
            raise BadInput(f"oracle: it sees the unwanted in {misses} of {without} held-out images of other classes",
                           remedy)
        return clopper_pearson(hits, with_it) if with_it else None


def _ask_person(labels: DataSource, asked: _Oracle, drawn: SampleTable, workspace: Workspace) -> _Said:
    """What a person said of drawn samples, in the console or in a file; what they said nothing of is unsure."""
    file = sources.model_file("labels", labels, workspace)
    found = (labels_of(workspace, file, drawn, asked.count) if scheme(labels.uri) == sources.MARKED
             else _listed(file, asked, len(drawn)))
    unwanted, lost = (np.isin(found, classes) for classes in (asked.unwanted, asked.unwanted + asked.earlier))
    return _Said(unwanted, (found != UNKNOWN) & ~lost, found)


def _listed(file: Path, asked: _Oracle, count: int) -> NDArray[np.int64]:
    """Labels [count] from a CSV file with the columns `index` (of the draw) and `label`."""
    labels = np.full(count, UNKNOWN)
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            for line, row in enumerate(csv.DictReader(lines), start=2):
                index, label = _one_label(row, line, asked)
                if not 0 <= index < count:
                    raise BadInput(f"labels: line {line} names sample {index}, {count} were drawn",
                                   "label the samples of this request's draw")
                labels[index] = label
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"labels: {file.name} is not a CSV file ({error})", "write it as UTF-8 text") from None
    return labels


def _one_label(row: dict[str, str], line: int, asked: _Oracle) -> tuple[int, int]:
    try:
        index, label = int(row["index"]), row["label"].strip()
        number = asked.names.index(label) if label in asked.names else int(label)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput(f"labels: line {line} has no whole number 'index' and known class 'label'",
                       "write a CSV file with these two columns") from None
    if not 0 <= number < asked.count:
        raise BadInput(f"labels: line {line} names class {number}, the oracle knows 0 to {asked.count - 1}",
                       "correct the label")
    return index, number


def _count_of(said: _Said, asked: _Oracle) -> str:
    """How many are unwanted, by class where there are several."""
    total = str(int(said.unwanted.sum()))
    if len(asked.unwanted) == 1:
        return total
    of = {number: int((said.labels[said.unwanted] == number).sum()) for number in asked.unwanted}
    return f"{total} ({', '.join(f'{asked.names[k] if asked.names else k}: {n}' for k, n in of.items())})"


# -------------------------------------------------------------------------------------- when not to go on


def _stop_if_not_needed(said: _Said, sensitivity: Interval | None, policy: Path) -> None:
    """NotNeeded if what the parent draws already lies under the policy's limit, missed samples included.

    The bound is the exact one of what was seen, divided by the least share that the oracle sees of real ones.
    Without real ones nothing is known of what it misses, and the run goes on.
    """
    limits = [rule for rule in rules_for(read_policy(policy), "gan") if rule.metric == "residual_rate"]
    if not limits or sensitivity is None or sensitivity.lower == 0:
        return
    hits, n = int(said.unwanted.sum()), len(said.unwanted)
    most = clopper_pearson(hits, n, limits[0].confidence).upper / sensitivity.lower
    if most <= limits[0].limit:
        raise NotNeeded(f"the model does not need it: {hits} of {n} samples show the unwanted, at most {most:.2%}, "
                        f"the policy allows {limits[0].limit:.2%}".replace("%", " %"), "nothing was changed")


def _refuse_too_few(said: _Said, request: Request) -> None:
    unwanted, wanted, drawn = int(said.unwanted.sum()), int(said.wanted.sum()), len(said.unwanted)
    if unwanted == 0:
        raise BadInput(f"forget.classes: none of {drawn} samples is unwanted",
                       "the model does not draw it: check the classes, or draw more (sampling.curate)")
    if unwanted < FEWEST_NEGATIVES:
        raise BadInput(f"sampling.curate: only {unwanted} of {drawn} samples are unwanted, not {FEWEST_NEGATIVES}",
                       f"draw at least {drawn * FEWEST_NEGATIVES // unwanted + 1}")
    if wanted < FEWEST_NEGATIVES:
        raise BadInput(f"forget.classes: only {wanted} of {drawn} samples are clearly wanted",
                       "ask for less to be forgotten: a model needs something to keep")
