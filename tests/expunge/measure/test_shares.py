import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from expunge.errors import BadInput
from expunge.measure.shares import class_shares, hold_shares, kept_shares, total_variation


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


# ------------------------------------------------------------------------------------------- total variation


def test_total_variation_is_over_the_retained_classes_alone():
    before = np.repeat([0, 1, 2], [50, 100, 100])
    after = np.repeat([1, 1, 2], [50, 100, 100])  # the unwanted class 0 went into class 1
    found = total_variation(before, after, (1, 2), 3)
    assert found.value == pytest.approx(150 / 250 - 0.5)
    assert found.interval.lower < found.value < found.interval.upper
    assert found.n == 200


def test_shares_that_did_not_move_leave_room_for_moves_that_did_not_occur():
    labels = np.repeat([0, 1, 2], 100)
    found = total_variation(labels, labels, (1, 2), 3)
    assert found.value == found.interval.lower == 0
    assert 0 < found.interval.upper < 0.05


@pytest.mark.parametrize("moved", [0.0, 0.003, 0.03, 0.3])
@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("n", [200, 1_000])
def test_the_total_variation_is_covered(n, moved, drift):
    runs, confidence, classes = 200, 0.9, 5
    shares = np.array([0.1, 0.3, 0.3, 0.2, 0.1])
    move = np.eye(classes) * (1 - moved)  # row by row, where a sample of each class goes
    if drift:
        move[:, 1] += moved
    else:
        move += moved * shares  # every class gains what it loses
    before, after = shares[1:] / shares[1:].sum(), (shares @ move)[1:] / (shares @ move)[1:].sum()
    truth = np.abs(after - before).sum() / 2
    covered = 0
    for seed in range(runs):
        rng = np.random.default_rng([n, seed])
        was = rng.choice(classes, n, p=shares)
        jump = rng.random(n) < moved
        is_now = np.where(jump, 1 if drift else rng.choice(classes, n, p=shares), was)
        interval = total_variation(was, is_now, (1, 2, 3, 4), classes, confidence).interval
        covered += interval.lower - 1e-12 <= truth <= interval.upper
    assert covered / runs >= confidence - 3 * np.sqrt(confidence * (1 - confidence) / runs)


# ------------------------------------------------------------------------------------------------ fixed shares


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.lists(st.integers(0, 50), min_size=5, max_size=5),
)
def test_held_shares_are_the_target_and_no_larger_subset_has_them(labels, target):
    labels, target, retained = np.array(labels), np.array(target), (1, 2, 3, 4)
    counts = np.bincount(labels, minlength=5)
    held = [label for label in retained if target[label]]
    if not held or any(not counts[label] for label in held):
        with pytest.raises(BadInput):
            hold_shares(labels, target, retained)
        return
    chosen = hold_shares(labels, target, retained)
    assert (np.diff(chosen) > 0).all()
    kept = np.bincount(labels[chosen], minlength=5)
    scarcest = min(held, key=lambda label: counts[label] / target[label])
    assert kept[scarcest] == counts[scarcest]
    for label in range(5):
        wanted = counts[scarcest] / target[scarcest] * target[label] if label in held else 0
        assert wanted - 1 < kept[label] <= wanted + 1e-6
        assert (chosen[labels[chosen] == label] == np.flatnonzero(labels == label)[: kept[label]]).all()


def test_a_class_that_is_gone_is_named():
    with pytest.raises(BadInput, match="class 2"):
        hold_shares(np.array([0, 1, 1]), np.array([0.2, 0.4, 0.4]), (1, 2))


@pytest.mark.parametrize("call", [
    lambda: total_variation(np.array([0, 1]), np.array([0, 0]), (1,), 2),
    lambda: total_variation(np.array([0, 0]), np.array([0, 1]), (1,), 2),
    lambda: total_variation(np.array([0, 1]), np.array([1]), (1,), 2),
    lambda: total_variation(np.array([0, 1]), np.array([0, 1]), (), 2),
    lambda: hold_shares(np.array([0, 1]), np.array([0.5, np.nan]), (1,)),
    lambda: hold_shares(np.array([0, 1]), np.array([1.0, 0.0]), (1,)),
    lambda: hold_shares(np.array([0, 3]), np.array([0.5, 0.5]), (1,)),
])
def test_shares_that_cannot_be_compared_are_refused(call):
    with pytest.raises(BadInput):
        call()
