"""The room `evaluate`: draws, asks the judge, measures, and writes a report that anyone can recompute."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.controls import controls_for
from components.evaluate.evidence import Evidence, Seen
from components.evaluate.page import render_page
from components.evaluate.pictures import Pictures, may_show_before
from components.evaluate.probes import ask
from expunge.contracts import (
    Candidate,
    Checkpoint,
    Report,
    Request,
    SampleSet,
    StoredFile,
    read_record,
    write_record,
)
from expunge.digests import sha256_file, write_atomically
from expunge.errors import BadInput
from expunge.evidence.coherence import latent_seed
from expunge.measure.shares import class_shares
from expunge.room import Entered, room
from expunge.samples import as_known_to_judge, read_samples

if TYPE_CHECKING:
    import torch

    from expunge.models import Classifier

BATCH = 500  # latents are drawn batch by batch from one stream, so this number is part of what is drawn

SCORES, FEATURES, PAGE = "scores.parquet", "features.safetensors", "page.html"


@room(outputs=("report",))
def evaluate(
    entered: Entered,
    *,
    request: Path,
    checkpoint: Path,
    candidate: Path,
    judge: Path,
    holdout: Path,
    report: Path,
) -> None:
    """Measures `candidate` against its parent on the same latents and writes the report's folder.

    The number of samples is fixed by the request before anything is seen. The latents come from
    H(candidate digest || request digest), so that nobody can tune a candidate to them.
    """
    import torch

    from expunge.models import load_recorded

    asked = read_record(Request, request)
    request_sha256 = sha256_file(request)
    parent, changed = read_record(Checkpoint, checkpoint), read_record(Candidate, candidate)
    measurer, real = read_record(Checkpoint, judge), read_record(SampleSet, holdout)
    if changed.parent_sha256 != parent.weights.sha256:
        raise BadInput(
            "candidate: it was made from another parent than the checkpoint given",
            "evaluate a candidate beside its own parent",
        )
    table = read_samples(entered.workspace, real)  # before the long work: it may be missing
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed = latent_seed(changed.weights.sha256, request_sha256)
    view = _Judge.open(judge, measurer, asked, table.images.shape[1:], device)
    real_labels = as_known_to_judge(table.labels, real.classes, measurer.interface.classes, view.classes)
    drawn = _draw(
        entered,
        (load_recorded(checkpoint, parent).to(device), load_recorded(candidate, changed).to(device)),
        view,
        seed,
        asked.sampling.evaluate,
        may_show_before(asked.reason, asked.show_before),
    )
    evidence = Evidence(
        view.unwanted,
        view.classes,
        drawn.before,
        drawn.after,
        view.sees_all(table.images),
        real_labels,
        measurer.interface.classes,
    )
    shares = [class_shares(seen.classes, view.classes) for seen in (drawn.before, drawn.after)]
    drawn.pictures.save(report)
    _write_scores(report / SCORES, evidence)
    _write_features(report / FEATURES, evidence)
    found = Report(
        request_sha256=request_sha256,
        parent_sha256=parent.weights.sha256,
        candidate_sha256=changed.weights.sha256,
        judge_sha256=measurer.weights.sha256,
        holdout_id=real.set_id,
        latent_seed=seed,
        unwanted=view.unwanted,
        classes=measurer.interface.classes,
        measurements=ask(changed.family, evidence),
        controls=controls_for(evidence),
        shares={
            str(label): (float(shares[0][label]), float(shares[1][label])) for label in range(view.classes)
        },
        files=tuple(StoredFile.of(file) for file in sorted(report.iterdir())),
    )
    write_record(report, found)
    write_atomically(report / PAGE, render_page(report).encode())
    page = StoredFile.of(report / PAGE)
    write_record(report, found.model_copy(update={"files": (*found.files, page)}))


def show(report: Path, page: Path) -> dict[str, float]:
    """Copies a report's page to `page` and returns its numbers by name, for an engine's own displays."""
    write_atomically(page, (report / PAGE).read_bytes())
    measured = read_record(Report, report).measurements
    return {found.name: found.estimate for found in measured if found.estimate is not None}


# ------------------------------------------------------------------------------------ drawing and judging


@dataclass(frozen=True)
class _Judge:
    """A classifier, with what is asked of it."""

    model: "Classifier"
    classes: int  # that it knows
    unwanted: tuple[int, ...]
    device: "torch.device"

    @classmethod
    def open(
        cls, folder: Path, record: Checkpoint, request: Request, image_shape: tuple[int, ...], device: "torch.device"
    ) -> "_Judge":
        """The judge of a request, for images [C, H, W]. BadInput if it does not know an unwanted class."""
        import torch

        from expunge.models import Classifier, load_recorded

        model = load_recorded(folder, record).to(device)
        if not isinstance(model, Classifier):
            raise BadInput(f"judge: it is a {record.family}, no classifier", "name another model")
        with torch.inference_mode():
            classes = model(torch.zeros(1, *image_shape, device=device)).shape[1]
        unwanted = request.forget.numbers("the judge", record.interface.classes, classes)
        return cls(model, classes, unwanted, device)

    def sees(self, images: "torch.Tensor") -> Seen:
        """The judge's view of a batch [b, C, H, W] in [-1, 1]."""
        import torch

        with torch.inference_mode():
            features, logits = self.model.look(images)
            probabilities = logits.double().softmax(dim=1)
        confidence, chosen = probabilities.max(dim=1)
        unwanted = probabilities[:, list(self.unwanted)].sum(dim=1)
        return Seen(
            chosen.cpu().numpy(),
            unwanted.float().cpu().numpy(),
            confidence.float().cpu().numpy(),
            features.float().cpu().numpy(),
        )

    def sees_all(self, images: NDArray[np.float32]) -> Seen:
        """The judge's view of any number of images [n, C, H, W]."""
        import torch

        batches = torch.from_numpy(np.ascontiguousarray(images)).split(BATCH)
        return _joined([self.sees(batch.to(self.device)) for batch in batches])


@dataclass(frozen=True)
class _Drawn:
    before: Seen
    after: Seen
    pictures: Pictures


def _draw(
    entered: Entered,
    models: tuple["torch.nn.Module", "torch.nn.Module"],
    judge: _Judge,
    seed: str,
    count: int,
    show_before: bool,
) -> _Drawn:
    """Parent and candidate on the same latents, batch by batch; only the judge's view and few images stay."""
    import torch

    before, after, pictures = [], [], Pictures(judge.unwanted, show_before)
    first = 0
    for latents in _latents(models[0], seed, count):
        with torch.inference_mode():
            was, is_now = (model(latents.to(judge.device)) for model in models)
        before.append(judge.sees(was))
        after.append(judge.sees(is_now))
        images = was.cpu().numpy(), is_now.cpu().numpy()
        pictures.consider(first, images, (before[-1].classes, after[-1].classes))
        first += len(latents)
        entered.progress(first, count)
    return _Drawn(_joined(before), _joined(after), pictures)


def _latents(parent: "torch.nn.Module", seed: str, count: int) -> Iterator["torch.Tensor"]:
    """Latents [b, d] in batches, from the first 63 bits of the seed."""
    import torch

    stream = torch.Generator().manual_seed(int(seed[:16], 16) >> 1)
    for first in range(0, count, BATCH):
        yield parent.draw_latents(min(BATCH, count - first), stream)  # type: ignore[operator]


def _joined(parts: list[Seen]) -> Seen:
    return Seen(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("classes", "unwanted", "confidence", "features")
        )
    )


# --------------------------------------------------------------------------------------- what is written


def _write_scores(file: Path, evidence: Evidence) -> None:
    """One row per latent: enough to recompute every rate and share, and no picture."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    before, after = evidence.before, evidence.after
    pq.write_table(
        pa.table(
            {
                "latent": np.arange(len(after.classes), dtype=np.int64),
                "class_before": before.classes.astype(np.int16),
                "class_after": after.classes.astype(np.int16),
                "unwanted_before": before.unwanted,
                "unwanted_after": after.unwanted,
                "confidence_before": before.confidence,
                "confidence_after": after.confidence,
            }
        ),
        file,
    )


def _write_features(file: Path, evidence: Evidence) -> None:
    """The features that FID and KID were computed from, and only those: retained samples, retained images."""
    from safetensors.numpy import save_file

    before, after = np.flatnonzero(~evidence.hits_before), np.flatnonzero(~evidence.hits_after)
    save_file(
        {
            "before": np.ascontiguousarray(evidence.before.features[before]),
            "before.latent": before,
            "after": np.ascontiguousarray(evidence.after.features[after]),
            "after.latent": after,
            "real": np.ascontiguousarray(evidence.real_retained.features),
        },
        file,
    )
