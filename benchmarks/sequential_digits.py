"""Does sampling that ends as soon as it is decided come to the same verdicts, and what does it save? Ten digits.

    python benchmarks/sequential_digits.py            # all that today's file lacks; a minute or two per digit
    python benchmarks/sequential_digits.py --digits 8

For each digit the default method makes a candidate, as a run would. Candidate and parent are then drawn from the
same 10,000 latents and judged by the policy `standard`: all of them, with exact intervals (fixed); and the same ones
in their order until the rules on counts are decided, with the confidence sequence, but never fewer than a share that
is drawn in any case, from which distances are computed (sequential). Two such shares are tried. The judge is never
seen by training. Everything but the loop is the evaluation room's own.

- drawn: samples until it was decided, of 10,000; saved: the rest, and the seconds that they took.
- KID: the upper bound of the KID difference, which the policy wants at most 0.015, and `strict` at most 0.010.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from recording import RESULTS, circumstances, record

from components.evaluate.controls import controls_for
from components.evaluate.drawing import draw, latents_of
from components.evaluate.effort import nobody
from components.evaluate.evidence import Evidence, Real, Seen
from components.evaluate.judging import Judge, joined
from components.evaluate.probes.can_it_be_found import can_it_be_found
from components.evaluate.probes.is_it_gone import is_it_gone
from components.evaluate.probes.is_the_rest_still_good import is_the_rest_still_good, shares_kept
from components.evaluate.searching import Guide, search
from components.evaluate.verdict_so_far import Watch
from expunge.contracts import Report
from expunge.digests import sha256_bytes
from expunge.measure.policy import decide, preset

PLANNED = 10_000  # what a request draws by default
CURATED = 6_000  # likewise
STARTS = 200  # likewise
SHARES = (0.5, 0.25)
NAME = "sequential_digits"
NOBODY = "0" * 64  # of what has no file here
Row = dict[str, Any]


def run(digit: int, seed: int) -> Row:
    """Makes a candidate that forgets the digit, and judges it by either design."""
    import torch

    from expunge import assets, models

    torch.set_num_threads(1)
    load: Any = models.load
    parent, oracle, judge_model = (load(assets.path(name)) for name in ("dcgan", "oracle", "judge"))
    began = time.perf_counter()
    candidate = forget(digit, seed, parent, oracle).requires_grad_(False)
    made = time.perf_counter() - began
    parent.requires_grad_(False)
    judge = Judge(judge_model, None, 10, (digit,), torch.device("cpu"))
    latent_seed = sha256_bytes(f"{NAME} {digit} {seed}".encode())
    batches: list[tuple[Seen, Seen, float]] = []
    began = time.perf_counter()

    def keep(before: Seen, after: Seen) -> None:
        batches.append((before, after, time.perf_counter() - began))

    drawn = draw((parent, candidate), judge, latent_seed, PLANNED, False, nobody, keep)
    ended = time.perf_counter() - began
    guide = Guide(oracle.requires_grad_(False), (digit,))
    starts = torch.cat(list(latents_of(parent, latent_seed, STARTS, "search")))
    images, labels = assets.digits("holdout")
    found = Evidence((digit,), 10, drawn.before, drawn.after, Real(judge.sees_all(images), labels),
                     search=search(candidate, guide, judge, starts), search_before=search(parent, guide, judge, starts))
    return {"digit": digit, "seed": seed, "making_s": round(made, 1), "drawing_s": round(ended, 1),
            "fixed": verdict(found),
            "sequential": {str(share): until_decided(found, batches, share, ended) for share in SHARES}}


def forget(digit: int, seed: int, parent: Any, oracle: Any) -> Any:
    """The default method's candidate, from as many samples as a request curates."""
    import torch

    from expunge import assets, methods, models
    from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts

    latents = parent.draw_latents(CURATED, torch.Generator().manual_seed(1_000 + seed))
    images = in_parts(parent, latents)
    labels = in_parts(oracle, images).argmax(dim=1)
    negatives, positives = (
        Samples(images[chosen], latents[chosen], labels[chosen]) for chosen in (labels == digit, labels != digit))
    method = methods.find("adapt_then_unlearn", "gan")
    params = method.parameters("default")
    material = Material(negative=negatives, positive=positives, oracle=ClassifierOracle(oracle, [digit]))
    adaptation = method.adapt(parent, material, params, Session(seed, 1))
    state = method.unlearn(parent, adaptation, material, params, Session(seed, 1))
    candidate: Any = models.load(assets.path("dcgan"))
    candidate.load_state_dict(state)
    return candidate


def until_decided(found: Evidence, batches: list[tuple[Seen, Seen, float]], share: float, ended: float) -> Row:
    """The verdict from as many of the batches as it takes, of which the first `share` of all are used in any case."""
    watch = Watch(preset("standard"), "gan", round(share * PLANNED), found.unwanted, found.classes, found.names)
    used, decided = 0, None
    while decided is None and used < len(batches):
        decided = watch(*batches[used][:2])
        used += 1
    before = joined([was for was, _, _ in batches[:used]])
    after = joined([is_now for _, is_now, _ in batches[:used]])
    came = verdict(Evidence(found.unwanted, found.classes, before, after, found.real, fixed=watch.fixed,
                            search=found.search, search_before=found.search_before))
    return came | {"drawn": len(after.classes), "decided": decided or "nothing did",
                   "saved_s": round(ended - batches[used - 1][2], 1)}


def verdict(found: Evidence) -> Row:
    """The standard policy's verdict on what its rules ask for, and how each came out."""
    kid = next(one for one in is_the_rest_still_good(found) if one.name == "kid_difference")
    report = Report(
        request_sha256=NOBODY, parent_sha256=NOBODY, candidate_sha256=NOBODY, judge_sha256=NOBODY, holdout_id=NOBODY,
        latent_seed=NOBODY, unwanted=found.unwanted, shares={}, files=(), controls=controls_for(found),
        measurements=(*is_it_gone(found), kid, *shares_kept(found), *can_it_be_found(found)))
    came = decide(report, preset("standard"), report_sha256=NOBODY, policy_sha256=NOBODY)
    return {"verdict": came.outcome, "controls": came.controls,
            "kid_upper": kid.interval.upper if kid.interval else float("nan"),
            "rules": {one.rule.metric: one.outcome for one in came.rules}}


def table(rows: list[Row]) -> str:
    """One line per digit, and what it all comes to."""
    def drawn_in_any_case(share: float) -> str:
        return f"{share:.0%} in any case"

    head = ["digit", "fixed", "KID", *(f"{drawn_in_any_case(share)}: {what}" for share in SHARES
                                       for what in ("verdict", "KID", "drawn", "saved"))]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [str(row["digit"]), row["fixed"]["verdict"], f"{row['fixed']['kid_upper']:.4f}"]
        for share in SHARES:
            found = row["sequential"][str(share)]
            cells += [found["verdict"], f"{found['kid_upper']:.4f}", f"{found['drawn']:,}",
                      f"{PLANNED - found['drawn']:,} ({found['saved_s']:.0f} s)"]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for share in SHARES:
        of = [row["sequential"][str(share)] for row in rows]
        same = sum(found["verdict"] == row["fixed"]["verdict"] for found, row in zip(of, rows, strict=True))
        lines.append(f"{drawn_in_any_case(share)}: the same verdict on {same} of {len(rows)} digits, "
                     f"{np.mean([found['drawn'] for found in of]):,.0f} of {PLANNED:,} samples on average.")
    for row in rows:
        for name, found in (("fixed", row["fixed"]), *((drawn_in_any_case(float(share)), found)
                                                       for share, found in row["sequential"].items())):
            missed = ", ".join(f"{metric} {came}" for metric, came in found["rules"].items() if came != "PASS")
            if missed:
                lines.append(f"Digit {row['digit']}, {name}: {missed}.")
    return "\n".join(lines)


def main() -> None:
    """Does the digits that are missing, and writes the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    file = RESULTS / f"{NAME}-{circumstances()['date']}.json"
    rows: list[Row] = json.loads(file.read_text())["rows"] if file.exists() else []
    for digit in given.digits:
        if not any(row["digit"] == digit and row["seed"] == given.seed for row in rows):
            rows.append(run(digit, given.seed))
            record(NAME, {"policy": "standard", "seed": given.seed, "threads": 1, "rows": rows}, table(rows))


if __name__ == "__main__":
    main()
