"""The judge at work: what it sees in images, and in which space they are compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Seen
from components.evaluate.given import Given
from expunge.errors import BadInput

if TYPE_CHECKING:
    import torch

    from expunge.models import Classifier

BATCH = 500  # images at a time; latents are drawn in such batches, so this number is part of what is drawn


@dataclass(frozen=True)
class Judge:
    """A classifier, with what is asked of it."""

    model: "Classifier"
    extractor: "Classifier | None"  # whose features are compared; the judge's own if None
    classes: int  # that it knows
    unwanted: tuple[int, ...]
    device: "torch.device"
    earlier: tuple[int, ...] = ()  # what was forgotten before

    @classmethod
    def open(cls, given: Given, image_shape: tuple[int, ...], device: "torch.device") -> "Judge":
        """The judge of a request, for images [C, H, W].

        Raises:
            BadInput: it does not know an unwanted class, or it or the extractor cannot look at such images.
        """
        import torch

        model = as_classifier("judge", given.judge.load(device))
        _refuse_other_size("judge", model, image_shape, device)
        with torch.inference_mode():
            classes = model(torch.zeros(1, *image_shape, device=device)).shape[1]
        forget, names = given.request.forget, given.judge.record.interface.classes
        unwanted = forget.numbers("the judge", names, classes)
        extractor = None
        if given.extractor is not None:
            extractor = as_classifier("extractor", given.extractor.load(device))
            _refuse_other_size("extractor", extractor, image_shape, device)
        return cls(model, extractor, classes, unwanted, device, forget.earlier_numbers("the judge", names, classes))

    @property
    def alone(self) -> "Judge":
        """The same judge without the extractor, where nobody compares features: that is a pass less per image."""
        return replace(self, extractor=None)

    def sees(self, images: "torch.Tensor") -> Seen:
        """Its view of a batch [b, C, H, W] in [-1, 1]. BadInput if it has none, for its numbers are not finite."""
        probabilities, features = self.looks(images)
        confidence, chosen = probabilities.max(dim=1)
        unwanted = probabilities[:, list(self.unwanted)].sum(dim=1)
        return Seen(
            chosen.cpu().numpy(),
            unwanted.float().cpu().numpy(),
            confidence.float().cpu().numpy(),
            features.float().cpu().numpy(),
        )

    def looks(self, images: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """What it gives each class [b, K], in double precision, and the features [b, d]. BadInput as `sees`."""
        import torch

        with torch.inference_mode():
            features, logits = self.model.look(images)
            if self.extractor is not None:
                features = self.extractor.look(images)[0]
            probabilities = logits.double().softmax(dim=1)
            spoiled = int((~torch.isfinite(probabilities).all(dim=1)).sum())
        if spoiled:  # the largest of such numbers is the first, which is no answer
            raise BadInput(f"judge: of {spoiled} of {len(images)} images it makes no finite numbers",
                           "check its weights, and those of what drew them")
        return probabilities, features

    def sees_all(self, images: NDArray[np.float32]) -> Seen:
        """Its view of any number of images [n, C, H, W]."""
        import torch

        batches = torch.from_numpy(np.ascontiguousarray(images)).split(BATCH)
        return joined([self.sees(batch.to(self.device)) for batch in batches])


def joined(parts: Sequence[Seen]) -> Seen:
    """Several views as one, in their order."""
    return Seen(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("classes", "unwanted", "confidence", "features")
        )
    )


def as_classifier(field: str, model: "torch.nn.Module") -> "Classifier":
    """The model, if it is a classifier; BadInput naming the request's field if not."""
    from expunge.models import Classifier

    if not isinstance(model, Classifier):
        raise BadInput(f"{field}: it is no classifier", "name another model")
    return model


def _refuse_other_size(field: str, model: "Classifier", image_shape: tuple[int, ...], device: "torch.device") -> None:
    import torch

    shape = "x".join(map(str, image_shape))
    try:
        with torch.inference_mode():
            features = model.look(torch.zeros(2, *image_shape, device=device))[0]
    except Exception as error:  # a user's own code may raise anything
        raise BadInput(f"{field}: it cannot look at images of {shape} ({' '.join(str(error).split())[:120]})",
                       "bring one for such images") from error
    if features.ndim != 2 or not torch.isfinite(features).all():
        raise BadInput(f"{field}: of images of {shape} it makes no finite features", "bring another one")
