import itertools

import numpy as np
import pytest

from expunge.contracts import Control, Interval, Measurement, Policy, Report, Rule
from expunge.errors import BadInput
from expunge.measure.distances import SUBSAMPLING
from expunge.measure.policy import AS_EXPECTED, decide, judge_rule, preset, preset_bytes, worst
from expunge.measure.proportions import clopper_pearson

D = "0" * 64


def rate(hits, n, name="residual_rate", confidence=0.95, sides="two-sided"):
    return Measurement(
        name=name, estimate=hits / n, n=n, interval=clopper_pearson(hits, n, confidence, sides)
    )


def number(name, low, high, n=1_000, confidence=0.95, method="made up"):
    interval = Interval(lower=low, upper=high, confidence=confidence, method=method)
    return Measurement(name=name, estimate=(low + high) / 2, n=n, interval=interval)


def rule(metric="residual_rate", side="at most", limit=0.01, confidence=0.95, one_sided=False):
    return Rule(metric=metric, side=side, limit=limit, confidence=confidence, one_sided=one_sided, reason="r")


PARENT = Control(name="parent", must="FAIL", covers=("residual_rate",), measurements=(rate(100, 1_000),))
REAL = Control(name="real", must="not FAIL", covers=("residual_rate",), measurements=(rate(1, 324),))


def report(*measurements, controls=(PARENT, REAL)):
    return Report(
        request_sha256=D,
        parent_sha256=D,
        candidate_sha256="c" * 64,
        judge_sha256=D,
        holdout_id=D,
        latent_seed=D,
        unwanted=(8,),
        measurements=measurements,
        controls=controls,
        shares={},
        files=(),
    )


RULES = (rule(),)


def verdict(measurements, rules=RULES, controls=(PARENT, REAL)):
    return decide(
        report(*measurements, controls=controls),
        Policy(name="p", rules=rules),
        report_sha256="a" * 64,
        policy_sha256="b" * 64,
    )


def test_pass_names_what_it_was_made_of_and_says_why():
    found = verdict([rate(21, 10_000)])
    assert (found.outcome, found.report_sha256, found.policy_sha256, found.candidate_sha256) == (
        "PASS",
        "a" * 64,
        "b" * 64,
        "c" * 64,
    )
    assert found.rules[0].reason == "residual rate 0.21 % (0.13 % to 0.32 %), limit at most 1 %"
    assert found.controls == {"parent": AS_EXPECTED, "real": AS_EXPECTED}


@pytest.mark.parametrize(
    ("hits", "n", "outcome"),
    [(0, 368, "PASS"), (0, 367, "INCONCLUSIVE"), (5, 300, "INCONCLUSIVE"), (30, 1_000, "FAIL")],
)
def test_the_whole_interval_decides(hits, n, outcome):
    assert verdict([rate(hits, n)]).outcome == outcome


@pytest.mark.parametrize(
    ("side", "low", "high", "outcome"),
    [
        ("at most", 0.1, 0.5, "PASS"),
        ("at most", 0.4, 0.6, "INCONCLUSIVE"),
        ("at most", 0.51, 0.6, "FAIL"),
        ("at least", 0.5, 0.6, "PASS"),
        ("at least", 0.4, 0.6, "INCONCLUSIVE"),
        ("at least", 0.3, 0.49, "FAIL"),
    ],
)
def test_either_side(side, low, high, outcome):
    assert judge_rule(rule("x", side, 0.5), (number("x", low, high),)).outcome == outcome


def test_nothing_in_fifty_is_inconclusive_and_318_more_would_decide():
    found = verdict([rate(0, 50)])
    assert found.outcome == "INCONCLUSIVE"
    assert "318 more samples" in found.rules[0].reason
    assert "(368 in all)" in found.rules[0].reason


def test_a_one_sided_rule_needs_249_more_and_is_decided_at_299():
    one_sided = (rule(one_sided=True),)
    assert "249 more samples" in verdict([rate(0, 50)], one_sided).rules[0].reason
    assert verdict([rate(0, 299)], one_sided).outcome == "PASS"
    assert verdict([rate(0, 298)], one_sided).outcome == "INCONCLUSIVE"
    assert verdict([rate(0, 299, sides="upper")], one_sided).outcome == "PASS"


def test_other_intervals_are_taken_to_shrink_with_the_root_of_n():
    found = judge_rule(rule("kid_difference", limit=0.02), (number("kid_difference", 0.0, 0.03, n=900),))
    assert found.outcome == "INCONCLUSIVE"
    assert (
        "about 7,200 more samples" in found.reason
    )  # the reach of 0.015 must shrink to 0.005: nine times 900


@pytest.mark.parametrize(
    ("measurements", "why"),
    [
        ([], "was not measured"),
        ([Measurement(name="residual_rate", missing="the judge failed")], "the judge failed"),
        ([Measurement(name="residual_rate", estimate=0.0)], "without an interval"),
        ([rate(0, 9_000, confidence=0.9)], "holds with 0.9"),
        ([rate(0, 9_000, sides="upper")], "one-sided upper"),
        ([rate(0, 9_000), rate(0, 9_000)], "more than once"),
        ([number("residual_rate", 0.0, 0.001, method="Clopper-Pearson")], "not the one that its counts give"),
        (
            [
                Measurement(
                    name="residual_rate",
                    estimate=0.5,
                    interval=Interval(lower=0, upper=0.001, confidence=0.95, method="m"),
                )
            ],
            "outside of its own interval",
        ),
    ],
)
def test_a_number_that_cannot_serve_is_invalid_with_the_reason(measurements, why):
    found = verdict(measurements)
    assert found.outcome == "INVALID"
    assert why in found.rules[0].reason


def test_a_one_sided_interval_of_the_wrong_side_is_invalid():
    assert verdict([rate(0, 9_000, sides="lower")], (rule(one_sided=True),)).outcome == "INVALID"


def test_the_verdicts_order():
    kinds = {
        "PASS": number("x", 0, 0.1),
        "INCONCLUSIVE": number("x", 0.4, 0.6),
        "FAIL": number("x", 0.8, 0.9),
        "INVALID": Measurement(name="x", missing="m"),
    }
    order = ["INVALID", "FAIL", "INCONCLUSIVE", "PASS"]
    for chosen in itertools.product(kinds, repeat=2):
        measured = [kinds[kind].model_copy(update={"name": f"x{i}"}) for i, kind in enumerate(chosen)]
        measured.append(rate(0, 9_000))
        rules = (*(rule(f"x{i}", limit=0.5) for i in range(2)), rule())
        assert verdict(measured, rules).outcome == min(chosen, key=order.index)
    assert worst([]) == "PASS"


@pytest.mark.parametrize(
    ("controls", "name", "why"),
    [
        (
            (PARENT.model_copy(update={"measurements": (rate(0, 1_000),)}), REAL),
            "parent",
            "must FAIL, came out PASS",
        ),
        (
            (PARENT.model_copy(update={"measurements": (rate(0, 50),)}), REAL),
            "parent",
            "came out INCONCLUSIVE",
        ),
        ((PARENT.model_copy(update={"measurements": ()}), REAL), "parent", "came out INVALID"),
        (
            (PARENT, REAL.model_copy(update={"measurements": (rate(324, 324),)})),
            "real",
            "must not FAIL, came out FAIL",
        ),
        ((PARENT, REAL.model_copy(update={"measurements": ()})), "real", "came out INVALID"),
        ((PARENT.model_copy(update={"covers": ("other",)}), REAL), "parent", "covers none"),
        ((PARENT,), "positive control", "was not run"),
        ((REAL,), "negative control", "was not run"),
    ],
)
def test_a_control_that_went_wrong_makes_everything_invalid(controls, name, why):
    found = verdict([rate(0, 9_000)], controls=controls)
    assert found.outcome == "INVALID"
    assert why in found.controls[name]
    assert found.rules[0].outcome == "PASS"


def test_a_real_control_may_be_too_small_to_pass():
    real = REAL.model_copy(update={"measurements": (rate(2, 100),)})
    assert verdict([rate(0, 9_000)], controls=(PARENT, real)).outcome == "PASS"


def test_a_control_is_held_only_to_the_rules_it_covers():
    rules = (rule(), rule("kept_share", "at least", 0.7))
    assert verdict([rate(0, 9_000), number("kept_share", 0.8, 0.9)], rules).outcome == "PASS"


def test_a_borderline_candidate_rarely_passes_by_luck():
    hits = np.random.default_rng(11).binomial(2_000, 0.0101, 1_000)  # just beyond the limit: PASS is wrong
    wrong = sum(verdict([rate(int(k), 2_000)]).outcome == "PASS" for k in hits)
    assert wrong / 1_000 <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 1_000)


@pytest.mark.parametrize("name", ["standard", "debug"])
def test_the_presets_read_and_give_reasons(name):
    policy = preset(name)
    assert policy.name == name
    assert all(len(found.reason) > 40 for found in policy.rules)
    assert "privacy" not in policy.show_before
    assert b"expunge/policy/v1" in preset_bytes(name)


def test_a_preset_there_is_not():
    with pytest.raises(BadInput, match=r"use debug or standard"):
        preset("../standard")


def test_a_kid_interval_needs_more_of_both_sides():
    wide = number("kid_difference", 0.0, 0.03, n=900, method=SUBSAMPLING)
    reason = judge_rule(rule("kid_difference", limit=0.02), (wide,)).reason
    assert reason.endswith("about 9 times as many samples, and real images, would decide")
