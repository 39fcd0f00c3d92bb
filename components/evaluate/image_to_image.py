"""Evaluating an image-to-image model: it, its parent and noise complete the same images, for the probes to look at."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.completing import Table, noise, of_model, unchanged
from components.evaluate.controls_of_completions import controls_for_image_to_image
from components.evaluate.drawing import stream
from components.evaluate.effort import Effort
from components.evaluate.evidence import Membership, Relearned, called
from components.evaluate.evidence_of_completions import CompletionEvidence, Completions
from components.evaluate.given import Given, StoredAs
from components.evaluate.judging import Judge
from components.evaluate.membership import comparable
from components.evaluate.pictures import may_show_before
from components.evaluate.pictures_of_completions import CompletionPictures, Kept
from components.evaluate.probes import ask
from components.evaluate.probes.is_it_still_completed import shares
from components.evaluate.relearning_completions import IMAGES_OF_A_LESSON, curves, lessons, relearn
from components.evaluate.tables import write_completion_tables
from expunge.contracts import Report, SampleSet, StoredFile
from expunge.errors import BadInput
from expunge.room import Entered
from expunge.samples import SampleTable, as_known_to_judge, read_samples
from expunge.settings import Workspace

if TYPE_CHECKING:
    import torch

    from expunge.models import ImageToImage

REPEATED = 2_000  # completions of single images together: each is asked so often that chance hardly counts
AGAIN = 1_000  # images of the rest at most that the parent completes a second time
COMPLETING, TEACHING = "completing", "teaching"  # parts of the work
FURTHER = ("reference", "origin")  # models that need not be there


def evaluate_image_to_image(entered: Entered, given: Given, folder: Path) -> Report:
    """Has parent, candidate and noise complete the same images, and writes the data files into the folder.

    Asked are the images to forget, held-out images of their classes, of the rest, and of what was forgotten before; of
    each `sampling.evaluate` at most, chosen by the report's seed. The masks are those that the parent is asked to
    complete behind.

    Raises:
        BadInput: there is no set to forget; an image is not of the model's size, or of a class that the judge does not
            know; the candidate completes images of another size; there is no held-out image of the rest.
        DoesNotVerify: weights are not those that their record names.
    """
    import torch

    request = given.request
    torch.set_num_threads(request.threads)
    asked = _Asked.open(entered.workspace, given)
    judge = asked.judge
    effort = Effort(entered.progress, {
        COMPLETING: asked.passes, TEACHING: 2 * request.sampling.lessons * IMAGES_OF_A_LESSON})
    pictures = CompletionPictures(judge.unwanted, may_show_before(request.reason, request.show_before),
                                  tuple(sorted({*judge.earlier} - {*judge.unwanted})))
    evidence = asked.about_all(_Done(effort.of(COMPLETING), asked.passes), pictures)
    evidence = asked.with_members(evidence)
    effort.of(COMPLETING)(1.0)
    evidence = asked.with_lessons(evidence, request.sampling.lessons, effort.of(TEACHING))
    effort.of(TEACHING)(1.0)
    pictures.save(folder)
    write_completion_tables(folder, evidence)
    before, after = (shares(found, judge.classes) for found in (evidence.forget.before, evidence.forget.after))
    there = {*evidence.rest.labels.tolist()}  # images of what was forgotten before are never among the kept ones
    return Report(
        **given.named, **given.compared_by,
        origin_sha256=given.origin.sha256 if given.origin else None, came_before=request.came_before,
        single_images=len({*request.forget.images}) or None, unwanted=judge.unwanted,
        earlier=judge.earlier, classes=asked.names,
        holdout_lacks=tuple(label for label in _kept(given) if label not in there),
        measurements=ask(given.candidate.record.family, evidence), controls=controls_for_image_to_image(evidence),
        shares={str(label): (float(before[label]), float(after[label])) for label in range(judge.classes)},
        curves=tuple(curves(evidence.relearnings)),
        files=tuple(StoredFile.of(file) for file in sorted(folder.iterdir())))


class _Done:
    """Counts completions."""

    def __init__(self, share: Callable[[float], None], total: int) -> None:
        self._share, self._total, self._count = share, total, 0

    def __call__(self, more: int) -> None:
        self._count += more
        self._share(self._count / self._total)


@dataclass(frozen=True)
class _Asked:
    """All models, the judge, and the images that are completed, labelled by the judge's numbers."""

    models: "dict[str, ImageToImage]"  # `parent`, `candidate`, and of the others those that are there
    judge: Judge
    names: tuple[str, ...]  # the judge's, of the classes
    seed: str
    single: bool
    forgotten: SampleTable  # all that is to be forgotten, once
    forget: Table
    alike: Table
    rest: Table
    before: Table
    members: Table | None
    absent: dict[str, str]  # why one of the others cannot be asked
    device: "torch.device"

    @classmethod
    def open(cls, workspace: Workspace, given: Given) -> "_Asked":
        """Loads the models and reads the images."""
        import torch

        from expunge.models.image_to_image import refuse_other

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if given.forget is None:
            raise BadInput("forget: there is no such set, and a model is asked to complete exactly these images",
                           "name labelled images of what is to be forgotten (training)")
        parent, candidate = (_model(name, stored, device) for name, stored in (
            ("parent", given.parent), ("candidate", given.candidate)))
        models, why = {"parent": parent, "candidate": candidate}, {}
        _refuse_another_size("candidate", candidate, parent)
        for name, stored in zip(FURTHER, (given.reference, given.origin), strict=True):
            if stored is not None:
                try:
                    models[name] = _model(name, stored, device)
                    _refuse_another_size(name, models[name], parent)
                except BadInput as error:
                    models.pop(name, None)
                    why[name] = str(error)
        judge = Judge.open(given, parent.image_shape, device)
        seed, most = given.latent_seed, given.request.sampling.evaluate

        def numbered(images: SampleSet) -> SampleTable:
            table = read_samples(workspace, images)
            refuse_other(images.role, parent, torch.from_numpy(np.ascontiguousarray(table.images)))
            return SampleTable(table.images, as_known_to_judge(
                table.labels, images.classes, given.judge.record.interface.classes, judge.classes, images.role))

        def some(role: str, table: SampleTable, rows: NDArray[np.intp]) -> Table:
            order = torch.randperm(len(rows), generator=stream(seed, f"{role} chosen")).numpy()
            chosen = rows[order][:most]
            return Table(chosen, role, table.images[chosen], table.labels[chosen], parent.masks, judge, seed)

        forget, held_out = numbered(given.forget), numbered(given.holdout)
        single, lost = bool(given.request.forget.images), {*judge.earlier}
        lost |= set() if single else {*judge.unwanted}
        everything = np.arange(len(forget))
        if single:
            everything = np.tile(everything, -(-min(most, REPEATED) // len(forget)))
        rest = np.flatnonzero(~np.isin(held_out.labels, list(lost)))
        if not len(rest):
            raise BadInput("holdout: every image is of a class that is to be forgotten", "hold out some of what stays")
        members = numbered(given.members) if given.members else None
        return cls(
            models, judge, given.judge.record.interface.classes, seed, single, forget,
            some("forget", forget, everything),
            some("held-out unwanted", held_out, np.flatnonzero(np.isin(held_out.labels, judge.unwanted))),
            some("rest", held_out, rest),
            some("earlier", held_out, np.flatnonzero(np.isin(held_out.labels, judge.earlier))),
            some("members", members, np.arange(len(members))) if members is not None else None,
            why, device)

    @property
    def passes(self) -> int:
        """How many images are completed by some model."""
        every = sum(len(table) for table in (self.forget, self.alike, self.rest, self.before))
        return len(self.models) * every + min(AGAIN, len(self.rest)) + len(self.members or ())

    def about_all(self, done: Callable[[int], None], pictures: CompletionPictures) -> CompletionEvidence:
        """What all of them make of all images; some of it stays as pictures."""
        parent = of_model("parent", self.models["parent"], self.device)
        forget, rest = (self._completed(table, done, pictures, group) for table, group in (
            (self.forget, "unwanted"), (self.rest, "retained")))
        alike, before = (self._completed(table, done) for table in (self.alike, self.before))
        return CompletionEvidence(
            self.judge.unwanted, self.single, self.judge.classes, forget, alike, rest, before,
            noise_again=self.forget.filled("noise", noise, "other noise"),
            parent_again=self.rest[slice(AGAIN)].filled("parent", parent, "again", "other masks", done=done),
            names=self.names, earlier=self.judge.earlier, absent=self.absent)

    def _completed(self, table: Table, done: Callable[[int], None], pictures: CompletionPictures | None = None,
                   group: str = "") -> Completions:
        rows = pictures.rows(group, table.labels) if pictures else ()
        kept = {name: Kept(rows) for name in self.models}
        by = {name: table.filled(name, of_model(name, model, self.device), "completions", done=done, look=kept[name])
              for name, model in self.models.items()}
        found = Completions(
            table.numbers, table.labels, table.filled("image", unchanged, "nothing"),
            table.filled("noise", noise, "noise"), by.pop("parent"), by.pop("candidate"), by)
        if pictures:
            pictures.take(group, found, kept["parent"], kept["candidate"])
        return found

    def with_members(self, evidence: CompletionEvidence) -> CompletionEvidence:
        """The same, and how well the candidate completes members and others of their classes.

        An image that is completed better is taken for a member: the score is the negative of its hidden error.
        """
        if self.members is None:
            return evidence
        try:
            ours, theirs = comparable(self.members.labels, evidence.alike.labels, evidence.unwanted,
                                      lambda label: called(self.names, label))
        except BadInput as error:
            return replace(evidence, not_compared=str(error))
        candidate = of_model("candidate", self.models["candidate"], self.device)
        found = self.members.filled("candidate", candidate, "completions")
        return replace(evidence, membership=Membership(-found.errors[ours], -evidence.alike.after.errors[theirs]))

    def with_lessons(self, evidence: CompletionEvidence, count: int, done: Callable[[float], None]
                     ) -> CompletionEvidence:
        """The same, and how fast the candidate is taught to complete them again, or why nobody was taught."""
        if not count:
            return replace(evidence, not_taught="the request asks for no lesson (sampling.lessons)")
        parent, of, taught = self.models["parent"], self.forgotten, list[Relearned]()
        try:
            found = lessons(parent, of.images, of.labels, self.seed, count, self.device)
            for place, lesson in enumerate(found):
                taught += relearn(parent, self.models["candidate"], lesson)
                done((place + 1) / count)
        except BadInput as error:
            return replace(evidence, not_taught=str(error))
        return replace(evidence, relearnings=tuple(taught))


def _kept(given: Given) -> tuple[int, ...]:
    """The classes that training was shown to be kept; none are known where other images stood in for them."""
    if given.retain is None or given.request.proxy is not None:
        return ()
    return tuple(sorted(map(int, given.retain.class_counts)))


def _model(name: str, stored: StoredAs, device: "torch.device") -> "ImageToImage":
    from expunge.models import ImageToImage

    model = stored.load(device)
    if not isinstance(model, ImageToImage):
        raise BadInput(f"{name}: it completes no images", "name another model")
    return model.requires_grad_(False)


def _refuse_another_size(name: str, model: "ImageToImage", parent: "ImageToImage") -> None:
    theirs, ours = ("x".join(map(str, one.image_shape)) for one in (model, parent))
    if theirs != ours:
        raise BadInput(f"{name}: its images are {theirs}, the parent's {ours}",
                       "compare models that complete images of the same size")


