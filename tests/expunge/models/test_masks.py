"""Masks: how much they hide, of which shape, the same for all who ask, and what cannot be hidden."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.errors import BadInput
from expunge.models.masks import cells_of, composite, hidden

KINDS = st.sampled_from(["centre", "border", "random"])
RATIOS = st.floats(0.001, 0.999)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@given(KINDS, RATIOS, st.integers(2, 9), st.integers(2, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_mask_hides_whole_cells_at_least_one_and_never_all_and_as_many_of_each_image(kind, ratio, rows, columns, cell, seed):
    mask = hidden(kind, ratio, (rows * cell, columns * cell), cell, 3, stream(seed))
    assert mask.shape == (3, 1, rows * cell, columns * cell)
    cells = cells_of(mask, cell)
    assert cells.shape == (3, rows * columns)
    counts = cells.sum(dim=1)
    assert (counts == counts[0]).all()
    assert 0 < counts[0] < rows * columns
    assert torch.equal(mask, hidden(kind, ratio, (rows * cell, columns * cell), cell, 3, stream(seed)))


@given(KINDS, RATIOS, st.integers(4, 20))
def test_what_is_hidden_is_as_near_to_the_ratio_as_cells_come(kind, ratio, side):
    share = hidden(kind, ratio, (side, side), random=stream()).float().mean().item()
    if kind == "random":
        assert abs(share - ratio) <= max(0.5 / side**2, 1 / side**2 - ratio, ratio - 1 + 1 / side**2) + 1e-6
    else:  # a square's side is rounded, which moves its area by half a row and half a column
        middle, wanted = (share, ratio) if kind == "centre" else (1 - share, 1 - ratio)
        assert abs(middle**0.5 - wanted**0.5) <= 1 / side + 1e-6
        assert 1 / side - 1e-6 <= middle**0.5 <= 1 - 1 / side + 1e-6


@given(RATIOS, st.integers(2, 12))
def test_the_border_is_what_the_centre_is_not(ratio, side):
    centre, border = (hidden(kind, share, (side, side)) for kind, share in (("centre", ratio), ("border", 1 - ratio)))
    assert torch.equal(centre, ~border) or math.isclose((ratio**0.5 * side) % 1, 0.5, abs_tol=1e-6)


def test_half_of_each_side_is_a_quarter_of_the_area_and_lies_in_the_middle():
    mask = hidden("centre", 0.25, (8, 8))[0, 0]
    assert mask[2:6, 2:6].all()
    assert mask.sum() == 16


def test_random_masks_differ_from_image_to_image():
    masks = hidden("random", 0.5, (8, 8), count=20, random=stream())
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 20


@given(st.integers(0, 2**32 - 1))
def test_a_composite_is_exactly_what_it_is_made_of(seed):
    inside, outside = torch.randn(2, 3, 2, 8, 8, generator=stream(seed))
    mask = hidden("random", 0.4, (8, 8), count=3, random=stream(seed))
    made = composite(mask, inside, outside)
    chosen = mask.expand_as(made)
    assert torch.equal(made[chosen], inside[chosen])
    assert torch.equal(made[~chosen], outside[~chosen])


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, math.nan])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio):
    with pytest.raises(BadInput, match=r"mask ratio: .* use more than 0 and less than 1") as refused:
        hidden("centre", ratio, (8, 8))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(("size", "cell"), [((8, 8), 3), ((8, 8), 8), ((8, 4), 4)])
def test_an_image_that_has_not_enough_whole_cells_is_refused(size, cell):
    with pytest.raises(BadInput, match=r"does not divide into two or more cells of \d each way"):
        hidden("centre", 0.5, size, cell)


def test_half_a_cell_is_not_hidden():
    with pytest.raises(BadInput, match="parts of cells of 2x2 pixels"):
        cells_of(hidden("centre", 0.1, (8, 8), 1) ^ hidden("random", 0.2, (8, 8), 1, 1, stream()), 2)


def test_a_random_mask_needs_a_stream():
    with pytest.raises(BadInput, match="drawn from a stream"):
        hidden("random", 0.5, (8, 8))
