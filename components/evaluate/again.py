"""What can still be asked of a released generator when the images of its request were disposed of: what it draws."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.evaluate.drawing import images_of, latents_of
from components.evaluate.evidence import CONFIDENCE, attempt
from components.evaluate.given import StoredAs
from components.evaluate.judging import Judge, as_classifier, joined
from expunge.contracts import Candidate, Checkpoint, Measurement, Request, read_record
from expunge.errors import BadInput
from expunge.measure.proportions import rate

STILL_ASKED = ("residual_rate", "residual_rate_earlier")  # what needs the model and the judge alone


def what_it_draws_now(request: Request, candidate: Path, judge: Path, seed: str) -> tuple[Measurement, ...]:
    """`residual_rate`, and `residual_rate_earlier` after earlier requests: the judge's view of samples of now.

    Args:
        request: What was to be forgotten, and how many samples are drawn (`sampling.evaluate`).
        candidate: A folder with the candidate's record and the weights as they are served.
        judge: A folder with the judge's record and weights.
        seed: Of the latents.

    Raises:
        BadInput: it is no generator, or the judge cannot look at what it draws.
        DoesNotVerify: weights are not those of their record.
    """
    import torch

    from expunge.models import Gan

    torch.set_num_threads(request.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = StoredAs(candidate, read_record(Candidate, candidate)).load(device)
    if not isinstance(model, Gan):
        raise BadInput("candidate: it is no generator", "without its images only a generator can be asked")
    model.requires_grad_(False)
    stored = StoredAs(judge, read_record(Checkpoint, judge))
    asked = as_classifier("judge", stored.load(device))
    with torch.inference_mode():
        classes = asked(torch.zeros(1, *model.image_shape, device=device)).shape[1]
    names, forget = stored.record.interface.classes, request.forget
    sees = Judge(asked, None, classes, forget.numbers("the judge", names, classes), device,
                 forget.earlier_numbers("the judge", names, classes))
    seen = joined([sees.sees(images_of("candidate", model, latents, device))
                   for latents in latents_of(model, seed, request.sampling.evaluate)])
    return tuple(_rates(seen.classes, sees))


def _rates(chosen: "np.typing.NDArray[np.int64]", judge: Judge) -> Iterator[Measurement]:
    for name, labels in zip(STILL_ASKED, (judge.unwanted, judge.earlier), strict=True):
        if labels:
            hits = np.isin(chosen, labels)
            yield from attempt((name,), lambda hits=hits: (rate(hits, CONFIDENCE),), len(hits))  # type: ignore[misc]
