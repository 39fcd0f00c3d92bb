"""Candidates whose verdict is known beforehand, measured with the same ruler as the real one."""

from collections.abc import Iterator
from dataclasses import replace

from components.evaluate.evidence import CONFIDENCE, Evidence, attempt
from components.evaluate.probes.can_it_be_found import can_it_be_found
from components.evaluate.probes.how_fast_does_it_come_back import how_fast_does_it_come_back
from components.evaluate.probes.is_it_gone import is_it_gone
from expunge.contracts import Control, Measurement
from expunge.measure.proportions import rate


def controls_for(evidence: Evidence) -> tuple[Control, ...]:
    """The controls of a generator.

    - `parent`: the unchanged parent, as if it were the candidate. It must FAIL; otherwise the judge does not
      see what is to be forgotten.
    - `real`: the held-out images of retained classes, as if they had been generated. It must not FAIL; otherwise
      the judge sees the unwanted where it is not. There are few of them, so its interval is wide and INCONCLUSIVE
      is as it should be.
    - `output filter`: the parent behind a filter that lets nothing pass which the judge calls unwanted. What comes
      out of it is clean; it must FAIL where weights are looked at, or nothing here tells hiding from forgetting.
    """
    unchanged = replace(
        evidence, after=evidence.before, search=evidence.search_before,
        relearnings=tuple(replace(found, model={"parent": "candidate"}.get(found.model, found.model))
                          for found in evidence.relearnings if found.model != "candidate"))
    hits = evidence.real_retained.hits(evidence.unwanted)
    real = tuple(attempt(("residual_rate",), lambda: (rate(hits, CONFIDENCE),), len(hits)))
    weights = tuple(_read_in_the_weights(unchanged))
    return (
        Control(name="parent", must="FAIL", measurements=tuple(is_it_gone(unchanged)), covers=("residual_rate", "pul")),
        Control(name="real", must="not FAIL", measurements=real, covers=("residual_rate",)),
        Control(name="output filter", must="FAIL", measurements=(*_filtered(evidence), *weights),
                covers=tuple(found.name for found in weights)),
    )


def _read_in_the_weights(unchanged: Evidence) -> Iterator[Measurement]:
    """What the weight-reading rules are about: the same weights behind the filter as without it."""
    for found in (*can_it_be_found(unchanged), *how_fast_does_it_come_back(unchanged)):
        if found.name in ("search_rate", "relearning_ratio"):
            yield found


def _filtered(evidence: Evidence) -> Iterator[Measurement]:
    """The rate that an output filter shows: of what it lets pass, nothing is unwanted."""
    passed = evidence.hits_before[~evidence.hits_before]
    yield from attempt(("residual_rate",), lambda: (rate(passed, CONFIDENCE),), len(passed))
