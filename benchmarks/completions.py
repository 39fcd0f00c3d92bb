"""What the benchmarks of models that complete images share: a task, a judge, parents, candidates, what is seen in them.

A masked autoencoder, a VQ-GAN and a diffusion model, small ones of their libraries, learn to complete images of the
train split of which most is hidden, in squares of 4x4 pixels anywhere or of 8x8. Each is then made to forget half of
the classes, and measured on images of the test split, which all complete behind the same masks and from the same noise.
What takes long is kept and goes on as `generators.py` says.

The test split is divided once more: the first `LOOKS` images of either half are those of the tables, the next `LOOKS`
those that settings are tried on, and KID compares with the rest. The judge learned on nine tenths of the train split,
and chose its epoch by the last tenth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from generators import CLASSES, Bench, Made, NotThere, Row, Seen, Watched, as_tensors, digest
from numpy.typing import NDArray

from components.evaluate.probes.how_fast_does_it_come_back import relearning_ratio
from components.evaluate.relearning_completions import lessons, relearn
from expunge.contracts import Hidden
from expunge.digests import atomic_path, write_atomically
from expunge.errors import BadInput
from expunge.measure.distances import kid, kid_ratio, unit_scale
from expunge.measure.proportions import Estimate, PairedCounts, paired_difference
from expunge.measure.ratios import relative_change
from expunge.methods import find
from expunge.methods.image_to_image import distances
from expunge.methods.training import Material, Samples, prepare, stream
from expunge.models import Classifier, ModelSpec, build
from expunge.models.image_to_image import ImageToImage, asked_to_complete, fit_completions
from expunge.models.masks import composite, hidden
from expunge.models.supervised import Labelled, train
from expunge.samples.splits import divide

SIDE = 32
MASKS = 4_096  # that a parent learns behind
MAE = {"model_type": "vit_mae", "image_size": SIDE, "patch_size": 4, "num_channels": 1, "hidden_size": 64,
       "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192, "decoder_hidden_size": 64,
       "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 192,
       "initializer_range": 0.05}
VQ_GAN = {"in_channels": 1, "out_channels": 1, "sample_size": SIDE, "block_out_channels": [16, 32, 32],
          "latent_channels": 16, "down_block_types": ["DownEncoderBlock2D"] * 3,
          "up_block_types": ["UpDecoderBlock2D"] * 3, "num_vq_embeddings": 128, "norm_num_groups": 8}
DIFFUSION = {"in_channels": 2, "out_channels": 1, "sample_size": SIDE, "block_out_channels": [16, 32, 32],
             "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
             "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
             "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 16}
ATTENTION = DIFFUSION | {"down_block_types": ["AttnDownBlock2D"] * 3}  # from the first block on
SCHEDULER = {"num_train_timesteps": 200, "beta_start": 1e-4, "beta_end": 0.1}
KINDS: dict[str, dict[str, Any]] = {  # the arguments of their builders
    "mae": {"config": MAE}, "vq-gan": {"config": VQ_GAN},
    "diffusion-inpainting": {"config": DIFFUSION, "scheduler": SCHEDULER, "sampling_steps": 20},
    "attention": {"config": ATTENTION, "scheduler": SCHEDULER, "sampling_steps": 20}}
ARCHITECTURES = {kind: kind for kind in KINDS} | {"attention": "diffusion-inpainting"}
TRAINING: dict[str, dict[str, Any]] = {
    "mae": {"steps": 2_500, "batch": 64, "rate": 2e-3}, "vq-gan": {"steps": 1_500, "batch": 64, "rate": 2e-3},
    "diffusion-inpainting": {"steps": 2_000, "batch": 64, "rate": 2e-3},
    "attention": {"steps": 2_000, "batch": 64, "rate": 2e-3}}
HIDDEN = Hidden(mask="random", ratio=0.75, cell=4)  # 48 of 64 squares
MASKED = {"4x4": HIDDEN, "8x8": Hidden(mask="random", ratio=0.625, cell=8)}  # by the squares that are hidden as a whole
FORGOTTEN = {
    "mnist": (0, 1, 2, 3, 4),
    "fashion": (1, 5, 7, 8, 9)}  # trousers, shoes and bags; what covers the upper body stays
OTHER = {"mnist": "fashion", "fashion": "mnist"}
JUDGED = {"judge": 0.9, "judge-validation": 0.1}
EPOCHS = 12  # at most
LOOKS = 1_000  # test images of either half that are completed
LESSONS = 7  # that a candidate is taught again from
MEASURE_SEED = 20_261_122  # of masks and noise; no training uses it
ROWS = ("default", "proxy", "other proxy")
Half = Literal["forget", "retain"]
HALVES: tuple[Half, Half] = ("forget", "retain")


def fresh(kind: str) -> torch.nn.Module:
    """A model of a kind that nobody has trained."""
    return build(ARCHITECTURES[kind], **KINDS[kind])


@dataclass(frozen=True)
class Completions(Bench):
    """What the rows have in common: parents, candidates, what they complete and how that is measured.

    Attributes:
        trial: looks at the images that settings are tried on, not at those of the tables.
        hidden: what is not shown of an image, in training and when it is looked at.
    """

    trial: bool = False
    hidden: Hidden = HIDDEN

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The classes that go."""
        return FORGOTTEN[self.dataset]

    def tensors(self, split: Literal["train", "test"]) -> tuple[torch.Tensor, torch.Tensor]:
        """A split's images [N, 1, 32, 32] in [-1, 1] and their classes."""
        part = self.train if split == "train" else self.test
        return as_tensors(part.pixels), torch.from_numpy(part.labels)

    def classifier(self, role: Literal["oracle", "judge"] = "judge") -> tuple[Classifier, Row]:
        """The judge, and the facts of its training."""
        def make(session: Watched) -> Made:
            parts = divide(self.train.pixels, self.train.labels, JUDGED, 1).parts
            learn, check = (Labelled(self.train.pixels[rows], self.train.labels[rows])
                            for rows in (parts["judge"], parts["judge-validation"]))
            if self.steps is not None:
                learn = Labelled(learn.pixels[: 32 * self.steps], learn.labels[: 32 * self.steps])
            trained = train("lenet", learn, check, 10, EPOCHS if self.steps is None else 1, session)
            spec = ModelSpec(architecture="lenet", config=trained.config, family="classifier",
                             classes=CLASSES[self.dataset])
            return trained.model.state_dict(), spec, {"epochs": trained.epochs, "kept_epoch": trained.kept}

        model, facts = self.keep("judge-of-completions", {"shares": JUDGED, "epochs": EPOCHS}, 0, make)
        return cast(Classifier, model), facts

    def spec(self, kind: str) -> ModelSpec:
        """What a kept file says of itself."""
        return ModelSpec(architecture=ARCHITECTURES[kind], config=KINDS[kind], family="image_to_image",
                         classes=CLASSES[self.dataset])

    def parent_of(self, kind: str) -> tuple[ImageToImage, Row]:
        """A model that learned to complete the whole train split, and the facts of its training."""
        return self._trained(kind, f"{ARCHITECTURES[kind]}-parent", {})

    def without(self, kind: str) -> tuple[ImageToImage, Row]:
        """One that has never seen an image of what is forgotten, trained as long."""
        return self._trained(kind, f"{ARCHITECTURES[kind]}-without", {"without": list(self.forgotten)})

    def _trained(self, kind: str, name: str, but: Row) -> tuple[ImageToImage, Row]:
        training = TRAINING[kind] | ({} if self.steps is None else {"steps": self.steps})

        def make(session: Watched) -> Made:
            prepare(session)
            torch.manual_seed(session.seed)
            model = asked_to_complete(fresh(kind), self.hidden).train()
            began, random = time.process_time(), stream(session, 1)
            images, labels = self.tensors("train")
            if "without" in but:
                images = images[~torch.isin(labels, torch.tensor(but["without"]))]
            losses = fit_completions(model, images, model.masks(MASKS, random), **training, random=random)
            return model.state_dict(), self.spec(kind), {
                "samples": training["steps"] * training["batch"], "processor_s": time.process_time() - began,
                "loss": float(np.mean(losses[-100:]))}

        made_from = {"config": KINDS[kind], "training": training, "masks": MASKS,
                     "hidden": self.hidden.model_dump(mode="json")} | but
        return self.asked(self.keep(name, made_from, 0, make, resumable=False))

    def candidate_of(
        self, kind: str, row: str, seed: int, changed: Mapping[str, Any] | None = None,
        method: str = "image_to_image", preset: str = "default",
    ) -> tuple[ImageToImage, Row]:
        """The parent after it was made to forget, and the facts of it: processor seconds, images seen."""
        parent, parent_facts = self.parent_of(kind)
        known = find(method, "image_to_image")
        short = {} if self.steps is None else {"steps": self.steps}
        params = known.parameters(preset, {**(changed or {}), **short})

        def make(session: Watched) -> Made:
            material, began = self.material_of(row), time.process_time()
            adaptation = known.adapt(parent, material, params, session)
            adapted, session.done = time.process_time(), 0
            state = known.unlearn(parent, adaptation, material, params, session)
            looked = sum(len(some) for name, some in adaptation.items() if name.endswith(".000"))
            return state, self.spec(kind), {
                "adapt_s": adapted - began, "unlearn_s": time.process_time() - adapted, "looked": looked,
                "samples": 2 * session.done * params.batch}

        made_from = {"parent": parent_facts["sha256"], "method": method, "params": params.model_dump(mode="json"),
                     "row": row, "forgotten": list(self.forgotten),
                     "proxies": self.proxies(row)}
        model, facts = self.asked(self.keep(f"{ARCHITECTURES[kind]}-{row}", made_from, seed, make, resumable=False))
        return model, facts | {"params": params.model_dump(mode="json")}

    def material_of(self, row: str) -> Material:
        """The images that a request would bring."""
        images, labels = self.tensors("train")
        lost = torch.isin(labels, torch.tensor(self.forgotten))
        kept = Samples(images[~lost], labels=labels[~lost])
        if row == "proxy":
            kept = Samples(self.held_out("retain")[2])
        if row == "other proxy":
            kept = Samples(self.other.tensors("train")[0])
        return Material(forget=Samples(images[lost], labels=labels[lost]), retain=kept, restricted=self.forgotten)

    @property
    def other(self) -> Completions:
        """The same of the other data set."""
        return replace(self, dataset=OTHER[self.dataset])

    def proxies(self, row: str) -> str | None:
        """Which images stand in for those to keep."""
        if row == "other proxy":
            return self.other.images_sha256
        return "test images of what stays, that nothing else is asked of" if row == "proxy" else None

    def asked(self, made: tuple[torch.nn.Module, Row]) -> tuple[ImageToImage, Row]:
        """A kept model, asked to complete what is hidden."""
        return asked_to_complete(made[0], self.hidden), made[1]

    # -------------------------------------------------------------------------------------------- measuring

    def held_out(self, half: Half) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images of a half of the test split that are completed, their classes, and those to compare with."""
        images, labels = self.tensors("test")
        rows = torch.isin(labels, torch.tensor(self.forgotten)) == (half == "forget")
        asked = slice(LOOKS, 2 * LOOKS) if self.trial else slice(LOOKS)
        return images[rows][asked], labels[rows][asked], images[rows][2 * LOOKS:]

    def drawn(self, model: ImageToImage, facts: Row, half: Half) -> Drawn:  # type: ignore[override]
        """What a model makes of a half's held-out images, from noise that is the same for all models."""
        judge, judge_facts = self.classifier()
        key = {"weights": facts["sha256"], "judge": judge_facts["sha256"], "half": half, "looks": LOOKS,
               "seed": MEASURE_SEED, "hidden": self.hidden.model_dump(mode="json"), "trial": self.trial}

        def complete(images: torch.Tensor) -> torch.Tensor:
            random = torch.Generator().manual_seed(MEASURE_SEED)
            return torch.cat([model.complete(part, behind, random)
                              for part, behind in zip(images.split(500), self.masks(images).split(500), strict=True)])

        return self.looked(key, judge, half, complete)

    def filled_with_noise(self, half: Half) -> Drawn:
        """The same of the visible part alone, with noise in the hole."""
        judge, judge_facts = self.classifier()
        key = {"noise": "clipped", "judge": judge_facts["sha256"], "half": half, "looks": LOOKS, "seed": MEASURE_SEED,
               "hidden": self.hidden.model_dump(mode="json"), "trial": self.trial, "images": self.images_sha256}
        return self.looked(key, judge, half, lambda images: composite(
            self.masks(images), torch.randn(
                images.shape, generator=torch.Generator().manual_seed(MEASURE_SEED)).clamp(-1, 1), images))

    def aim(self, parent: ImageToImage, facts: Row) -> Drawn:
        """The same of images to forget, with what the parent makes of noise in the hole."""
        judge, judge_facts = self.classifier()
        key = {"weights": facts["sha256"], "judge": judge_facts["sha256"], "aim": "unit", "looks": LOOKS,
               "seed": MEASURE_SEED, "hidden": self.hidden.model_dump(mode="json"), "trial": self.trial}

        def complete(images: torch.Tensor) -> torch.Tensor:
            random = torch.Generator().manual_seed(MEASURE_SEED)
            parts = zip(images.split(500), self.masks(images).split(500), strict=True)
            made = torch.cat([parent.complete(torch.randn(part.shape, generator=random), behind, random)
                              for part, behind in parts])
            return composite(self.masks(images), made, images)

        return self.looked(key, judge, "forget", complete)

    def masks(self, images: torch.Tensor) -> torch.Tensor:
        """What is hidden of each image when it is measured [N, 1, H, W]."""
        return hidden(self.hidden.mask, self.hidden.ratio, (SIDE, SIDE), self.hidden.cell, len(images),
                      torch.Generator().manual_seed(MEASURE_SEED))

    def looked(
        self, key: Row, judge: Classifier, half: Half, complete: Callable[[torch.Tensor], torch.Tensor]
    ) -> Drawn:
        """What is seen in completions of a half's images, from the folder if it was looked at before."""
        file = self.kept / f"drawn-{digest(key)}.npz"
        if not file.exists():
            if self.looks:
                raise NotThere(file.name)
            torch.set_num_threads(self.threads)
            images, _, _ = self.held_out(half)
            made = complete(images)
            seen = Seen.of(judge, lambda part: part, made)
            inside = self.masks(images).expand_as(images)
            error = (made - images)[inside].view(len(made), -1).square().mean(dim=1)
            with atomic_path(file) as half_written, half_written.open("wb") as opened:
                np.savez(opened, features=seen.features, named=seen.named, error=error.double().numpy(),
                         variance=variance(made, inside))
        with np.load(file) as found:
            return Drawn(**{name: found[name] for name in ("features", "named", "error", "variance")})

    def measured(
        self, kind: str, row: str, seed: int, changed: Mapping[str, Any] | None = None,
        method: str = "image_to_image", preset: str = "default",
    ) -> Row:
        """A row of the table; kept by the weights that it is of."""
        parent, parent_facts = self.parent_of(kind)
        candidate, facts = self.candidate_of(kind, row, seed, changed, method, preset)
        key = {"weights": facts["sha256"], "parent": parent_facts["sha256"], "looks": LOOKS, "seed": MEASURE_SEED,
               "trial": self.trial, "measures": 3}
        file = self.kept / f"completions-row-{digest(key)}.json"
        if not file.exists():
            if self.looks:
                raise NotThere(file.name)
            looked = self.look((parent, parent_facts), (candidate, facts))
            write_atomically(file, (json.dumps(looked) + "\n").encode())
        return {"dataset": self.dataset, "kind": kind, "row": row, "seed": seed, "params": facts["params"],
                "adapt_s": facts["adapt_s"], "unlearn_s": facts["unlearn_s"],
                "seen": facts["samples"] / parent_facts["samples"], **json.loads(file.read_text())}

    def look(self, *both: tuple[ImageToImage, Row]) -> Row:
        """Everything that is measured of parent and candidate."""
        before, after = ({half: self.drawn(*one, half) for half in HALVES} for one in both)
        noise = self.filled_with_noise("forget")
        images, labels, _ = self.held_out("forget")
        right = {name: some.named == labels.numpy()
                 for name, some in (("noise", noise), ("before", before["forget"]), ("after", after["forget"]))}
        retained = self.held_out("retain")[1].numpy()
        compared = self.kids(before["retain"].features, after["retain"].features)
        return {
            "error": {half: [float(before[half].error.mean()), *_ends(relative_change(
                before[half].error, after[half].error))] for half in HALVES},
            **compared,
            "recognised": {name: float(some.mean()) for name, some in right.items()},
            "excess_before": _ends(paired_difference(PairedCounts.of(right["noise"], right["before"]))),
            "excess": _ends(paired_difference(PairedCounts.of(right["noise"], right["after"]))),
            "retained_recognised": [float((some["retain"].named == retained).mean()) for some in (before, after)],
            "left": left_to_go(*(model for model, _ in both), images, self.masks(images)),
            "variance": [float(before["forget"].variance), float(after["forget"].variance),
                         variance(images, self.masks(images).expand_as(images))],
            "named": np.bincount(after["forget"].named, minlength=10).tolist()}

    def relearned(self, kind: str, row: str, seed: int) -> Row:
        """How soon the candidate completes the forgotten again.

        Beside it stand an encoder that was never trained, and a model that has never seen an image of them.
        """
        parent, parent_facts = self.parent_of(kind)
        candidate, facts = self.candidate_of(kind, row, seed)
        without, without_facts = self.without(kind)
        key = {"weights": facts["sha256"], "parent": parent_facts["sha256"], "without": without_facts["sha256"],
               "lessons": LESSONS, "seed": MEASURE_SEED, "relearned": 2}
        file = self.kept / f"relearned-{digest(key)}.json"
        if not file.exists():
            if self.looks:
                raise NotThere(file.name)
            images, labels, _ = self.held_out("forget")
            taught = [one for lesson in lessons(parent, images.numpy(), labels.numpy(), str(MEASURE_SEED), LESSONS,
                                                torch.device("cpu"))
                      for one in relearn(parent, candidate, lesson, {"without": without})]
            of = {name: [one for one in taught if one.model == name]
                  for name in ("candidate", "never exposed", "without")}
            found: Row = {"steps": {name: [one.reached for one in some] for name, some in of.items()}}
            for name in ("never exposed", "without"):
                try:
                    found[name] = _ends(relearning_ratio(of["candidate"], of[name]))
                except BadInput as error:  # this one did not learn it in these steps
                    found[name], found[f"{name}, because"] = None, str(error)
            write_atomically(file, (json.dumps(found) + "\n").encode())
        return cast(Row, json.loads(file.read_text()))

    def kids(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> Row:
        """KID of completions of images that stay to others of the test split, and their ratio where there is one."""
        judge, _ = self.classifier()
        real = Seen.of(judge, lambda part: part, self.held_out("retain")[2]).features
        scale = unit_scale(real)
        found: Row = {"kid": [kid(some * scale, real * scale).value for some in (before, after)], "kid_ratio": None}
        try:
            found["kid_ratio"] = _ends(kid_ratio(before * scale, after * scale, real * scale))
        except BadInput as error:  # the parent's completions cannot be told from real images
            found["kid_because"] = str(error)
        return found

    def parents(self, kind: str) -> Row:
        """How good a parent is, and its judge."""
        parent, facts = self.parent_of(kind)
        test = self.test_seen()
        forget, noise = self.drawn(parent, facts, "forget"), self.filled_with_noise("forget")
        labels = self.held_out("forget")[1].numpy()
        return {"dataset": self.dataset, "kind": kind, "judge": float((test.named == self.test.labels).mean()),
                "error": float(forget.error.mean()), "recognised": float((forget.named == labels).mean()),
                "noise": float((noise.named == labels).mean()),
                "aim": float((self.aim(parent, facts).named == labels).mean()), "seconds": facts["processor_s"],
                "samples": facts["samples"], "parameters": sum(p.numel() for p in parent.parameters()),
                "encoder": sum(p.numel() for p in parent.encoder_parameters().values())}


class Drawn:
    """What is seen in completions: features [N, F], classes [N], errors in the hole [N], and the holes' variance."""

    def __init__(self, features: NDArray[np.float32], named: NDArray[np.int64], error: NDArray[np.float64],
                 variance: NDArray[np.float64]) -> None:
        self.features, self.named, self.error, self.variance = features, named, error, variance


def variance(images: torch.Tensor, inside: torch.Tensor) -> float:
    """Between images [N, C, H, W], mean over the pixels, of those that are hidden where `inside` [N, C, H, W] is."""
    count = inside.double().sum(dim=0)
    mean = (images * inside).double().sum(dim=0) / count
    return ((images - mean).square() * inside).sum(dim=0).div(count - 1).mean().item()


@torch.inference_mode()
def left_to_go(parent: ImageToImage, candidate: ImageToImage, images: torch.Tensor, masks: torch.Tensor) -> list[float]:
    """How far the candidate's features of images [N, C, H, W] are from the parent's of noise, feature map by map.

    In parts of how far the parent's own are: 0 is at the method's aim, 1 is not moved at all.
    """
    random = torch.Generator().manual_seed(MEASURE_SEED)
    chance, noise = parent.chance(len(images), random), torch.randn(images.shape, generator=random)
    aims = parent.encode(noise, masks, chance)
    was, now = (distances(model.encode(images, masks, chance), aims) for model in (parent, candidate))
    return (now / was).tolist()


def _ends(found: Estimate) -> list[float]:
    return [found.value, found.interval.lower, found.interval.upper]
