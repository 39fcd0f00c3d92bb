"""Who may be held against whom: members and others of each class in the same proportion, for generators too."""

import numpy as np
import pytest

from components.evaluate.evidence import Evidence, Real, Seen
from components.evaluate.membership import comparable, nearness
from components.evaluate.probes.was_it_ever_seen import was_it_ever_seen
from expunge.errors import BadInput
from expunge.measure.ranks import auc

CLASSES, UNWANTED = 4, (1, 2)
FAR = {0: 50.0, 1: 0.0, 2: 10.0, 3: 50.0}  # how far images of a class lie from whatever is drawn


def seen(labels, draws):
    features = draws.normal(size=(len(labels), 2)).astype(np.float32)
    features[:, 0] += [FAR[label] for label in labels]
    nothing = np.zeros(len(labels), dtype=np.float32)
    return Seen(np.asarray(labels), nothing, nothing, features)


def real(counts, draws):
    labels = np.repeat(list(counts), list(counts.values()))
    return Real(seen(labels, draws), labels)


@pytest.fixture
def draws():
    return np.random.default_rng(0)


def told_apart(members, held_out, draws):
    drawn = seen(np.ones(200, dtype=np.int64), draws)
    return nearness(Evidence(UNWANTED, CLASSES, drawn, drawn, real(held_out, draws)), real(members, draws))


def test_an_attack_that_only_tells_one_class_from_another_finds_nothing(draws):
    """Members are mostly of the class that is near, held-out images mostly of the one that is far."""
    found = told_apart({1: 300, 2: 100}, {0: 50, 1: 150, 2: 450}, draws)
    assert (len(found.members), len(found.others)) == (400, 200)
    near = [float((scores > -5).mean()) for scores in (found.members, found.others)]
    assert near == [0.75, 0.75]
    assert auc(found.members, found.others, 0.95).value == pytest.approx(0.5, abs=0.05)


def test_of_one_class_all_are_compared(draws):
    found = told_apart({1: 30}, {1: 70, 2: 40}, draws)
    assert (len(found.members), len(found.others)) == (30, 70)


def test_members_of_a_class_that_nobody_held_out_are_no_comparison(draws):
    with pytest.raises(BadInput, match="holdout: it has no image of class 2, of which members are"):
        told_apart({1: 30, 2: 30}, {1: 70}, draws)


def test_the_report_says_why_members_could_not_be_compared(draws):
    drawn = seen(np.ones(20, dtype=np.int64), draws)
    found, = was_it_ever_seen(Evidence(UNWANTED, CLASSES, drawn, drawn, real({1: 5}, draws), not_compared="no twos"))
    assert (found.missing, found.not_applicable) == ("no twos", False)


def test_nobody_to_compare_is_said_by_its_side():
    with pytest.raises(BadInput, match="members: 0 images of the unwanted classes"):
        comparable(np.array([3, 3]), np.array([1, 1, 2]), UNWANTED, str)
    with pytest.raises(BadInput, match="holdout: it has no image of class 1"):
        comparable(np.array([1, 1]), np.array([], dtype=np.int64), UNWANTED, str)
