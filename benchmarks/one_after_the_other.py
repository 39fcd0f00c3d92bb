"""Three requests, one after the other: does what was forgotten first stay away, and what do they cost together?

python benchmarks/one_after_the_other.py                        # 8, then 3, then 5; some minutes per step when alone
python benchmarks/one_after_the_other.py --digits 8 3 --ways kept

Every step begins with what the last one left. In the way `kept`, as requests do it, samples of what was forgotten
before are not among those to keep, and whoever guides the training calls them unwanted too. In the way `alone` every
request is carried out as if it were the first. The judge is never seen by training, and measures all models on the
same 10,000 latents, which no training uses.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from forget_digits import CURATED, LATENTS, MEASURE_SEED, look
from recording import record

from expunge import assets, methods, models
from expunge.measure.distances import compare_kid, fid, unit_scale
from expunge.measure.proportions import clopper_pearson
from expunge.measure.shares import kept_shares
from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts

WAYS = {"kept": "earlier digits are kept away", "alone": "as if each request were the first"}
Row = dict[str, Any]


def forget(parent: Any, oracle: Any, digit: int, earlier: tuple[int, ...], preset: str, seed: int, threads: int) -> Any:
    """The candidate that comes of asking `parent` to forget one digit after others."""
    latents = parent.draw_latents(CURATED, torch.Generator().manual_seed(1_000 + seed))
    images = in_parts(parent, latents)
    chances = in_parts(oracle, images).softmax(dim=1)
    unwanted = chances[:, digit] >= 0.5
    lost = sorted({digit, *earlier})
    wanted = (chances[:, lost].sum(dim=1) < 0.05) & ~torch.isin(chances.argmax(dim=1), torch.tensor(lost))
    negative, positive = (Samples(images[chosen], latents[chosen], chances.argmax(dim=1)[chosen])
                          for chosen in (unwanted, wanted))
    method = methods.find("adapt_then_unlearn", "gan")
    params, session = method.parameters(preset), Session(seed, threads)
    material = Material(negative=negative, positive=positive, oracle=ClassifierOracle(oracle, lost))
    state = method.unlearn(parent, method.adapt(parent, material, params, session), material, params,
                           Session(seed, threads))
    candidate = models.load(assets.path("dcgan"))
    candidate.load_state_dict(state)
    return candidate.eval()


class Ruler:
    """The judge's view of every model on the same latents, and of the real held-out images."""

    def __init__(self, first: Any) -> None:
        self.judge: Any = models.load(assets.path("judge"))
        self.latents = first.draw_latents(LATENTS, torch.Generator().manual_seed(MEASURE_SEED))
        images, self.labels = assets.digits("holdout")
        self.real = in_parts(self.judge.features, torch.from_numpy(images)).numpy()
        self.first = self.view(first)

    def view(self, model: Any) -> tuple[np.ndarray, np.ndarray]:
        """Features [N, F] and named digits [N] of what it draws."""
        features, named, _ = look(model, self.judge, self.latents)
        return features, named

    def measure(self, parent: Any, candidate: Any, digits: list[int], done: int) -> Row:
        """What the judge says of a candidate after `done` of the digits, beside its parent and the first model."""
        lost = digits[:done]
        was, is_now = self.view(parent), self.view(candidate)
        rest = ~np.isin(self.labels, lost)
        real, strata = self.real[rest], self.labels[rest]
        scale = np.float64(unit_scale(real))

        def difference(before: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
            found = compare_kid(
                before[0] * scale, is_now[0] * scale, real * scale, kept_before=~np.isin(before[1], lost),
                kept_after=~np.isin(is_now[1], lost), real_strata=strata).difference
            return {"value": found.value, "lower": found.interval.lower, "upper": found.interval.upper}

        hits = {digit: int((is_now[1] == digit).sum()) for digit in digits}
        retained = tuple(label for label in range(10) if label not in lost)
        share = kept_shares(was[1], is_now[1], retained, 10, 0.95).smallest
        return {
            "rates": {str(digit): hits[digit] / LATENTS for digit in digits},
            "upper": {str(digit): clopper_pearson(hits[digit], LATENTS).upper for digit in digits},
            "kid_difference": difference(was), "drift": difference(self.first), "reals": len(real),
            "fid": fid(is_now[0][~np.isin(is_now[1], lost)], real),
            "fid_first": fid(self.first[0][~np.isin(self.first[1], lost)], real),
            "kept_share": share.value, "kept_share_lower": share.interval.lower,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, nargs="+", default=[8, 3, 5])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--preset", default="default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    first, oracle = (models.load(assets.path(name)) for name in ("dcgan", "oracle"))
    ruler = Ruler(first)
    rows: list[Row] = []
    after_one: Any = None
    for way in asked.ways:
        chain = [first]
        for done, digit in enumerate(asked.digits, start=1):
            earlier = tuple(asked.digits[: done - 1]) if way == "kept" else ()
            began = time.perf_counter()
            if done == 1 and after_one is not None:
                chain.append(after_one)  # the first request is the same in every way
                continue
            chain.append(forget(chain[-1], oracle, digit, earlier, asked.preset, asked.seed, asked.threads))
            after_one = chain[1]
            rows.append({"way": way, "step": done, "digit": digit, "seconds": time.perf_counter() - began,
                         **ruler.measure(chain[-2], chain[-1], asked.digits, done)})
            record(f"one_after_the_other_{asked.preset}", {
                "preset": asked.preset, "seed": asked.seed, "threads": asked.threads, "latents": LATENTS,
                "digits": asked.digits, "rows": rows}, table(asked, rows))


def table(asked: argparse.Namespace, rows: list[Row]) -> str:
    """The rows as Markdown."""

    def span(found: dict[str, float]) -> str:
        return f"{found['value']:+.4f} ({found['lower']:+.4f} to {found['upper']:+.4f})"

    names = " | ".join(f"{digit}, upper bound" for digit in asked.digits)
    lines = [
        f"Preset `{asked.preset}`, seed {asked.seed}, {LATENTS:,} latents. A digit's rate is how often the judge sees",
        "it in what the candidate draws; bounds and intervals of 95 %. FID is to the held-out images of the digits",
        "that are left, beside that of the first model to the same.",
        "",
        f"| way | request | rate of {names} | KID difference | drift | FID (first model) | least share kept |"
        " seconds |",
        "|" + "---|" * (7 + len(asked.digits)),
    ]
    for row in rows:
        rates = " | ".join(f"{row['rates'][str(digit)]:.2%}, {row['upper'][str(digit)]:.2%}" for digit in asked.digits)
        lines.append(
            f"| {WAYS[row['way']]} | {row['step']}: the {row['digit']} | {rates} | {span(row['kid_difference'])} | "
            f"{span(row['drift'])} | {row['fid']:.2f} ({row['fid_first']:.2f}) | {row['kept_share']:.2f} | "
            f"{row['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
