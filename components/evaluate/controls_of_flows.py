"""A flow's candidates whose verdict is known beforehand, measured with the same ruler as the real one."""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import absent, every_other
from components.evaluate.evidence_of_flows import FlowEvidence
from components.evaluate.probes.does_it_stay_unlikely import EARLIER
from components.evaluate.probes.is_it_unlikely import HIGHEST, LOWEST, stand
from components.evaluate.probes.is_its_class_unlikely import OF_FORGET, SHARE, STANDS_OUT, rest_as, share
from components.evaluate.probes.is_the_rest_as_likely import CHANGE, change
from components.evaluate.probes.is_what_it_draws_still_good import RATIO, ratio_of
from expunge.contracts import Control, Measurement
from expunge.measure.likelihoods import OUTLYING, UNLIKELY


def controls_for_flow(evidence: FlowEvidence) -> tuple[Control, ...]:
    """The controls of a flow.

    - `parent`: the unchanged parent, as if it were the candidate. It must FAIL; otherwise the images to forget are as
      unlikely to it as they should become, and there is nothing to see. Of a whole class also by shares of images.
    - `rest`: where a whole class is to go, the candidate asked about held-out images of the rest, as if they were of
      that class. It must FAIL; otherwise what is unlikely here is not what was to be forgotten.
    - `noise`: images of nothing but noise, of which the parent is asked, in the place of the images to forget. It must
      FAIL the upper limit; otherwise an image that lost all likelihood would pass for one that was tamed.
    - `worn images`: the parent asked about held-out images of which a quarter of the pixels was drawn at random, as if
      that were what the candidate makes of them. It must FAIL; otherwise damage to the rest would not be seen.
    - `again`: the parent asked about the same images at other points of their bins. It must not FAIL; otherwise the
      choice of points is taken for damage.
    - `origin`: after earlier requests about classes, the first model of the chain, as if it were the candidate. It must
      FAIL; otherwise the held-out images would not show it if what was forgotten before came back.
    - `worn draws`: the parent's samples with a quarter of their pixels drawn at random, as if the candidate had drawn
      them. It must FAIL; otherwise the judge does not see what harms a picture.
    - `real`: one half of the held-out images of the rest as if the candidate had drawn them, against the other half. It
      must not FAIL; otherwise what is perfect would be taken for damaged.
    """
    rest, ruined = evidence.held_out[evidence.kept].before, evidence.ruined
    forget, before = evidence.forget, evidence.retain.before
    as_parent, as_noise = (tuple(stand("", found, before)) for found in (forget.before, ruined.noise))
    of_parent: tuple[str, ...] = (LOWEST,)
    of_noise: tuple[str, ...] = (HIGHEST,)
    found: list[Control] = []
    if not evidence.single:
        alike, classes = evidence.held_out[evidence.alike], evidence.unwanted
        as_parent += (*share(SHARE, alike.before, alike.labels, classes, before, UNLIKELY),
                      *share(OF_FORGET, forget.before, forget.labels, classes, before, UNLIKELY))
        nothing = np.zeros(len(ruined.noise), np.int64)
        as_noise += tuple(share(STANDS_OUT, ruined.noise, nothing, (0,), before, OUTLYING))
        of_parent, of_noise = (*of_parent, SHARE, OF_FORGET), (*of_noise, STANDS_OUT)
        found = [Control(name="rest", must="FAIL", measurements=tuple(rest_as(SHARE, evidence)), covers=(SHARE,))]
    if evidence.earlier and evidence.first is not None and evidence.first_retain is not None:
        came_back = share(EARLIER, evidence.first, evidence.held_out.labels, evidence.earlier, evidence.first_retain,
                          UNLIKELY)
        found.append(Control(name="origin", must="FAIL", measurements=tuple(came_back), covers=(EARLIER,)))
    return (
        Control(name="parent", must="FAIL", measurements=as_parent, covers=of_parent),
        Control(name="noise", must="FAIL", measurements=as_noise, covers=of_noise),
        *found,
        Control(name="worn images", must="FAIL", measurements=tuple(change(rest, ruined.worn)), covers=(CHANGE,)),
        Control(name="again", must="not FAIL", measurements=tuple(change(rest, ruined.again)), covers=(CHANGE,)),
        Control(name="worn draws", must="FAIL", measurements=tuple(_worn(evidence)), covers=(RATIO,)),
        Control(name="real", must="not FAIL", measurements=tuple(_real(evidence)), covers=(RATIO,)),
    )


def _worn(evidence: FlowEvidence) -> Iterator[Measurement]:
    """Worn draws in the place of the candidate's, beside the same ones as the parent drew them."""
    drawn, seen = evidence.drawn, evidence.ruined.draws
    if drawn is None or seen is None:
        yield from absent((RATIO,), evidence.no_draws or "nothing was drawn")
        return
    whole = drawn.before[slice(len(seen.classes))]
    yield from ratio_of((whole.features, drawn.kept(whole)), (seen.features, drawn.kept(seen)), drawn.real_retained)


def _real(evidence: FlowEvidence) -> Iterator[Measurement]:
    """Every other held-out image of each class in the place of the candidate's draws, against the others."""
    drawn = evidence.drawn
    if drawn is None:
        yield from absent((RATIO,), evidence.no_draws or "nothing was drawn")
        return
    real = drawn.real_retained
    first = every_other(real.labels)
    images, samples = real[first].seen.features, drawn.before.features
    # Nothing links an image to a latent, so they lie side by side, as if each came of a latent of its own.
    both = np.concatenate([samples, images])
    is_image = np.arange(len(both)) >= len(samples)
    counts = np.concatenate([drawn.kept(drawn.before), np.zeros(len(images), np.bool_)])
    yield from ratio_of((both, counts), (both, is_image), real[~first])
