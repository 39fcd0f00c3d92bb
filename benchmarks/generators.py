"""What the benchmarks on MNIST and Fashion-MNIST share: images, an oracle, a judge, generators trained from scratch.

Whatever takes long is kept in a folder that the command names, under a digest of all that it was made from (settings,
images, torch; not the code: after a change of that, name another folder). A training that was stopped goes on from
where it was. What took minutes and is small lies in `weights/` beside this file, under the same digests: copied there
from such a folder, found as if it were in it. FOLDER below holds `mnist/` and `fashion-mnist/`, each with its four idx
files.

The train split is divided into two halves. The oracle, which training may ask, learns on one; the judge, which only
measures, is another architecture and learns on the other. Generators learn on the whole train split. Real images to
compare with are those of the test split, which nothing has learned on.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from recording import circumstances

from expunge.digests import atomic_path, canonical_json, sha256_bytes, sha256_file, write_atomically
from expunge.methods import find
from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts
from expunge.models import Classifier, Gan, ModelSpec, build, load, save
from expunge.models.supervised import Labelled, train
from expunge.samples.images import read_images
from expunge.samples.splits import divide

SIDE = 32
WEIGHTS = Path(__file__).parent / "weights"
FOLDERS = {"mnist": "mnist", "fashion": "fashion-mnist"}
CLASSES = {
    "mnist": tuple(str(digit) for digit in range(10)),
    "fashion": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
}
FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
HALVES = {"oracle": 0.45, "oracle-validation": 0.05, "judge": 0.45, "judge-validation": 0.05}
ARCHITECTURES = {"oracle": "lenet", "judge": "resnet"}
EPOCHS = {"oracle": 6, "judge": 10}  # at most
HALVES_SEED, PARENT_SEED, REFERENCE_SEED = 1, 0, 1_000
MEASURE_SEED = 20_261_121  # of the latents that everything is measured on; no training uses it
FEATURED = 10_000  # latents of a table; as many as the paper draws
CURATED = 6_000  # images of the parent that the oracle sorts: as many as a request curates by default
SAVE_EVERY, SPEAK_EVERY = 20.0, 15.0  # seconds

Row = dict[str, Any]
Made = tuple[dict[str, Any], ModelSpec, Row]  # a state, what it is for, and what else is to be known of it
DATA_FREE = ("negative", "positive", "oracle")  # what a method is given that has only the parent itself and an oracle


@dataclass(frozen=True)
class Arm:
    """One way to unlearn, as a row of a table.

    Attributes:
        method: its name.
        preset: of its settings.
        changed: the settings that differ from the preset.
        given: which of a request's material it gets.
    """

    method: str
    preset: str = "default"
    changed: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = DATA_FREE


@dataclass(frozen=True)
class Recipe:
    """A named generator.

    Attributes:
        architecture: a built-in name.
        config: of its builder.
        training: how it is trained from scratch, as params of `retrain`.
        goes_on: which of these hold for unlearning too; rates are each method's own.
    """

    architecture: str
    config: dict[str, Any]
    training: dict[str, Any]
    goes_on: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Real images that its discriminator sees in training, repetitions counted."""
        return int(self.training["steps"] * self.training["batch"])


RECIPES = {
    "dcgan-32": Recipe(
        "dcgan",
        {"side": SIDE, "width": 32, "discriminator_width": 32},
        {"steps": 8_000, "batch": 64, "r1_weight": 0.2, "r1_every": 16, "ema_decay": 0.999, "cooling": 0.4},
    ),
    # Lazy regularisation, style mixing, fresh noise and path lengths as in the paper; a small network, and the gradient
    # penalty that a small image needs.
    "stylegan2-32": Recipe(
        "stylegan2",
        {"size": SIDE, "latent_dim": 64, "mapping": 4, "channels": 1, "widths": [64, 64, 32, 16]},
        {"steps": 3_600, "batch": 32, "generator_rate": 0.002, "discriminator_rate": 0.002, "r1_weight": 1.0,
         "r1_every": 16, "path_length_weight": 2.0, "path_length_every": 8, "style_mixing": 0.9, "fresh_noise": True,
         "ema_decay": 0.998, "cooling": 0.4},
        goes_on=("r1_weight", "r1_every", "path_length_weight", "path_length_every", "style_mixing", "fresh_noise"),
    ),
}


@dataclass(frozen=True)
class Bench:
    """Everything that the rows of one table have in common.

    Attributes:
        data: the folder of the idx files.
        kept: where what takes long is kept.
        dataset: `mnist` or `fashion`.
        recipe: the generator's name in `RECIPES`.
        threads: of every training and measurement; part of what makes a run repeatable.
        steps: shortens every training, to try a benchmark out; None is the real length.
        looks: only reads what is kept, and makes nothing.
    """

    data: Path
    kept: Path
    dataset: str
    recipe: str
    threads: int
    steps: int | None = None
    looks: bool = False

    @classmethod
    def of(cls, asked: argparse.Namespace, dataset: str, looks: bool = False) -> Bench:
        """From the arguments of `common_arguments`."""
        return cls(asked.data, asked.kept, dataset, asked.recipe, asked.threads, asked.steps, looks)

    # ---------------------------------------------------------------- images

    def images(self, split: Literal["train", "test"]) -> Labelled:
        """A split's images, [N, 1, 32, 32]: the 28 pixels of the files on a black border of two."""
        folder = self.data / FOLDERS[self.dataset]
        found = [file for file in sorted(folder.glob(FILES[split] + "*")) if file.suffix in ("", ".gz")]
        if not found:
            sys.exit(f"{folder}: there is no {FILES[split]}.gz: name the folder that holds {FOLDERS[self.dataset]}/")
        table = read_images(found[0], channels=1, strict=True).table
        border = (SIDE - table.images.shape[-1]) // 2
        return Labelled(np.pad(table.pixels, ((0, 0), (0, 0), (border, border), (border, border))), table.labels)

    @cached_property
    def train(self) -> Labelled:
        """The train split."""
        return self.images("train")

    @cached_property
    def test(self) -> Labelled:
        """The test split."""
        return self.images("test")

    def halves(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the train split that the oracle and the judge learn on, and by which each chooses its epoch."""
        return divide(self.train.pixels, self.train.labels, HALVES, HALVES_SEED).parts

    def real(self, without: int | None = None, only: int | None = None) -> Samples:
        """Real images of the train split as tensors in [-1, 1], of all classes, all but one, or one."""
        rows = np.ones(len(self.train), dtype=bool)
        if without is not None:
            rows = self.train.labels != without
        if only is not None:
            rows = self.train.labels == only
        return Samples(as_tensors(self.train.pixels[rows]), labels=torch.from_numpy(self.train.labels[rows]))

    # ---------------------------------------------------------------- what is trained, once

    def classifier(self, role: Literal["oracle", "judge"]) -> tuple[Classifier, Row]:
        """The oracle or the judge, and the facts of its training."""
        def make(session: Watched) -> Made:
            parts = self.halves()
            learn, check = (Labelled(self.train.pixels[parts[name]], self.train.labels[parts[name]])
                            for name in (role, f"{role}-validation"))
            if self.steps is not None:
                learn = Labelled(learn.pixels[: 32 * self.steps], learn.labels[: 32 * self.steps])
            epochs = EPOCHS[role] if self.steps is None else 1
            trained = train(ARCHITECTURES[role], learn, check, 10, epochs, session)
            spec = ModelSpec(architecture=ARCHITECTURES[role], config=trained.config, family="classifier",
                             classes=CLASSES[self.dataset])
            return trained.model.state_dict(), spec, {"epochs": trained.epochs, "kept_epoch": trained.kept}

        made_from = {"architecture": ARCHITECTURES[role], "halves": HALVES, "split": HALVES_SEED,
                     "epochs": EPOCHS[role]}
        model, facts = self.keep(role, made_from, PARENT_SEED, make)
        assert isinstance(model, Classifier)
        return model, facts

    def parent(self) -> tuple[Gan, Row]:
        """The generator of the recipe, trained on the whole train split, and the facts of its training."""
        return self.generator(f"{self.recipe}-parent", None, PARENT_SEED)

    def reference(self, without: int, seed: int = 0) -> tuple[Gan, Row]:
        """The same, trained without a class: what unlearning would like to be."""
        return self.generator(f"{self.recipe}-without-{without}", without, REFERENCE_SEED + seed)

    def generator(self, name: str, without: int | None, seed: int) -> tuple[Gan, Row]:
        """A generator trained from scratch by the method `retrain`."""
        recipe = self.shortened()

        def make(session: Watched) -> Made:
            method = find("retrain", "gan")
            blank = channels_last(build(recipe.architecture, **recipe.config))
            params = method.parameters("default", recipe.training)
            state = method.unlearn(blank, {}, Material(retain=self.real(without)), params, session)
            return state, self.gan_spec(), {"samples": recipe.samples}

        made_from = {"architecture": recipe.architecture, "config": recipe.config, "training": recipe.training,
                     "without": without}
        model, facts = self.keep(name, made_from, seed, make)
        assert isinstance(model, Gan)
        return channels_last(model), facts

    def gan_spec(self) -> ModelSpec:
        """What a file of the recipe's generator says of itself."""
        recipe = RECIPES[self.recipe]
        return ModelSpec(architecture=recipe.architecture, config=recipe.config, family="gan",
                         classes=CLASSES[self.dataset])

    def candidate(self, arm: Arm, unwanted: int, seed: int) -> tuple[Gan, Row]:
        """The parent after an arm's unlearning of a class, and the facts of it: seconds, samples seen, images drawn."""
        parent, parent_facts = self.parent()
        method = find(arm.method, "gan")
        recipe = RECIPES[self.recipe]
        brief = max(4, (self.steps or 0) // 10)
        short = {} if self.steps is None else {"steps": brief, "adapt_steps": brief, "rounds": 1, "pool": 64}
        known = method.params.model_fields
        params = method.parameters(
            arm.preset, {**{key: recipe.training[key] for key in recipe.goes_on if key in known}, **arm.changed,
                         **{key: value for key, value in short.items() if key in known}})

        def make(session: Watched) -> Made:
            material = self.material(parent, unwanted, seed, arm.given)
            drawn = Counted(parent)
            began = time.perf_counter()
            adaptation = method.adapt(parent, material, params, session)
            adapted = time.perf_counter()
            state = method.unlearn(parent, adaptation, material, params, session)
            ended = time.perf_counter()
            drawn.end()
            return state, self.gan_spec(), {
                "adapt_s": adapted - began, "unlearn_s": ended - adapted, "samples": session.done * params.batch,
                "drawn": drawn.images, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

        oracle = self.classifier("oracle")[1] if "oracle" in arm.given else {"sha256": None}
        made_from = {"parent": parent_facts["sha256"], "oracle": oracle["sha256"], "method": arm.method,
                     "params": params.model_dump(mode="json"), "given": arm.given, "unwanted": unwanted,
                     "curated": CURATED}
        model, facts = self.keep(f"{self.recipe}-{arm.method}-{unwanted}", made_from, seed, make, resumable=False)
        assert isinstance(model, Gan)
        return model, facts

    def shortened(self) -> Recipe:
        """The recipe, cut to `steps` where that is given."""
        recipe = RECIPES[self.recipe]
        return recipe if self.steps is None else replace(recipe, training={**recipe.training, "steps": self.steps})

    def keep(self, name: str, made_from: Row, seed: int, make: Callable[[Watched], Made],
             resumable: bool = True) -> tuple[torch.nn.Module, Row]:
        """What `make` gives, from the folder if it is there already, and how long it once took.

        Raises:
            NotThere: it is not, and this process is only to look.
        """
        made_from = {**made_from, "images": self.images_sha256, "seed": seed, "threads": self.threads,
                     "steps": self.steps, "torch": torch.__version__}
        file = self.kept / f"{self.dataset}-{name}-{digest(made_from)}.safetensors"
        if not file.exists() and (WEIGHTS / file.name).exists():
            file = WEIGHTS / file.name
        if not file.exists():
            if self.looks:
                raise NotThere(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            session = Watched(f"{self.dataset} {name}", file.with_suffix(".resume") if resumable else None, seed,
                              self.threads)
            state, spec, known = make(session)
            facts = {"made_from": made_from, "seconds": session.seconds, **known, **circumstances()}
            write_atomically(file.with_suffix(".json"), (json.dumps(facts, indent=1) + "\n").encode())
            save(file, state, spec)  # last: it says that all is there
            file.with_suffix(".resume").unlink(missing_ok=True)
        facts = json.loads(file.with_suffix(".json").read_text())
        return load(file), facts | {"sha256": sha256_file(file)}

    # ---------------------------------------------------------------- what is seen

    def drawn(self, gan: Gan, facts: Row, count: int) -> Seen:
        """What the judge sees in a kept generator's images for the latents that everything is measured on."""
        judge, judge_facts = self.classifier("judge")
        key = {"judge": judge_facts["sha256"], "weights": facts["sha256"], "count": count, "featured": count,
               "seed": MEASURE_SEED}
        return self.seen(key, lambda: generated(gan, judge, count))

    def test_seen(self) -> Seen:
        """What the judge sees in the test split."""
        judge, judge_facts = self.classifier("judge")
        key = {"judge": judge_facts["sha256"], "real": self.dataset, "split": "test"}
        return self.seen(key, lambda: real(judge, self.test))

    def seen(self, key: Row, look: Callable[[], Seen]) -> Seen:
        """What `look` sees, from the folder if it has looked before."""
        file = self.kept / f"seen-{digest(key)}.npz"
        if not file.exists():
            if self.looks:
                raise NotThere(file.name)
            torch.set_num_threads(self.threads)
            found = look()
            with atomic_path(file) as half, half.open("wb") as opened:
                np.savez(opened, **{each.name: getattr(found, each.name) for each in fields(Seen)})
        with np.load(file) as arrays:
            return Seen(**{each.name: arrays[each.name] for each in fields(Seen)})

    @cached_property
    def images_sha256(self) -> str:
        """One digest of the train split, by the file that it is in."""
        folder = self.data / FOLDERS[self.dataset]
        files = [file for file in sorted(folder.glob("train-*")) if file.is_file()]
        return sha256_bytes(canonical_json([sha256_bytes(file.read_bytes()) for file in files]))

    # ---------------------------------------------------------------- a request's material

    def material(self, parent: Gan, unwanted: int, seed: int, given: Sequence[str]) -> Material:
        """What a request would give a method: the parent's own images as the oracle sorts them, and real ones."""
        oracle, _ = self.classifier("oracle")
        latents = parent.draw_latents(CURATED, torch.Generator().manual_seed(1_000 + seed))
        images = in_parts(parent, latents)
        labels = in_parts(oracle, images).argmax(dim=1)
        negative, positive = (Samples(images[rows], latents[rows], labels[rows])
                              for rows in (labels == unwanted, labels != unwanted))
        makers: dict[str, Callable[[], Any]] = {
            "negative": lambda: negative, "positive": lambda: positive,
            "forget": lambda: self.real(only=unwanted), "retain": lambda: self.real(without=unwanted),
            "oracle": lambda: ClassifierOracle(oracle, [unwanted])}
        return Material(**{role: makers[role]() for role in given})


class NotThere(Exception):
    """Something that has not been made yet."""


def digest(made_from: Row) -> str:
    """By what a file is known that was made from these."""
    return sha256_bytes(canonical_json(made_from))[:12]


class Counted:
    """Counts the images that a generator and all copies of it draw."""

    def __init__(self, gan: Gan) -> None:
        self.images = 0
        self.hook = gan.generator.register_forward_hook(self._count)

    def _count(self, generator: torch.nn.Module, latents: Any, images: torch.Tensor) -> None:
        self.images += len(images)

    def __deepcopy__(self, memo: Any) -> Counted:
        return self  # a copied generator's hook counts for the same account

    def end(self) -> None:
        """Counts no more."""
        self.hook.remove()


class Watched(Session):
    """A session that says how far it is, keeps resumable state in a file, and counts the time of all its attempts."""

    def __init__(self, what: str, file: Path | None, seed: int, threads: int) -> None:
        super().__init__(seed, threads)
        self.what, self.file = what, file
        self.began = self.spoke = self.saved = time.monotonic()
        self.before = 0.0  # seconds of earlier attempts
        self.done = 0
        self.first: tuple[float, int] | None = None

    @property
    def seconds(self) -> float:
        """How long it has taken so far, an earlier attempt's time up to its last saved state included."""
        return self.before + time.monotonic() - self.began

    def report(self, step: int, total: int, **scalars: float) -> None:
        """Speaks every few seconds."""
        now, self.done = time.monotonic(), self.done + 1
        self.first = self.first or (now, step)
        if now - self.spoke < SPEAK_EVERY:
            return
        self.spoke = now
        left = (now - self.first[0]) / max(1, step - self.first[1]) * (total - step)
        losses = ", ".join(f"{name} {value:.3f}" for name, value in scalars.items())
        say(f"{self.what}: step {step:,} of {total:,}, {left / 60:.1f} min left; {losses}")

    def resume(self) -> dict[str, Any] | None:
        """The state that a stopped attempt left."""
        if self.file is None or not self.file.exists():
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(self.file.read_bytes()), weights_only=True)
        self.before = state.pop("seconds")
        say(f"{self.what}: goes on from step {state['step']:,}")
        return state

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keeps the state, every few seconds."""
        if self.file is None or time.monotonic() - self.saved < SAVE_EVERY:
            return
        self.saved = time.monotonic()
        buffer = io.BytesIO()
        torch.save(state | {"seconds": self.seconds}, buffer)
        write_atomically(self.file, buffer.getvalue())


def channels_last(gan: Any) -> Any:
    """The same GAN with its convolutions' weights so laid out that training takes a tenth less time on a processor."""
    for parameter in gan.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return gan


# -------------------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Seen:
    """What the judge sees in images: features [N, F], class [N] and how sure it is [N]."""

    features: NDArray[np.float32]
    named: NDArray[np.int64]
    sure: NDArray[np.float32]

    @classmethod
    def of(cls, judge: Classifier, images: Callable[[torch.Tensor], torch.Tensor], source: torch.Tensor) -> Seen:
        """Of `images(source)`, part by part."""
        features = in_parts(lambda part: judge.features(images(part)), source)
        sure, named = in_parts(judge.head, features).softmax(dim=1).max(dim=1)
        return cls(features.numpy(), named.numpy(), sure.numpy())


def generated(gan: Gan, judge: Classifier, count: int) -> Seen:
    """What the judge sees in a generator's images for the latents that everything is measured on."""
    return Seen.of(judge, gan, gan.draw_latents(count, torch.Generator().manual_seed(MEASURE_SEED)))


def real(judge: Classifier, images: Labelled) -> Seen:
    """What the judge sees in real images."""
    return Seen.of(judge, lambda part: part, as_tensors(images.pixels))


def as_tensors(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Stored images as models take them, in [-1, 1]."""
    return torch.from_numpy(pixels).float() / 127.5 - 1


# -------------------------------------------------------------------------------------------- the command line


def common_arguments(what: str) -> argparse.ArgumentParser:
    """What every benchmark of generators asks."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FOLDER", help="holds mnist/ and fashion-mnist/, of idx files")
    parser.add_argument("--kept", type=Path, required=True, metavar="FOLDER", help="where trained weights are kept")
    parser.add_argument("--recipe", choices=RECIPES, default="dcgan-32")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--steps", type=int, help="cut every training to so many steps, to try the command out")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    return parser


def each_in_its_process(plan: Iterable[Sequence[object]], jobs: int, threads: int) -> Iterator[
        tuple[Sequence[object], Row]]:
    """Runs this very command once more for each key, as `--one KEY...`, and yields what each printed last, as it ends.

    `jobs` run at a time. One that fails is said and yields nothing: the command, given again, does what is missing.
    """
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ,  # as the supervisor does it
                   "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}

    def one(key: Sequence[object]) -> Row | None:
        command = [sys.executable, *sys.argv, "--one", *map(str, key)]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
        if done.returncode:
            say(f"{' '.join(map(str, key))}: failed with exit code {done.returncode}; see above")
            return None
        row: Row = json.loads(done.stdout.splitlines()[-1])
        return row

    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(one, key): key for key in plan}
        for count, ended in enumerate(as_completed(running), 1):
            found = ended.result()
            say(f"{count} of {len(running)} runs ended: {' '.join(map(str, running[ended]))}")
            if found is not None:
                yield running[ended], found


def say(text: str) -> None:
    """Tells whoever waits."""
    print(text, file=sys.stderr, flush=True)
