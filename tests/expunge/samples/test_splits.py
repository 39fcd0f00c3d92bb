"""Parts share no image, hold each class in its share, and depend on nothing but contents and seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.samples.splits import divide

SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}


@st.composite
def labelled(draw):
    count = draw(st.integers(0, 60))
    pixels = draw(st.lists(st.integers(0, 30), min_size=count, max_size=count))  # few values: many equal images
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return np.array(pixels, np.uint8).reshape(-1, 1, 1, 1).repeat(2, 3), np.array(labels, np.int64)


@given(labelled(), st.integers(0, 5), st.randoms())
@settings(max_examples=150, deadline=None)
def test_no_image_is_in_two_parts_and_every_one_is_accounted_for(data, seed, random):
    pixels, labels = data
    found = divide(pixels, labels, SHARES, seed)
    contents = {name: [pixels[row].tobytes() for row in rows] for name, rows in found.parts.items()}
    everything = [one for part in contents.values() for one in part]
    assert len(everything) == len(set(everything))
    assert len(everything) + found.duplicates + found.contradictory == len(pixels)
    for value in np.unique(pixels):
        meant = set(labels[pixels[:, 0, 0, 0] == value].tolist())
        assert (np.full((1, 1, 2), value, np.uint8).tobytes() in everything) == (len(meant) == 1)

    order = list(range(len(pixels)))
    random.shuffle(order)
    again = divide(pixels[order], labels[order], SHARES, seed)
    assert again.sha256 == found.sha256
    assert {name: [pixels[order][row].tobytes() for row in rows] for name, rows in again.parts.items()} == contents


def test_every_class_is_divided_in_its_shares():
    pixels = np.arange(200, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.repeat(np.array([0, 1], np.int64), [150, 50])
    parts = divide(pixels, labels, SHARES, 0).parts
    assert {name: np.bincount(labels[rows]).tolist() for name, rows in parts.items()} == {
        "a": [75, 25], "b": [45, 15], "c": [30, 10]}


def test_another_seed_divides_differently_and_another_label_is_other_data():
    pixels, labels = np.arange(100, dtype=np.uint8).reshape(-1, 1, 1, 1), np.zeros(100, np.int64)
    first, other = divide(pixels, labels, SHARES, 0), divide(pixels, labels, SHARES, 1)
    assert first.sha256 == other.sha256
    assert not np.array_equal(first.parts["a"], other.parts["a"])
    labels[3] = 1
    assert divide(pixels, labels, SHARES, 0).sha256 != first.sha256


@pytest.mark.parametrize("shape", [(10, 1, 4, 3), (10, 1, 3, 4), (10, 3, 4, 1)])
def test_the_shape_is_part_of_the_digest(shape):
    pixels, labels = np.zeros(120, np.uint8), np.zeros(10, np.int64)
    assert divide(pixels.reshape(shape), labels, SHARES, 0).sha256 != divide(
        pixels.reshape(10, 3, 2, 2), labels, SHARES, 0).sha256
