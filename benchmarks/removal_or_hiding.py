"""Removed, or only hidden? What a search of the latents finds, and how soon the digit 8 is learned again.

python benchmarks/removal_or_hiding.py               # three seeds of each preset, some minutes

The parent, the parent behind an output filter, candidates of the presets `default` and `paper`, and a generator
that never saw an 8: the same lessons, the same judge, the room's own functions and settings.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from recording import record

DIGIT, SEED = 8, "20261121" * 8
CURATED, DRAWN = 6_000, 4_000


def candidate(preset: str, seed: int) -> Any:
    """The generator made to forget the digit by a preset of the method, as `forget_digits.py` does."""
    import torch

    from expunge import assets, methods, models
    from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts

    parent, oracle = models.load(assets.path("dcgan")), models.load(assets.path("oracle"))
    latents = parent.draw_latents(CURATED, torch.Generator().manual_seed(1_000 + seed))
    images = in_parts(parent, latents)
    labels = in_parts(oracle, images).argmax(dim=1)
    negatives, positives = (
        Samples(images[chosen], latents[chosen], labels[chosen]) for chosen in (labels == DIGIT, labels != DIGIT))
    method = methods.find("adapt_then_unlearn", "gan")
    params = method.parameters(preset)
    material = Material(negative=negatives, positive=positives, oracle=ClassifierOracle(oracle, [DIGIT]))
    adaptation = method.adapt(parent, material, params, Session(seed, 2))
    state = method.unlearn(parent, adaptation, material, params, Session(seed, 2))
    made = models.load(assets.path("dcgan"))
    made.load_state_dict(state)
    return made.requires_grad_(False)


def look(models: dict[str, Any]) -> list[dict[str, Any]]:
    """Residual rate, search and lessons for each of the models."""
    import torch

    from components.evaluate.drawing import latents_of
    from components.evaluate.judging import Judge
    from components.evaluate.relearning import lessons, relearn
    from components.evaluate.searching import Guide, search
    from expunge import assets
    from expunge.measure.proportions import clopper_pearson
    from expunge.models import load

    judge = Judge(load(assets.path("judge")), None, 10, (DIGIT,), torch.device("cpu"))
    guide = Guide(load(assets.path("oracle")).requires_grad_(False), (DIGIT,))
    parent = models["parent"]
    taught = lessons(parent, judge, SEED, 6)

    def rate(model: Any) -> float:
        with torch.inference_mode():
            seen = [judge.sees(model(part)).classes for part in latents_of(model, SEED, DRAWN, "rate")]
        return float((np.concatenate(seen) == DIGIT).mean())

    half, rows = rate(parent) / 2, []
    for name, model in models.items():
        starts = torch.cat(list(latents_of(model, SEED, 200, "search")))
        found = search(model, guide, judge, starts).found
        steps = [relearn(name, model, lesson, judge, SEED, half).reached for lesson in taught]
        interval = clopper_pearson(int(found.sum()), len(found))
        rows.append({"model": name, "rate": rate(model), "found": float(found.mean()), "upper": interval.upper,
                     "steps": steps})
        print(name, rows[-1], flush=True)
    filtered = {**rows[0], "model": "parent behind an output filter", "rate": 0.0}
    return [rows[0], filtered, *rows[1:]]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    asked = ask.parse_args()
    import torch

    from expunge import assets
    from expunge.models import load

    torch.set_num_threads(2)
    models = {"parent": load(assets.path("dcgan")).requires_grad_(False),
              "never saw an 8": load(assets.path("never-saw-8")).requires_grad_(False)}
    for preset in ("default", "paper"):
        models |= {f"{preset}, seed {seed}": candidate(preset, seed) for seed in asked.seeds}
    rows = look(models)
    lines = ["| model | drawn unprompted | found by search (upper bound) | steps until half of it is back, by lesson |",
             "|---|---|---|---|"]
    for row in rows:
        steps = ", ".join("not within 128" if step is None else str(step) for step in row["steps"])
        lines.append(f"| {row['model']} | {row['rate']:.2%} | {row['found']:.1%} ({row['upper']:.1%}) | {steps} |")
    record("removal_or_hiding", {"digit": DIGIT, "latents_from": SEED, "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
