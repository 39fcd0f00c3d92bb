"""What the console asks workers for: walls of samples or of images, drawn here, where torch is."""

import base64
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.errors import BadInput
from expunge.samples import SampleTable
from expunge.settings import Workspace
from expunge.stores import sources
from expunge.stores.walls import ABOUT_FILE, MOST, PER_SHEET, SAMPLES_FILE, About, WallOrder, Walls, sheet_file

COLUMNS = 25  # of a sheet
LARGEST = 64  # pixels on the longer side of a thumbnail
COLUMNS_OF_CLASSES = 100  # whose probabilities are held


def draw(walls: Walls, sha256: str, order: WallOrder) -> About:
    """Makes what was ordered, and keeps it encrypted. The last that is written says what there is.

    Raises:
        BadInput: a source cannot be used, or the oracle cannot look at what is drawn.
        ExpungeError: a store cannot be reached.
    """
    made = _samples(walls.workspace, order) if order.of == "samples" else _images(walls.workspace, order)
    table, about = made
    thumbnails = _thumbnails(table.pixels[: about.count]) if about.count else np.zeros((0, 1, 1, 1), np.uint8)
    for number, sheet in enumerate(_sheets(thumbnails)):
        walls.keep(sha256, sheet_file(number), sheet)
    if order.of == "samples":
        walls.keep(sha256, SAMPLES_FILE, table.to_parquet())
    about = about.model_copy(update={
        "thumbnail": thumbnails.shape[2:], "sheets": -(-about.count // PER_SHEET), "columns": COLUMNS})
    walls.keep(sha256, ABOUT_FILE, about.model_dump_json().encode())
    return about


def _samples(workspace: Workspace, order: WallOrder) -> tuple[SampleTable, About]:
    """What the checkpoint draws, and what the oracle says of it."""
    from components.curate_forget_set import generators
    from components.fetch_checkpoint.step import bring
    from expunge import models

    assert order.oracle is not None
    given = {name: source.model_copy(update={"sha256": sources.digest(name, source, workspace)})
             for name, source in (("checkpoint", order.checkpoint), ("oracle", order.oracle))}  # looked at once, pinned
    with tempfile.TemporaryDirectory(prefix="expunge-wall-") as scratch:  # of models; no sample is written here
        parent, _ = bring(workspace, "checkpoint", given["checkpoint"], Path(scratch, "parent"), "gan")
        oracle, said = bring(workspace, "oracle", given["oracle"], Path(scratch, "oracle"), "gan")
    assert isinstance(parent, models.Gan)
    assert isinstance(oracle, models.Classifier)
    drawn = generators.draw(parent, order.count, order.seed)
    try:
        probabilities = generators.probabilities_of(oracle, drawn.images)
    except RuntimeError as error:
        shape = "x".join(map(str, parent.image_shape))
        raise BadInput(f"oracle: it cannot look at the {shape} images that the checkpoint draws",
                       "bring one that was trained on such images") from error
    labels = probabilities.argmax(1)
    often = np.argsort(-probabilities.sum(0), kind="stable")[:COLUMNS_OF_CLASSES]
    levels = np.rint(probabilities[:, often] * 255).astype(np.uint8)
    labelled = SampleTable(drawn.images, labels, drawn.latents)
    return labelled, _about(labelled, len(drawn), known=probabilities.shape[1], shown=tuple(often.tolist()),
                            names=said.interface.classes,
                            probabilities=base64.b64encode(levels.tobytes()).decode(),
                            checkpoint_sha256=given["checkpoint"].sha256, oracle_sha256=given["oracle"].sha256)


def _images(workspace: Workspace, order: WallOrder) -> tuple[SampleTable, About]:
    """The labelled images of a data set."""
    assert order.training is not None
    found = sources.images("training", order.training, workspace)
    count = min(len(found.table), MOST) if order.pictures else 0
    known = len(found.classes) or int(found.table.labels.max()) + 1
    files = sources.names_of_images(order.training.uri, workspace) if count else []
    return found.table, _about(found.table, count, known=known, names=found.classes,
                               shown=tuple(range(min(known, COLUMNS_OF_CLASSES))), files=tuple(files[:count]))


def _about(table: SampleTable, count: int, **more: Any) -> About:
    return About(count=count, total=len(table), image_shape=table.images.shape[1:], thumbnail=(1, 1), columns=COLUMNS,
                 sheets=0, counts=table.class_counts(), likeliest=tuple(table.labels[:count].tolist()), **more)


def _thumbnails(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [N, C, H, W] no larger than a thumbnail."""
    from PIL import Image

    longer = max(pixels.shape[2:])
    if longer <= LARGEST:
        return pixels
    height, width = (max(1, round(side * LARGEST / longer)) for side in pixels.shape[2:])
    made = [np.asarray(Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0)).resize(
        (width, height), Image.Resampling.BOX)) for one in pixels]
    stacked = np.stack(made)
    return stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)


def _sheets(thumbnails: NDArray[np.uint8]) -> Iterator[bytes]:
    """Thumbnails [N, C, H, W] as PNG files of `PER_SHEET` each, row by row."""
    from PIL import Image

    _, channels, height, width = thumbnails.shape
    for first in range(0, len(thumbnails), PER_SHEET):
        some = thumbnails[first : first + PER_SHEET]
        rows = -(-len(some) // COLUMNS)
        sheet = np.zeros((rows * COLUMNS, channels, height, width), np.uint8)
        sheet[: len(some)] = some
        laid = sheet.reshape(rows, COLUMNS, channels, height, width).transpose(0, 3, 1, 4, 2).reshape(
            rows * height, COLUMNS * width, channels)
        out = io.BytesIO()
        Image.fromarray(laid[..., 0] if channels == 1 else laid).save(out, "PNG")
        yield out.getvalue()
