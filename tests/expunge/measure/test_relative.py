import numpy as np
import pytest

from expunge.errors import BadInput
from expunge.measure.distances import compare_kid
from expunge.measure.relative import nearer


def three(seed, before, after, n=300, m=120, d=4):
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n, d))
    own = 0.3 * rng.normal(size=(2, n, d))
    return latents + own[0] + before, latents + own[1] + after, np.sqrt(1.09) * rng.normal(size=(m, d))


def p_values(before, after, runs=200):
    return np.array([nearer(*three([7, seed], before, after), seed=seed)[1] for seed in range(runs)])


def test_what_came_nearer_is_found():
    difference, p = nearer(*three(1, before=0.6, after=0.2))
    assert difference.interval.upper < 0
    assert p < 0.01
    assert nearer(*three(1, before=0.2, after=0.6))[1] > 0.99


def test_the_difference_is_that_of_the_distances():
    sets = three(2, 0.3, 0.5)
    assert nearer(*sets, confidence=0.9, seed=3)[0] == compare_kid(*sets, confidence=0.9, seed=3).difference


@pytest.mark.thorough
def test_two_models_equally_far_are_told_apart_no_more_often_than_stated():
    p = p_values(0.5, -0.5)
    for alpha in (0.05, 0.1):
        assert np.mean(p < alpha) <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / len(p))


@pytest.mark.thorough
def test_two_models_that_are_the_reference_are_told_apart_no_more_often_than_stated():
    assert np.mean(p_values(0, 0) < 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_a_model_half_as_far_off_is_seen_in_most_cases():
    assert np.mean(p_values(0.5, 0.25, runs=100) < 0.05) > 0.8


def test_a_model_is_no_nearer_than_itself():
    before, _, reference = three(3, 0.5, 0)
    difference, p = nearer(before, before, reference)
    assert (difference.value, p) == (0.0, 1.0)


def test_features_of_different_extractors_have_no_distance():
    before, after, reference = three(4, 0, 0)
    with pytest.raises(BadInput, match="extractor"):
        nearer(before, after, reference[:, :3])
