"""Evaluating a classifier: what it and its parent answer to the same images, for the probes to look at."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.evaluate.answering import answers, by_loss, count_classes
from components.evaluate.controls import controls_for_classifier
from components.evaluate.evidence import Answers, ClassifierEvidence, called
from components.evaluate.given import Given, StoredAs
from components.evaluate.judging import as_classifier
from components.evaluate.membership import comparable
from components.evaluate.probes import ask
from components.evaluate.relearning import curves
from components.evaluate.relearning_classifiers import lessons, relearn
from components.evaluate.tables import write_classifier_tables
from expunge.contracts import Report, SampleSet, StoredFile
from expunge.errors import BadInput
from expunge.events import Progress
from expunge.room import Entered
from expunge.samples import SampleTable, as_known_to, read_samples
from expunge.settings import Workspace

if TYPE_CHECKING:
    import torch

    from expunge.models import Classifier


def evaluate_classifier(entered: Entered, given: Given, folder: Path) -> Report:
    """Asks parent and candidate about every held-out image; writes the data files into the report's folder.

    What is right is said by the images' labels, so no judge is asked, and no oracle: a request on a classifier names
    none. Classes are numbered and named as the parent
    does. How many images there are was fixed by who held them out: neither the request's sampling nor the latents'
    seed has a part in it.

    Raises:
        BadInput: candidate and parent do not answer with the same classes, or cannot look at the images; an image or
            the request is about a class that they do not know.
        DoesNotVerify: weights are not those that their record names.
    """
    import torch

    torch.set_num_threads(given.request.threads)
    questions = _Questions.open(entered.workspace, given, entered.progress)
    before, after = (questions.about_holdout(name, stored) for name, stored in (
        ("parent", given.parent), ("candidate", given.candidate)))
    evidence = ClassifierEvidence(questions.unwanted, before, after, questions.names, earlier=questions.earlier)
    evidence = questions.with_origin(given, questions.grafted(given, evidence))
    for more in (questions.with_reference, questions.with_members, questions.with_lessons):
        evidence = more(given, evidence)
    write_classifier_tables(folder, evidence)
    return Report(
        **given.named, origin_sha256=given.origin.sha256 if given.origin else None,
        unwanted=questions.unwanted, earlier=questions.earlier, came_before=given.request.came_before,
        classes=questions.names, holdout_lacks=questions.lacking,
        shares={}, measurements=ask(given.candidate.record.family, evidence),
        controls=controls_for_classifier(evidence), curves=tuple(curves(evidence.relearnings, "forget_accuracy")),
        files=tuple(StoredFile.of(file) for file in sorted(folder.iterdir())))


class _Done:
    """How many images were looked at, of how many, over all models."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._count = progress, total, 0

    def __call__(self, more: int) -> None:
        self._count += more
        self._progress(self._count, self._total)


@dataclass(frozen=True)
class _Questions:
    """The images that classifiers are asked about, and by which numbers."""

    holdout: SampleTable
    members: SampleTable | None
    classes: int  # that the parent tells apart
    names: tuple[str, ...]
    unwanted: tuple[int, ...]
    earlier: tuple[int, ...]
    device: "torch.device"
    done: "_Done"

    @classmethod
    def open(cls, workspace: Workspace, given: Given, progress: Progress) -> "_Questions":
        """Reads the images, and how the parent numbers its classes."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        held_out, names = read_samples(workspace, given.holdout), given.parent.record.interface.classes
        parent = as_classifier("parent", given.parent.load(device))
        classes = count_classes("parent", parent, held_out.images.shape[1:], device)
        forget = given.request.forget
        unwanted, earlier = (
            numbers("the parent", names, classes) for numbers in (forget.numbers, forget.earlier_numbers))

        def numbered(table: SampleTable, images: SampleSet) -> SampleTable:
            return SampleTable(table.images, as_known_to(
                "the parent", images.role, table.labels, images.classes, names, classes, "leave them out"))

        members = numbered(read_samples(workspace, given.members), given.members) if given.members else None
        asked_of_members = 2 if given.reference else 1  # the parent is not, nor is the first of a chain
        askers = asked_of_members + (2 if given.origin else 1)
        total = askers * len(held_out) + asked_of_members * (len(members) if members else 0)
        return cls(numbered(held_out, given.holdout), members, classes, names, unwanted, earlier, device,
                   _Done(progress, total))

    @property
    def lacking(self) -> tuple[int, ...]:
        """The retained classes of which no image was held out."""
        there = {*self.unwanted, *self.earlier, *self.holdout.labels.tolist()}
        return tuple(label for label in range(self.classes) if label not in there)

    def about_holdout(self, name: str, stored: StoredAs) -> Answers:
        """What a model answers to the held-out images."""
        return self._ask(name, stored, self.holdout)

    def grafted(self, given: Given, evidence: ClassifierEvidence) -> ClassifierEvidence:
        """The same, and what the parent's last layer makes of the features behind the candidate's."""
        from expunge.models.classifiers import last_linear

        head = last_linear(as_classifier("parent", given.parent.load(self.device)))
        seen = evidence.after.features
        if head is None or head.in_features != seen.shape[1] or head.out_features != self.classes:
            return evidence
        weight, bias = (None if part is None else part.detach().double().cpu().numpy()
                        for part in (head.weight, head.bias))
        with np.errstate(invalid="ignore"):
            scores = seen.astype(np.float64) @ weight.T + (0.0 if bias is None else bias)
        return replace(evidence, grafted=np.where(np.isfinite(scores).all(axis=1), scores.argmax(axis=1), -1))

    def with_origin(self, given: Given, evidence: ClassifierEvidence) -> ClassifierEvidence:
        """The same, and what the first model of the chain answers, if there is a chain."""
        if given.origin is None:
            return evidence
        return replace(evidence, origin=self.about_holdout("origin", given.origin))

    def with_members(self, given: Given, evidence: ClassifierEvidence) -> ClassifierEvidence:
        """The same, and what the candidate and the reference lose on members and on others."""
        if self.members is None:
            return evidence
        found = self._ask("candidate", given.candidate, self.members)
        try:
            ours, theirs = comparable(found.labels, evidence.after.labels, self.unwanted,
                                      lambda label: called(self.names, label))
        except BadInput as error:
            return replace(evidence, not_compared=str(error))
        evidence = replace(evidence, membership=by_loss(found[ours], evidence.after[theirs]))
        if evidence.reference is None or given.reference is None:
            return evidence
        of_reference = self._ask("reference", given.reference, self.members)
        return replace(evidence, reference_membership=by_loss(of_reference[ours], evidence.reference[theirs]))

    def with_reference(self, given: Given, evidence: ClassifierEvidence) -> ClassifierEvidence:
        """The same, and what the reference answers, or why it has no answers to compare."""
        if given.reference is None:
            return evidence
        try:
            return replace(evidence, reference=self.about_holdout("reference", given.reference))
        except BadInput as error:
            return replace(evidence, no_reference=str(error))

    def with_lessons(self, given: Given, evidence: ClassifierEvidence) -> ClassifierEvidence:
        """The same, and how fast the models learn the unwanted again, or why nobody was taught."""
        count = given.request.sampling.lessons
        if not count:
            return replace(evidence, not_taught="the request asks for no lesson (sampling.lessons)")
        pupils, why = {"candidate": given.candidate, "parent": given.parent}, ""
        if given.reference is None or evidence.reference is None:
            why = evidence.no_reference or (
                "the request names no reference, a model that never saw it: nothing to compare with")
        elif given.reference.record.architecture != given.parent.record.architecture:
            why = (f"the reference is a {given.reference.record.architecture}, the parent a "
                   f"{given.parent.record.architecture}: their steps cannot be compared")
        else:
            pupils["never exposed"] = given.reference
        try:
            found = lessons(self.holdout, self.unwanted, evidence.lost, count, self.device)
            half = 0.5 * float(evidence.before.of(self.unwanted).right.mean())
        except BadInput as error:
            return replace(evidence, not_taught=str(error))
        taught = tuple(relearn(name, as_classifier(name, stored.load(self.device)), lesson, half)
                       for name, stored in pupils.items() for lesson in found)
        return replace(evidence, relearnings=taught, not_taught=why)

    def _ask(self, name: str, stored: StoredAs, table: SampleTable) -> Answers:
        model = self._same_classes(name, stored, table.images.shape[1:])
        return answers(name, model, table, self.unwanted, self.device, self.done)

    def _same_classes(self, name: str, stored: StoredAs, image_shape: tuple[int, ...]) -> "Classifier":
        """The model, if it answers with the parent's classes."""
        model = as_classifier(name, stored.load(self.device))
        classes, names = count_classes(name, model, image_shape, self.device), stored.record.interface.classes
        if classes != self.classes:
            raise BadInput(f"{name}: it tells {classes} classes apart, the parent {self.classes}",
                           "compare classifiers that answer with the same classes")
        if names and self.names and names != self.names:
            raise BadInput(f"{name}: its classes have other names than the parent's, or stand in another order",
                           "compare classifiers that answer with the same classes")
        return model
