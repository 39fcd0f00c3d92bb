"""Sensitivity and specificity: counted rightly, bounded as scipy bounds them, absent where there is no image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

from expunge.errors import BadInput
from expunge.measure.screening import accuracy, confusion, doubts, fewest_to_say, screen, screen_each, worst

CLASSES = 4
PAIRS = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), max_size=200)


@given(PAIRS, st.sets(st.integers(0, CLASSES - 1), min_size=1))
@settings(max_examples=100, deadline=None)
def test_every_number_is_what_counting_image_by_image_gives_with_scipys_interval(pairs, wanted):
    labels, choices = np.array(pairs, int).reshape(-1, 2).T
    found = screen(confusion(labels, choices, CLASSES), wanted, "it")
    of_it, seen = np.isin(labels, list(wanted)), np.isin(choices, list(wanted))
    for measured, hits, n in ((found.sensitivity, (of_it & seen).sum(), of_it.sum()),
                              (found.specificity, (~of_it & ~seen).sum(), (~of_it).sum())):
        assert measured.n == n
        if not n:
            assert measured.estimate is None
            assert "there is no" in measured.missing
            continue
        exact = binomtest(int(hits), int(n)).proportion_ci(0.95, "exact")
        assert measured.estimate == hits / n
        assert (measured.interval.lower, measured.interval.upper) == pytest.approx((exact.low, exact.high), abs=1e-10)


@given(PAIRS.filter(len))
@settings(max_examples=50, deadline=None)
def test_the_confusion_matrix_is_scikit_learns(pairs):
    labels, choices = np.array(pairs).T
    found = confusion(labels, choices, CLASSES)
    assert np.array_equal(found, confusion_matrix(labels, choices, labels=range(CLASSES)))
    assert accuracy(found).estimate == np.mean(labels == choices)


def test_the_worst_class_is_the_one_seen_least_and_a_class_without_images_is_not_it():
    counts = ((9, 1, 0), (5, 5, 0), (0, 0, 0))
    found = screen_each(counts, ("cat", "dog", "nobody"))
    assert worst(found).name == "dog"
    assert found[2].sensitivity.estimate is None
    assert worst(screen_each(((0, 0), (0, 0)), ("a", "b"))) is None


def test_doubts_name_the_classes_that_are_not_shown_to_be_seen():
    assert fewest_to_say() == 17
    assert 0.025 ** (1 / 17) >= 0.8 > 0.025 ** (1 / 16)
    counts = ((100, 0, 0), (20, 80, 0), (0, 0, 16))
    lines = list(doubts(screen_each(counts, ("sure", "unsure", "few"))))
    assert [line.split(":")[0] for line in lines] == ["class unsure", "class few"]
    assert "may be as low as 70.8%" in lines[0]
    assert "16 held-out images cannot show a sensitivity of 80%, 17 could" in lines[1]
    assert not list(doubts(screen_each(((17, 0), (0, 17)), ("a", "b"))))


@pytest.mark.parametrize(("labels", "choices"), [([0, 1], [0]), ([0, 4], [0, 0]), ([0, -1], [0, 0]), ([[0]], [[0]])])
def test_labels_that_do_not_fit_are_refused(labels, choices):
    with pytest.raises(BadInput):
        confusion(labels, choices, CLASSES)


@pytest.mark.parametrize("wanted", [(), (2,), (-1,)])
def test_a_class_that_there_is_not_is_refused(wanted):
    with pytest.raises(BadInput, match="classes"):
        screen(((1, 0), (0, 1)), wanted, "it")
