from expunge.contracts import Interval
from expunge.measure.words import number


def between(lower, upper):
    return Interval(lower=lower, upper=upper, confidence=0.95, method="m")


def test_steps_are_whole_numbers_and_a_median_may_lie_half_way():
    assert number("relearning_steps", 23.0, between(16, 32)) == "23"
    assert number("relearning_steps_before", 0.0, between(0, 0)) == "0"
    assert number("relearning_steps_never_exposed", 27.5) == "27.5"


def test_a_zero_that_is_certain_has_no_digits():
    assert number("kid_difference", 0.0, between(0, 0)) == "0"
    assert number("kid_difference", 0.0, between(-0.01, 0.01)) == "0.0000"


def test_a_chance_too_small_to_be_read_is_said_to_be_below_what_is_read():
    assert number("reference_p_value", 0.0321) == "0.0321"
    assert number("reference_p_value", 3e-9) == "below 0.0001"
