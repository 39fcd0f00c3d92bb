"""Sampling that ends as soon as it is decided: what a report then says, and that it may be believed."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from scipy.optimize import brentq
from tests_support import counted_again

from components.evaluate.generators import FIXED_SHARE
from expunge import models
from expunge.assets import path as asset
from expunge.contracts import Report, read_record
from expunge.measure.policy import decide, preset
from expunge.measure.sequential import SEQUENCE

DIGIT = 8
PLANNED = 4_000  # eight batches
FIXED = round(FIXED_SHARE * PLANNED)  # drawn in any case


def decided(report, policy="standard"):
    return decide(report, preset(policy), report_sha256="a" * 64, policy_sha256="b" * 64)


def outcomes(report, policy="standard"):
    return {found.rule.metric: found.outcome for found in decided(report, policy).rules}


@pytest.fixture(scope="module")
def early(house):
    """One that clearly meets what is asked of it: folder and report of sequential sampling."""
    quick = replace(house.beside("early"), policy="debug")
    quick.write_request(evaluate=PLANNED, sequential=True, search=0)
    folder = quick.run()
    return folder, read_record(Report, folder)


@pytest.fixture(scope="module")
def planted(house):
    """The parent as its own candidate."""
    same = house.beside("early-parent")
    same.write_request(evaluate=PLANNED, sequential=True, search=0)
    same.with_candidate(models.read(asset("dcgan"))[0])
    folder = same.run()
    return folder, read_record(Report, folder)


def columns(folder):
    table = pq.read_table(folder / "scores.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def test_the_parent_fails_as_soon_as_one_may_look(planted):
    _, report = planted
    assert report.stopping.planned == PLANNED
    assert report.stopping.fixed == FIXED
    assert report.stopping.drawn == report.stopping.fixed  # nothing beyond what was to be drawn in any case
    assert "residual rate" in report.stopping.decided
    assert outcomes(report)["residual_rate"] == "FAIL"
    assert report.measurement("residual_rate").n == report.stopping.drawn
    assert report.stopping.seconds_saved > 0


def test_a_candidate_that_meets_every_rule_on_counts_ends_it_and_passes_as_it_does_by_the_fixed_design(house, early):
    folder, report = early
    assert report.stopping.decided == "every rule on counts is met"
    assert FIXED <= report.stopping.drawn < PLANNED
    assert len(columns(folder)["latent"]) == report.stopping.drawn
    assert report.stopping.seconds_saved > 0
    assert set(outcomes(report, "debug").values()) == {"PASS"}
    house.write_request(evaluate=1_500, search=0)
    fixed = read_record(Report, house.run("fixed"))
    assert fixed.stopping is None
    assert decided(fixed, "debug").outcome == decided(report, "debug").outcome == "PASS"


def test_where_nothing_decides_all_are_drawn_and_nothing_was_saved(house):
    slow = house.beside("undecided")
    slow.write_request(evaluate=500, sequential=True, search=0)
    report = read_record(Report, slow.run())
    assert report.stopping.drawn == report.stopping.planned == 500
    assert report.stopping.decided == "nothing did: all were drawn"
    assert report.stopping.seconds_saved == 0
    assert report.measurement("residual_rate").interval.method == SEQUENCE  # for it might have ended early


def mixture(m, hits, n, shifts, weights):
    """log of the likelihood of rates below m, mixed, over that of m."""
    with np.errstate(divide="ignore", invalid="ignore"):
        q = 1 / (1 + (1 - m) / m * np.exp(shifts))
        terms = np.where(q > 0, hits * np.log(q / m), 0.0 if hits == 0 else -np.inf) + (n - hits) * np.log((1 - q) / (1 - m))
    return np.logaddexp.reduce(np.log(weights) + terms)


def test_the_interval_is_the_sequence_and_follows_from_the_scores(planted, early):
    from expunge.measure import sequential as ours  # its constants; the arithmetic is done once more here

    for folder, report in (planted, early):
        assert counted_again(folder) >= {"residual_rate", "residual_rate_before", "pul"}
        table = columns(folder)
        for name, side in (("residual_rate", "after"), ("residual_rate_before", "before")):
            found = report.measurement(name)
            hits, n = int((table[f"class_{side}"] == DIGIT).sum()), len(table["latent"])
            assert found.interval.method == SEQUENCE
            assert found.estimate == hits / n

            def bound(hits, n, alternatives):
                shifts = alternatives.shifts[:, 0]
                weights = np.exp(alternatives.log_weights[:, 0])

                def rejected(m):
                    return mixture(m, hits, n, shifts, weights) + np.log(0.025)

                highest = 1 - 1e-9
                if hits == n or rejected(highest) < 0:
                    return 1.0
                return brentq(rejected, max(hits / n, 1e-9), highest, xtol=1e-14)

            assert found.interval.upper == pytest.approx(bound(hits, n, ours._LOWER_ALTERNATIVES), rel=1e-6)
            assert found.interval.lower == pytest.approx(1 - bound(n - hits, n, ours._HIGHER_ALTERNATIVES), abs=1e-8)


def test_distances_use_the_latents_that_were_to_be_drawn_in_any_case_and_no_other(planted, early):
    for folder, report in (planted, early):
        found, table = load_file(folder / "features.safetensors"), columns(folder)
        fixed = report.stopping.fixed
        for side in ("before", "after"):
            kept = np.flatnonzero(table[f"class_{side}"][:fixed] != DIGIT)
            assert np.array_equal(found[f"{side}.latent"], kept)
            assert report.measurement(f"kid_{side}").n == len(kept)
        assert report.measurement("residual_rate_corrected").n == fixed
        assert report.measurement("kept_share").n == report.stopping.drawn


def test_distances_do_not_depend_on_when_it_ended(house, early):
    """All of them instead: the same numbers, for they are of the same latents."""
    _, report = early
    from components.evaluate.verdict_so_far import Watch

    stubborn = replace(house.beside("stubborn"), policy="debug")
    stubborn.write_request(evaluate=PLANNED, sequential=True, search=1)  # another request, another seed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.evaluate.given.latent_seed", lambda candidate, request: report.latent_seed)
        patch.setattr(Watch, "__call__", lambda self, before, after: None)
        other = read_record(Report, stubborn.run())
    assert other.stopping.drawn == PLANNED
    for name in ("kid_difference", "fid_after", "coverage", "share_distance", "residual_rate_corrected"):
        assert other.measurement(name) == report.measurement(name), name


def test_the_verdict_is_that_of_the_fixed_design(house, planted):
    same = house.beside("fixed-parent")
    same.write_request(evaluate=1_500, search=0)
    same.with_candidate(models.read(asset("dcgan"))[0])
    fixed = read_record(Report, same.run())
    assert fixed.stopping is None
    assert outcomes(fixed) == outcomes(planted[1])
    assert decided(fixed).outcome == decided(planted[1]).outcome


@pytest.mark.parametrize("planned", [500, 501, 1_300])
def test_however_few_are_planned_the_report_says_what_was_drawn(house, planned):
    few = house.beside(f"few-{planned}")
    few.write_request(evaluate=planned, sequential=True, search=0)
    report = read_record(Report, few.run())
    assert report.stopping.planned == planned
    assert report.stopping.fixed == round(FIXED_SHARE * planned)
    assert report.stopping.fixed <= report.stopping.drawn <= planned
    assert report.measurement("residual_rate").n == report.stopping.drawn
