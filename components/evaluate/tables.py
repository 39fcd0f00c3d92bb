"""What travels beside the report as data: per-sample scalars in Parquet, features in a file of their own.

Enough to recompute every number, and no picture. Nothing here is of a member: only how near it came, not what
it is. What was answered (classes, hits, found or not) also stands beside each table as CSV, for a reader without any
library: counts, and all that is made of counts, can be had from there.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.evaluate.evidence import ClassifierEvidence, Evidence, Membership, Relearning, Seen
from components.evaluate.evidence_of_completions import Completed, CompletionEvidence, Completions
from components.evaluate.evidence_of_flows import Compared, FlowEvidence, Likely
from components.evaluate.probes.is_it_still_told_apart import nearest
from components.evaluate.probes.is_it_unlikely import measured_by
from expunge.errors import BadInput
from expunge.measure.likelihoods import OUTLYING, UNLIKELY

SCORES, REAL, SEARCH, RELEARNING, MEMBERSHIP, FEATURES, FEATURES_FORGET, PREDICTIONS, LIKELIHOODS, COMPLETIONS = (
    "scores.parquet", "real.parquet", "search.parquet", "relearning.parquet", "membership.parquet",
    "features.safetensors", "features_forget.safetensors", "predictions.parquet", "likelihoods.parquet",
    "completions.parquet")  # only the first of the features may leave the house: of what is to stay, and of samples
ANSWERS = ".csv"  # how the name of a table ends that holds what was answered, and no more


def write_tables(folder: Path, evidence: Evidence, worn: Seen | None = None) -> None:
    """Writes a report's data files; one whose question was not asked is not there. `worn` are samples of a control."""
    before, after = evidence.before, evidence.after
    _write_answered(folder / SCORES, {
        "latent": np.arange(len(after.classes), dtype=np.int64),
        "class_before": before.classes.astype(np.int16), "class_after": after.classes.astype(np.int16),
        "unwanted_before": before.unwanted, "unwanted_after": after.unwanted,
        "confidence_before": before.confidence, "confidence_after": after.confidence})
    _write_answered(folder / REAL, {
        "label": evidence.real.labels.astype(np.int16), "class": evidence.real.seen.classes.astype(np.int16),
        "confidence": evidence.real.seen.confidence})
    searches = [(model, found) for model, found in (("candidate", evidence.search), ("parent", evidence.search_before))
                if found is not None]
    if searches:
        _write_answered(folder / SEARCH, {
            "model": np.repeat([model for model, _ in searches], [len(found.found) for _, found in searches]),
            "at_start": np.concatenate([found.at_start for _, found in searches]),
            "found": np.concatenate([found.found for _, found in searches]),
            "unwanted": np.concatenate([found.unwanted for _, found in searches])})
    if evidence.relearnings:
        _write_answered(folder / RELEARNING, _relearning(evidence.relearnings))
    if evidence.membership is not None:
        _write(folder / MEMBERSHIP, _membership(evidence.membership))
    _write_features(folder / FEATURES, evidence, worn)


def write_classifier_tables(folder: Path, evidence: ClassifierEvidence) -> None:
    """Writes a classifier's data files: one row per held-out image, and one per image that membership was asked of.

    What the reference and the first model of a chain say of the same images stands in columns of their own, if there
    are such. `nearest_...` is the class of the nearest prototype, -1 for an image that was not asked about.
    """
    before, after, reference = evidence.before, evidence.after, evidence.reference
    columns: dict[str, ArrayLike] = {
        "label": before.labels.astype(np.int16),
        "class_before": before.classes.astype(np.int16), "class_after": after.classes.astype(np.int16),
        "class_masked": before.retained.astype(np.int16),
        "loss_before": before.losses, "loss_after": after.losses}
    if reference is not None:
        columns |= {"class_reference": reference.classes.astype(np.int16), "loss_reference": reference.losses}
    if evidence.origin is not None:
        columns["class_origin"] = evidence.origin.classes.astype(np.int16)
    for ending, answers in (("before", before), ("after", after), ("reference", reference)):
        if answers is not None:
            with suppress(BadInput):  # the probe says why there are none
                columns[f"nearest_{ending}"] = nearest(answers, evidence.unwanted).astype(np.int16)
    _write_answered(folder / PREDICTIONS, columns)
    if evidence.relearnings:
        _write_answered(folder / RELEARNING, _relearning(evidence.relearnings))
    if evidence.membership is not None:
        of_reference = evidence.reference_membership
        _write(folder / MEMBERSHIP, _membership(evidence.membership) | (
            {"score_reference": _membership(of_reference)["score"]} if of_reference is not None else {}))


def write_flow_tables(folder: Path, evidence: FlowEvidence) -> None:
    """Writes a flow's data files: one row per image that was asked about, and what a generator has of its samples.

    `likelihoods.parquet` says of each image which set it is of (`noise`, `worn` and `again` are those of the controls,
    of which only the parent was asked), its class, whether it is a held-out image of the rest and a neighbour of an
    image to forget, and, by each flow, its bits per dimension and their standard error over points; NaN where a flow
    was not asked. Whether parent and candidate find it unlikely, or so far out that it stands out, is counted as well.
    """
    if evidence.drawn is not None:
        write_tables(folder, evidence.drawn, evidence.ruined.draws)
    if evidence.membership is not None:
        _write(folder / MEMBERSHIP, _membership(evidence.membership))
    rest = evidence.held_out.labels[evidence.kept]
    never, first = evidence.never or (None, None), evidence.first
    noise = np.full(len(evidence.ruined.noise), -1)
    rows: tuple[tuple[str, NDArray[np.int64], dict[str, Likely | None]], ...] = (
        ("forget", evidence.forget.labels, _sides(evidence.forget, never[0])),
        ("retain", evidence.retain.labels, _sides(evidence.retain, never[1], evidence.first_retain)),
        ("holdout", evidence.held_out.labels, _sides(evidence.held_out, None, first)),
        ("noise", noise, {"before": evidence.ruined.noise}), ("worn", rest, {"before": evidence.ruined.worn}),
        ("again", rest, {"before": evidence.ruined.again}))
    columns: dict[str, ArrayLike] = {
        "set": np.concatenate([np.repeat(name, len(labels)) for name, labels, *_ in rows]),
        "label": np.concatenate([labels for _, labels, *_ in rows]).astype(np.int16),
        **{name: np.concatenate([found if role == "holdout" else np.zeros(len(labels), np.bool_)
                                 for role, labels, *_ in rows])
           for name, found in (("rest", evidence.kept), ("neighbour", evidence.near))}}
    asked = ("before", "after", *(("never_exposed",) if evidence.never else ()), *(("origin",) if first else ()))
    for ending in asked:
        found = [(each[2].get(ending), len(each[1])) for each in rows]
        columns[f"bits_{ending}"], columns[f"error_{ending}"] = (np.concatenate([
            np.full(count, np.nan) if likely is None else getattr(likely, field) for likely, count in found])
            for field in ("bits", "errors"))
    for ending, retain in (("before", evidence.retain.before), ("after", evidence.retain.after)):
        with suppress(BadInput):  # the probe says why there are none
            z = measured_by(retain).z(columns[f"bits_{ending}"])
            columns |= {f"unlikely_{ending}": z >= UNLIKELY, f"outlying_{ending}": z >= OUTLYING}
    _write_answered(folder / LIKELIHOODS, columns)


def _sides(found: Compared, never: Likely | None, first: Likely | None = None) -> dict[str, Likely | None]:
    return {"before": found.before, "after": found.after, "never_exposed": never, "origin": first}


def write_completion_tables(folder: Path, evidence: CompletionEvidence) -> None:
    """Writes an image-to-image model's data files: one row per image that was completed.

    `completions.parquet` says of each which set it is of, its number there and its class, and, of the image as it is,
    of what was shown with noise in the hole, and of each completion, what the judge took it for (-1: it was no
    numbers), its hidden error and its spread. Columns of controls are of the sets that they are about; -1 and NaN
    elsewhere. Features and the judge's probabilities are in files of their own: those of the rest, and those of the
    images to forget.
    """
    from safetensors.numpy import save_file

    sets = {"forget": evidence.forget, "held-out unwanted": evidence.alike, "rest": evidence.rest,
            "earlier": evidence.before}
    controls = {"other_noise": ("forget", evidence.noise_again), "again": ("rest", evidence.parent_again)}
    columns: dict[str, ArrayLike] = {
        "set": np.repeat(list(sets), [len(found) for found in sets.values()]),
        "number": np.concatenate([found.numbers for found in sets.values()]).astype(np.int64),
        "label": np.concatenate([found.labels for found in sets.values()]).astype(np.int16)}
    for name in ("image", "shown", "before", "after", *evidence.forget.more):
        parts = [_filled_so(found, name) for found in sets.values()]
        columns[f"class_{name}"] = np.concatenate([part.classes for part in parts]).astype(np.int16)
        if name != "image":
            columns[f"error_{name}"] = np.concatenate([part.errors for part in parts])
            columns[f"spread_{name}"] = np.concatenate([part.spreads for part in parts])
    for name, (role, some) in controls.items():
        first = sum(len(found) for found in list(sets.values())[:list(sets).index(role)])
        rows = slice(first, first + len(some))
        classes, errors = np.full(len(columns["label"]), -1, np.int16), np.full(len(columns["label"]), np.nan)  # type: ignore[arg-type]
        classes[rows], errors[rows] = some.classes, some.errors
        columns |= {f"class_{name}": classes, f"error_{name}": errors}
    _write_answered(folder / COMPLETIONS, columns)
    for role, file in (("rest", FEATURES), ("forget", FEATURES_FORGET)):
        arrays = {f"{role}.{name}{ending}": getattr(_filled_so(sets[role], name), attribute)
                  for name in ("image", "shown", "before", "after")
                  for ending, attribute in (("", "features"), (".probabilities", "probabilities"))
                  if name in ("before", "after") or attribute == "features"}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / file)
    if evidence.membership is not None:
        _write(folder / MEMBERSHIP, _membership(evidence.membership))
    if evidence.relearnings:
        looks = [(taught.model, taught.repeat, step, loss, taught.start, taught.goal) for taught in evidence.relearnings
                for step, loss in zip(taught.steps, taught.losses, strict=True)]
        names = ("model", "repeat", "step", "loss", "start", "goal")
        _write(folder / RELEARNING, dict(zip(names, map(list, zip(*looks, strict=True)), strict=True)))


def _filled_so(asked: Completions, name: str) -> Completed:
    found: Completed = asked.more[name] if name in asked.more else getattr(asked, name)
    return found


def _relearning(found: tuple[Relearning, ...]) -> dict[str, ArrayLike]:
    rows = [(taught.model, taught.repeat, step, hits, taught.n) for taught in found
            for step, hits in zip(taught.steps, taught.hits, strict=True)]
    names = ("model", "repeat", "step", "hits", "n")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _membership(found: Membership) -> dict[str, ArrayLike]:
    sides = (found.members, found.others)
    return {"member": np.repeat([True, False], [len(side) for side in sides]), "score": np.concatenate(sides)}


def _write(file: Path, columns: dict[str, ArrayLike]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), file)


def _write_answered(file: Path, columns: dict[str, ArrayLike]) -> None:
    """The table, and beside it as CSV those of its columns that are counted: whole numbers, yes or no (1 or 0), words.

    Which image or latent a row is of does not count.
    """
    _write(file, columns)
    arrays = {name: np.asarray(values) for name, values in columns.items() if name not in ("latent", "number")}
    counted = {name: array.astype(np.int64) if array.dtype.kind in "bi" else array
               for name, array in arrays.items() if array.dtype.kind in "biU"}
    rows = zip(*(array.tolist() for array in counted.values()), strict=True)
    lines = (",".join(map(str, row)) for row in (counted, *rows))
    file.with_suffix(ANSWERS).write_text("\n".join(lines) + "\n")


def _write_features(file: Path, evidence: Evidence, worn: Seen | None) -> None:
    """The features that distances were computed from, and only those: retained samples, retained images."""
    from safetensors.numpy import save_file

    compared = evidence.of_fixed_size
    arrays: dict[str, Any] = {"real": compared.real_retained.seen.features, "real.label": compared.real_retained.labels}
    for name, seen in (("before", compared.before), ("after", compared.after), ("origin", compared.origin),
                       ("worn", worn)):
        if seen is None:
            continue
        kept = np.flatnonzero(compared.kept(seen))
        arrays |= {name: seen.features[kept], f"{name}.latent": kept}
    if compared.reference is not None:
        arrays["reference"] = compared.reference.features
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, file)
