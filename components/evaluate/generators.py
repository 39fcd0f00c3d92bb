"""Evaluating a generator: all that is gathered from the models, once, for the probes to look at."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from components.evaluate.controls import controls_for
from components.evaluate.drawing import Drawn, draw, images_of, latents_of
from components.evaluate.effort import Effort
from components.evaluate.evidence import Evidence, Real, Relearning, Search, Seen
from components.evaluate.given import Given, StoredAs
from components.evaluate.judging import Judge, joined
from components.evaluate.membership import nearness
from components.evaluate.pictures import may_show_before
from components.evaluate.probes import ask
from components.evaluate.relearning import IMAGES_OF_A_LESSON, curves, lessons, relearn
from components.evaluate.searching import STEPS, Guide, search
from components.evaluate.tables import write_tables
from components.evaluate.verdict_so_far import Watch
from expunge.contracts import Candidate, Report, SampleSet, Stopping, StoredFile
from expunge.errors import BadInput
from expunge.evidence.coherence import read_policy
from expunge.measure.shares import class_shares
from expunge.room import Entered
from expunge.samples import as_known_to_judge, read_samples
from expunge.settings import Workspace

if TYPE_CHECKING:
    import torch

    from expunge.models import Gan

# Of the samples planned, what sequential sampling draws in any case: with a quarter, ten digits came to the same
# verdicts as with all (benchmarks/sequential_digits.py).
FIXED_SHARE = 0.25
DRAWING, LESSONS = "drawing", "lessons"  # parts of the work


def evaluate_generator(entered: Entered, given: Given, folder: Path) -> Report:
    """Draws, searches, teaches and measures; writes all but the record and the page into the report's folder."""
    import torch

    request = given.request
    held_out = read_samples(entered.workspace, given.holdout)  # before the long work: it may be missing
    torch.set_num_threads(request.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parent, candidate = (_generator(stored, device) for stored in (given.parent, given.candidate))
    reference, origin = (_generator(stored, device) if stored else None for stored in (given.reference, given.origin))
    _refuse_other_shapes(parent.image_shape, {"candidate": candidate, "reference": reference, "origin": origin},
                         held_out.images.shape[1:])
    judge = Judge.open(given, parent.image_shape, device)
    effort = _effort(entered, given)
    names = given.judge.record.interface.classes
    watch = (Watch(read_policy(given.policy), given.candidate.record.family, _fixed(request.sampling.evaluate),
                   judge.unwanted, judge.classes, names, judge.earlier) if request.sampling.sequential else None)
    began = time.monotonic()
    drawn = draw((parent, candidate), judge, given.latent_seed, request.sampling.evaluate,
                 may_show_before(request.reason, request.show_before), effort.of(DRAWING), watch)
    seconds = time.monotonic() - began
    effort.of(DRAWING)(1.0)
    drawn.pictures.save(folder)
    half = float(np.isin(drawn.before.classes, judge.unwanted).mean()) / 2
    weights = _Weights(given, judge.alone, parent, candidate, reference, effort)
    compared = watch.fixed if watch else len(drawn.after.classes)  # what distances use, whatever was drawn
    evidence = Evidence(
        judge.unwanted, judge.classes, drawn.before, drawn.after,
        real=_real(entered.workspace, given, given.holdout, judge),
        fixed=watch.fixed if watch else None, names=names,
        reference=_views(reference, judge, given.latent_seed, compared) if reference else None,
        search=weights.searched("candidate"), search_before=weights.searched("parent"),
        relearnings=tuple(weights.relearned(entered, half)), not_taught=weights.not_taught, earlier=judge.earlier,
        origin=_first_of(origin, parent, judge, given.latent_seed, request.sampling.evaluate,
                         watch.fixed if watch else request.sampling.evaluate) if origin else None)
    if given.members is not None:
        evidence = _with_members(evidence, _real(entered.workspace, given, given.members, judge))
    write_tables(folder, evidence)
    shares = [class_shares(seen.classes, judge.classes) for seen in (drawn.before, drawn.after)]
    there = set(evidence.real.labels.tolist())
    return Report(
        **given.named, **given.compared_by,
        origin_sha256=given.origin.sha256 if given.origin else None, came_before=request.came_before,
        unwanted=judge.unwanted, earlier=judge.earlier, classes=names, holdout_lacks=tuple(
            label for label in evidence.retained if shares[0][label] and label not in there),
        measurements=ask(given.candidate.record.family, evidence), controls=controls_for(evidence),
        shares={str(label): (float(shares[0][label]), float(shares[1][label])) for label in range(judge.classes)},
        curves=tuple(curves(evidence.relearnings, "residual_rate")),
        stopping=_stopping(watch, drawn, request.sampling.evaluate, seconds),
        files=tuple(StoredFile.of(file) for file in sorted(folder.iterdir())))


@dataclass
class _Weights:
    """What is asked of the weights themselves, not of what they happen to draw."""

    given: Given
    judge: Judge
    parent: "Gan"
    candidate: "Gan"
    reference: "Gan | None"
    effort: Effort
    not_taught: str = ""  # why nobody was taught, or why there is nobody to compare with

    def searched(self, name: Literal["candidate", "parent"]) -> Search | None:
        import torch

        count = self.given.request.sampling.search
        if not count:
            return None
        model = self.candidate if name == "candidate" else self.parent
        starts = torch.cat(list(latents_of(model, self.given.latent_seed, count, "search")))
        return search(model, Guide.open(self.given, model.image_shape, self.judge.device), self.judge, starts,
                      self.effort.of(f"search {name}"))

    def relearned(self, entered: Entered, wanted_rate: float) -> Iterator[Relearning]:
        """The candidate, the parent and, if there is one, a model that never knew, from the same lessons."""
        count = self.given.request.sampling.lessons
        if not count:
            self.not_taught = "the request asks for no lesson (sampling.lessons)"
            return
        taught = [("candidate", self.candidate), ("parent", self.parent)]
        never = self.given.reference
        if never is None or self.reference is None:
            self.not_taught = "the request names no reference, a model that never saw it: nothing to compare with"
        elif (other := never.record.architecture) != (ours := self.given.parent.record.architecture):
            self.not_taught = f"the reference is a {other}, the parent a {ours}: their steps cannot be compared"
        else:
            taught.append(("never exposed", self.reference))
        try:
            found = lessons(self.parent, self.judge, self.given.latent_seed, count)
        except BadInput as error:
            self.not_taught = str(error)
            return
        for number, lesson in enumerate(found):
            try:  # whole lessons only: they are compared one by one
                came = [relearn(name, model, lesson, self.judge, self.given.latent_seed, wanted_rate)
                        for name, model in taught]
            except BadInput as error:
                self.not_taught = str(error)
                return
            yield from came
            entered.note(f"taught again from {len(lesson.images)} samples, {number + 1} of {len(found)}")
            self.effort.of(LESSONS)((number + 1) / len(found))


def _effort(entered: Entered, given: Given) -> Effort:
    """What is going to be done, by the images that it takes; a gradient is counted as another image."""
    sampling, models = given.request.sampling, 3 if given.reference else 2
    taught = (models - 1) * sampling.lessons  # the parent still draws it
    return Effort(entered.progress, {
        DRAWING: 2 * sampling.evaluate, "search candidate": 2 * STEPS * sampling.search,
        "search parent": 2 * STEPS * sampling.search, LESSONS: taught * IMAGES_OF_A_LESSON})


def _generator(stored: StoredAs, device: "torch.device") -> "Gan":
    from expunge.models import Gan

    model = stored.load(device)
    if not isinstance(model, Gan):
        kind = "candidate" if isinstance(stored.record, Candidate) else stored.record.role
        raise BadInput(f"{kind}: it is no generator", "name another model")
    return model.requires_grad_(False)


def _refuse_other_shapes(ours: tuple[int, ...], models: Mapping[str, "Gan | None"],
                         held_out: tuple[int, ...]) -> None:
    """A judge may look at images of any size and say something of them; what it says then compares nothing."""
    drawn = {name: model.image_shape for name, model in models.items() if model is not None}
    for name, shape in {**drawn, "holdout": held_out}.items():
        if tuple(shape) != tuple(ours):
            wrong, right = ("x".join(map(str, size)) for size in (shape, ours))
            raise BadInput(f"{name}: its images are {wrong}, the parent's {right}",
                           "compare only what has the same channels, rows and columns")


def _real(workspace: Workspace, given: Given, images: SampleSet, judge: Judge) -> Real:
    """Real images and their labels, as the judge sees and numbers them."""
    table = read_samples(workspace, images)
    labels = as_known_to_judge(
        table.labels, images.classes, given.judge.record.interface.classes, judge.classes, images.role)
    return Real(judge.sees_all(table.images), labels)


def _with_members(evidence: Evidence, members: Real) -> Evidence:
    try:
        return replace(evidence, membership=nearness(evidence, members))
    except BadInput as error:
        return replace(evidence, not_compared=str(error))


def _views(model: "Gan", judge: Judge, seed: str, count: int) -> Seen:
    """The judge's view of what a model draws from latents of its own."""
    return joined([judge.sees(images_of("reference", model, latents, judge.device))
                   for latents in latents_of(model, seed, count, "reference")])


def _first_of(origin: "Gan", parent: "Gan", judge: Judge, seed: str, planned: int, count: int) -> Seen:
    """The judge's view of what the first model of the chain draws, from the first of the latents that the others got.

    Raises:
        BadInput: it takes other latents, so that nothing could be compared latent by latent.
    """
    ours, theirs = (next(latents_of(model, seed, 1)).shape[1:] for model in (parent, origin))
    if ours != theirs:
        raise BadInput(f"origin: its latents are {'x'.join(map(str, theirs))}, the checkpoint's "
                       f"{'x'.join(map(str, ours))}", "name the model that the earlier requests began with")
    seen: list[Seen] = []
    for latents in latents_of(parent, seed, planned):  # in the same batches: a shorter one would hold other numbers
        if sum(len(view.classes) for view in seen) >= count:
            break
        seen.append(judge.sees(images_of("origin", origin, latents, judge.device)))
    return joined(seen)[slice(count)]


def _fixed(planned: int) -> int:
    return max(1, round(FIXED_SHARE * planned))


def _stopping(watch: Watch | None, drawn: Drawn, planned: int, seconds: float) -> Stopping | None:
    if watch is None:
        return None
    count = len(drawn.after.classes)
    return Stopping(planned=planned, drawn=count, fixed=watch.fixed,
                    decided=drawn.decided or "nothing did: all were drawn",
                    seconds_saved=round((planned - count) * seconds / count, 3))
