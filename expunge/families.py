"""What of a request speaks of which family of models: what each cannot do without, and what means nothing there.

A field that means nothing is refused rather than ignored: whoever wrote it expects something of it.
"""

from expunge.contracts import Family, ParentSource, Request, Sampling
from expunge.errors import BadInput

_NEEDED: dict[Family, dict[str, str]] = {
    "gan": {
        "oracle": "its samples carry no labels, and somebody has to say which are unwanted",
        "judge": "its samples carry no labels, and evaluation has to see what they show",
    },
    "classifier": {
        "training": "it draws nothing itself, and learns what to lose and what to keep from labelled images",
    },
    "flow": {
        "training": "it learns from labelled images what is to become unlikely and what is to stay as likely as it was",
        "judge": "its samples carry no labels, and evaluation has to see what they show",
    },
    "image_to_image": {
        "training": "it learns from images what it is not to complete any more",
        "judge": "evaluation has to see what its completions show",
    },
}
_BY_LABELS = "the labels of its images say what they show"
_IS_SHOWN_ALL = "nothing is hidden from it that it would complete"
_OWN_STAND_IN = "its own samples stand in for what is to stay"
_MEANINGLESS: dict[Family, dict[str, str]] = {
    "gan": {
        "checkpoint.output": "discriminator_output says what its discriminator puts out",
        "checkpoint.classes": "oracle.classes and judge.classes name what it draws",
        "checkpoint.features": "what is compared are the judge's features, or the extractor's",
        "checkpoint.bits": "it says nothing of likelihoods, which depend on the depth of images",
        "checkpoint.hidden": _IS_SHOWN_ALL,
        "proxy": _OWN_STAND_IN,
        "forget.images": "it draws images of its own, and is made to lose whole classes",
        "forget.files": "it draws images of its own, and is made to lose whole classes",
        "forget.earlier_images": "it draws images of its own, and is made to lose whole classes",
    },
    "classifier": {
        "discriminator": "it was trained against none",
        "oracle": _BY_LABELS,
        "judge": _BY_LABELS,
        "labels": "nothing is drawn that somebody could label",
        "extractor": "what is compared are its own features (checkpoint.features)",
        "checkpoint.latent": "it draws nothing",
        "checkpoint.latent_distribution": "it draws nothing",
        "checkpoint.discriminator_output": "it has no discriminator",
        "checkpoint.bits": "it says nothing of likelihoods, which depend on the depth of images",
        "checkpoint.hidden": _IS_SHOWN_ALL,
        "proxy": "it learns what to keep from labelled images of it, which training holds",
        "forget.images": "it is made to lose whole classes",
        "forget.files": "it is made to lose whole classes",
        "forget.earlier_images": "it is made to lose whole classes",
        "sampling.curate": "nothing is drawn: training holds the images",
        "sampling.evaluate": "nothing is drawn: holdout holds the images, and their number is fixed with it",
        "sampling.sequential": "nothing is drawn: holdout holds the images, and their number is fixed with it",
        "sampling.search": "it has no latents that could be searched",
    },
    "flow": {
        "discriminator": "it was trained against none",
        "oracle": _BY_LABELS,
        "labels": "what is to be forgotten are images of training, not what it draws",
        "proxy": "what is to stay as likely as it was are images of its own training",
        "checkpoint.hidden": _IS_SHOWN_ALL,
        "checkpoint.latent": "its latents have as many numbers as its images",
        "checkpoint.latent_distribution": "its latents are normal",
        "checkpoint.discriminator_output": "it has no discriminator",
        "checkpoint.output": "it puts out likelihoods",
        "checkpoint.classes": "judge.classes names what it draws",
        "checkpoint.features": "what is compared are the judge's features, or the extractor's",
        "sampling.curate": "nothing is drawn: training holds the images",
        "sampling.sequential": "what decides are likelihoods of given images, not a rate among samples",
        "sampling.search": "every image has a latent of its own, and how likely that is is known exactly",
        "sampling.lessons": "how likely an image is to it is read off, not taught and waited for",
    },
    "image_to_image": {
        "discriminator": "it was trained against none",
        "oracle": _BY_LABELS,
        "labels": "what is to be forgotten are images of training, not what it draws",
        "checkpoint.latent": "it begins with the shown part of an image",
        "checkpoint.latent_distribution": "it begins with the shown part of an image",
        "checkpoint.discriminator_output": "it has no discriminator",
        "checkpoint.output": "it puts out images",
        "checkpoint.classes": "judge.classes names what it completes",
        "checkpoint.features": "what is compared are the judge's features, or the extractor's",
        "checkpoint.bits": "it says nothing of likelihoods, which depend on the depth of images",
        "checkpoint.range": "its folder says how images are shown to it",
        "checkpoint.channels": "its folder says how images are shown to it",
        "sampling.curate": "nothing is drawn: training holds the images",
        "sampling.sequential": "what is completed are given images, and their number is fixed with them",
        "sampling.search": "it has no latents that could be searched",
    },
}
_WORDS: dict[str, str] = {"gan": "a generator", "classifier": "a classifier", "flow": "a normalizing flow",
                         "image_to_image": "an image-to-image model"}


def words(family: str) -> str:
    """What a model of the family is called in a sentence, also one that only a package's method knows."""
    return _WORDS.get(family, f"a {family}")


def refuse_what_does_not_fit(request: Request) -> None:
    """Looks over a request whose family is known.

    Raises:
        BadInput: it lacks what its family needs, says something that means nothing there, or names a reference or
            an origin of another family. Names the field.
    """
    who = words(request.family)
    for field, why in _MEANINGLESS[request.family].items():
        if _said(request, field):
            raise BadInput(f"{field}: it means nothing for {who}, which checkpoint.uri is: {why}", "leave it out")
    for field, why in _NEEDED[request.family].items():
        if getattr(request, field) is None:
            raise BadInput(f"{field}: {who} needs one: {why}", "name it")
    for name, source in (("reference", request.reference), ("origin", request.origin)):
        if source is not None and (source.family or "gan") != request.family:
            raise BadInput(f"{name}: it is {words(source.family or 'gan')}, the checkpoint is {who}",
                           "name a model of the same kind")
        if source is not None and source.hidden not in (None, request.checkpoint.hidden):
            raise BadInput(f"{name}.hidden: it is compared behind the masks of checkpoint.hidden", "leave it out")


def _said(request: Request, field: str) -> bool:
    """Whether the request says something there. A default says nothing, whoever wrote it down."""
    name, _, inner = field.partition(".")
    if name == "sampling":
        return bool(getattr(request.sampling, inner) != Sampling.model_fields[inner].default)
    if name == "forget":
        return bool(getattr(request.forget, inner))
    if name == "checkpoint":
        return bool(getattr(request.checkpoint, inner) != ParentSource.model_fields[inner].default)
    return getattr(request, name) is not None
