"""Candidates whose verdict is known beforehand, measured with the same ruler as the real one."""

from collections.abc import Iterator
from dataclasses import replace

from components.evaluate.evidence import (
    CONFIDENCE,
    ClassifierEvidence,
    Evidence,
    absent,
    as_if_unchanged,
    attempt,
)
from components.evaluate.probes.can_it_be_found import can_it_be_found
from components.evaluate.probes.does_it_stay_forgotten import does_it_stay_forgotten
from components.evaluate.probes.does_it_stay_unrecognised import EARLIER as EARLIER_ACCURACY
from components.evaluate.probes.does_it_stay_unrecognised import does_it_stay_unrecognised
from components.evaluate.probes.how_fast_does_it_come_back import how_fast_does_it_come_back
from components.evaluate.probes.is_it_gone import is_it_gone
from components.evaluate.probes.is_it_still_recognised import is_it_still_recognised
from components.evaluate.probes.is_it_still_told_apart import is_it_still_told_apart
from components.evaluate.probes.is_the_rest_still_recognised import is_the_rest_still_recognised
from components.evaluate.probes.was_it_ever_seen import was_it_ever_learned
from expunge.contracts import Control, Measurement
from expunge.measure.policy import WEIGHT_READING
from expunge.measure.proportions import rate

EARLIER = "residual_rate_earlier"
ACCURACIES = ("forget_accuracy", "retained_accuracy_difference")


def controls_for(evidence: Evidence) -> tuple[Control, ...]:
    """The controls of a generator.

    - `parent`: the unchanged parent, as if it were the candidate. It must FAIL; otherwise the judge does not
      see what is to be forgotten.
    - `real`: the held-out images of retained classes, as if they had been generated. It must not FAIL; otherwise
      the judge sees the unwanted where it is not. There are few of them, so its interval is wide and INCONCLUSIVE
      is as it should be.
    - `output filter`: the parent behind a filter that lets nothing pass which the judge calls unwanted. What comes
      out of it is clean; it must FAIL where weights are looked at, or nothing here tells hiding from forgetting.
    - `origin`: after earlier requests, the first model of the chain, as if it were the candidate. It must FAIL;
      otherwise the judge would not see it if what was forgotten before came back. `real` covers that rule as well.
    """
    unchanged = replace(
        evidence, after=evidence.before, search=evidence.search_before,
        relearnings=as_if_unchanged(evidence.relearnings))
    hits = evidence.real_retained.hits(evidence.unwanted)
    real = tuple(attempt(("residual_rate",), lambda: (rate(hits, CONFIDENCE),), len(hits)))
    if evidence.earlier:
        earlier = evidence.real_retained.hits(evidence.earlier)
        real += tuple(attempt((EARLIER,), lambda: (rate(earlier, CONFIDENCE),), len(earlier)))
    weights = tuple(_read_in_the_weights(unchanged))
    return (
        Control(name="parent", must="FAIL", measurements=tuple(is_it_gone(unchanged)), covers=("residual_rate", "pul")),
        Control(name="real", must="not FAIL", measurements=real, covers=tuple(found.name for found in real)),
        Control(name="output filter", must="FAIL", measurements=(*_filtered(evidence), *weights),
                covers=tuple(found.name for found in weights)),
        *_origin(evidence),
    )


def _origin(evidence: Evidence) -> Iterator[Control]:
    if evidence.earlier and evidence.origin is not None:
        first = replace(evidence, after=evidence.origin, before=evidence.origin, fixed=None)
        measured = tuple(found for found in does_it_stay_forgotten(first) if found.name == EARLIER)
        yield Control(name="origin", must="FAIL", measurements=measured, covers=(EARLIER,))


def controls_for_classifier(evidence: ClassifierEvidence) -> tuple[Control, ...]:
    """The controls of a classifier.

    - `parent`: the unchanged parent, as if it were the candidate. It must FAIL; otherwise the held-out images do not
      show what is to be forgotten.
    - `masked`: the parent with the unwanted classes' outputs struck out. It must not FAIL: it never names them and
      keeps every other answer. It is an output filter, so it shows that the limits on accuracy can be met and tells
      nothing of weights; nor of membership, since what is struck out has no loss.
    - `output filter`: the same parent where weights are looked at. Striking out a class's outputs, or deleting its part
      of the head, hides and does not forget: it must FAIL there, or nothing here tells one from the other.
    - `reference`: where the request brings one, a classifier trained again without the unwanted. It must not FAIL
      either, and is the better control: it is what honest forgetting comes to, and it has seen neither members nor
      others, so that an attack which tells them apart there tells something else than membership.
    - `origin`: after earlier requests, the first model of the chain, as if it were the candidate. It must FAIL;
      otherwise the held-out images would not show it if what was forgotten before came back.
    """
    unchanged = replace(evidence, after=evidence.before, relearnings=as_if_unchanged(evidence.relearnings),
                        grafted=None if evidence.grafted is None else evidence.before.classes)
    masked = replace(evidence, after=replace(
        evidence.before, model="masked parent", classes=evidence.before.retained))
    found = [
        Control(name="parent", must="FAIL", measurements=tuple(is_it_still_recognised(unchanged)),
                covers=("forget_accuracy",)),
        Control(name="masked", must="not FAIL", measurements=tuple(_recognises(masked)), covers=ACCURACIES)]
    weights = tuple(each for each in (*is_it_still_told_apart(unchanged), *how_fast_does_it_come_back(unchanged))
                    if each.name in WEIGHT_READING)
    found.append(Control(name="output filter", must="FAIL", measurements=(*is_it_still_recognised(masked), *weights),
                         covers=tuple(each.name for each in weights)))
    asked = evidence.membership is not None or evidence.not_compared
    covers = (*ACCURACIES, "membership_auc") if asked else ACCURACIES
    if evidence.no_reference:
        found.append(Control(name="reference", must="not FAIL", covers=covers,
                             measurements=tuple(absent(covers, evidence.no_reference))))
    elif evidence.reference is not None:
        retrained = replace(evidence, after=evidence.reference, membership=evidence.reference_membership)
        found.append(Control(name="reference", must="not FAIL", covers=covers,
                             measurements=(*_recognises(retrained), *was_it_ever_learned(retrained))))
    if evidence.earlier and evidence.origin is not None:
        first = replace(evidence, after=evidence.origin)
        found.append(Control(name="origin", must="FAIL", covers=(EARLIER_ACCURACY,), measurements=tuple(
            each for each in does_it_stay_unrecognised(first) if each.name == EARLIER_ACCURACY)))
    return tuple(found)


def _recognises(evidence: ClassifierEvidence) -> Iterator[Measurement]:
    yield from is_it_still_recognised(evidence)
    yield from is_the_rest_still_recognised(evidence)


def _read_in_the_weights(unchanged: Evidence) -> Iterator[Measurement]:
    """What the weight-reading rules are about: the same weights behind the filter as without it."""
    for found in (*can_it_be_found(unchanged), *how_fast_does_it_come_back(unchanged)):
        if found.name in WEIGHT_READING:
            yield found


def _filtered(evidence: Evidence) -> Iterator[Measurement]:
    """The rate that an output filter shows: of what it lets pass, nothing is unwanted."""
    passed = evidence.hits_before[~evidence.hits_before]
    yield from attempt(("residual_rate",), lambda: (rate(passed, CONFIDENCE),), len(passed))
