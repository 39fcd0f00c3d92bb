import itertools
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from expunge.contracts import Control, Family, Interval, Measurement, Policy, Report, Rule
from expunge.errors import BadInput
from expunge.measure.distances import JACKKNIFE, SUBSAMPLING
from expunge.measure.judged import corrected_rate
from expunge.measure.medians import median_interval
from expunge.measure.policy import (
    AS_EXPECTED,
    NOT_ASKED,
    decide,
    judge_rule,
    preset,
    preset_bytes,
    preset_names,
    rules_for,
    went_wrong,
    worst,
)
from expunge.measure.proportions import clopper_pearson
from expunge.measure.proportions import rate as rate_of
from expunge.measure.ranks import auc
from expunge.measure.sequential import sequence_bounds

D = "0" * 64


def rate(hits, n, name="residual_rate", confidence=0.95, sides="two-sided"):
    return Measurement(
        name=name, estimate=hits / n, n=n, interval=clopper_pearson(hits, n, confidence, sides)
    )


def number(name, low, high, n=1_000, confidence=0.95, method="made up"):
    interval = Interval(lower=low, upper=high, confidence=confidence, method=method)
    return Measurement(name=name, estimate=(low + high) / 2, n=n, interval=interval)


def rule(metric="residual_rate", side="at most", limit=0.01, confidence=0.95, one_sided=False, **more):
    return Rule(metric=metric, side=side, limit=limit, confidence=confidence, one_sided=one_sided, reason="r", **more)


def sequential(hits, n, confidence=0.95):
    found = rate_of(np.arange(n) < hits, confidence, bounds=sequence_bounds)
    return Measurement(name="residual_rate", estimate=found.value, interval=found.interval, n=found.n)


PARENT = Control(name="parent", must="FAIL", covers=("residual_rate",), measurements=(rate(100, 1_000),))
REAL = Control(name="real", must="not FAIL", covers=("residual_rate",), measurements=(rate(1, 324),))


def report(*measurements, controls=(PARENT, REAL), family="gan"):
    return Report(
        family=family,
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


def verdict(measurements, rules=RULES, controls=(PARENT, REAL), family="gan"):
    return decide(
        report(*measurements, controls=controls, family=family),
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
    found = judge_rule(rule("share_distance", limit=0.02), (number("share_distance", 0.0, 0.03, n=900),))
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
        ((PARENT.model_copy(update={"covers": ("other",)}), REAL), "negative control", "covers a rule"),
        ((PARENT, REAL.model_copy(update={"covers": ("other",)})), "positive control", "covers a rule"),
        ((PARENT,), "positive control", "was not run"),
        ((REAL,), "negative control", "was not run"),
        ((PARENT, REAL, REAL), "real", "more than once"),
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


@pytest.mark.parametrize("name", ["standard", "strict", "debug"])
def test_the_presets_read_and_give_reasons(name):
    policy = preset(name)
    assert policy.name == name
    assert all(len(found.reason) > 40 for found in policy.rules)
    assert "privacy" not in policy.show_before
    assert b"expunge/policy/v1" in preset_bytes(name)


def test_a_preset_there_is_not():
    with pytest.raises(BadInput, match=r"use debug or standard or strict"):
        preset("../standard")


@pytest.mark.parametrize(("metric", "method"), [("kid_difference", SUBSAMPLING), ("fid_excess", JACKKNIFE)])
def test_an_interval_over_two_sets_needs_more_of_both(metric, method):
    wide = number(metric, 0.0, 0.03, n=900, method=method)
    reason = judge_rule(rule(metric, limit=0.02), (wide,)).reason
    assert reason.endswith("about 9 times as many samples (8,100 in all), and real images, would decide")


# -------------------------------------------------------------------------------------------- families


def test_only_the_rules_for_the_reports_family_decide():
    rules = (rule(families=("gan",)), rule("forget_accuracy", limit=0.1, families=("classifier",)))
    found = verdict([rate(0, 9_000)], rules)
    assert found.outcome == "PASS"
    assert [outcome.rule.metric for outcome in found.rules] == ["residual_rate"]


def test_a_policy_without_a_rule_for_the_family_decides_nothing():
    found = verdict([rate(0, 9_000)], (rule(families=("gan",)),), family="flow")
    assert found.outcome == "INVALID"
    assert found.rules[0].outcome == "INVALID"
    assert found.rules[0].reason == "residual rate: the rule is for gan, and the policy has none for a flow"


EARLIER = (rule(), rule("residual_rate_earlier", if_earlier=True))


def test_a_rule_on_what_came_before_is_asked_only_where_something_did():
    first = report(rate(0, 9_000))
    second = first.model_copy(update={"earlier": (3,), "measurements": (
        rate(0, 9_000), rate(900, 9_000, "residual_rate_earlier"))})
    unmeasured = first.model_copy(update={"earlier": (3,)})
    policy = Policy(name="p", rules=EARLIER)
    found = [decide(one, policy, report_sha256="a" * 64, policy_sha256="b" * 64) for one in (first, second, unmeasured)]
    assert [one.outcome for one in found] == ["PASS", "FAIL", "INVALID"]
    assert [len(one.rules) for one in found] == [1, 2, 2]


ABOUT = (rule(), rule("forget_z_lowest", "at least", 1.5, about="images"), rule("unlikely_share", "at least", 0.9, about="classes"))


@pytest.mark.parametrize(("images", "asked", "left"), [(3, 1, 2), (None, 2, 1)], ids=["single images", "whole classes"])
def test_a_rule_about_images_or_classes_is_asked_where_these_are_to_go(images, asked, left):
    found = report(rate(0, 9_000)).model_copy(update={"single_images": images})
    policy = Policy(name="p", rules=ABOUT)
    verdict = decide(found, policy, report_sha256="a" * 64, policy_sha256="b" * 64)
    assert [one.rule.metric for one in verdict.rules] == [ABOUT[0].metric, ABOUT[asked].metric]
    only = decide(found, Policy(name="p", rules=ABOUT[left:left + 1]), report_sha256="a" * 64, policy_sha256="b" * 64)
    assert only.outcome == "INVALID"
    kinds = ("whole classes", "single images") if images else ("single images", "whole classes")
    assert "the rule is for requests about {}, and the policy has none for a gan that {} were asked of".format(
        *kinds) in only.rules[0].reason


def test_a_policy_that_asks_only_of_what_came_before_decides_nothing_of_a_first_request():
    found = verdict([rate(0, 9_000)], EARLIER[1:])
    assert found.outcome == "INVALID"
    assert found.rules[0].reason == (
        "earlier residual rate: the rule is for what earlier requests made a model forget, and the policy has none for "
        "a gan that nothing was asked of before")


@pytest.mark.parametrize("family", get_args(Family))
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_rules_for_every_family_there_is(name, family):
    assert rules_for(preset(name), family)


def test_strict_is_nowhere_laxer_than_standard():
    for family, images in itertools.product(get_args(Family), (False, True)):
        strict = {(found.metric, found.side): found
                  for found in rules_for(preset("strict"), family, earlier=True, images=images)}
        for found in rules_for(preset("standard"), family, earlier=True, images=images):
            limit = strict[found.metric, found.side].limit
            assert limit <= found.limit if found.side == "at most" else limit >= found.limit, found.metric


def test_a_rule_on_what_does_not_apply_opens_no_door():
    missing = Measurement(name="membership_auc", missing="its own samples were never members", not_applicable=True)
    found = verdict([rate(0, 9_000), missing], (rule(), rule("membership_auc", limit=0.6)))
    assert found.outcome == "INVALID"
    assert "does not apply (its own samples were never members)" in found.rules[1].reason


# -------------------------------------------------------------------------------------------- breaches


BAND = (
    rule("membership_auc", "at least", 0.4, breach="over-unlearning"),
    rule("membership_auc", "at most", 0.6, breach="members are still recognised"),
)


@pytest.mark.parametrize(
    ("shift", "outcomes"),
    [(-1.0, ["FAIL", "PASS"]), (0.0, ["PASS", "PASS"]), (1.0, ["PASS", "FAIL"])],
)
def test_membership_is_judged_on_both_sides_and_a_breach_has_its_name(shift, outcomes):
    draws = np.random.default_rng(0)
    scores = auc(draws.normal(shift, size=600), draws.normal(size=600), 0.95)
    measured = Measurement(name="membership_auc", estimate=scores.value, interval=scores.interval, n=scores.n)
    found = [judge_rule(one, (measured,)) for one in BAND]
    assert [one.outcome for one in found] == outcomes
    for one in found:
        assert one.reason.startswith(f"{one.rule.breach}: ") == (one.outcome == "FAIL")


# ------------------------------------------------------------------------------------------ controls


FILTER = Control(name="output filter", must="FAIL", covers=("search_rate", "relearning_ratio"),
                 measurements=(rate(96, 200, "search_rate"), number("relearning_ratio", 0.0, 0.1, n=6)))
LOOKS = (rule(), rule("search_rate", limit=0.05))


def test_a_control_that_covers_no_rule_is_not_asked_and_spoils_nothing():
    found = verdict([rate(0, 9_000)], controls=(PARENT, REAL, FILTER))
    assert found.outcome == "PASS"
    assert found.controls["output filter"] == (
        f"{NOT_ASKED}: the policy has no rule on search rate or relearning ratio")
    assert not went_wrong(found.controls["output filter"])


def test_a_policy_that_looks_at_weights_needs_an_output_filter_that_fails():
    measured = [rate(0, 9_000), rate(0, 200, "search_rate")]
    assert verdict(measured, LOOKS, (PARENT, REAL, FILTER)).outcome == "PASS"
    without = verdict(measured, LOOKS)
    assert without.outcome == "INVALID"
    assert "hiding would fail the rules on search rate" in without.controls["output filter"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"measurements": (rate(0, 200, "search_rate"),)}, "came out PASS"),
        ({"measurements": (rate(8, 200, "search_rate"),)}, "came out INCONCLUSIVE"),
        ({"measurements": ()}, "came out INVALID"),
        ({"covers": ("residual_rate",), "measurements": (rate(900, 1_000),)}, "does not cover"),
        ({"must": "not FAIL"}, "came out FAIL"),
    ],
)
def test_a_filter_that_would_pass_or_was_not_tried_makes_everything_invalid(change, why):
    measured = [rate(0, 9_000), rate(0, 200, "search_rate")]
    found = verdict(measured, LOOKS, (PARENT, REAL, FILTER.model_copy(update=change)))
    assert found.outcome == "INVALID"
    assert why in found.controls["output filter"]


def test_the_filter_must_fail_every_rule_that_looks_at_weights():
    rules = (*LOOKS, rule("relearning_ratio", "at least", 0.5))
    measured = [rate(0, 9_000), rate(0, 200, "search_rate"), number("relearning_ratio", 0.8, 1.2, n=6)]
    assert verdict(measured, rules, (PARENT, REAL, FILTER)).outcome == "PASS"
    half = FILTER.model_copy(update={"measurements": (
        FILTER.measurements[0], number("relearning_ratio", 0.3, 0.7, n=6))})
    assert "relearning ratio" in verdict(measured, rules, (PARENT, REAL, half)).controls["output filter"]


# ------------------------------------------------------------------------------- confidence sequences


def test_a_confidence_sequence_is_recomputed_from_its_counts_at_the_rules_own_confidence_and_side():
    held = sequential(3, 5_000)
    assert judge_rule(rule(), (held,)).outcome == "PASS"
    lower, upper = sequence_bounds(3, 5_000, 0.9, "upper")[0], sequence_bounds(3, 5_000, 0.9, "upper")[1]
    between = (upper + held.interval.upper) / 2  # decided one-sided at 0.9, not by the recorded interval
    assert lower < upper < between < held.interval.upper
    assert judge_rule(rule(limit=between, confidence=0.9, one_sided=True), (held,)).outcome == "PASS"
    assert judge_rule(rule(limit=between), (held,)).outcome == "INCONCLUSIVE"


def test_a_confidence_sequence_that_its_counts_do_not_give_is_invalid():
    held = sequential(3, 5_000)
    for change in ({"upper": held.interval.upper / 2}, {"lower": held.interval.lower * 0.9}):
        forged = held.model_copy(update={"interval": held.interval.model_copy(update=change)})
        found = judge_rule(rule(), (forged,))
        assert found.outcome == "INVALID"
        assert "confidence sequence is not the one that its counts give" in found.reason


def test_the_samples_that_a_confidence_sequence_says_would_decide_do_and_one_less_does_not():
    found = judge_rule(rule(), (sequential(0, 50),))
    assert found.outcome == "INCONCLUSIVE"
    total = int(found.reason.rpartition("(")[2].removesuffix(" in all)").replace(",", ""))
    assert judge_rule(rule(), (sequential(0, total),)).outcome == "PASS"
    assert judge_rule(rule(), (sequential(0, total - 1),)).outcome == "INCONCLUSIVE"
    assert total > 368, "that one may stop at any time has its price"


# -------------------------------------------------------------------------------- what would decide


def judged(hits, n, images, unwanted_images=54):
    """The measurements around a corrected rate, of a judge that is right on all real images but one."""
    sensitivity, specificity = (unwanted_images, unwanted_images), (images - 1, images)
    found = corrected_rate(hits, n, sensitivity=sensitivity, specificity=specificity)
    return (
        rate(hits, n),
        Measurement(name="residual_rate_corrected", estimate=found.value, interval=found.interval, n=n),
        rate(*sensitivity, "judge_sensitivity"), rate(*specificity, "judge_specificity"),
    )


CORRECTED = rule("residual_rate_corrected")


def test_a_corrected_rate_says_that_samples_are_lacking_and_so_many_do_decide():
    found = judge_rule(CORRECTED, judged(1, 250, 100_000, 10_000))
    assert found.outcome == "INCONCLUSIVE"
    total = int(found.reason.rpartition("samples (")[2].removesuffix(" in all) would decide").replace(",", ""))
    assert judge_rule(CORRECTED, judged(round(total / 250), total, 100_000, 10_000)).outcome != "INCONCLUSIVE"
    assert judge_rule(CORRECTED, judged(round(total / 500), total // 2, 100_000, 10_000)).outcome == "INCONCLUSIVE"


def test_a_corrected_rate_says_that_real_images_are_lacking():
    found = judge_rule(rule("residual_rate_corrected", limit=0.018), judged(1_500, 100_000, 5_000, 12))
    assert found.outcome == "INCONCLUSIVE"
    assert "what is lacking are real images that show how the judge errs" in found.reason
    assert "more samples alone would not" in found.reason


def test_each_metric_says_what_it_lacks_in_its_own_units():
    draws = np.random.default_rng(1)
    scores = auc(draws.normal(0.2, size=100), draws.normal(size=100), 0.95)
    member = Measurement(name="membership_auc", estimate=scores.value, interval=scores.interval, n=scores.n)
    for one, measured, words in (
        (BAND[1], member, "times as many members ("),
        (BAND[1], member, "and images of the same classes that are none, would decide"),
        (rule("relearning_ratio", "at least", 0.5), number("relearning_ratio", 0.4, 0.9, n=6), "more lessons like these 6"),
        (rule("search_rate", limit=0.05), rate(4, 200, "search_rate"), "more starts at the same rate would decide"),
        (rule("recall", "at least", 0.5), number("recall", 0.45, 0.6, n=400), "more real images like these 400"),
        (rule("pul", "at least", 0.95), number("pul", 0.94, 1.0, n=400), "more unwanted samples of the parent"),
    ):
        found = judge_rule(one, (measured,))
        assert found.outcome == "INCONCLUSIVE"
        assert words in found.reason


def test_a_median_of_repeats_that_were_cut_off_says_nothing_beyond_the_cut():
    steps = median_interval([40, 60, 80, np.inf, np.inf, np.inf, np.inf], budget=128)
    taught = Measurement(name="relearning_steps", estimate=steps.value, interval=steps.interval, n=steps.n)
    assert judge_rule(rule("relearning_steps", "at least", 30), (taught,)).outcome == "PASS"
    beyond = judge_rule(rule("relearning_steps", "at most", 128), (taught,))
    assert beyond.outcome == "INVALID"
    assert "repeats ended at 128" in beyond.reason


def test_a_policy_is_read_without_importing_scipy():
    check = "import sys; from expunge.measure.policy import preset; preset('debug'); sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
