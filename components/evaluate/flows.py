"""Evaluating a normalizing flow: how likely it finds given images, and what it draws, for the probes to look at."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.evaluate.controls_of_flows import controls_for_flow
from components.evaluate.drawing import stream
from components.evaluate.effort import Effort
from components.evaluate.evidence import Evidence, Membership, Real, Seen
from components.evaluate.evidence_of_flows import FORGET_POINTS, POINTS, Compared, FlowEvidence, Likely, Ruined
from components.evaluate.gauging import draws, gauge, nearest, noise_of, worn
from components.evaluate.given import Given, StoredAs
from components.evaluate.judging import Judge, joined
from components.evaluate.membership import comparable
from components.evaluate.pictures import Pictures, may_show_before
from components.evaluate.probes import ask
from components.evaluate.tables import write_flow_tables
from expunge.contracts import Report, SampleSet, StoredFile
from expunge.errors import BadInput
from expunge.measure.shares import class_shares
from expunge.room import Entered
from expunge.samples import SampleTable, as_known_to_judge, read_samples
from expunge.settings import Workspace

if TYPE_CHECKING:
    import torch

    from expunge.models import Flow

NOISY = 64  # images of noise at most: every one of them has to be as unlikely as the control says
LIKELIHOODS, DRAWING = "likelihoods", "drawing"  # parts of the work
WORN_DRAWS = 2_000  # of the parent's, at most


def evaluate_flow(entered: Entered, given: Given, folder: Path) -> Report:
    """Asks parent and candidate about the same images, lets both draw, and writes the data files into the folder.

    What decides are the images to forget, every one of them, in the standard deviations of retained ones, and
    held-out images. `sampling.evaluate` says how many each flow draws, and how many retained images are asked about.

    Raises:
        BadInput: there is no set to forget or to retain; an image is not of the flow's size or depth, or of a class
            that the judge does not know; the candidate is of another size or depth than its parent.
        DoesNotVerify: weights are not those that their record names.
    """
    import torch

    request = given.request
    torch.set_num_threads(request.threads)
    asked = _Asked.open(entered.workspace, given)
    judge = asked.judge
    effort = Effort(entered.progress, {LIKELIHOODS: asked.passes, DRAWING: 2 * request.sampling.evaluate})
    evidence = asked.about_images(_Done(effort.of(LIKELIHOODS), asked.passes))
    evidence = asked.with_origin(given, asked.with_members(asked.with_reference(given, evidence)))
    effort.of(LIKELIHOODS)(1.0)
    pictures = Pictures(judge.unwanted, may_show_before(request.reason, request.show_before),
                        tuple(sorted({*judge.earlier} - {*judge.unwanted})))
    evidence = asked.with_draws(evidence, request.sampling.evaluate, pictures, effort.of(DRAWING))
    pictures.save(folder)
    write_flow_tables(folder, evidence)
    drawn = evidence.drawn
    shares = [class_shares(seen.classes, judge.classes) for seen in (drawn.before, drawn.after)] if drawn else []
    there = set(evidence.held_out.labels[evidence.kept].tolist())
    return Report(
        **given.named, **given.compared_by,
        origin_sha256=given.origin.sha256 if given.origin else None, came_before=request.came_before,
        single_images=len({*request.forget.images}) or None, unwanted=judge.unwanted, earlier=judge.earlier,
        classes=asked.names, holdout_lacks=tuple(
            label for label in range(judge.classes)
            if label not in evidence.lost and label not in there and shares and shares[0][label]),
        measurements=ask(given.candidate.record.family, evidence), controls=controls_for_flow(evidence),
        shares={str(label): (float(shares[0][label]), float(shares[1][label]))
                for label in range(judge.classes) if shares},
        files=tuple(StoredFile.of(file) for file in sorted(folder.iterdir())))


class _Done:
    """Counts passes of an image through a flow."""

    def __init__(self, share: Callable[[float], None], total: int) -> None:
        self._share, self._total, self._count = share, total, 0

    def __call__(self, more: int) -> None:
        self._count += more
        self._share(self._count / self._total)


@dataclass(frozen=True)
class _Asked:
    """Both flows, the judge, and the images that they are asked about, labelled by the judge's numbers."""

    parent: "Flow"
    candidate: "Flow"
    judge: Judge
    names: tuple[str, ...]  # the judge's, of the classes
    seed: str
    single: bool
    came_before: bool
    forget: SampleTable
    retain: SampleTable
    holdout: SampleTable
    members: SampleTable | None
    device: "torch.device"

    @classmethod
    def open(cls, workspace: Workspace, given: Given) -> "_Asked":
        """Loads the flows and reads the images."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sets = {"forget": given.forget, "retain": given.retain, "holdout": given.holdout, "members": given.members}
        for role in ("forget", "retain"):
            if sets[role] is None:
                raise BadInput(f"{role}: there is no such set, and a flow is asked about exactly these images",
                               "name labelled images of what is to be forgotten and of what is to stay (training)")
        tables = {role: read_samples(workspace, found) for role, found in sets.items() if found is not None}
        parent, candidate = (_flow(name, stored, device) for name, stored in (
            ("parent", given.parent), ("candidate", given.candidate)))
        _refuse_another_kind("candidate", candidate, parent)
        judge = Judge.open(given, parent.image_shape, device)

        def numbered(role: str, images: SampleSet) -> SampleTable:
            return SampleTable(tables[role].images, as_known_to_judge(
                tables[role].labels, images.classes, given.judge.record.interface.classes, judge.classes, role))

        labelled = {role: numbered(role, images) for role, images in sets.items() if images is not None}
        most = given.request.sampling.evaluate
        if len(labelled["retain"]) > most:
            chosen = torch.randperm(len(labelled["retain"]), generator=stream(given.latent_seed, "retained"))[:most]
            labelled["retain"] = labelled["retain"][np.sort(chosen.numpy())]
        return cls(parent, candidate, judge, given.judge.record.interface.classes, given.latent_seed,
                   bool(given.request.forget.images), bool(judge.earlier or given.request.came_before),
                   labelled["forget"], labelled["retain"], labelled["holdout"],
                   labelled.get("members"), device)

    @property
    def passes(self) -> int:
        """How often an image is passed through a flow, not counting what it draws."""
        others = len(self.retain) + len(self.holdout)
        return (2 * (FORGET_POINTS * len(self.forget) + POINTS * others) + 2 * POINTS * len(self.holdout)
                + FORGET_POINTS * min(NOISY, len(self.forget)) + POINTS * len(self.members or ()))

    # ------------------------------------------------------------------------------------- given images

    def levels(self, role: str) -> "torch.Tensor":
        """The levels of one set's images."""
        import torch

        from expunge.models.flow import levels_of

        table: SampleTable = getattr(self, role)
        return levels_of(role, self.parent, torch.from_numpy(np.ascontiguousarray(table.images)))

    def about_images(self, done: Callable[[int], None]) -> FlowEvidence:
        """How likely both find every image, and what the parent makes of ruined ones."""
        levels = {role: self.levels(role) for role in ("forget", "retain", "holdout")}

        def compared(role: str, points: int) -> Compared:
            before, after = (gauge(name, flow, levels[role], points, self.seed, role, self.device, done)
                             for name, flow in (("parent", self.parent), ("candidate", self.candidate)))
            return Compared(getattr(self, role).labels, before, after)

        evidence = FlowEvidence(
            self.judge.unwanted, self.single, compared("forget", FORGET_POINTS), compared("retain", POINTS),
            compared("holdout", POINTS), np.zeros(len(self.holdout), np.bool_), _NOT_RUINED, None,
            names=self.names, earlier=self.judge.earlier, came_before=self.came_before)
        rest = levels["holdout"][evidence.kept]
        if not len(rest):
            raise BadInput("holdout: every image is of a class that is to be forgotten", "hold out some of what stays")

        def of_parent(some: "torch.Tensor", points: int, purpose: str) -> Likely:
            return gauge("parent", self.parent, some, points, self.seed, purpose, self.device, done)

        noise = noise_of(self.parent, min(NOISY, len(self.forget)), self.seed)
        return replace(evidence, near=self._near(evidence.kept), ruined=Ruined(
            of_parent(noise, FORGET_POINTS, "noise points"),
            of_parent(worn(self.parent, rest, self.seed), POINTS, "worn"), of_parent(rest, POINTS, "again")))

    def _near(self, kept: "np.typing.NDArray[np.bool_]") -> "np.typing.NDArray[np.bool_]":
        """Which held-out images of the rest are nearest to a forget image, in the features that are compared."""
        ours, theirs = (self.judge.sees_all(images).features for images in (
            self.forget.images, self.holdout.images[kept]))
        near = np.zeros(len(kept), np.bool_)
        near[np.flatnonzero(kept)[nearest(ours, theirs)]] = True
        return near

    def with_reference(self, given: Given, evidence: FlowEvidence) -> FlowEvidence:
        """The same, and how likely a flow finds forget and retain images that never saw the former."""
        if given.reference is None:
            return evidence
        try:
            flow = _flow("reference", given.reference, self.device)
            _refuse_another_kind("reference", flow, self.parent)
            forget, retain = (gauge("reference", flow, self.levels(role), points, self.seed, role, self.device)
                              for role, points in (("forget", FORGET_POINTS), ("retain", POINTS)))
        except BadInput as error:
            return replace(evidence, no_reference=str(error))
        return replace(evidence, never=(forget, retain))

    def with_origin(self, given: Given, evidence: FlowEvidence) -> FlowEvidence:
        """The same, and how likely the first model of the chain finds held-out and retained images."""
        if given.origin is None:
            return evidence
        try:
            flow = _flow("origin", given.origin, self.device)
            _refuse_another_kind("origin", flow, self.parent)
            first, retain = (gauge("origin", flow, self.levels(role), POINTS, self.seed, role, self.device)
                             for role in ("holdout", "retain"))
        except BadInput as error:
            return replace(evidence, no_first=str(error))
        return replace(evidence, first=first, first_retain=retain)

    def with_members(self, evidence: FlowEvidence) -> FlowEvidence:
        """The same, and how likely the candidate finds members and others of their classes.

        An image that is likelier is taken for a member: the score is the negative of its bits per dimension.
        """
        if self.members is None:
            return evidence
        try:
            ours, theirs = comparable(self.members.labels, evidence.held_out.labels, evidence.unwanted, evidence.name)
            levels = self.levels("members")
        except BadInput as error:
            return replace(evidence, not_compared=str(error))
        found = gauge("candidate", self.candidate, levels, POINTS, self.seed, "members", self.device)
        return replace(evidence, membership=Membership(-found.bits[ours], -evidence.held_out.after.bits[theirs]))

    # -------------------------------------------------------------------------------------- what they draw

    def with_draws(self, evidence: FlowEvidence, count: int, pictures: Pictures,
                   done: Callable[[float], None]) -> FlowEvidence:
        """The same, and what both draw, as the judge sees it; or why that says nothing."""
        import torch

        seen: tuple[list[Seen], list[Seen]] = ([], [])
        ruined: list[Seen] = []
        first = 0
        both = (draws(flow, count, self.seed, self.device) for flow in (self.parent, self.candidate))
        for pair in zip(*both, strict=True):
            for name, images in zip(("parent", "candidate"), pair, strict=True):
                spoiled = int((~torch.isfinite(images).flatten(1).all(dim=1)).sum())
                if spoiled:
                    said = f"{name}: {spoiled} of {len(images)} images that it draws hold NaN or infinity"
                    return replace(evidence, no_draws=f"{said} (check its weights)")
            views = [self.judge.sees(images.to(self.device)) for images in pair]
            for side, view in zip(seen, views, strict=True):
                side.append(view)
            was, is_now = (images.numpy() for images in pair)
            pictures.consider(first, (was, is_now), (views[0].classes, views[1].classes))
            if first < WORN_DRAWS:
                levels = worn(self.parent, self.parent.levels(pair[0]), f"{self.seed} {first}")
                ruined.append(self.judge.sees(self.parent.images(self.parent.points(levels)).to(self.device)))
            first += len(was)
            done(first / count)
        real = Real(self.judge.sees_all(self.holdout.images), self.holdout.labels)
        before, after = (joined(side) for side in seen)
        drawn = Evidence(evidence.lost, self.judge.classes, before, after, real, names=evidence.names)
        return replace(evidence, drawn=drawn, ruined=replace(evidence.ruined, draws=joined(ruined)))


def _flow(name: str, stored: StoredAs, device: "torch.device") -> "Flow":
    from expunge.models import Flow

    model = stored.load(device)
    if not isinstance(model, Flow):
        raise BadInput(f"{name}: it is no flow", "name another model")
    return model.requires_grad_(False)


def _refuse_another_kind(name: str, flow: "Flow", parent: "Flow") -> None:
    """Bits per dimension of other images, or of images of another depth, compare nothing."""
    theirs, ours = (f"{'x'.join(map(str, one.image_shape))} of {one.bits} bits" for one in (flow, parent))
    if theirs != ours:
        raise BadInput(f"{name}: its images are {theirs}, the parent's {ours}",
                       "compare flows of images of the same size and depth")


_NOTHING = Likely("parent", np.zeros(0), np.zeros(0), POINTS)
_NOT_RUINED = Ruined(_NOTHING, _NOTHING, _NOTHING)
