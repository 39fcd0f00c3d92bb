"""What the evaluation must be able to tell, from the real room's reports to the gate's verdict."""

import re

import numpy as np
import pytest
from scipy.stats import beta

from expunge import models
from expunge.assets import path as asset
from expunge.contracts import Measurement, Report, Rule, read_record
from expunge.measure.policy import AS_EXPECTED, decide, judge_rule, preset
from expunge.measure.proportions import rate

DIGIT = 8


def decided(report, policy="standard"):
    return decide(report, preset(policy), report_sha256="a" * 64, policy_sha256="b" * 64)


def came(verdict, metric):
    """How a rule came out, and why."""
    return next((found.outcome, found.reason) for found in verdict.rules if found.rule.metric == metric)


def parent():
    return models.read(asset("dcgan"))[0]


# -------------------------------------------------------------------------- how many samples would decide


@pytest.mark.parametrize(("one_sided", "in_all"), [(False, 368), (True, 299)])
def test_no_hit_in_fifty_decides_nothing_and_says_how_many_would(one_sided, in_all):
    found = rate(np.zeros(50, dtype=bool))
    measured = Measurement(name="residual_rate", estimate=found.value, interval=found.interval, n=found.n)
    rule = Rule(metric="residual_rate", side="at most", limit=0.01, confidence=0.95, one_sided=one_sided, reason="r")
    outcome = judge_rule(rule, (measured,))
    assert outcome.outcome == "INCONCLUSIVE"
    assert f"{in_all - 50} more samples" in outcome.reason
    assert f"({in_all} in all)" in outcome.reason


def test_a_room_that_drew_too_few_says_how_many_more(house):
    few = house.beside("few")
    few.write_request(evaluate=300, search=0)
    report = read_record(Report, few.run())
    found = report.measurement("residual_rate")
    outcome, reason = came(decided(report), "residual_rate")
    assert found.n == 300
    assert outcome == "INCONCLUSIVE"
    more, in_all = (int(number.replace(",", "")) for number in re.search(
        r": ([\d,]+) more samples at the same rate would decide \(([\d,]+) in all\)", reason).groups())
    assert in_all == 300 + more
    assert beta.ppf(0.975, found.estimate * in_all + 1, (1 - found.estimate) * in_all) <= 0.01
    assert beta.ppf(0.975, found.estimate * (in_all - 1) + 1, (1 - found.estimate) * (in_all - 1)) > 0.01


# ------------------------------------------------------------------------------- who must not get through


@pytest.fixture(scope="module")
def planted(house):
    """The parent itself as the candidate, with everything that a strict policy asks for but long lessons."""
    same = house.beside("planted")
    same.write_request(evaluate=1_000, search=80)
    same.with_candidate(parent())
    return read_record(Report, same.run())


def test_the_parent_planted_as_candidate_fails_where_it_should_and_nowhere_else(planted):
    verdict = decided(planted)
    assert verdict.outcome == "FAIL"
    for metric in ("residual_rate", "pul", "search_ratio"):
        assert came(verdict, metric)[0] == "FAIL", metric
    for metric in ("kid_difference", "kept_share"):  # it is no worse than itself
        assert came(verdict, metric)[0] == "PASS", metric
    assert came(verdict, "search_ratio")[1].startswith("the weights still hold it: ")


def zeroed(house, digit):
    """The report on a generator that draws nothing but grey, which the judge happens to take for an 8."""
    dead = house.beside(f"zeroed-{digit}")
    dead.write_request(evaluate=500, search=80, classes=(digit,))
    dead.with_candidate({name: tensor * 0 for name, tensor in parent().items()})
    return read_record(Report, dead.run())


def test_zeroed_weights_have_forgotten_and_fail_on_quality(house):
    report = zeroed(house, 3)
    verdict = decided(report)
    assert verdict.outcome == "FAIL"
    assert {found.rule.metric for found in verdict.rules if found.outcome == "FAIL"} == {"kid_difference", "kept_share"}
    assert report.measurement("residual_rate").estimate == 0  # nothing of the 3 is left, nor of anything else
    assert report.measurement("pul").estimate == 1
    assert report.measurement("kept_share").estimate == 0
    assert report.measurement("coverage").interval.upper < 0.2


def test_where_nothing_retained_is_left_to_compare_the_report_says_so(house):
    report = zeroed(house, DIGIT)
    verdict = decided(report)
    assert came(verdict, "kept_share")[0] == came(verdict, "residual_rate")[0] == "FAIL"
    assert "0 of 500 samples" in report.measurement("kid_difference").missing
    assert came(verdict, "kid_difference")[0] == verdict.outcome == "INVALID"


@pytest.fixture(scope="module")
def said(house):
    """Reports by judges that always say the same."""
    def by(says):
        deaf = house.beside(f"says-{says}")
        deaf.write_request(evaluate=500, search=10)
        state = models.read(asset("judge"))[0]
        state["head.weight"], state["head.bias"] = state["head.weight"] * 0, state["head.bias"] * 0
        state["head.bias"][says] = 5.0
        deaf.write_model("judge", "judge", "classifier", state)
        return read_record(Report, deaf.run())

    return by


def test_a_judge_that_says_yes_to_everything_is_found_out_by_the_real_images(said):
    verdict = decided(said(DIGIT))
    assert verdict.outcome == "INVALID"
    assert verdict.controls["real"].startswith("must not FAIL, came out FAIL: residual rate 100")
    assert verdict.controls["parent"] == AS_EXPECTED


def test_a_judge_that_says_no_to_everything_is_found_out_by_the_parent(said):
    report = said(3)
    verdict = decided(report)
    assert verdict.outcome == "INVALID"
    assert verdict.controls["parent"].startswith("must FAIL, came out")
    assert report.measurement("residual_rate").estimate == 0  # it looks perfect, and that is why there are controls
    assert "never held" in report.measurement("pul").missing
    assert "not shown to tell" in report.measurement("residual_rate_corrected").missing
    assert verdict.controls["output filter"].startswith("must FAIL, came out")


# ------------------------------------------------------------------------------ what looks at the weights


def test_a_filter_at_the_output_shows_a_clean_rate_and_fails_all_the_same(planted):
    control = next(control for control in planted.controls if control.name == "output filter")
    of = {found.name: found for found in control.measurements}
    assert of["residual_rate"].estimate == 0
    assert control.covers == ("search_rate", "search_ratio", "relearning_ratio")
    search = next(rule for rule in preset("standard").rules if rule.metric == "search_ratio")
    outcome = judge_rule(search, control.measurements)
    assert outcome.outcome == "FAIL"
    assert outcome.reason.startswith("the weights still hold it: ")
    assert decided(planted).controls["output filter"] == AS_EXPECTED


def test_strict_without_a_reference_is_invalid_and_names_what_is_lacking(house):
    alone = house.beside("alone")
    alone.write_request(evaluate=600, search=10, lessons=1)
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        report = read_record(Report, alone.run())
    verdict = decided(report, "strict")
    assert verdict.outcome == "INVALID"
    outcome, reason = came(verdict, "relearning_ratio")
    assert outcome == "INVALID"
    assert "the request names no reference" in report.measurement("relearning_ratio").missing
    assert "relearning" in reason
    assert verdict.controls["output filter"] != AS_EXPECTED  # nothing shows that hiding would fail this rule


def shorten(patch):
    """Fewer samples per lesson and looks: these tests ask who comes first, not by how much."""
    for name, value in {"SAMPLES": 16, "FRESH": 250, "SEEK": 20}.items():
        patch.setattr(f"components.evaluate.relearning.{name}", value)


@pytest.fixture(scope="module")
def beside_a_reference(house):
    both = house.beside("with-reference")
    both.write_request(evaluate=1_001, search=80, lessons=6)
    both.with_reference()
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return read_record(Report, both.run())


@pytest.mark.slow
def test_with_a_reference_relearning_is_a_ratio_that_the_candidate_has_and_the_filter_fails(beside_a_reference):
    report = beside_a_reference
    strict = next(rule for rule in preset("strict").rules if rule.metric == "relearning_ratio")
    found = report.measurement("relearning_ratio")
    assert found.interval.lower <= found.estimate <= found.interval.upper
    assert found.n == 6
    assert found.estimate > 0.5  # nothing of the eight is left behind in these weights
    control = next(control for control in report.controls if control.name == "output filter")
    outcome = judge_rule(strict, control.measurements)
    assert outcome.outcome == "FAIL"
    assert outcome.reason.startswith("hidden rather than removed: ")
    assert decided(report, "strict").controls["output filter"] == AS_EXPECTED
    curves = {curve.model for curve in report.curves}
    assert curves == {"candidate", "parent", "never exposed"}
