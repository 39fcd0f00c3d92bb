"""An image-to-image model's candidates whose verdict is known beforehand, measured with the same ruler."""

from collections.abc import Iterator
from dataclasses import replace

from components.evaluate.evidence import as_if_unchanged, attempt
from components.evaluate.evidence_of_completions import CompletionEvidence
from components.evaluate.probes.does_it_stay_uncompleted import EARLIER
from components.evaluate.probes.how_fast_does_it_come_back import how_fast_is_it_completed_again
from components.evaluate.probes.is_it_still_completed import EXCESS, excess, excess_of
from components.evaluate.probes.is_the_rest_completed_as_well import (
    CHANGE,
    DIFFERENCE,
    change,
    kid_ratio,
    recognised_difference,
)
from components.evaluate.probes.is_what_it_draws_still_good import RATIO
from expunge.contracts import Control, Measurement
from expunge.measure.policy import WEIGHT_READING


def controls_for_image_to_image(evidence: CompletionEvidence) -> tuple[Control, ...]:
    """The controls of an image-to-image model.

    - `parent`: the unchanged parent, as if it were the candidate. It must FAIL; otherwise what is shown tells as much
      as its completions do, and there is nothing to see.
    - `other noise`: what is shown of the images to forget, the hole filled with other noise than that which it is held
      against. It must not FAIL: who adds nothing has forgotten.
    - `noise: error`, `noise: KID` and `noise: recognised`: what is shown of the rest, the hole filled with noise, as if
      the candidate had completed it so. Each must FAIL; otherwise damage to the rest would not be seen.
    - `again`: the parent asked about images of the rest behind other masks and by other chance. It must not FAIL;
      otherwise the choice of either is taken for damage.
    - `real`: the images of the rest as they are, in the place of the candidate's completions. It must not FAIL;
      otherwise what is perfect would be taken for damaged.
    - `output filter`: the parent behind a filter that lets no completion pass in which the judge recognises what is to
      be forgotten. It must FAIL where weights are looked at: taught again, it has nothing to learn.
    - `origin`: after earlier requests, the first model of the chain, as if it were the candidate. It must FAIL;
      otherwise the judge would not see it if what was forgotten before came back.
    """
    rest, forget = evidence.rest, evidence.forget
    unchanged = tuple(attempt((EXCESS,), lambda: (excess(evidence, "_before"),), len(forget)))
    again = slice(len(evidence.parent_again))
    repeated = replace(rest[again], after=evidence.parent_again)
    only_noise = rest.with_candidate(rest.shown)
    found = [
        Control(name="parent", must="FAIL", measurements=unchanged, covers=(EXCESS,)),
        Control(name="other noise", must="not FAIL", measurements=tuple(_other_noise(evidence)), covers=(EXCESS,)),
        Control(name="noise: error", must="FAIL", measurements=tuple(change(rest.before, rest.shown)),
                covers=(CHANGE,)),
        Control(name="noise: KID", must="FAIL", measurements=tuple(kid_ratio(only_noise)), covers=(RATIO,)),
        Control(name="noise: recognised", must="FAIL", measurements=tuple(recognised_difference(only_noise)),
                covers=(DIFFERENCE,)),
        Control(name="again", must="not FAIL", covers=(CHANGE, DIFFERENCE), measurements=(
            *change(repeated.before, repeated.after), *recognised_difference(repeated))),
        Control(name="real", must="not FAIL", measurements=tuple(kid_ratio(rest.with_candidate(rest.image))),
                covers=(RATIO,))]
    unchanged_weights = replace(evidence, relearnings=as_if_unchanged(evidence.relearnings))
    weights = tuple(each for each in how_fast_is_it_completed_again(unchanged_weights) if each.name in WEIGHT_READING)
    found.append(Control(name="output filter", must="FAIL", measurements=weights,
                         covers=tuple(each.name for each in weights)))
    first = evidence.before.more.get("origin")
    if evidence.earlier and first is not None:
        came_back = evidence.before.with_candidate(first)
        found.append(Control(name="origin", must="FAIL", covers=(EARLIER,), measurements=tuple(
            attempt((EARLIER,), lambda: (excess_of(came_back),), len(came_back)))))
    return tuple(found)


def _other_noise(evidence: CompletionEvidence) -> Iterator[Measurement]:
    asked = evidence.forget.with_candidate(evidence.noise_again)
    yield from attempt((EXCESS,), lambda: (excess_of(asked),), len(asked))
