"""Is it still completed? Whether completions of what is to be forgotten show more of it than what was shown does."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import CONFIDENCE, attempt
from components.evaluate.evidence_of_completions import Completed, CompletionEvidence, Completions
from components.evaluate.probes.is_the_rest_completed_as_well import errors_of, looks_of, mean_error
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.proportions import Estimate, PairedCounts, highest, paired_difference, rate
from expunge.measure.ratios import relative_change

EXCESS = "recognised_excess"
FORGET, HELD_OUT = "images to forget", "held-out images"
EXCESS_OF_SETS = tuple(f"{EXCESS}[{part}]" for part in (FORGET, HELD_OUT))


def is_it_still_completed(evidence: CompletionEvidence) -> Iterator[Measurement]:
    """`recognised_excess` and what stands beside it, each also `_before`.

    The excess is the rate at which the judge recognises the right class in completions, less that at which it does in
    what was shown alone, the hole filled with noise: what the model adds. Of whole classes it is the higher of two,
    among the images to forget and among held-out images of the same classes, both intervals holding together; of
    single images it is theirs, each asked many times. Of several classes each is told by itself.

    - `forget_recognised` and `forget_recognised_shown`: the two rates, of images to forget.
    - `forget_hidden_error`: mean squared error of the hidden part; `forget_hidden_error_change`: relative.
    - `spread_ratio`: the hidden parts' variance from image to image, after over before, and `largest_share`, how many
      completions the judge gives to the class that it sees most often: near 0 and near 1 they are all alike.
    - `forget_fid`, `forget_kid`, `forget_cosine`, `forget_inception_score`: as of the rest.
    """
    for ending, _ in _sides(evidence.forget):
        yield from attempt((EXCESS + ending,), lambda ending=ending: (excess(evidence, ending),),  # type: ignore[misc]
                           len(evidence.forget))
        for part, asked in ((FORGET, evidence.forget), (HELD_OUT, evidence.alike)):
            yield from _excess(f"{EXCESS}{ending}[{part}]", asked, ending)
    if len(evidence.unwanted) > 1:
        for label in evidence.unwanted:
            for ending, _ in _sides(evidence.forget):
                yield from _excess(f"{EXCESS}{ending}[{evidence.name(label)}]",
                                   evidence.forget[evidence.forget.labels == label], ending)
    asked = evidence.forget
    for ending, found in (*_sides(asked), ("_shown", asked.shown)):
        yield from attempt((f"forget_recognised{ending}",), lambda found=found: (  # type: ignore[misc]
            rate(found.right(asked.labels), CONFIDENCE),), len(asked))
    yield from errors_of("forget_hidden_error", asked)
    yield from attempt(("spread_ratio",), lambda: (spread_ratio(asked.before, asked.after),), len(asked))
    for ending, found in _sides(asked):
        yield from attempt((f"largest_share{ending}",), lambda found=found: (  # type: ignore[misc]
            largest_share(found, evidence.classes),), len(asked))
    yield from looks_of("forget_", asked)
    never = asked.more.get("reference")
    if never is not None:
        yield from _excess(f"{EXCESS}_never_exposed", asked.with_candidate(never), "")
        yield from attempt(("forget_hidden_error_never_exposed",), lambda: (mean_error(never),), len(asked))


def excess(evidence: CompletionEvidence, ending: str = "") -> Estimate:
    """The excess that is decided by: of the images to forget, and of held-out ones where whole classes are to go."""
    groups = [evidence.forget] if evidence.single else [evidence.forget, evidence.alike]
    each = 1 - (1 - CONFIDENCE) / len(groups)
    return highest([excess_of(asked, ending, each) for asked in groups], CONFIDENCE)


def excess_of(asked: Completions, ending: str = "", confidence: float = CONFIDENCE) -> Estimate:
    """How much oftener completions are recognised than what was shown. BadInput where some are no numbers."""
    found = dict(_sides(asked))[ending]
    return paired_difference(PairedCounts.of(asked.shown.right(asked.labels), found.right(asked.labels)), confidence)


def spread_ratio(before: Completed, after: Completed) -> Estimate:
    """Variance of the hidden parts from image to image, after over before. BadInput if nobody hides the same pixels."""
    for found in (before, after):
        found.refuse_spoiled()
    asked = np.isfinite(before.spreads) & np.isfinite(after.spreads)
    if asked.sum() < 2:
        raise BadInput("forget: no two images hide the same pixels", "hide more of them, or complete more images")
    change = relative_change(before.spreads[asked], after.spreads[asked], CONFIDENCE)
    interval = change.interval.model_copy(update={"lower": change.interval.lower + 1,
                                                  "upper": change.interval.upper + 1})
    return Estimate(change.value + 1, interval, change.n)


def largest_share(found: Completed, classes: int) -> Estimate:
    """The share of the class that the judge sees most often; its interval holds whichever class that is."""
    found.refuse_spoiled()
    each = 1 - (1 - CONFIDENCE) / classes
    return highest([rate(found.classes == label, each) for label in range(classes)], CONFIDENCE)


def _excess(name: str, asked: Completions, ending: str) -> Iterator[Measurement]:
    yield from attempt((name,), lambda: (excess_of(asked, ending),), len(asked))


def _sides(asked: Completions) -> tuple[tuple[str, Completed], ...]:
    return ("", asked.after), ("_before", asked.before)


def shares(found: Completed, classes: int) -> NDArray[np.float64]:
    """The share of each class among completions, as the judge sees them; of those that are numbers."""
    return np.bincount(found.classes[found.classes >= 0], minlength=classes) / max(1, int((found.classes >= 0).sum()))


