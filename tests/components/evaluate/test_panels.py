from components.evaluate.panels import PLANS, Plan, of_rule, panel
from expunge.contracts import Interval, Measurement, Rule, RuleOutcome
from expunge.measure.medians import median_interval


def number(name, value, lower=None, upper=None, n=100, method="m"):
    between = None if lower is None else Interval(lower=lower, upper=upper, confidence=0.95, method=method)
    return Measurement(name=name, estimate=value, interval=between, n=n)


def outcome(metric, side, limit, came="PASS"):
    rule = Rule(metric=metric, side=side, limit=limit, confidence=0.95, reason="r")
    return RuleOutcome(rule=rule, outcome=came, reason="because")


RECALL = (number("recall_before", 0.7, 0.6, 0.8), number("recall", 0.5, 0.4, 0.6),
          number("recall_fixed_shares", 0.69, 0.6, 0.75))


def test_what_is_compared_lies_on_one_axis():
    found = panel(PLANS["recall"], RECALL, ())
    before, after, held = found.rows
    assert after.dot < held.dot < before.dot
    assert after.bar[0] + after.bar[1] == before.bar[0]  # one ends at 0.6, where the other begins
    assert [row.kind for row in found.rows] == ["was", "now", "held"]


def test_numbers_that_a_report_does_not_have_are_no_rows_and_without_any_there_is_no_panel():
    assert len(panel(PLANS["recall"], RECALL[:2], ()).rows) == 2
    assert panel(PLANS["recall"], (), ()) is None


def test_a_row_that_is_left_alone_still_says_whose_it_is():
    assert panel(PLANS["recall"], RECALL[1:2], ()).labelled
    assert not panel(PLANS["pul"], (number("pul", 0.7, 0.6, 0.8),), ()).labelled


def test_a_number_that_is_absent_keeps_its_reason_beside_the_others():
    absent = Measurement(name="recall", missing="too few")
    found = panel(PLANS["recall"], (RECALL[0], absent), ())
    assert found.rows[1].missing == "too few"
    assert found.rows[1].dot is None
    assert found.ends is not None
    alone = panel(PLANS["recall"], (absent,), ())
    assert alone.ends is None


def test_two_limits_leave_what_lies_between_them():
    measured = (number("membership_auc", 0.5, 0.45, 0.55),)
    rules = (outcome("membership_auc", "at most", 0.6), outcome("membership_auc", "at least", 0.4, "FAIL"))
    found = panel(PLANS["membership_auc"], measured, rules)
    assert found.allowed == (40, 20)
    assert [(limit.at, limit.anchor) for limit in found.limits] == [(40, "end"), (60, "start")]
    assert [(mark.at, mark.text) for mark in found.marks] == [(50, "a guess")]
    assert found.outcome == "FAIL"
    assert found.ends == ("0.00", "1.00")


def test_limits_that_exclude_each_other_allow_nothing():
    rules = (outcome("pul", "at least", 0.9), outcome("pul", "at most", 0.5))
    assert panel(PLANS["pul"], (number("pul", 0.7, 0.6, 0.8),), rules).allowed[1] == 0


def test_two_limits_near_one_end_share_a_text():
    plan = Plan("p", (("", "now", "search_rate"),), lowest=0, highest=1, whole=True)
    rules = (outcome("search_rate", "at most", 0.05), outcome("search_rate", "at most", 0.1))
    found = panel(plan, (number("search_rate", 0.5, 0.4, 0.6),), rules)
    assert [limit.text for limit in found.limits] == ["at most 5 %, at most 10 %", ""]


def test_a_limit_far_away_is_on_the_axis():
    found = of_rule(outcome("kid_difference", "at most", 0.5), (number("kid_difference", 0.001, -0.001, 0.003),))
    assert 80 < found.limits[0].at < 100
    assert found.rows[0].dot < 20


def test_a_rule_over_a_metric_that_no_plan_knows_is_drawn_all_the_same():
    found = of_rule(outcome("sharpness", "at most", 2.0), (number("sharpness", 1.0, 0.5, 1.5),))
    assert found.limits[0].text == "at most 2"
    assert of_rule(outcome("sharpness", "at most", 2.0), ()) is None


def test_one_number_without_an_interval_is_said_and_not_drawn():
    found = panel(PLANS["fid_ratio"], (number("fid_ratio", 1.2),), (outcome("fid_ratio", "at most", 2),))
    assert found.rows[0].value == "1.20"
    assert found.ends is None
    assert found.limits == ()


def test_repeats_that_were_ended_are_said_to_be_at_least_that():
    estimate = median_interval([16, 23, 32, 64, float("inf"), float("inf")], 0.95, budget=128)
    found = panel(PLANS["relearning_steps"], (
        Measurement(name="relearning_steps", estimate=estimate.value, interval=estimate.interval, n=estimate.n),), ())
    assert found.rows[0].value == "48"
    assert found.rows[0].interval == "16 to at least 128"


def test_what_the_numbers_are_made_from_is_said_once_if_it_is_the_same():
    assert panel(PLANS["search"], (number("search_rate_before", 0.9, 0.8, 1.0, 200), number("search_rate", 0.1, 0, 0.2, 200)),
                 ()).made_from == "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}200 starts · m, 95\N{NO-BREAK SPACE}%"
    assert panel(PLANS["kid"], (number("kid_before", 1, 0, 2, 10), number("kid_after", 1, 0, 2, 20)), ()).made_from == (
        "before: n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}10 samples · after: n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}20 samples · m, 95\N{NO-BREAK SPACE}%")
