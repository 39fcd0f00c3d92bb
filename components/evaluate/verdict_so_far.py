"""Sequential sampling: whether what was drawn so far decides the verdict already, by the gate's own rules."""

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Evidence, Real, Seen
from components.evaluate.probes.does_it_stay_forgotten import does_it_stay_forgotten
from components.evaluate.probes.is_it_gone import is_it_gone
from components.evaluate.probes.is_the_rest_still_good import shares_kept
from expunge.contracts import Policy
from expunge.measure.policy import judge_rule, rules_for

# What has an interval that holds whenever one stops.
COUNTED = ("residual_rate", "residual_rate_earlier", "pul", "kept_share")


class Watch:
    """Looks at every batch, and says what decides as soon as something does; not before `fixed` samples.

    Only rules on counts are asked: their intervals hold at any moment of stopping. Distances are computed later,
    from the first `fixed` samples, whose number nothing that was seen could change.
    """

    def __init__(self, policy: Policy, family: str, fixed: int, unwanted: tuple[int, ...], classes: int,
                 names: tuple[str, ...], earlier: tuple[int, ...] = ()) -> None:
        self.fixed = fixed
        self._rules = [rule for rule in rules_for(policy, family, earlier=bool(earlier))
                       if rule.metric.partition("[")[0] in COUNTED]
        self._about = (unwanted, classes, names)
        self._earlier = earlier
        self._before: list[NDArray[np.int64]] = []
        self._after: list[NDArray[np.int64]] = []

    def __call__(self, before: Seen, after: Seen) -> str | None:
        """Takes in one batch of both models; what ends the drawing, in a reviewer's words, or None."""
        self._before.append(before.classes)
        self._after.append(after.classes)
        if sum(map(len, self._before)) < self.fixed or not self._rules:
            return None
        so_far = self._evidence()
        kept = shares_kept(so_far) if any(rule.metric == "kept_share" for rule in self._rules) else ()
        measured = (*is_it_gone(so_far), *does_it_stay_forgotten(so_far), *kept)
        outcomes = [judge_rule(rule, measured) for rule in self._rules]
        failed = next((found for found in outcomes if found.outcome == "FAIL"), None)
        if failed is not None:
            return failed.reason
        return "every rule on counts is met" if all(found.outcome == "PASS" for found in outcomes) else None

    def _evidence(self) -> Evidence:
        unwanted, classes, names = self._about
        before, after = (_counted(np.concatenate(side)) for side in (self._before, self._after))
        nothing = _counted(np.zeros(0, dtype=np.int64))
        return Evidence(unwanted, classes, before, after, Real(nothing, nothing.classes), self.fixed, names,
                        earlier=self._earlier)


def _counted(classes: NDArray[np.int64]) -> Seen:
    """A view of which only the judge's choices are known."""
    unknown = np.full(len(classes), np.nan, dtype=np.float32)
    return Seen(classes, unknown, unknown, np.empty((len(classes), 0), dtype=np.float32))
