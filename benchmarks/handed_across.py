"""How much of what a diffusion model's encoder hands to its decoder has to change, for a class to be forgotten?

    python benchmarks/handed_across.py FOLDER --kept KEPT [--kinds attention] [--hidden 4x4]

A U-Net's decoder is handed every feature map of the way down, and the method asks that each become, for images to
forget, what the parent finds in noise. Here the best that can come of it is looked at: the parent completes images to
forget while its maps from one on *are* those of noise, and the ones before are its own. Beside the column `left` of
`image_to_image.py`, which says how far a candidate brought each map, it tells what is in the way.

    from        the first feature map that is noise's; 0 is next to the image
    recognised  of completions, share that the judge names right; excess: how much more than with noise in the hole,
                exact paired interval

Parents, judge, masks and noise are those of `image_to_image.py`, the images those that it tries settings on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any, cast

import torch
from completions import KINDS, MASKED, MEASURE_SEED, Completions
from generators import Row, common_arguments, say
from recording import record

from expunge.measure.proportions import PairedCounts, paired_difference
from expunge.models.image_to_image import ImageToImage
from expunge.models.masks import composite

DIFFUSION = [kind for kind in KINDS if "scheduler" in KINDS[kind]]


@contextmanager
def handing_across_noise(model: Any, masks: torch.Tensor, first: int) -> Iterator[None]:
    """While it lasts, the decoder gets the feature maps from `first` on of noise, behind masks [N, 1, H, W].

    Noise that is noised is noise, whatever the level, so that the level itself need not be known here.
    """
    random = torch.Generator().manual_seed(MEASURE_SEED)
    maps: list[torch.Tensor] = []

    def of_noise(level: torch.Tensor) -> list[torch.Tensor]:
        image, given, noised = torch.randn(3, *masks.shape, generator=random)
        here = model.conv_in(torch.cat([composite(masks, given, image), composite(masks, noised, image)], dim=1))
        found = [here]
        for block in model.down_blocks:
            here, across = block(hidden_states=here, temb=level)
            found.extend(across)
        return [*found, model.mid_block(here, level)]

    def swapped(block: Any, handed: tuple[Any, ...]) -> tuple[Any, ...]:
        here, own, level, *more = handed
        if block is model.up_blocks[0]:
            *maps[:], middle = of_noise(level)
            here = middle if first <= len(maps) else here
        at = len(maps) - len(block.resnets)
        across = tuple(noise if place >= first else mine for place, noise, mine in zip(
            range(at, len(maps)), maps[at:], own[-len(block.resnets):], strict=True))
        del maps[at:]
        return here, across, level, *more

    hooks = [block.register_forward_pre_hook(swapped) for block in model.up_blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rows_of(bench: Completions, kind: str, count: int) -> list[Row]:
    """A row for every first map."""
    model, _ = bench.parent_of(kind)
    judge, _ = bench.classifier()
    images, labels, _ = (some[:count] for some in bench.held_out("forget"))
    masks = bench.masks(images)

    def right(shown: torch.Tensor) -> Any:
        with torch.inference_mode():
            return (judge(shown).argmax(dim=1) == labels).numpy()

    def completed(model: ImageToImage) -> torch.Tensor:
        return model.complete(images, masks, torch.Generator().manual_seed(MEASURE_SEED))

    noise = right(composite(masks, torch.randn(
        images.shape, generator=torch.Generator().manual_seed(MEASURE_SEED)).clamp(-1, 1), images))
    last = len(model.encode(images[:1], masks[:1], model.chance(1, torch.Generator())))
    rows = []
    for first in range(last, -1, -1):
        with handing_across_noise(model, masks, first):
            known = right(completed(model))
        found = paired_difference(PairedCounts.of(noise, known))
        rows.append({"first": first if first < last else None, "noise": float(noise.mean()),
                     "recognised": float(known.mean()),
                     "excess": [found.value, found.interval.lower, found.interval.upper]})
        say(f"{kind}: {rows[-1]}")
    return rows


def table(rows: list[Row]) -> str:
    """A line for every first map of every model."""
    lines = ["| data | kind | hidden | from | recognised | with noise | excess |", "|" + "---|" * 7]
    for row in rows:
        value, lower, upper = (100 * some for some in row["excess"])
        lines.append(f"| {row['dataset']} | {row['kind']} | {row['hidden']} |"
                     f" {'none is: the parent' if row['first'] is None else row['first']} |"
                     f" {row['recognised']:.1%} | {row['noise']:.1%} | {value:+.1f} ({lower:+.1f} to {upper:+.1f}) |")
    return "\n".join(lines)


def main() -> None:
    """Looks at each parent; one that is not there yet is trained."""
    parser = common_arguments(__doc__ or "")
    parser.add_argument("--datasets", nargs="+", default=["fashion"], choices=["mnist", "fashion"])
    parser.add_argument("--kinds", nargs="+", choices=DIFFUSION, default=DIFFUSION)
    parser.add_argument("--hidden", nargs="+", choices=MASKED, default=["4x4"])
    parser.add_argument("--images", type=int, default=500)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = []
    for dataset, where, kind in product(asked.datasets, asked.hidden, asked.kinds):
        bench = replace(cast(Completions, Completions.of(asked, dataset)), hidden=MASKED[where], trial=True)
        rows += [{"dataset": dataset, "kind": kind, "hidden": where, **row}
                 for row in rows_of(bench, kind, asked.images)]
    record("handed_across", {"images": asked.images, "seed": MEASURE_SEED, "rows": rows}, table(rows))


if __name__ == "__main__":
    main()
