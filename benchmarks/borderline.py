"""How often does a candidate pass that only just must not?

    python benchmarks/borderline.py [--reruns 1000] [--seed 0]

The worst that can happen to a rule is a candidate whose true value is the limit itself: every PASS is then luck. What
the judge sees of such candidates is drawn again and again, and goes the way of a real one: the probes' own functions,
evaluation's own way of stopping early, the gate's own rules. Fixed: 10,000 latents, whatever is seen. Sequential: at
most as many, looked at after every batch, as `sampling.sequential` does it.

A two-sided rule at 95 % may pass wrongly once in forty, a one-sided one once in twenty. Where the chance can be
computed it is printed beside what was counted. All rules of a verdict together pass by luck at most as often as the
one that is broken.
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from recording import record
from scipy.stats import binom

from components.evaluate.evidence import Evidence, Real, Seen
from components.evaluate.generators import FIXED_SHARE
from components.evaluate.judging import BATCH
from components.evaluate.probes.is_it_gone import is_it_gone
from components.evaluate.verdict_so_far import Watch
from expunge.contracts import Policy, Rule
from expunge.measure import policy, sequential
from expunge.measure.policy import judge_rule, preset, rules_for, worst
from expunge.measure.proportions import bounds_by, exact_bounds, rate

PLANNED = 10_000
UNWANTED, OTHER = 0, 1  # the judge's classes
FAMILY = "gan"


@dataclass(frozen=True)
class Candidate:
    """What is true of a borderline candidate and its parent."""

    name: str
    preset: str
    metrics: tuple[str, ...]  # whose rules are asked
    share: float  # of the parent's samples that are unwanted
    stays: float  # chance that such a latent still draws it
    gains: float  # chance that any other latent does now

    @property
    def residual(self) -> float:
        """The true residual rate."""
        return self.share * self.stays + (1 - self.share) * self.gains

    @property
    def pul(self) -> float:
        """The true PUL."""
        return 1 - self.residual / self.share

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The preset's rules that it is held to."""
        return tuple(rule for rule in rules_for(preset(self.preset), FAMILY) if rule.metric in self.metrics)

    @property
    def stated(self) -> float:
        """How often a wrong PASS is allowed."""
        return min(1 - rule.confidence if rule.one_sided else (1 - rule.confidence) / 2 for rule in self.rules)


CANDIDATES = (
    Candidate("residual rate 1 %, standard", "standard", ("residual_rate",), 0.1, 0.1, 0.0),
    Candidate("residual rate 0.5 % one-sided, strict", "strict", ("residual_rate",), 0.1, 0.05, 0.0),
    Candidate("PUL 95 %, standard", "standard", ("pul",), 0.1, 0.05, 0.0),
    Candidate("PUL 95 %, half of it new, standard", "standard", ("pul",), 0.1, 0.025, 0.1 * 0.025 / 0.9),
    Candidate("PUL 98 %, strict", "strict", ("pul",), 0.1, 0.02, 0.0),
    Candidate("both at their limits, standard", "standard", ("residual_rate", "pul"), 0.2, 0.05, 0.0),
)


@dataclass
class Counted:
    """What became of a candidate's re-runs under one design."""

    verdicts: Counter[str]
    drawn: list[int]


def rerun(candidate: Candidate, stops_early: bool, draws: np.random.Generator) -> tuple[str, int]:
    """The verdict on one re-run, and how many samples it took."""
    before = draws.random(PLANNED) < candidate.share
    after = draws.random(PLANNED) < np.where(before, candidate.stays, candidate.gains)
    views = [view(hits) for hits in (before, after)]
    fixed, drawn = None, PLANNED
    if stops_early:
        fixed = round(FIXED_SHARE * PLANNED)
        watch = Watch(Policy(name="borderline", rules=candidate.rules), FAMILY, fixed, (UNWANTED,), 2, ())
        drawn = next((start + BATCH for start in range(0, PLANNED, BATCH)
                      if watch(*(seen[start : start + BATCH] for seen in views))), PLANNED)
    nothing = view(np.zeros(0, dtype=bool))
    measured = tuple(is_it_gone(Evidence(
        (UNWANTED,), 2, *(seen[:drawn] for seen in views), real=Real(nothing, nothing.classes), fixed=fixed)))
    return worst(judge_rule(rule, measured).outcome for rule in candidate.rules), drawn


def view(hits: np.ndarray) -> Seen:
    """The judge's view of samples of which it is known whether it calls them unwanted."""
    unknown = np.full(len(hits), np.nan, dtype=np.float32)
    return Seen(np.where(hits, UNWANTED, OTHER), unknown, unknown, np.empty((len(hits), 0), dtype=np.float32))


def chance(candidate: Candidate) -> float | None:
    """The exact probability of PASS with a fixed count, of a rule on the residual rate alone."""
    if candidate.metrics != ("residual_rate",):
        return None
    rule, = candidate.rules
    sides = "upper" if rule.one_sided else "two-sided"
    most = next(hits for hits in range(PLANNED) if exact_bounds(hits, PLANNED, rule.confidence, sides)[1] > rule.limit)
    return float(binom.cdf(most - 1, PLANNED, candidate.residual))


def rows(reruns: int, seed: int) -> Iterator[dict[str, object]]:
    """One row per candidate and design."""
    for number, candidate in enumerate(CANDIDATES):
        for stops_early in (False, True):
            draws, began = np.random.default_rng([seed, number, stops_early]), time.monotonic()
            found = Counted(Counter(), [])
            for _ in range(reruns):
                outcome, drawn = rerun(candidate, stops_early, draws)
                found.verdicts[outcome] += 1
                found.drawn.append(drawn)
            passed = rate(np.arange(reruns) < found.verdicts["PASS"], 0.99)
            yield {
                "candidate": candidate.name, "design": "sequential" if stops_early else "fixed",
                "residual": candidate.residual, "pul": candidate.pul, "passed": passed.value,
                "passed_99": [passed.interval.lower, passed.interval.upper],
                "failed": found.verdicts["FAIL"] / reruns, "inconclusive": found.verdicts["INCONCLUSIVE"] / reruns,
                "chance": None if stops_early else chance(candidate), "stated": candidate.stated,
                "mean_drawn": float(np.mean(found.drawn)), "seconds": round(time.monotonic() - began, 1),
                "at_most_stated": passed.value <= candidate.stated,
                "disproved": passed.interval.lower > candidate.stated}


def remember() -> None:
    """The same counts come up again and again: what the gate made of them once is kept. No number changes."""
    kept = bounds_by(sequential.SEQUENCE)(cache(sequential.sequence_bounds))
    sequential.sequence_bounds = policy._BOUNDS[sequential.SEQUENCE] = kept
    policy.samples_to_decide = cache(policy.samples_to_decide)


def table(found: list[dict[str, object]], reruns: int, seed: int) -> str:
    """What people read."""
    lines = [f"{reruns:,} re-runs each, seed {seed}; of {PLANNED:,} latents, batches of {BATCH}.", "",
             "| true value is the limit | design | wrong PASS (99 %) | exact | stated | FAIL | INCONCLUSIVE | "
             "mean samples |",
             "|---|---|---|---|---|---|---|---|"]
    for row in found:
        low, high = row["passed_99"]  # type: ignore[misc]
        exact = "" if row["chance"] is None else f"{row['chance']:.2%}"
        lines.append(
            f"| {row['candidate']} | {row['design']} | {row['passed']:.2%} ({low:.2%} to {high:.2%}) | {exact} | "
            f"{row['stated']:.1%} | {row['failed']:.2%} | {row['inconclusive']:.2%} | {row['mean_drawn']:,.0f} |")
    over = [f"{row['candidate']}, {row['design']}" + (
        f" (by count; its exact chance is {row['chance']:.2%})" if row["chance"] is not None else "")
        for row in found if not row["at_most_stated"]]
    lines += ["", f"More often than stated, as counted: {'; '.join(over) or 'none'}.",
              "Certainly more often (99 %): " + ("; ".join(
                  f"{row['candidate']}, {row['design']}" for row in found if row["disproved"]) or "none") + "."]
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reruns", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    remember()
    found = list(rows(given.reruns, given.seed))
    record("borderline", {"reruns": given.reruns, "seed": given.seed, "rows": found},
           table(found, given.reruns, given.seed))


if __name__ == "__main__":
    main()
