"""How many samples the rules need: each answer is held against the gate's own judgement on both of its sides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.contracts import Measurement, Policy, Rule
from expunge.errors import BadInput
from expunge.measure.needed import Drawing, needs
from expunge.measure.policy import judge_rule, preset
from expunge.measure.proportions import PairedCounts, clopper_pearson, pul
from expunge.measure.sequential import sequence_bounds

CONFIDENCE = 0.95


def policy_of(metric, side, limit, confidence=0.95, one_sided=False):
    return Policy(name="p", rules=(Rule(metric=metric, side=side, limit=limit, confidence=confidence,
                                        one_sided=one_sided, reason="a test"),))


def rate_outcome(policy, hits, n):
    found = Measurement(name="residual_rate", estimate=hits / n, n=n, interval=clopper_pearson(hits, n, CONFIDENCE))
    return judge_rule(policy.rules[0], (found,)).outcome


def pul_outcome(policy, stayed, before, n):
    found = pul(PairedCounts(stayed=stayed, left=before - stayed, gained=0, never=n - before), CONFIDENCE)
    return judge_rule(policy.rules[0], (
        Measurement(name="pul", estimate=found.value, interval=found.interval, n=found.n),)).outcome


def test_the_standard_policy_needs_the_368_samples_that_its_own_text_names():
    residual = needs(preset("standard"), Drawing(10_000, CONFIDENCE))[0]
    assert residual.samples == 368
    assert residual.can_pass


@given(limit=st.floats(0.002, 0.5), planned=st.integers(100, 20_000), one_sided=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_residual_rate_passes_up_to_the_hits_named_and_not_with_one_more(limit, planned, one_sided):
    policy = policy_of("residual_rate", "at most", limit, one_sided=one_sided)
    found = needs(policy, Drawing(planned, CONFIDENCE))[0]
    assert rate_outcome(policy, 0, found.samples) == "PASS"
    assert found.samples == 1 or rate_outcome(policy, 0, found.samples - 1) != "PASS"
    assert found.can_pass == (planned >= found.samples)
    if found.can_pass:
        assert rate_outcome(policy, found.remaining, planned) == "PASS"
        assert rate_outcome(policy, found.remaining + 1, planned) != "PASS"
    else:
        assert f"at least {found.samples:,}" in found.note


@given(limit=st.floats(0.3, 0.99), planned=st.integers(100, 20_000), share=st.floats(0.001, 0.9))
@settings(max_examples=60, deadline=None)
def test_pul_needs_as_many_originally_unwanted_latents_as_named_and_not_one_less(limit, planned, share):
    policy = policy_of("pul", "at least", limit)
    found = needs(policy, Drawing(planned, CONFIDENCE, share))[0]
    expected = int(share * planned)
    if found.unwanted_before is None:
        assert pul_outcome(policy, 0, planned, planned) != "PASS"
        return
    assert pul_outcome(policy, 0, found.unwanted_before, planned) == "PASS"
    assert found.unwanted_before == 1 or pul_outcome(policy, 0, found.unwanted_before - 1, planned) != "PASS"
    assert found.can_pass == (expected >= found.unwanted_before)
    if found.can_pass:
        assert pul_outcome(policy, found.remaining, expected, planned) == "PASS"
        assert found.remaining == expected or pul_outcome(policy, found.remaining + 1, expected, planned) != "PASS"


def test_without_a_measured_share_pul_is_neither_promised_nor_denied():
    found = needs(policy_of("pul", "at least", 0.95), Drawing(10_000, CONFIDENCE))[0]
    assert found.can_pass is None
    assert "175 of 10,000" in found.note


def test_a_rule_that_asks_for_more_confidence_than_is_measured_cannot_pass():
    found = needs(policy_of("residual_rate", "at most", 0.01, confidence=0.99), Drawing(10_000, CONFIDENCE))[0]
    assert found.can_pass is False
    assert "0.99" in found.note


def test_a_limit_that_no_number_of_samples_can_meet_is_said_to_be_one():
    found = needs(policy_of("residual_rate", "at most", 0.0), Drawing(10_000, CONFIDENCE))[0]
    assert (found.can_pass, found.samples) == (False, None)
    assert "not even" in found.note


def test_what_depends_on_what_is_measured_is_not_guessed():
    found = needs(policy_of("kid_difference", "at most", 0.015), Drawing(10_000, CONFIDENCE))[0]
    assert (found.can_pass, found.samples) == (None, None)


def test_no_sample_at_all_is_refused():
    with pytest.raises(BadInput, match=r"sampling\.evaluate"):
        needs(preset("standard"), Drawing(0, CONFIDENCE))


def test_only_the_rules_for_the_family_are_asked():
    found = {family: {rule.metric for rule in needs(preset("standard"), Drawing(10_000, CONFIDENCE), family)}
             for family in ("gan", "classifier")}
    assert "residual_rate" in found["gan"]
    assert "membership_auc" in found["classifier"]
    assert not found["gan"] & found["classifier"]


def test_sampling_that_may_stop_early_needs_more_samples_and_its_own_interval_decides():
    fixed, early = (needs(preset("standard"), Drawing(10_000, CONFIDENCE, sequential=sequential))[0]
                    for sequential in (False, True))
    assert early.samples > fixed.samples
    assert early.remaining < fixed.remaining
    assert sequence_bounds(0, early.samples, CONFIDENCE)[1] <= 0.01 < sequence_bounds(0, early.samples - 1, CONFIDENCE)[1]
    assert sequence_bounds(early.remaining, 10_000, CONFIDENCE)[1] <= 0.01


def test_a_search_is_counted_in_starts():
    policy = policy_of("search_rate", "at most", 0.05)
    found = needs(policy, Drawing(10_000, CONFIDENCE, starts=200))[0]
    assert (found.can_pass, found.remaining) == (True, 3)
    assert found.note.startswith("at least 72 starts")
    few = needs(policy, Drawing(10_000, CONFIDENCE, starts=50))[0]
    assert few.can_pass is False
    assert "with 50 starts" in few.note


def test_what_a_run_cannot_have_is_said_beforehand():
    found = needs(policy_of("relearning_ratio", "at least", 0.5),
                  Drawing(10_000, CONFIDENCE, without={"relearning_ratio": "the request names no reference"}))[0]
    assert (found.can_pass, found.note) == (False, "cannot pass: the request names no reference")
