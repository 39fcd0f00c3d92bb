"""Candidates whose verdict is known beforehand, measured with the same ruler as the real one."""

from dataclasses import replace

import numpy as np

from components.evaluate.evidence import CONFIDENCE, Evidence, attempt
from components.evaluate.probes.is_it_gone import is_it_gone
from expunge.contracts import Control
from expunge.measure.proportions import rate


def controls_for(evidence: Evidence) -> tuple[Control, ...]:
    """The controls of a generator.

    `parent`: the unchanged parent, as if it were the candidate. It must FAIL; otherwise the judge does not
    see what is to be forgotten. `real`: the held-out images of retained classes, as if they had been
    generated. It must not FAIL; otherwise the judge sees the unwanted where it is not. There are few of them,
    so its interval is wide and INCONCLUSIVE is as it should be.
    """
    unchanged = tuple(is_it_gone(replace(evidence, after=evidence.before)))
    hits = np.isin(evidence.real_retained.classes, evidence.unwanted)
    real = tuple(attempt(("residual_rate",), lambda: (rate(hits, CONFIDENCE),), len(hits)))
    return (
        Control(name="parent", must="FAIL", measurements=unchanged, covers=("residual_rate", "pul")),
        Control(name="real", must="not FAIL", measurements=real, covers=("residual_rate",)),
    )
