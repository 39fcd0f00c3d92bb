"""Trying models out before a run relies on them: built, drawn from, looked at, in a process of its own.

A user's factory is a stranger's code: it may hang, exit, or take the process down with it. So it runs first in a
child with a time limit. ``python -m expunge.models.trial`` is that child; it is told what to try on standard
input, writes what it is doing and what came of it to the file named there, and prints nothing of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ConfigDict
from torch import Tensor

from expunge.contracts import Checkpoint, Family, Forget, Frozen, read_record
from expunge.errors import BadInput, by_name
from expunge.models.checkpoints import Model, load_recorded
from expunge.models.classifiers import Classifier, Embedder
from expunge.models.flow import TRIED, Flow, levels_of, try_flow
from expunge.models.gan import Gan
from expunge.models.guests import Critic, to_guest
from expunge.models.image_to_image import ImageToImage, refuse_other
from expunge.room import die_with_run
from expunge.settings import Workspace

IMAGES = 64  # enough to see a range; drawn in one batch
SLACK = 0.05  # of the range's width: how far a pixel may lie outside of what was declared
NARROW = 0.55  # of the range's width: a generator that uses less is taken to have another range
SECONDS_VARIABLE = "EXPUNGE_FACTORY_SECONDS"
# Complaints that say their field already begin with one of these.
NAMED = ("checkpoint", "discriminator", "oracle", "judge", "extractor", "reference", "origin", "forget", "holdout")
PARENTS = ("checkpoint", "reference", "origin")  # which have to be of one kind
SECONDS = 60.0  # that a user's model may take to be built and to draw


class Wanted(Frozen):
    """What is to be tried: the folders of the models' records, and what is to be forgotten."""

    # Pixels go to a child through a pipe, and nowhere else.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    checkpoint: str
    forget: Forget
    image_shape: tuple[int, int, int]  # of real images, for a classifier to look at
    pixels: bytes = b""  # of some of them, as they are stored: a flow says how likely they are, others complete them
    range_declared: bool = False
    oracle: str | None = None
    judge: str | None = None
    extractor: str | None = None
    reference: str | None = None
    reference_range_declared: bool = False
    origin: str | None = None
    origin_range_declared: bool = False
    out: str = ""

    @property
    def real(self) -> Tensor:
        """The real images, [N, C, H, W] in [-1, 1]."""
        return torch.frombuffer(bytearray(self.pixels), dtype=torch.uint8).view(-1, *self.image_shape) / 127.5 - 1


def try_out(wanted: Wanted) -> int:
    """Builds the parent and the others; lets what draws draw, and all classifiers look at what it drew.

    Returns how many classes the judge knows; the parent itself, if it is a classifier.

    Raises:
        BadInput: one of them does not do what its declaration says, or not within the time limit. Names which.
    """
    folders = (wanted.checkpoint, wanted.oracle, wanted.judge, wanted.extractor, wanted.reference, wanted.origin)
    if any(_brings_code(read_record(Checkpoint, Path(folder))) for folder in folders if folder is not None):
        return _try_in_child(wanted)
    return _try_here(wanted, lambda _: None)


def _brings_code(record: Checkpoint) -> bool:
    parts = (record, record.discriminator)
    return any(part is not None and part.factory is not None for part in parts)


def _try_in_child(wanted: Wanted) -> int:
    limit = _limit()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "said.jsonl"
        child = subprocess.Popen(
            [sys.executable, "-m", "expunge.models.trial"], stdin=subprocess.PIPE, stdout=sys.stderr,
            env={**os.environ, "PYTHONSAFEPATH": "1"}, start_new_session=True)
        try:
            child.communicate(wanted.model_copy(update={"out": str(out)}).model_dump_json().encode(), timeout=limit)
            hung = False
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            _end(child)
        said = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    last = said[-1] if said else {"doing": "its start"}
    if "problem" in last:
        raise by_name()[last["error"]](last["problem"], last["remedy"])
    if hung:
        raise BadInput(f"{last['doing']} took longer than {limit:g} s",
                       f"mend the factory, or allow it more with {SECONDS_VARIABLE}")
    if "done" not in last:
        ended = (f"was killed by signal {-child.returncode}" if child.returncode < 0
                 else f"left with status {child.returncode}")
        raise BadInput(f"{last['doing']}: its process {ended}", "mend the factory")
    return int(last["done"])


def _limit() -> float:
    given = os.environ.get(SECONDS_VARIABLE, str(SECONDS))
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise BadInput(f"{SECONDS_VARIABLE}: {given!r} is no number of seconds", "say how long, such as 120")
    return limit


def _end(child: subprocess.Popen[bytes]) -> None:
    """The child leads a process group: whatever the factory started goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _main() -> None:
    die_with_run(Workspace.locate())  # a factory that hangs must not outlive whoever waits for it
    wanted = Wanted.model_validate_json(sys.stdin.buffer.read())
    with open(wanted.out, "w", encoding="utf-8") as out:

        def say(**said: object) -> None:
            print(json.dumps(said), file=out, flush=True)

        try:
            classes = _try_here(wanted, lambda doing: say(doing=doing))
        except BadInput as error:
            say(error=type(error).__name__, problem=error.problem, remedy=error.remedy)
        else:
            say(done=classes)


# ---------------------------------------------------------------------------------- what is tried, and how


Known = dict[str, tuple[int, tuple[str, ...]]]  # how many classes a classifier knows, and their names; by its role
Tell = Callable[[str], None]
Found = TypeVar("Found")


def _try_here(wanted: Wanted, tell: Tell) -> int:
    torch.set_num_threads(1)
    families: dict[Family, Callable[[Wanted, Tell], int]] = {
        "gan": _try_generators, "classifier": _try_classifiers, "flow": _try_flows,
        "image_to_image": _try_image_to_image}
    return families[read_record(Checkpoint, Path(wanted.checkpoint)).family](wanted, tell)


def _try_classifiers(wanted: Wanted, tell: Tell) -> int:
    """The parent, and those of its kind, which have to answer with the same classes."""
    images = 2 * torch.rand(IMAGES, *wanted.image_shape, generator=torch.Generator().manual_seed(0)) - 1
    known = _shown(wanted, PARENTS, images, tell)
    count, names = known.pop("checkpoint")
    for role, (theirs, named) in known.items():
        if theirs != count or (names and named and names != named):
            raise BadInput(f"{role}: it tells {theirs} classes apart, the checkpoint {count}" if theirs != count else
                           f"{role}: its classes have other names than the checkpoint's, or stand in another order",
                           "name a classifier that answers with the same classes")
    lost = {*wanted.forget.numbers("the checkpoint", names, count),
            *wanted.forget.earlier_numbers("the checkpoint", names, count)}
    if len(lost) == count:
        raise BadInput(f"forget.classes: all {count} classes of the checkpoint would be forgotten",
                       "leave at least one that is to stay, or withdraw the model")
    return count


def _shown(wanted: Wanted, roles: tuple[str, ...], images: Tensor, tell: Tell) -> Known:
    """What those of the classifiers that the request names make of images [N, C, H, W]."""
    return _each(wanted, roles, "building it and showing it images", tell,
                 lambda role, model, record: _try_classifier(role, model, record, images))


def _each(wanted: Wanted, roles: tuple[str, ...], doing: str, tell: Tell,
          look: Callable[[str, Model, Checkpoint], Found]) -> dict[str, Found]:
    """What is found of those of the models that the request names, by role; what goes wrong is their doing."""
    found = {}
    for role in roles:
        folder: str | None = getattr(wanted, role)
        if folder is None:
            continue
        tell(f"{role}.architecture: {doing}")
        with _blamed_on(role):
            record = read_record(Checkpoint, Path(folder))
            found[role] = look(role, load_recorded(Path(folder), record), record)
    return found


def _try_flows(wanted: Wanted, tell: Tell) -> int:
    """The parent, those of its kind, which have to be of the same images, and who looks at what it draws."""
    flows: list[Flow] = []  # the parent first

    def look(role: str, flow: Model, record: Checkpoint) -> None:
        assert isinstance(flow, Flow)  # the record's family said so
        flows.append(flow)
        _refuse_other_form(role, flow, flows[0])
        _try_flow(role, flow, record, wanted.real)

    _each(wanted, PARENTS, "building it, drawing from it and asking it of images", tell, look)
    return _try_judge(wanted, flows[0].sample(TRIED, torch.Generator().manual_seed(0)), tell)


@torch.no_grad()
def _try_image_to_image(wanted: Wanted, tell: Tell) -> int:
    """The parent, those of its kind, which have to complete the same images, and who looks at its completions."""
    real = wanted.real
    shapes: list[tuple[int, ...]] = []  # the parent's first

    def look(role: str, model: Model, _: Checkpoint) -> Tensor:
        assert isinstance(model, ImageToImage)  # the record's family said so
        shapes.append(model.image_shape)
        if model.image_shape != shapes[0]:
            theirs, ours = ("x".join(map(str, shape)) for shape in (model.image_shape, shapes[0]))
            raise BadInput(f"{role}: it completes images of {theirs}, the checkpoint of {ours}",
                           "name a model of the same images")
        refuse_other("holdout", model, real)
        random = torch.Generator().manual_seed(0)
        drawn = model.complete(real, model.masks(len(real), random), random)
        if drawn.shape != real.shape or not torch.isfinite(drawn).all():
            raise BadInput(f"{role}: {len(real)} images came out as {list(drawn.shape)}, or with NaN or infinity",
                           "check its weights and its config")
        return drawn

    completed = _each(wanted, PARENTS, "building it and letting it complete images", tell, look)
    return _try_judge(wanted, completed["checkpoint"], tell)


def _try_judge(wanted: Wanted, images: Tensor, tell: Tell) -> int:
    """How many classes the judge of images [N, C, H, W] tells apart, some of which are to stay."""
    count, names = _shown(wanted, ("judge", "extractor"), images, tell)["judge"]
    lost = {*wanted.forget.numbers("the judge", names, count),
            *wanted.forget.earlier_numbers("the judge", names, count)}
    if len(lost) == count and not wanted.forget.images:
        raise BadInput(f"forget.classes: all {count} classes of the judge would be forgotten",
                       "leave at least one that is to stay, or name single images (forget.images)")
    return count


@torch.no_grad()
def _try_flow(field: str, flow: Flow, record: Checkpoint, real: Tensor) -> None:
    """BadInput if it is not as its record says, or does not do with real images what a flow does."""
    said = record.interface
    if flow.bits != said.bits:
        raise BadInput(f"{field}.bits: the flow was built for images of {flow.bits} bits, declared are {said.bits}",
                       f"write 'bits: {flow.bits}'")
    if flow.range != said.range:
        (low, high), (other_low, other_high) = flow.range, said.range
        raise BadInput(f"{field}.range: the flow was built for points from {low:g} to {high:g}, declared are "
                       f"{other_low:g} to {other_high:g}", f"write 'range: [{low:g}, {high:g}]'")
    if said.channels not in (None, flow.image_shape[0]):
        raise BadInput(f"{field}.channels: {said.channels} declared, it draws {flow.image_shape[0]}", "correct it")
    levels_of("holdout", flow, real)
    try_flow(flow, real)


def _refuse_other_form(role: str, flow: Flow, parent: Flow) -> None:
    if (flow.image_shape, flow.bits) != (parent.image_shape, parent.bits):
        theirs, ours = (f"{'x'.join(map(str, one.image_shape))} and {one.bits} bits" for one in (flow, parent))
        raise BadInput(f"{role}: it is a flow of images of {theirs}, the checkpoint of {ours}",
                       "name a flow of the same images")


def _try_generators(wanted: Wanted, tell: Tell) -> int:
    tell("checkpoint.architecture: building the generator and drawing from it")
    with _blamed_on("checkpoint"):
        came = read_record(Checkpoint, Path(wanted.checkpoint))
        parent = _load(wanted.checkpoint)
        images = _try_generator("checkpoint", parent, came, wanted.range_declared)
    if isinstance(parent.discriminator, Critic):  # ours need no trial
        tell("discriminator: showing it images")
        with _blamed_on("discriminator"):
            field = "discriminator.output" if came.discriminator else "checkpoint.discriminator_output"
            _try_discriminator(parent.discriminator, images, field)
    known = _shown(wanted, ("oracle", "judge"), images, tell)  # a generator's request names both
    _agree_on_classes(wanted.forget, known)
    _shown(wanted, ("extractor",), images, tell)
    others = (("reference", wanted.reference, wanted.reference_range_declared, "retrained without the forget data"),
              ("origin", wanted.origin, wanted.origin_range_declared, "from before the earlier requests"))
    for role, other, range_declared, which in others:
        if other is None:
            continue
        tell(f"{role}.architecture: building the generator and drawing from it")
        with _blamed_on(role):
            record = read_record(Checkpoint, Path(other))
            drawn = _try_generator(role, _load(other), record, range_declared)
        if drawn.shape != images.shape:
            ours, theirs = ("x".join(map(str, batch.shape[1:])) for batch in (images, drawn))
            raise BadInput(f"{role}: it draws images of {theirs}, the checkpoint of {ours}",
                           f"name a model of the same kind, {which}")
    return known["judge"][0]


def _load(folder: str) -> Gan:
    model = load_recorded(Path(folder), read_record(Checkpoint, Path(folder)))
    assert isinstance(model, Gan)  # the record's family said so
    return model


@contextlib.contextmanager
def _blamed_on(field: str) -> Iterator[None]:
    """Puts the request's field before a complaint that does not name it, and makes a stranger's error one."""
    try:
        yield
    except BadInput as error:
        if error.problem.startswith("checkpoint") and field in ("reference", "origin"):  # another of the parent's kind
            raise BadInput(error.problem.replace("checkpoint", field, 1), error.remedy) from error
        if error.problem.startswith(NAMED):
            raise
        joint = "." if error.problem.startswith(("architecture ", "features: ", "output: ")) else ": "
        raise BadInput(f"{field}{joint}{error.problem}", error.remedy) from error
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"{field}.architecture: the model raised {type(error).__name__}: {said}",
                       "check that it takes what it is given, and mend it") from error


@torch.inference_mode()
def _try_generator(field: str, parent: Gan, record: Checkpoint, range_declared: bool) -> Tensor:
    """Images [IMAGES, C, H, W] in [-1, 1]; BadInput if they are not what was declared."""
    latents = parent.draw_latents(IMAGES, torch.Generator().manual_seed(0))
    images = parent(latents)
    if not torch.isfinite(images).all():
        raise BadInput(f"{field}: it draws pixels that are not finite numbers", "check its weights")
    if not torch.allclose(parent(latents[:8]), images[:8], atol=1e-3):
        raise BadInput(f"{field}: the same latent gives another image each time, or depends on its neighbours",
                       "let the factory build a generator that is a function of the latent")
    declared = record.interface.channels
    if declared is not None and images.shape[1] != declared:
        raise BadInput(f"{field}.channels: {declared} declared, it draws {images.shape[1]}", "correct it")
    low, high = record.interface.range
    lowest, highest = ((value.item() + 1) * (high - low) / 2 + low for value in (images.min(), images.max()))
    slack = SLACK * (high - low)
    narrow = highest - lowest < NARROW * (high - low) and not range_declared
    if lowest < low - slack or highest > high + slack or narrow:
        raise BadInput(
            f"{field}.range: it draws values from {lowest:.3g} to {highest:.3g}, "
            f"{'declared' if range_declared else 'expected'} is {low:g} to {high:g}",
            "declare the range of its pixels, such as 'range: [0, 1]'")
    return images


@torch.inference_mode()
def _try_discriminator(critic: Critic, images: Tensor, field: str) -> None:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    # What only looks like a probability on images leaves 0..1 on wild noise.
    shown = torch.cat([images, 50 * noise])
    out = critic.inner(to_guest(shown, critic.interface))
    if not isinstance(out, Tensor) or len(out) != len(shown):
        raise BadInput("discriminator: it does not put out a number per image", "let the factory build one that does")
    _refuse_wrong_output(field, critic.interface.output, bool(((out >= 0) & (out <= 1)).all()))


@torch.inference_mode()
def _try_classifier(role: str, model: Model, record: Checkpoint,
                    images: Tensor) -> tuple[int, tuple[str, ...]]:
    """How many classes it knows, and their names."""
    assert isinstance(model, Classifier)
    embeds = isinstance(model, Embedder)
    if embeds and role != "extractor":
        raise BadInput(f"{role}: it embeds images, and tells no classes apart",
                       "name a classifier here; this one can be the extractor")
    try:
        features, logits = model.look(images)
    except BadInput:
        raise
    except Exception as error:
        shape = "x".join(map(str, images.shape[1:]))
        raise BadInput(f"{role}: it cannot look at images of {shape} ({' '.join(str(error).split())[:120]})",
                       f"bring one for such images, or declare {role}.channels") from error
    if embeds:
        if not torch.isfinite(features).all():
            raise BadInput(f"{role}: its features are not finite", "check its weights")
        return 0, ()
    if features.ndim != 2 or logits.ndim != 2 or logits.shape[1] < 2:
        raise BadInput(f"{role}: it does not put out numbers per class", "let the factory build a classifier")
    if not torch.isfinite(logits).all():
        raise BadInput(f"{role}: what it puts out is not finite",
                       "check its weights, the statistics of batch normalisation among them")
    if logits.shape[1] > 2:
        sums = logits.exp() if record.interface.output == "probability" else logits
        _refuse_wrong_output(f"{role}.output", record.interface.output, bool(
            (sums >= 0).all() and (sums.sum(1) - 1).abs().max() < 1e-3))
    names = record.interface.classes
    if names and len(names) != logits.shape[1]:
        raise BadInput(f"{role}.classes: {len(names)} names, it puts out {logits.shape[1]} numbers",
                       "name every class, in the order of its outputs")
    return logits.shape[1], names


def _refuse_wrong_output(field: str, declared: str, looks_like_probabilities: bool) -> None:
    if looks_like_probabilities != (declared == "probability"):
        looks = "probabilities" if looks_like_probabilities else "no probabilities"
        right = "probability" if looks_like_probabilities else "logit"
        raise BadInput(f"{field}: '{declared}' declared, it puts out {looks}", f"declare '{right}' there")


def _agree_on_classes(forget: Forget, known: Known) -> None:
    """Both know what is to be forgotten and what was, and a number means the same to both."""
    for role, (count, names) in known.items():
        forget.numbers(f"the {role}", names, count)
        forget.earlier_numbers(f"the {role}", names, count)
    (of_oracle, oracle_names), (of_judge, judge_names) = known["oracle"], known["judge"]
    same = oracle_names == judge_names if oracle_names and judge_names else of_oracle == of_judge
    for field, classes in (("classes", forget.classes), ("earlier", forget.earlier)):
        if any(isinstance(item, int) for item in classes) and not same:
            raise BadInput(f"forget.{field}: the oracle and the judge number their classes differently",
                           "name the unwanted classes, and give both models' names (oracle.classes, judge.classes)")


if __name__ == "__main__":
    _main()
