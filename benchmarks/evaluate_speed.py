"""What does measuring cost beside the models' own passes? 50,000 images of 32x32, two cores.

python benchmarks/evaluate_speed.py [--samples 12500 25000 50000] [--reals 10000]

A 32x32 DCGAN as parent, the same with disturbed weights as candidate, and the residual classifier that expunge
builds for images of any size as judge, untrained: time does not depend on what they have learned. Real images
are a third DCGAN's. 5,000 latents pass through the models; further features are those again with noise of a tenth
of their spread, as nothing that is measured here takes longer or shorter for it. Each number of samples is a
process of its own, so that its peak memory is its own. Where other work shares the machine, seconds of the
processor (of both cores together) say more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 2
LIMIT_SECONDS = 60.0  # at 50,000 samples, outside of the models' passes
BATCH, PASSED, CLASSES, UNWANTED, LATENT = 500, 5_000, 10, 0, 100


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build_generator() -> Any:
    """A DCGAN's generator for 32x32 images in three colours, as Radford et al. 2016 draw it, a quarter as wide."""
    from torch import nn

    def grow(into: int, out: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(into, out, 4, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]

    return nn.Sequential(
        nn.Linear(LATENT, 128 * 16), nn.Unflatten(1, (128, 4, 4)), nn.ReLU(), *grow(128, 64), *grow(64, 32),
        nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1), nn.Tanh()).eval()


def measure(samples: int, reals: int) -> dict[str, Any]:
    """Seconds of each part, and the peak of memory after each."""
    import numpy as np
    import torch

    from expunge.measure.distances import compare_kid, fid, fid_excess, fid_floor, unit_scale
    from expunge.measure.neighbours import neighbours
    from expunge.measure.proportions import PairedCounts, pul, rate
    from expunge.measure.shares import class_shares, hold_shares, kept_shares, total_variation
    from expunge.models.classifiers import build_resnet

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    parent, candidate, nature = (build_generator() for _ in range(3))
    judge = build_resnet(channels=3, classes=CLASSES).eval()
    with torch.no_grad():
        for model, strength in ((candidate, 0.1), (nature, 0.2)):
            model.load_state_dict(parent.state_dict())
            for weight in model.parameters():
                weight += strength * weight.std() * torch.randn_like(weight)
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}
    memory = {"of the process, libraries and models loaded": peak_mib()}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began, began_processor = time.perf_counter(), time.process_time()
        result = work()
        processor[name] = processor.get(name, 0.0) + time.process_time() - began_processor
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
        if tracemalloc.is_tracing():
            memory[f"of arrays, beside the features, {name}"] = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.reset_peak()
        return result

    @torch.inference_mode()
    def seen(model: Any, latents: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        features, logits = judge.look(model(latents))
        return features.numpy(), logits.numpy()

    stream = torch.Generator().manual_seed(1)
    views: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"before": [], "after": [], "real": []}
    for first in range(0, PASSED, BATCH):
        latents = torch.randn(BATCH, LATENT, generator=stream)
        for name, model, count in (("before", parent, samples), ("after", candidate, samples),
                                   ("real", nature, reals)):
            if first < count:
                views[name].append(timed("passes", lambda model=model, latents=latents: seen(model, latents)))
    again = np.random.default_rng(2)
    spread_out = again.normal(size=(max(samples, reals), views["before"][0][0].shape[1])).astype(np.float32) / 10

    def to_length(parts: list[np.ndarray], count: int, noise: np.ndarray | float = 0.0) -> np.ndarray:
        table = np.concatenate(parts)
        rows = np.resize(np.arange(len(table)), count)
        return table[rows] + noise * table.std(axis=0)

    counts = {"before": samples, "after": samples, "real": reals}
    features = {name: to_length([part[0] for part in found], counts[name],
                                (np.roll(spread_out, 1, axis=0) if name == "real" else spread_out)[: counts[name]])
                for name, found in views.items()}
    logits = {name: to_length([part[1] for part in found], counts[name]) for name, found in views.items()}
    del spread_out
    middle, spread = logits["before"].mean(axis=0), logits["before"].std(axis=0)
    labels = {name: ((found - middle) / spread).argmax(axis=1) for name, found in logits.items()}
    del views, logits
    memory["of the process, after the passes"] = peak_mib()
    tracemalloc.start()

    retained = tuple(range(1, CLASSES))
    hits = {name: found == UNWANTED for name, found in labels.items()}
    real, strata = features["real"][~hits["real"]], labels["real"][~hits["real"]]
    kept = {name: features[name][~hits[name]] for name in ("before", "after")}
    same = timed("shares", lambda: hold_shares(labels["after"], class_shares(labels["before"], CLASSES), retained))
    held = np.isin(np.arange(samples), same)
    timed("rates", lambda: (rate(hits["before"]), rate(hits["after"]),
                            pul(PairedCounts.of(hits["before"], hits["after"]))))
    timed("shares", lambda: (kept_shares(labels["before"], labels["after"], retained, CLASSES),
                             total_variation(labels["before"], labels["after"], retained, CLASSES)))
    timed("FID", lambda: (fid(kept["before"], real), fid(kept["after"], real), fid(features["after"][held], real),
                          fid_floor(real)))
    timed("FID above its floor", lambda: fid_excess(kept["after"], real, real_strata=strata))
    scale = np.float32(unit_scale(real))
    for name, chosen in (("KID", ~hits["after"]), ("KID, shares held", held)):
        timed(name, lambda chosen=chosen: compare_kid(
            features["before"] * scale, features["after"] * scale, real * scale, kept_before=~hits["before"],
            kept_after=chosen, real_strata=strata))
    used = {}
    for name, table in (("before", kept["before"]), ("after", kept["after"]), ("shares held", features["after"][held])):
        found = timed(f"neighbours, {name}", lambda table=table: neighbours(table, real))
        used[name] = [found.generated_used, found.generated, found.reals_used, found.reals]
    memory["of the process, at the end"] = peak_mib()
    own = sum(spent for name, spent in seconds.items() if name != "passes")
    return {"samples": samples, "reals": reals, "passed": PASSED, "seconds": seconds, "outside_passes": own,
            "processor_seconds": processor, "peak_mib": memory,
            "processor_outside_passes": sum(spent for name, spent in processor.items() if name != "passes"),
            "features_mib": sum(table.nbytes for table in features.values()) / 2**20, "neighbours_used": used}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--samples", type=int, nargs="*", default=[12_500, 25_000, 50_000])
    ask.add_argument("--reals", type=int, default=10_000)
    ask.add_argument("--inner", type=int, help=argparse.SUPPRESS)
    asked = ask.parse_args()
    if asked.inner:
        print(json.dumps(measure(asked.inner, asked.reals)))
        return
    from recording import record

    limited = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    found = []
    for samples in asked.samples:
        command = [sys.executable, str(Path(__file__)), "--inner", str(samples), "--reals", str(asked.reals)]
        done = subprocess.run(command, env={**os.environ, **limited}, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout))
        print(f"{samples:,}: {found[-1]['outside_passes']:.1f} s outside the passes", flush=True)
    lines = [f"{asked.reals:,} real images; {THREADS} threads. Seconds, then MiB.", "",
             "| | " + " | ".join(f"{each['samples']:,}" for each in found) + " |", "|---" * (len(found) + 1) + "|"]

    def line(name: str, values: list[float]) -> str:
        return f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |"

    for name in found[0]["seconds"]:
        what = f"passes of {PASSED:,} latents" if name == "passes" else name
        lines += [line(f"{what}, by the clock", [each["seconds"][name] for each in found]),
                  line(f"{what}, of the processor", [each["processor_seconds"][name] for each in found])]
    lines += [line("**all but the passes**, by the clock", [each["outside_passes"] for each in found]),
              line("**all but the passes**, of the processor", [each["processor_outside_passes"] for each in found]),
              line("features kept, MiB", [each["features_mib"] for each in found])]
    lines += [line(f"peak {name}, MiB", [each["peak_mib"][name] for each in found])
              for name in found[0]["peak_mib"]]
    largest = found[-1]
    within = "within" if largest["outside_passes"] <= LIMIT_SECONDS else "BEYOND"
    used, of = largest["neighbours_used"]["after"][:2]
    lines += ["", f"At {largest['samples']:,} samples: {largest['outside_passes']:.1f} s outside the passes, {within} "
              f"the {LIMIT_SECONDS:g} s allowed; load of the machine {os.getloadavg()[1]:.1f}. Neighbours use "
              f"{used:,} of {of:,} generated samples."]
    record("evaluate_speed", {"rows": found}, "\n".join(lines))


if __name__ == "__main__":
    main()
