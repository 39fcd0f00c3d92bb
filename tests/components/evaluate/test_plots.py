import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate.plots import Axis, Histogram, at_step, curve, step_axis, step_path

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(numbers, min_size=2, max_size=8))
def test_an_axis_holds_all_of_its_points_in_their_order(points):
    axis = Axis.around(points)
    places = [axis.at(point) for point in sorted(points)]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)


@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=8))
def test_an_axis_of_rates_ends_where_rates_do(points):
    axis = Axis.around(points, lowest=0, highest=1)
    assert 0 <= axis.left < axis.right <= 1 or min(points) == max(points)


def test_an_axis_reaches_beyond_an_end_where_something_lies_there():
    assert Axis.around([-0.2, 0.9], lowest=0, highest=1).left < -0.2
    assert Axis.around([0.4, 1.3], lowest=0, highest=1).right > 1.3


@given(st.lists(st.floats(0, 1), min_size=1), st.lists(st.floats(0, 1)), st.integers(1, 30))
def test_a_histogram_counts_every_value_once(before, after, bins):
    found = Histogram.of({"before": before, "after": after}, bins, (0.0, 1.0))
    assert [sum(found.counts[name]) for name in ("before", "after")] == [len(before), len(after)]
    assert found.left_out == 0


def test_values_that_are_no_numbers_are_left_out_and_said():
    found = Histogram.of({"a": [0.5, np.nan, np.inf]}, 2, (0.0, 1.0))
    assert found.counts["a"] == (0, 1)
    assert found.left_out == 2
    assert Histogram.of({"a": [np.nan]}, 2) is None
    assert Histogram.of({"a": []}, 2) is None


def test_what_rounding_puts_beyond_an_end_is_in_the_last_bin():
    assert Histogram.of({"a": [1.0000001, -1e-9]}, 4, (0.0, 1.0)).counts["a"] == (1, 0, 0, 1)


def test_values_that_are_all_the_same_have_a_histogram():
    assert sum(Histogram.of({"a": [3.0, 3.0]}, 4).counts["a"]) == 2


def test_a_single_sample_can_be_seen_beside_ten_thousand():
    found = Histogram.of({"a": [0.0] * 10_000 + [1.0]}, 2, (0.0, 1.0))
    assert found.log_height(10_000) == 100
    assert found.log_height(1) > 5
    assert found.log_height(0) == 0
    assert [text for _, text in found.log_ticks()] == ["0", "1", "10", "100", "1,000", "10,000"]


def corners(path):
    """The tops of the bars of a step path, from the bottom."""
    return [100 - float(top) for top in re.findall(r"V([\d.]+)H", path)]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40))
def test_a_step_path_has_the_heights_that_it_was_given(heights):
    path = step_path(heights)
    assert corners(path) == pytest.approx(heights, abs=0.01)
    assert path.startswith("M0 100")
    assert path.endswith("H100V100")


def test_series_of_unequal_length_are_drawn_as_shares():
    found = Histogram.of({"few": [0.1, 0.9], "many": [0.1] * 30 + [0.9] * 10}, 2, (0.0, 1.0))
    assert corners(found.share_outline("many")) == pytest.approx([100, 100 / 3], abs=0.01)
    assert corners(found.share_outline("few")) == pytest.approx([200 / 3] * 2, abs=0.01)


def test_each_doubling_of_the_steps_has_nearly_the_same_room_and_step_0_has_its_place():
    axis = step_axis(127)
    assert [at_step(axis, step) for step in (0, 1, 3, 7, 127)] == pytest.approx(
        [0, 100 / 7, 200 / 7, 300 / 7, 100], abs=0.01)


def test_a_curve_goes_through_its_values_and_one_value_is_a_point():
    found = curve((0, 1, 3), (0.0, 0.5, 1.0), step_axis(3), Axis(0.0, 1.0))
    assert found.path == "M0.0 100L50.0 50L100.0 0"
    assert found.end == (100, 0)
    assert curve((0,), (1.0,), step_axis(3), Axis(0.0, 1.0)).end == (0, 0)
