"""What does a KID difference mean? The figures behind the limits on `kid_difference` and `drift` in the policies.

python benchmarks/kid_limit.py                      # kid_difference: an 8 is forgotten
python benchmarks/kid_limit.py --forgotten 8 3 5    # drift: three requests, one after the other

On the built-in generator, judge and held-out digits: 6,000 latents, the held-out images of the digits that are not
forgotten (487 without the 8), features scaled to mean square 1. Damage is noise in the pixels, or in every
weight in proportion to its tensor, as strong as raises FID by a given part; or the loss of a further digit.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from recording import record
from scipy.optimize import brentq

from expunge.assets import digits, path
from expunge.measure.distances import compare_kid, fid, fid_floor, unit_scale
from expunge.models import Classifier, Gan, load

LATENTS, SEEDS, BATCH = 6_000, (0, 1), 500
RISES = (0.25, 0.30, 1.00)


@dataclass(frozen=True)
class View:
    """What the judge makes of some images."""

    features: np.ndarray
    labels: np.ndarray
    forgotten: tuple[int, ...]

    @property
    def kept(self) -> np.ndarray:
        """Which of them count as retained."""
        return ~np.isin(self.labels, self.forgotten)


def view(judge: Classifier, images: torch.Tensor, forgotten: tuple[int, ...]) -> View:
    with torch.inference_mode():
        seen = [judge.look(batch) for batch in images.split(BATCH)]
    return View(torch.cat([features for features, _ in seen]).double().numpy(),
                torch.cat([logits for _, logits in seen]).argmax(dim=1).numpy(), forgotten)


def drawn(gan: Gan, latents: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([gan(batch) for batch in latents.split(BATCH)])


def noisy_weights(gan: Gan, strength: float, seed: int) -> Gan:
    noise, changed = torch.Generator().manual_seed(seed), copy.deepcopy(gan)
    with torch.no_grad():
        for weight in changed.generator.parameters():
            weight += strength * weight.square().mean().sqrt() * torch.randn(weight.shape, generator=noise)
    return changed


def strength_for(target: float, fid_at: Callable[[float], float]) -> float:
    """The strength at which FID is `target`, to a hundredth; FID rises with it."""
    high = 0.02
    while fid_at(high) < target:
        high *= 2
    return float(brentq(lambda strength: fid_at(strength) - target, 0.0, high, rtol=0.01))


def measure(seed: int, forgotten: tuple[int, ...]) -> list[dict[str, object]]:
    gan, judge = load(path("dcgan")), load(path("judge"))
    gan.eval(), judge.eval()
    images, labels = digits("holdout")
    rest = ~np.isin(labels, forgotten)
    images, labels = images[rest], labels[rest]
    real = view(judge, torch.from_numpy(images), forgotten).features
    scale = unit_scale(real)
    latents = gan.draw_latents(LATENTS, torch.Generator().manual_seed(seed))
    clean = drawn(gan, latents)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed + 1_000))
    before = view(judge, clean, forgotten)
    start = fid(before.features[before.kept], real)

    def damage(what: str, after: View, kept: np.ndarray | None = None) -> dict[str, object]:
        kept = after.kept if kept is None else kept
        found = compare_kid(before.features * scale, after.features * scale, real * scale, kept_before=before.kept,
                            kept_after=kept, real_strata=labels).difference
        return {"seed": seed, "damage": what, "fid_ratio": fid(after.features[kept], real) / start,
                "kid_difference": found.value, "lower": found.interval.lower, "upper": found.interval.upper,
                "fid_before": start, "fid_floor": fid_floor(real), "reals": len(real)}

    ways: dict[str, Callable[[float], View]] = {
        "noise in pixels": lambda strength: view(judge, (clean + strength * noise).clamp(-1, 1), forgotten),
        "noise in weights": lambda strength: view(
            judge, drawn(noisy_weights(gan, strength, seed), latents), forgotten),
    }
    found = []
    for name, damaged in ways.items():
        @cache
        def fid_at(strength: float, damaged: Callable[[float], View] = damaged) -> float:
            after = damaged(strength)
            return fid(after.features[after.kept], real)

        for rise in RISES:
            found.append(damage(f"{name}, FID +{rise:.0%}", damaged(strength_for((1 + rise) * start, fid_at))))
    for digit in sorted(set(labels)):
        found.append(damage(f"the {digit} is lost", before, before.kept & (before.labels != digit)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forgotten", type=int, nargs="+", default=[8])
    forgotten = tuple(parser.parse_args().forgotten)
    rows = [row for seed in SEEDS for row in measure(seed, forgotten)]
    lines = [f"{LATENTS:,} latents, {rows[0]['reals']} real images; FID before {rows[0]['fid_before']:.2f}, floor "
             f"{rows[0]['fid_floor']:.2f}; latents of {len(SEEDS)} seeds, least and greatest.", "",
             "| damage | FID after/before | KID difference | interval reaches further by |", "|---|---|---|---|"]

    def between(values: list[float]) -> str:
        low, high = f"{min(values):.4f}", f"{max(values):.4f}"
        return low if low == high else f"{low} to {high}"

    groups: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault(str(row["damage"]), []).append(row)
    groups["any one digit is lost"] = [row for row in rows if str(row["damage"]).endswith("is lost")]
    for name, same in groups.items():
        lines.append(f"| {name} | {between([row['fid_ratio'] for row in same])} | "
                     f"{between([row['kid_difference'] for row in same])} | "
                     f"{between([row['upper'] - row['kid_difference'] for row in same])} |")
    name = "kid_limit" if forgotten == (8,) else f"kid_limit_{'_'.join(map(str, forgotten))}"
    record(name, {"latents": LATENTS, "forgotten": forgotten, "seeds": SEEDS, "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
