import numpy as np
import pytest
from scipy.stats import binomtest

from expunge.errors import BadInput
from expunge.measure.shares import class_shares, kept_shares


def test_shares_are_fractions_of_all_samples():
    assert class_shares(np.array([0, 0, 1, 3]), 4) == pytest.approx([0.5, 0.25, 0, 0.25])


def test_the_smallest_retained_class_decides_and_the_unwanted_one_does_not_count():
    before = np.repeat([0, 1, 2], [100, 200, 300])
    after = before.copy()
    after[:100] = 2  # the unwanted class is gone
    after[100:150] = 2  # a quarter of class 1 went with it
    found = kept_shares(before, after, (1, 2), 3)
    assert (found.smallest_class, found.smallest.value, found.smallest.n) == (1, 0.75, 600)
    stay = binomtest(150, 200).proportion_ci(1 - 0.05 / 4, "exact")  # two classes, two bounds each
    gain = binomtest(0, 400).proportion_ci(1 - 0.05 / 4, "exact")
    assert found.smallest.interval.lower == pytest.approx(stay.low, abs=1e-9)
    assert found.smallest.interval.upper == pytest.approx(stay.high + 2 * gain.high, abs=1e-9)
    assert "Bonferroni" in found.smallest.interval.method


def test_the_smallest_ratio_is_covered_although_it_was_picked_after_looking():
    rng, runs, n = np.random.default_rng(3), 400, 600
    covered = 0
    for _ in range(runs):
        before = rng.permutation(np.repeat([0, 1, 2, 3], n // 4))
        moved = rng.random(n) < 0.1  # every class keeps 0.9 and gains what the others lose, in equal parts
        after = np.where(moved, rng.integers(0, 4, n), before)
        interval = kept_shares(before, after, (0, 1, 2, 3), 4, confidence=0.9).smallest.interval
        covered += interval.lower <= 1.0 <= interval.upper
    assert covered / runs >= 0.9 - 3 * np.sqrt(0.09 / runs)


@pytest.mark.parametrize(
    ("before", "after", "retained"),
    [
        ([0, 0, 1], [0, 0, 1], (0, 2)),
        ([0, 1], [0, 1], ()),
        ([], [], (0,)),
        ([0, 5], [0, 1], (0,)),
        ([0, 1], [0, 1, 1], (0,)),
        ([0, -1], [0, 1], (0,)),
    ],
)
def test_labels_that_cannot_be_are_refused(before, after, retained):
    with pytest.raises(BadInput):
        kept_shares(np.array(before, int), np.array(after, int), retained, 3)
