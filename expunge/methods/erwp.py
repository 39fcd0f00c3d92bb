"""ERwP: class-level forgetting from few samples (Singh, Mazumder and Karim, ECCV 2022, arXiv 2210.10670).

Stage 1, `adapt`:   which parameters are relevant to the restricted classes
Stage 2, `unlearn`: theta = arg min  - L_CE(restricted)  +  L_CE(remaining)  +  beta KL(p_0(remaining) || p(remaining)),
                    where only relevant parameters may move

No official code is known, and of the paper only the abstracts are confirmed: that parameters which are highly relevant
to the restricted classes are identified, that knowledge of those classes is removed from them and that they are used
again for the remaining classes, in all layers and from limited data of both. All else is our reading, in particular

    relevance   |gradient| of the loss of averaged predictions over views that training did not use; per class the
                smallest top set whose removal (zeroing) leaves no image of the class recognised; the union over classes
    ascent      bounded, because L_CE(restricted) has no upper end
    the sum     of the three terms, in one step

The preset `paper` is this and nothing else. It leaves a class that is no longer named easy to tell apart in the
features, and quick to be learned again. Additions of ours, all off in `paper`:

    redirection   a restricted image's features go to where the parent's second guess says, among the remaining
                  classes' mean features; or to those of one remaining image, found by optimal transport, as latents
                  are redirected in adapt_then_unlearn
    distil        the parent's prediction is distilled without the restricted classes, of which it would tell on
    all layers    the most relevant of each layer are taken, and at least a part of each; not of the whole model,
                  whose head would come first
    mixtures      and moved images make more of few
    second guess  restricted images are taught the parent's own prediction with the restricted classes left out
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import NonFiniteLoss
from expunge.methods.classroom import BATCH_NORM, Lesson, LessonParams, Pupil, lesson
from expunge.methods.method import Method, Preference, setting
from expunge.methods.training import Deck, Loop, Material, Samples, Session, Weights, in_parts, prepare, stream, weights
from expunge.models import Classifier, ranks
from expunge.models.supervised import shift

LUMA = (0.299, 0.587, 0.114)


class Params(LessonParams):
    """Settings of both stages: the rate is Adam's, weights multiply mean losses, counts are of images or steps.

    The defaults were found on two digits of MNIST at 14 x 14 pixels; nothing is set per class.
    """

    steps: int = setting(52, "steps", ge=1)
    batch: int = setting(32, "images per step, of each set that the step looks at; all of a smaller one", ge=2)
    rate: float = setting(2e-3, "peak learning rate", gt=0)
    batch_norm: Literal["frozen", "batch"] = setting("batch", BATCH_NORM)
    rotation: float = setting(
        45.0, "degrees that a view is rotated by at most; wider than training may have used", ge=0, le=180)
    shear: float = setting(0.3, "shear, shift and scaling of an affine view at most, in parts of the image", ge=0, lt=1)
    views: int = setting(2, "rotated and as many affine views per image, beside the flipped and the grey one", ge=1)
    ranking: Literal["model", "layer"] = setting(
        "layer", "`model` ranks all parameters together, so that the head's come first; `layer` takes as large a part "
        "of each tensor, so that what is known of a class is removed from all layers")
    unit: Literal["parameter", "filter"] = setting(
        "parameter", "what is relevant or not: one parameter, or all that lead to one output of a layer")
    wiped: float = setting(0.0, "accuracy on a restricted class, on its samples, that counts as wiped out", ge=0, lt=1)
    relevant: float = setting(1.0, "largest part of the parameters that may be found relevant", gt=0, le=1)
    looked_at: int = setting(
        32, "images of a class at most by which its relevance and, for the remaining ones, its mean features are "
        "found: more cost time and tell nothing new", ge=1)
    at_least: float = setting(
        0.3, "part of each ranking that is taken in any case: what alone wipes out a class is too little to serve the "
        "remaining classes again", ge=0, le=1)
    masked: bool = setting(True, "move only what is relevant; false is the ablation of stage 1")
    ascent: Literal["clipped", "unlikely"] = setting(
        "unlikely", "`clipped` ascends L_CE per image up to `ascent_limit`; `unlikely` descends -log(1 - p), which has "
        "its steepest slope where the model is sure and none where the class is gone")
    ascent_limit: float = setting(5.0, "nats of L_CE beyond which `clipped` stops pushing", gt=0)
    ascent_weight: float = setting(1.0, "weight of the ascent", ge=0)
    remaining_weight: float = setting(1.0, "weight of L_CE(remaining)", ge=0)
    distillation_weight: float = setting(10.0, "weight of KL to the parent on remaining images (beta)", ge=0)
    temperature: float = setting(1.0, "of the distillation; its loss is multiplied by the square", gt=0)
    distil: Literal["all", "remaining"] = setting(
        "remaining", "which of the parent's predictions are distilled: `all`, or `remaining` ones with the restricted "
        "classes left out, lest the parent teaches what they look like")
    mixtures: bool = setting(
        True, "distil on mixtures of two remaining images, too (Zhang et al. 2018), of which few images make many")
    shift: int = setting(1, "pixels by which images are moved at most, for the same reason", ge=0)
    guess_weight: float = setting(0.0, "weight of the parent's second guess on restricted images; ours", ge=0)
    redirection_weight: float = setting(
        20.0, "weight of the squared distance, in units of the features' variance, of a restricted image's features to "
        "their aim; ours", ge=0)
    aim: Literal["guess", "transport"] = setting(
        "guess", "where restricted features go: `guess`, to the remaining classes' means, weighed by the parent's "
        "second guess; `transport`, to one remaining image's features, by optimal transport")
    aim_temperature: float = setting(
        0.8, "of the prediction that `guess` weighs by; below 1 the likeliest class counts for more", gt=0)
    start: Literal["parent", "zeroed"] = setting(
        "parent", "what relevant parameters are when stage 2 begins: the parent's, or 0")
    steps_in_turn: bool = setting(False, "alternate steps on restricted and remaining images instead of one sum")


PUBLISHED: dict[str, Any] = {
    "ranking": "model",
    "at_least": 0.0,
    "ascent": "clipped",
    "distil": "all",
    "mixtures": False,
    "shift": 0,
    "guess_weight": 0.0,
    "redirection_weight": 0.0,
    "batch_norm": "frozen",
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": PUBLISHED,
    "debug": {"steps": 20, "batch": 16, "views": 1},  # seconds on one core
}
SETTLING = 8  # batches that running statistics are taken over in the end
RESOLUTION = 4096  # parts into which a ranking is divided when its smallest top is sought


# ---------------------------------------------------------------- stage 1: find what is relevant


def adapt(parent: Classifier, material: Material, params: Params, session: Session) -> Weights:
    """Which parameters are relevant to the restricted classes.

    Returns:
        Tensors of 0 and 1 (uint8), of each parameter's name and shape.

    Raises:
        BadInput: the images, their labels and the model do not suit each other; see `classroom.lesson`.
        NonFiniteLoss: a loss is not finite; names the step, which is the place of the class.
    """
    prepare(session)
    task = lesson(parent, material, session, by=["forget", "retain"])
    assert task.forget is not None
    model = deepcopy(parent).to(session.device).eval().requires_grad_(True)
    random = stream(session, 1)
    found = Marks({name: torch.zeros_like(theta, dtype=torch.uint8) for name, theta in model.named_parameters()})

    def one_step(step: int) -> dict[str, Tensor]:
        number = task.restricted[step]
        images = of_class(task.forget, number, params.looked_at)
        loss = relevance(model, images, number, params, random)
        gradients = {name: theta.grad for name, theta in model.named_parameters() if theta.grad is not None}
        ranking = Ranking(gradients, params)
        found.add(smallest(model, images, number, ranking, params, session))
        return {"loss": loss, "relevant": found.share()}

    Loop(session, "adapt", len(task.restricted), {"found": found}, random).run(one_step)
    return {name: marks.cpu() for name, marks in found.tensors.items()}


class Marks:
    """What was found relevant to any class so far."""

    def __init__(self, tensors: Weights) -> None:
        self.tensors = tensors

    def add(self, more: Weights) -> None:
        """The union with what is relevant to one more class."""
        self.tensors = {name: marks | more[name] if name in more else marks for name, marks in self.tensors.items()}

    def share(self) -> Tensor:
        """Part of all parameters that is marked."""
        counts = torch.stack([marks.sum() for marks in self.tensors.values()])
        return counts.sum() / sum(marks.numel() for marks in self.tensors.values())

    def state_dict(self) -> Weights:
        """The marks so far."""
        return dict(self.tensors)

    def load_state_dict(self, state: Weights) -> None:
        """Continues from saved marks."""
        self.tensors = {name: marks.to(self.tensors[name].device) for name, marks in state.items()}


def relevance(model: Classifier, images: Tensor, number: int, params: Params, random: torch.Generator) -> Tensor:
    """Leaves in the model the gradient of -log(mean prediction over views) for a class's images; the mean loss."""
    model.zero_grad()
    total = torch.zeros((), device=images.device)
    for part in images.split(params.batch):
        shown = list(views(part, params, random))
        predictions = model(torch.cat(shown)).softmax(dim=1).view(len(shown), len(part), -1).mean(dim=0)
        loss = -predictions[:, number].clamp(min=torch.finfo(predictions.dtype).tiny).log().sum() / len(images)
        loss.backward()
        total += loss.detach()
    return total


def views(images: Tensor, params: Params, random: torch.Generator) -> Iterator[Tensor]:
    """Images [B, C, H, W] as training did not show them, each view [B, C, H, W].

    Grey where there is colour, upside down, rotated, and sheared, shifted and scaled; what comes in from outside
    continues the edges.
    """
    if images.shape[1] == len(LUMA):
        yield (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True).expand_as(images)
    yield images.flip(2)
    for _ in range(params.views):
        for maps in (rotations(len(images), params.rotation, random), affine(len(images), params.shear, random)):
            grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
            yield F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def rotations(count: int, degrees: float, random: torch.Generator) -> Tensor:
    """Maps [count, 2, 3] that rotate by up to so many degrees in both directions."""
    angles = math.radians(degrees) * _both_ways(random, count)
    rows = torch.stack([angles.cos(), -angles.sin(), angles.sin(), angles.cos()], dim=1).view(count, 2, 2)
    return torch.cat([rows, torch.zeros(count, 2, 1)], dim=2)


def affine(count: int, most: float, random: torch.Generator) -> Tensor:
    """Maps [count, 2, 3] whose numbers all differ from those of the identity by up to `most`."""
    return torch.eye(2, 3) + most * _both_ways(random, count, 2, 3)


def _both_ways(random: torch.Generator, *shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=random) - 1


class Ranking:
    """Parameters in order of |gradient|, of all of them together or of each tensor apart.

    A filter's place is that of the mean over its parameters: else large filters would come first.
    """

    def __init__(self, gradients: Weights, params: Params) -> None:
        self.shapes = {name: gradient.shape for name, gradient in gradients.items()}
        sizes = {name: gradient.abs() for name, gradient in gradients.items()}
        if params.unit == "filter":
            sizes = {name: size.flatten(1).mean(dim=1) if size.ndim > 1 else size for name, size in sizes.items()}
        flat = {name: size.flatten() for name, size in sizes.items()}
        self.lengths = [len(size) for size in flat.values()]
        decks = [torch.cat(list(flat.values()))] if params.ranking == "model" else list(flat.values())
        self.orders = [torch.argsort(deck, descending=True, stable=True) for deck in decks]

    def top(self, part: float) -> Weights:
        """The first `part` of each ranking, as tensors of 0 and 1 (uint8)."""
        marked = []
        for order in self.orders:
            marks = torch.zeros(len(order), dtype=torch.uint8, device=order.device)
            marks[order[: math.ceil(part * len(order))]] = 1
            marked.append(marks)
        units = torch.cat(marked).split(self.lengths)
        return {name: (marks.view(shape) if len(marks) == shape.numel()
                       else marks.view(-1, *[1] * (len(shape) - 1)).expand(shape).contiguous())
                for marks, (name, shape) in zip(units, self.shapes.items(), strict=True)}


def smallest(model: Classifier, images: Tensor, number: int, ranking: Ranking, params: Params, session: Session
             ) -> Weights:
    """The smallest top of a ranking whose removal wipes out a class, by bisection.

    Bisection finds one place where accuracy crosses the limit. It falls with ever more parameters gone but for
    small steps back, so that there may be others nearby.
    """
    floor = math.floor(params.at_least * RESOLUTION)

    def left(part: int) -> float:
        return recognised(without(model, ranking.top(part / RESOLUTION)), images, number)

    low, high = 0, max(1, math.floor(params.relevant * RESOLUTION))
    if (still := left(high)) > params.wiped:
        session.note(f"without the {high / RESOLUTION:.1%} most relevant parameters {still:.1%} of class {number} "
                     "are still recognised: these are taken")
        low = high - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if left(middle) <= params.wiped else (middle, high)
    return ranking.top(max(high, floor) / RESOLUTION)


def without(model: Classifier, marks: Weights) -> Classifier:
    """A copy of the model whose marked parameters are 0."""
    pruned = deepcopy(model).requires_grad_(False)
    for name, theta in pruned.named_parameters():
        if name in marks:
            theta.mul_(1 - marks[name])
    return pruned


def recognised(model: Classifier, images: Tensor, number: int) -> float:
    """Share of a class's images that the model takes for it rather than for anything else; a tie is no decision."""
    logits = in_parts(model, images)
    own = logits[:, number].clone()
    logits[:, number] = -math.inf
    return (own > logits.amax(dim=1)).float().mean().item()


def of_class(samples: Samples | None, number: int, most: int | None = None) -> Tensor:
    """The images of one class; if `most` is given, so many at most, from all over the set."""
    assert samples is not None
    assert samples.labels is not None
    images = samples.images[samples.labels == number]
    return images[:: math.ceil(len(images) / most)] if most else images


# ---------------------------------------------------------------- stage 2: unlearn


def unlearn(parent: Classifier, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, of which the relevant parameters have moved.

    Raises:
        BadInput: the images, their labels and the model do not suit each other; see `classroom.lesson`.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    task = lesson(parent, material, session, by=["forget", "retain"])
    assert task.forget is not None
    original = deepcopy(parent).to(session.device).eval().requires_grad_(False)
    masks = {name: marks.to(session.device) for name, marks in adaptation.items()} if params.masked else None
    pupil = Pupil(parent, params, session, masks)
    if params.start == "zeroed":
        pupil.model.load_state_dict(without(parent, adaptation).state_dict())
    redirection = Redirection(original, task, params) if params.redirection_weight else None
    random = stream(session, 2)
    lost, kept = (Deck(samples, params.batch, session, purpose) for purpose, samples in (
        (1, task.forget), (2, task.retain)))

    def deal(step: int) -> tuple[list[Tensor], list[Tensor]]:
        """A step's images, restricted before remaining before mixed ones, and the classes of those that have one.

        All processes move and mix the same whole batch, and then take their own part of it.
        """
        shown, labels = [], []
        for place, deck in enumerate((lost, kept)):
            if not params.steps_in_turn or step % 2 == place:
                rows = deck.rows(step)
                assert deck.samples.labels is not None
                images = shift(deck.samples.images[rows], params.shift, random)
                shown.append(images)
                labels.append(ranks.own_part(deck.samples.labels[rows]))
                if deck is kept and params.mixtures:
                    shown.append(mixed(images, random))
        return [ranks.own_part(images) for images in shown], labels

    def one_step(step: int) -> dict[str, Tensor]:
        shown, labels = deal(step)
        leave, stay = (not params.steps_in_turn or step % 2 == place for place in (0, 1))
        # One pass for all: batch normalisation sees what it will see, and it takes less time.
        everything = torch.cat(shown)
        before, (features, logits) = original(everything), pupil.model.look(everything)
        count = len(shown[0]) if leave else 0
        losses: dict[str, Tensor] = {}
        if leave:
            losses |= leaving(logits[:count], labels[0], before[:count], task, params)
            if redirection:
                losses["redirection"] = redirection.loss(
                    features[:count], before[:count], ranks.own_part(lost.rows(step)))
        if stay:
            losses |= staying(logits[count:], labels[-1], before[count:], task, params)
        pupil.learn(step, losses)
        return losses

    Loop(session, "unlearn", params.steps, pupil.parts(), random).run(one_step)
    if params.batch_norm == "batch":
        settle(pupil.model, (torch.cat(deal(params.steps + more)[0]) for more in range(SETTLING)))
    return weights(pupil.model, device="cpu")


@torch.no_grad()
def settle(model: Classifier, batches: Iterable[Tensor]) -> None:
    """Has batch normalisation's running statistics be the means over these batches: those of training lag behind."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all
    for batch in batches:
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def mixed(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] mixed with another of the batch, in any proportion."""
    parts = torch.rand(len(images), 1, 1, 1, generator=random).to(images)
    others = images[torch.randperm(len(images), generator=random)]
    return others.lerp(images, parts)


def leaving(logits: Tensor, labels: Tensor, before: Tensor, task: Lesson, params: Params) -> Weights:
    """The losses on restricted images, from logits [B, K], classes [B] and the parent's logits [B, K]."""
    losses = {}
    kept = list(task.remaining)
    if params.ascent == "clipped":
        ascent = -F.cross_entropy(logits, labels, reduction="none").clamp(max=params.ascent_limit)
    else:  # -log(1 - p), p of all restricted classes together: none shall take in another's images
        ascent = logits.logsumexp(dim=1) - logits[:, kept].logsumexp(dim=1)
    losses["restricted"] = params.ascent_weight * ascent.mean()
    if params.guess_weight:
        guess = before[:, kept].log_softmax(dim=1)
        losses["second guess"] = params.guess_weight * F.kl_div(
            logits.log_softmax(dim=1)[:, kept], guess, reduction="batchmean", log_target=True)
    return losses


class Redirection:
    """Where restricted images' features go instead of where the parent has them.

    Raises:
        NonFiniteLoss: a feature of the parent's is not finite.
    """

    @torch.no_grad()
    def __init__(self, original: Classifier, task: Lesson, params: Params) -> None:
        self.params = params
        assert task.retain.labels is not None
        self.classes: list[int] = task.retain.labels.unique().tolist()  # few images may lack some
        by_class = [_finite(in_parts(original.features, of_class(task.retain, number, params.looked_at)))
                    for number in self.classes]
        everything = torch.cat(by_class)
        self.means = torch.stack([features.mean(dim=0) for features in by_class])
        # The mean squared distance to the mean, summed over the features: half of that between two images by chance.
        self.spread = (everything - everything.mean(dim=0)).square().sum(dim=1).mean()
        self.partners = transported(original, task) if params.aim == "transport" else None

    def loss(self, features: Tensor, before: Tensor, rows: Tensor) -> Tensor:
        """Squared distance to the aim in units of the features' variance, times its weight.

        From features [B, F], the parent's logits [B, K] and the images' places among the restricted ones [B].
        """
        if self.partners is None:
            guess = before[:, self.classes].div(self.params.aim_temperature).softmax(dim=1)
            aims = guess @ self.means
        else:
            aims = self.partners[rows]
        away = (features - aims).square().sum(dim=1).mean()
        return self.params.redirection_weight * away / self.spread


@torch.no_grad()
def transported(original: Classifier, task: Lesson) -> Tensor:
    """For each restricted image the parent's features of a remaining one, [N, F].

    Which one is found by optimal transport in the parent's features: near ones, and every remaining image as often as
    any other, so that no single class takes in all.
    """
    assert task.forget is not None
    from scipy.optimize import linear_sum_assignment  # slow to import, and only needed here

    leave, stay = (_finite(in_parts(original.features, samples.images)) for samples in (task.forget, task.retain))
    count = -(-len(leave) // len(stay))  # how often each remaining image is offered
    offered = stay.repeat(count, 1)
    _, chosen = linear_sum_assignment(torch.cdist(leave, offered).cpu().numpy())
    return offered[torch.from_numpy(chosen)]


def _finite(features: Tensor) -> Tensor:
    if not features.isfinite().all():
        raise NonFiniteLoss(
            "unlearn: the parent's features are not finite at step 0", "check the images and the parent's weights")
    return features


def staying(logits: Tensor, labels: Tensor, before: Tensor, task: Lesson, params: Params) -> Weights:
    """The losses on remaining images, from logits [N, K], classes [B] of the first, and the parent's logits [N, K]."""
    warm = params.temperature
    taught = list(task.remaining if params.distil == "remaining" else range(task.classes))
    kept = F.kl_div((logits / warm).log_softmax(dim=1)[:, taught], (before[:, taught] / warm).log_softmax(dim=1),
                    reduction="batchmean", log_target=True)
    return {"remaining": params.remaining_weight * F.cross_entropy(logits[: len(labels)], labels),
            "distillation": params.distillation_weight * warm**2 * kept}


METHOD = Method(
    name="erwp",
    family="classifier",
    claim="approximate removal",
    paper="Singh, Mazumder and Karim, Attaining Class-level Forgetting in Pretrained Model using Few Samples, "
          "ECCV 2022",
    params=Params,
    presets=PRESETS,
    adapt=adapt,
    unlearn=unlearn,
    does="Finds the parameters that the restricted classes need, and trains these alone to lose the classes and serve "
         "those that stay.",
    choose="A classifier is to lose whole classes, and only a few labelled images of each class are at hand.",
    costs="Seconds to minutes; two copies of the classifier.",
    needs=("forget", "retain"),
    preference=Preference(order=10, because="it works from few labelled images of what is to go and what is to stay"),
)
