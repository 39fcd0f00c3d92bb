"""An oracle and a judge for somebody who has none: trained on labelled images, and examined on others.

The images are divided three ways: one part teaches the oracle, one the judge, and one examines both. They are
networks of different architecture that share no image, so that they do not share their mistakes. Nothing is
written before all of it is there, and then file by file, each in one step: killed, the command leaves no half
of a file. It does not continue where it was; training takes minutes.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from expunge.contracts import Compute, DataSource, Measurement, StoredFile, shorten, write_record
from expunge.digests import write_atomically
from expunge.errors import BadInput, out_of_space
from expunge.events import Event
from expunge.measure.proportions import Estimate, rate
from expunge.measure.screening import (
    ClassScreening,
    Confusion,
    accuracy,
    confusion,
    doubts,
    screen_each,
    worst,
)
from expunge.samples.splits import Division, divide
from expunge.samples.table import SampleTable, from_pixels
from expunge.settings import Workspace
from expunge.stores import sources
from pipelines.display import Display

if TYPE_CHECKING:
    from expunge.models.cards import ClassifierCard, Role
    from expunge.models.supervised import Labelled, Trained

Architecture = Literal["lenet", "resnet"]
ROLES: tuple["Role", "Role"] = ("oracle", "judge")
SHARES = {"oracle": 0.34, "oracle validation": 0.06, "judge": 0.34, "judge validation": 0.06, "holdout": 0.2}
FEWEST_PER_CLASS = 50  # leaves ten to examine a class with; fewer say next to nothing
SMALLEST = 8  # pixels a side


@dataclass(frozen=True)
class Wanted:
    """What the command was asked for."""

    images: str
    oracle: Path
    judge: Path
    holdout: Path | None
    architecture: Architecture  # of the oracle; the judge gets the other
    epochs: int | None
    seed: int
    threads: int
    force: bool


@dataclass(frozen=True)
class Examined:
    """A trained classifier and what it did on the images that were held out."""

    trained: "Trained"
    counts: Confusion
    log_loss: float
    overlooked: Estimate
    compute: Compute


def train_oracle_and_judge(wanted: Wanted, workspace: Workspace, console: Console) -> dict[str, "ClassifierCard"]:
    """Trains and examines both, then writes weights, cards and held-out images. Returns the cards by role.

    Raises:
        BadInput: the images or a place to write to cannot be used.
        NonFiniteLoss: training diverged; nothing was written.
    """
    _refuse_outputs(wanted)
    with console.status("reading the images"):
        found = sources.images("IMAGES", DataSource(uri=wanted.images), workspace)
        pixels, labels = found.table.pixels, found.table.labels
        classes = found.classes or _numbers_as_names(labels)
        del found  # four times as large as the stored pixels
        division = divide(pixels, labels, SHARES, wanted.seed)
    _refuse_unfit(pixels.shape[1:], labels, classes, division)

    from expunge.models.supervised import Labelled

    parts = {name: Labelled(pixels[rows], labels[rows]) for name, rows in division.parts.items()}
    with Display(console) as display:
        made = {role: _train(role, wanted, parts, len(classes), display) for role in ROLES}
    if wanted.holdout is not None:
        table = SampleTable(from_pixels(parts["holdout"].pixels), parts["holdout"].labels)
        write_atomically(wanted.holdout, table.to_parquet(classes))
    return {role: _write(role, wanted, examined, classes, parts, division) for role, examined in made.items()}


def card_beside(weights: Path) -> Path:
    """Where the card of a classifier lies."""
    return weights.with_suffix(".json")


def architecture_of(role: "Role", wanted: Wanted) -> Architecture:
    """The oracle's is as asked for, the judge's is the other."""
    if role == "oracle":
        return wanted.architecture
    return "lenet" if wanted.architecture == "resnet" else "resnet"


def _train(role: "Role", wanted: Wanted, parts: Mapping[str, "Labelled"], classes: int, display: Display) -> Examined:
    import torch

    from expunge.methods.training import Session
    from expunge.models.supervised import log_loss, log_probabilities, logits, train
    from expunge.samples.labels import WANTED_BELOW

    class Shown(Session):
        """A session that shows its progress."""

        def report(self, step: int, total: int, **scalars: float) -> None:
            display(Event(room=role, kind="progress", step=step, total=total, scalars=scalars))

    began = time.monotonic()
    session = Shown(wanted.seed, wanted.threads, "cuda" if torch.cuda.is_available() else "cpu")
    trained = train(architecture_of(role, wanted), parts[role], parts[f"{role} validation"], classes, wanted.epochs,
                    session)
    held_out = parts["holdout"]
    scores = logits(trained.model, held_out.pixels)
    of_own_class = np.exp(log_probabilities(scores, held_out.labels))
    display(Event(room=role, kind="finished", seconds=time.monotonic() - began))
    return Examined(
        trained, confusion(held_out.labels, scores.argmax(1), classes), log_loss(scores, held_out.labels),
        rate(of_own_class < WANTED_BELOW), session.compute())


def _write(role: "Role", wanted: Wanted, examined: Examined, classes: tuple[str, ...],
           parts: Mapping[str, "Labelled"], division: Division) -> "ClassifierCard":
    """Writes the weights, and beside them the card that names their digest."""
    from expunge.models import ModelSpec, save
    from expunge.models.cards import ClassifierCard

    target, architecture = _outputs(wanted)[role], architecture_of(role, wanted)
    save(target, examined.trained.model.state_dict(), ModelSpec(
        architecture=architecture, config=dict(examined.trained.config), family="classifier", classes=classes))
    channels, rows, columns = parts["holdout"].pixels.shape[1:]
    card = ClassifierCard(
        role=role, weights=StoredFile.of(target), architecture=architecture, config=examined.trained.config,
        classes=classes, image_shape=(channels, rows, columns), data_sha256=division.sha256,
        duplicates=division.duplicates, contradictory=division.contradictory,
        splits={name: dict(zip(classes, np.bincount(part.labels, minlength=len(classes)).tolist(), strict=True))
                for name, part in parts.items()},
        seed=wanted.seed, epochs=examined.trained.epochs, kept=examined.trained.kept, compute=examined.compute,
        accuracy=accuracy(examined.counts), log_loss=examined.log_loss,
        overlooked=Measurement(name="overlooked", estimate=examined.overlooked.value,
                               interval=examined.overlooked.interval, n=examined.overlooked.n),
        screening=screen_each(examined.counts, classes), confusion=examined.counts)
    write_record(card_beside(target), card)
    return card


# --------------------------------------------------------------------------------- what cannot be used


def _outputs(wanted: Wanted) -> dict[str, Path]:
    outputs = {"oracle": wanted.oracle, "judge": wanted.judge}
    return outputs | ({"holdout": wanted.holdout} if wanted.holdout is not None else {})


def _refuse_outputs(wanted: Wanted) -> None:
    """Asked before anything is read: nobody should train for minutes and then have nowhere to put it."""
    taken: dict[Path, str] = {}
    for name, target in _outputs(wanted).items():
        suffix = ".parquet" if name == "holdout" else ".safetensors"
        if target.suffix != suffix:
            raise BadInput(f"--{name}: {_shown(target)} does not end in {suffix}", f"call it {name}{suffix}")
        for file in (target,) if name == "holdout" else (target, card_beside(target)):
            other = taken.setdefault(file.resolve(), name)
            if other != name:
                raise BadInput(f"--{name}: {_shown(file)} is also what --{other} writes", "give each a name of its own")
            if file.is_dir():
                raise BadInput(f"--{name}: {_shown(file)} is a folder", "name a file")
            if file.exists() and not wanted.force:
                raise BadInput(f"--{name}: {_shown(file)} is there already",
                               "choose another name, or give --force to replace it")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        except OSError as error:
            if out_of_space(error):
                raise
            raise BadInput(f"--{name}: cannot write to {_shown(target.parent)} ({error.strerror})",
                           "choose another folder, or see to its permissions") from None


def _numbers_as_names(labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Classes that have no names are called by their numbers, which must leave no gap."""
    present = np.unique(labels)
    gap = next((number for number, label in enumerate(present) if label != number), None)
    if gap is not None:
        raise BadInput(f"IMAGES: no image has class {gap}, but some have class {present[gap]}",
                       "number the classes from 0 without a gap, or give them names")
    return tuple(str(label) for label in present)


def _refuse_unfit(shape: tuple[int, ...], labels: NDArray[np.int64], classes: tuple[str, ...],
                  division: Division) -> None:
    counts = np.sum([np.bincount(labels[rows], minlength=len(classes)) for rows in division.parts.values()], axis=0)
    if min(shape[1:]) < SMALLEST:
        raise BadInput(f"IMAGES: {shape[2]}×{shape[1]} pixels", f"use images of at least {SMALLEST}×{SMALLEST}")
    if len(classes) < 2:
        raise BadInput(f"IMAGES: there is one class only, {shorten(classes[0])}",
                       "add images of what is to be told from it, under another label")
    fewest = int(counts.argmin())
    if counts[fewest] < FEWEST_PER_CLASS:
        left_out = division.duplicates + division.contradictory
        among = f" ({left_out} equal or contradictory images are not counted)" if left_out else ""
        raise BadInput(f"IMAGES: class {shorten(classes[fewest])} has {counts[fewest]} different images{among}",
                       f"at least {FEWEST_PER_CLASS} are needed: {SHARES['holdout']:.0%} of them are held out")


def _shown(path: Path) -> str:
    return shorten(str(path))


# ------------------------------------------------------------------------------------ what a person reads


def warnings(cards: Mapping[str, "ClassifierCard"]) -> Iterator[str]:
    """What should make somebody hesitate before they rely on the two."""
    any_card = next(iter(cards.values()))
    if any_card.duplicates:
        yield f"{any_card.duplicates} images left out: equal ones are there"
    if any_card.contradictory:
        yield f"{any_card.contradictory} images left out: equal ones have another label"
    for role, card in cards.items():
        for doubt in doubts(card.screening):
            yield f"{role}: {doubt}"


def as_json(wanted: Wanted, cards: Mapping[str, "ClassifierCard"]) -> dict[str, Any]:
    """Where everything lies, and the numbers of the cards."""
    outputs = _outputs(wanted)
    return {
        **{role: {"path": str(outputs[role]), "card": str(card_beside(outputs[role])), "worst": _worst(card).name,
                  **card.model_dump(mode="json", by_alias=True)} for role, card in cards.items()},
        "holdout": str(wanted.holdout) if wanted.holdout is not None else None,
        "warnings": list(warnings(cards)),
    }


def show(out: Console, wanted: Wanted, cards: Mapping[str, "ClassifierCard"]) -> None:
    """A line per class, then what matters of it."""
    outputs = _outputs(wanted)
    for role, card in cards.items():
        table = Table(box=None, header_style="dim", title=f"{role}, a {card.architecture}", title_justify="left")
        for heading in ("class", "held out", "sensitivity", "specificity"):
            table.add_column(heading, overflow="fold", justify="left" if heading == "class" else "right")
        for found in card.screening:
            table.add_row(escape(found.name), str(found.sensitivity.n), _percent(found.sensitivity),
                          _percent(found.specificity))
        worst_of_it = _worst(card)
        out.print(table)
        out.print(f"accuracy {_percent(card.accuracy)}; worst class {escape(worst_of_it.name)}, seen in "
                  f"{_percent(worst_of_it.sensitivity)}\n{escape(str(outputs[role]))}\n",
                  highlight=False, soft_wrap=True)
    if wanted.holdout is not None:
        out.print(f"{escape(str(wanted.holdout))}  {cards['judge'].accuracy.n:,} images that neither has seen",
                  highlight=False, soft_wrap=True)
    for line in warnings(cards):
        out.print(f"[yellow]![/] {escape(line)}", highlight=False, soft_wrap=True)


def _worst(card: "ClassifierCard") -> ClassScreening:
    found = worst(card.screening)
    assert found is not None  # every class has held-out images, or training was refused
    return found


def _percent(measured: Measurement) -> str:
    if measured.estimate is None or measured.interval is None:
        return f"not measured: {measured.missing}"
    return f"{measured.estimate:.1%} ({measured.interval.lower:.1%} to {measured.interval.upper:.1%})"
