"""The sample sets of a request about a model that is asked about given images: whole classes of them or single ones.

A flow says how likely it finds an image, an image-to-image model completes it. So what is to be forgotten are given
images: those of `training` that are of the request's classes, or only those of them whose numbers `forget.images`
holds. Every label is put into the judge's numbers.

What is kept is kept as it was. So what an earlier request made the model forget is not kept, be it a whole class or
single images. Where the request names a `proxy`, its images stand in for those to keep, and those are left out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.curate_forget_set.labelled import NOTHING_ELSE, Mask, Numbering, RealImages, members_of
from expunge.contracts import Checkpoint, DataSource, Request, Rule, read_record
from expunge.errors import BadInput, NotNeeded
from expunge.evidence.coherence import read_policy
from expunge.measure.likelihoods import UNLIKELY, Yardstick, extreme_share, standings
from expunge.measure.policy import rules_for
from expunge.room import Entered
from expunge.samples import NewSampleSet, SampleTable

if TYPE_CHECKING:
    from expunge.models import Flow, ImageToImage

LOOKED_AT = 256  # held-out images by which it is seen whether the flow knows such images at all
# Images of each kind by which it is seen whether a flow needs the request, and points of the bins of each.
ASKED_ABOUT, POINTS = 1_000, 4
STRANGER = "leave them out, or bring a judge that knows them (judge.classes names what it knows)"
ANY_NUMBER = 2**31  # a judge without names: the first room has compared all numbers with how many classes it knows


def sets_of_flow(entered: Entered, wanted: Request, parent: "Flow", checkpoint: Path, oracle: Path,
                 policy: Path) -> list[NewSampleSet]:
    """The sets of a flow; see `_sets`.

    Raises:
        BadInput: as `_sets`; an image is of another depth than the flow's; it finds held-out images no likelier than
            noise.
        NotNeeded: what is to be forgotten is already as unlikely as the policy asks of a candidate.
    """
    sets = _sets(entered, wanted, parent.image_shape, checkpoint,
                 refuse=lambda images: _refuse_other_depth(parent, images),
                 look=lambda held: _refuse_blind(parent, held, wanted.seed))
    _stop_if_not_needed(parent, wanted, {one.role: one for one in sets}, policy)
    return sets


def sets_of_image_to_image(entered: Entered, wanted: Request, parent: "ImageToImage", checkpoint: Path, oracle: Path,
                           policy: Path) -> list[NewSampleSet]:
    """The sets of an image-to-image model; see `_sets`. BadInput as there."""
    return _sets(entered, wanted, parent.image_shape, checkpoint)


def _sets(entered: Entered, wanted: Request, image_shape: tuple[int, ...], checkpoint: Path,
          refuse: Callable[[RealImages], None] = lambda images: None,
          look: Callable[[SampleTable], None] = lambda held: None) -> list[NewSampleSet]:
    """`forget` and `retain` from the training images, `holdout`, and `members` if the request names any.

    `refuse` is shown the images of every field, `look` held-out ones of what is to stay.

    Raises:
        BadInput: a class that is to be forgotten has no image to learn or to measure by, or nothing else has; a number
            of `forget.images` is of no image, or of one of another class; an image is of another size than the model's,
            or stands in for what is to stay and shows what is to be forgotten.
    """
    assert wanted.training is not None  # fetch_checkpoint has seen to that
    names = read_record(Checkpoint, checkpoint).interface.classes
    count = len(names) or ANY_NUMBER
    by = Numbering("the judge", names, count, wanted.forget.numbers("the judge", names, count),
                   wanted.forget.earlier_numbers("the judge", names, count))

    def opened(field: str, source: DataSource) -> RealImages:
        found = RealImages.open(field, source, entered.workspace)
        refuse(found.of_shape(image_shape, "the checkpoint was trained on"))
        return found.numbered(by, STRANGER)

    training, held = opened("training", wanted.training), opened("holdout", wanted.holdout)
    if wanted.forget.images:
        forget = _single(wanted.forget.images, training, by)
        retain = ~forget & ~np.isin(training.table.labels, by.earlier)
    else:
        training.refuse_without(by, only_unwanted=wanted.proxy is not None)
        held.refuse_without(by, NOTHING_ELSE)
        forget = np.isin(training.table.labels, by.unwanted)
        retain = ~np.isin(training.table.labels, by.lost)
    retain &= ~_numbered("forget.earlier_images", wanted.forget.earlier_images, training)
    keep, source = retain, training
    if wanted.proxy is not None:
        source = opened("proxy", wanted.proxy)
        keep = np.ones(len(source.table), bool)
        _refuse_unwanted(source, by, training.table[forget], single=bool(wanted.forget.images))
    stays = ~np.isin(held.table.labels, by.earlier if wanted.forget.images else by.lost)
    for field, some in ((source.role, keep), ("holdout", stays)):
        if not some.any():
            raise BadInput(f"{field}: every image is of what is to be forgotten", "add images of what is to stay")
    look(held.table[stays])

    sets = [training.set("forget", forget, by), source.set("retain", keep, by),
            held.set("holdout", slice(None), by)]
    if wanted.members is not None:
        members = opened("members", wanted.members)
        asked = (_same_as(training.table[forget], members.table) if wanted.forget.images
                 else np.isin(members.table.labels, by.unwanted))
        sets.append(members_of(asked, members, by))
    entered.note(f"{int(forget.sum())} images to forget and {int(keep.sum())} "
                 f"{'in the place of those ' if wanted.proxy else ''}to keep, by their "
                 f"{'numbers' if wanted.forget.images else 'labels'}")
    return sets


def _refuse_unwanted(proxy: RealImages, by: Numbering, forget: SampleTable, single: bool) -> None:
    """BadInput if an image that stands in for what is to stay is of what is to be forgotten."""
    for label in by.earlier if single else by.lost:
        if label in proxy.table.labels:
            raise BadInput(f"proxy: an image is of class {by.called(label)}, which is to be forgotten",
                           "leave such images out: they would be kept")
    again = np.flatnonzero(_same_as(forget, proxy.table))
    if len(again):
        raise BadInput(f"proxy: image {again[0]} is the same as one that is to be forgotten",
                       "leave it out: it would be kept" if len(again) == 1 else
                       f"leave it out, and {len(again) - 1} more: they would be kept")


def _single(numbers: tuple[int, ...], training: RealImages, by: Numbering) -> Mask:
    """The images [N] of those numbers. BadInput for one that is none, or not of the classes, or there twice."""
    labels, chosen = training.table.labels, _numbered("forget.images", numbers, training)
    for number in numbers:
        if labels[number] not in by.unwanted:
            raise BadInput(f"forget.images: image {number} of training is of class {by.called(int(labels[number]))}, "
                           "which forget.classes does not name", "name its class there, or leave the image out")
    for label in by.unwanted:
        if label not in labels[list(numbers)]:
            raise BadInput(f"forget.classes: none of forget.images is of class {by.called(label)}",
                           "leave the class out, or name images of it")
    again = np.flatnonzero(_same_as(training.table[chosen], training.table) & ~chosen)
    if len(again):
        raise BadInput(f"forget.images: image {again[0]} of training is the same as one that is to be forgotten",
                       "name it as well: it would be remembered")
    return chosen


def _numbered(field: str, numbers: tuple[int, ...], training: RealImages) -> Mask:
    """The images [N] of those numbers. BadInput, by the field that holds them, if there is none of one of them."""
    count = len(training.table)
    beyond = [number for number in numbers if number >= count]
    if beyond:
        raise BadInput(f"{field}: training has no image {beyond[0]}, its {count} are 0 to {count - 1}",
                       "count the images of training from 0")
    return np.isin(np.arange(count), numbers)


def _same_as(some: SampleTable, table: SampleTable) -> Mask:
    """Which images [N] of a table are also among some others, by their pixels."""
    known = {pixels.tobytes() for pixels in some.pixels}
    return np.array([pixels.tobytes() in known for pixels in table.pixels], bool)


def _refuse_other_depth(parent: "Flow", images: RealImages) -> None:
    """BadInput if the images, as they are going to be stored, are not of the flow's range and depth."""
    import torch

    from expunge.models.flow import levels_of
    from expunge.samples.table import from_pixels

    levels_of(images.role, parent, torch.from_numpy(from_pixels(images.table.pixels)))


def _refuse_blind(parent: "Flow", held: SampleTable, seed: int) -> None:
    """BadInput if it finds what is to stay no likelier than noise: `bits` per dimension cost as much as any image."""
    chosen = np.random.default_rng(seed).permutation(len(held))[:LOOKED_AT]
    middle = float(np.median(_bits(parent, held[chosen], 1, seed)))
    if not middle < parent.bits:
        raise BadInput(
            f"checkpoint: it finds held-out images of what is to stay no likelier than noise ({middle:.4g} bits per "
            f"dimension; noise takes {parent.bits})", "check its weights, checkpoint.range and checkpoint.bits")


def _bits(parent: "Flow", table: SampleTable, points: int, seed: int) -> NDArray[np.float64]:
    """Bits per dimension [points, n] of images, each at some points of its bins."""
    import torch

    from expunge.samples.table import from_pixels

    random = torch.Generator().manual_seed(seed)
    levels = parent.levels(torch.from_numpy(from_pixels(table.pixels)))
    with torch.inference_mode():
        found = [torch.cat([parent.bits_per_dim(parent.log_prob(parent.points(some, random)))
                            for some in levels.split(32)]) for _ in range(points)]
    return torch.stack(found).double().numpy()


# -------------------------------------------------------------------------------------- when not to go on


def _stop_if_not_needed(parent: "Flow", wanted: Request, sets: dict[str, NewSampleSet], policy: Path) -> None:
    """NotNeeded if what is to be forgotten already is as unlikely as the policy's lower limits ask, intervals included.

    Of single images every one is looked at; of a whole class, up to `ASKED_ABOUT` of those to forget and of the
    held-out ones. How far out an image may lie is not asked: nothing would be gained by forgetting it.
    """
    single = bool(wanted.forget.images)
    by_metric = {rule.metric: rule for rule in rules_for(read_policy(policy), "flow", images=single)
                 if rule.side == "at least" and not rule.if_earlier}
    metrics = ("forget_z_lowest",) if single else ("unlikely_share", "forget_unlikely_share")
    rules = [by_metric[metric] for metric in metrics if metric in by_metric]
    if not rules:
        return
    retain = _some(sets["retain"].table, wanted.seed)
    usual = _bits(parent, retain, POINTS, wanted.seed).mean(axis=0)
    forget, held = sets["forget"].table, sets["holdout"]
    try:
        by = Yardstick.of(usual)
        if single:
            said = _every_one(parent, forget, by, rules[0], wanted.seed)
        else:
            tables = {"unlikely_share": ("held-out images of the class", held.table),
                      "forget_unlikely_share": ("images to forget", forget)}
            said = [_shares(parent, *tables[rule.metric], held.unwanted, by, rule, wanted.seed) for rule in rules]
    except BadInput:
        return  # too few to say what is usual: evaluation will say so
    if all(said):
        raise NotNeeded(f"the model does not need it: {' and '.join(filter(None, said))}", "nothing was changed")


def _some(table: SampleTable, seed: int) -> SampleTable:
    """Up to `ASKED_ABOUT` images of a table, drawn at random."""
    return table[np.sort(np.random.default_rng(seed).permutation(len(table))[:ASKED_ABOUT])]


def _every_one(parent: "Flow", forget: SampleTable, by: Yardstick, rule: Rule, seed: int) -> list[str | None]:
    """What is said of single images that are all as unlikely as a rule asks; None if one may not be."""
    found = _bits(parent, forget, POINTS, seed + 1)
    lowest, _ = standings(found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(POINTS), POINTS, by, rule.confidence)
    if lowest.interval.lower < rule.limit:
        return [None]
    return [f"of the {len(forget)} images even the likeliest lies at least {lowest.interval.lower:.2f} standard "
            f"deviations above retained images' mean, the policy asks for {rule.limit:g}"]


def _shares(parent: "Flow", what: str, table: SampleTable, unwanted: tuple[int, ...], by: Yardstick, rule: Rule,
            seed: int) -> str | None:
    """What is said of classes of which as many images are unlikely as a rule asks; None if there may be fewer."""
    some = _some(table[np.isin(table.labels, unwanted)], seed)
    beyond = by.z(_bits(parent, some, POINTS, seed + 1).mean(axis=0)) >= UNLIKELY
    share = extreme_share([beyond[some.labels == label] for label in unwanted], "lowest", rule.confidence)
    if share.interval.lower < rule.limit:
        return None
    return (f"{int(beyond.sum())} of {len(some)} {what} are unlikely already, at least {share.interval.lower:.2%}, the "
            f"policy asks for {rule.limit:.2%}").replace("%", " %")
