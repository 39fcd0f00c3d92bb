"""Which part of an image is hidden: what an image-to-image model is to complete, and what is unlearned and measured.

    centre   the middle is hidden: inpainting
    border   all but the middle is hidden: outpainting
    random   cells anywhere are hidden, of each image others

A ratio is the hidden part of the image's area, as near as whole cells come to it. Where a side is hidden to 8/16, as in
the centre masks of the paper's code (Li et al., ICLR 2024), a quarter of the area is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.contracts import MaskKind
from expunge.errors import BadInput


def hidden(
    kind: MaskKind, ratio: float, size: tuple[int, int], cell: int = 1, count: int = 1,
    random: torch.Generator | None = None,
) -> Tensor:
    """Masks [count, 1, H, W], true where an image is hidden.

    Every mask of the same arguments hides the same number of cells, at least one, and leaves at least one.

    Args:
        kind: what is hidden.
        ratio: of the area, between 0 and 1.
        size: (H, W) in pixels.
        cell: side of the squares that are hidden or shown as a whole, in pixels.
        count: how many; without chance they are all alike.
        random: the stream that a `random` mask is drawn from.

    Raises:
        BadInput: the ratio hides nothing or all; the image does not divide into cells, or into fewer than two each way.
    """
    if not 0 < ratio < 1:  # also what is not a number
        raise BadInput(f"mask ratio: {ratio:g} of the image is to be hidden", "use more than 0 and less than 1")
    height, width = size
    rows, columns = height // cell, width // cell
    if height % cell or width % cell or min(rows, columns) < 2:
        raise BadInput(f"mask: an image of {height}x{width} does not divide into two or more cells of {cell} each way",
                       "name another cell, or a model of another patch size")
    if kind == "random":
        if random is None:
            raise BadInput("mask: a random one is drawn from a stream", "give it one")
        cells = _scattered(ratio, rows * columns, count, random).view(count, 1, rows, columns)
    else:
        middle = _middle(ratio if kind == "centre" else 1 - ratio, rows, columns)
        cells = (middle if kind == "centre" else ~middle).expand(count, 1, rows, columns)
    return cells.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)


def cells_of(mask: Tensor, cell: int) -> Tensor:
    """Masks [B, 1, H, W] by their cells, row by row: [B, H / cell * W / cell].

    Raises:
        BadInput: a cell is partly hidden.
    """
    cells = mask[:, :, ::cell, ::cell]
    if not torch.equal(cells.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3), mask):
        raise BadInput(f"mask: it hides parts of cells of {cell}x{cell} pixels", f"make it of whole cells of {cell}")
    return cells.flatten(1)


def composite(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Images [B, C, H, W] that are `inside` where the mask [B or 1, 1, H, W] hides, and exactly `outside` elsewhere."""
    return torch.where(mask, inside, outside)


def _middle(area: float, rows: int, columns: int) -> Tensor:
    """Cells [rows, columns] of the middle that has this part of the area."""
    cells = torch.zeros(rows, columns, dtype=torch.bool)
    down, across = (min(max(round(area**0.5 * cells), 1), cells - 1) for cells in (rows, columns))
    top, left = (rows - down) // 2, (columns - across) // 2
    cells[top : top + down, left : left + across] = True
    return cells


def _scattered(ratio: float, cells: int, count: int, random: torch.Generator) -> Tensor:
    """Cells [count, cells], of each row as many others."""
    number = min(max(round(ratio * cells), 1), cells - 1)
    places = torch.rand(count, cells, generator=random, device=random.device).argsort(dim=1, stable=True)
    return places < number
