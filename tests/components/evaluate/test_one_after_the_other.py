"""A parent that an earlier request made: what was forgotten then, and how far the model has drifted since."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from scipy.stats import binomtest

from components.evaluate.page import render_page
from expunge import models
from expunge.assets import path as asset
from expunge.contracts import EarlierRequest, Report, read_record
from expunge.errors import BadInput
from expunge.measure.policy import AS_EXPECTED, decide, preset

FIRST, SECOND = 8, 3
CAME_BEFORE = EarlierRequest(
    request_id="forget-8", request_sha256="1" * 64, candidate_sha256="2" * 64, classes=(FIRST,))


def decided(report, policy="standard"):
    return decide(report, preset(policy), report_sha256="a" * 64, policy_sha256="b" * 64)


def came(verdict, metric):
    return next(found.outcome for found in verdict.rules if found.rule.metric == metric)


def noisy(state, strength=0.25):
    """Weights that draw the same, and worse."""
    random = torch.Generator().manual_seed(5)
    return {name: tensor + strength * tensor.std() * torch.randn(tensor.shape, generator=random)
            if name.startswith("generator.") and tensor.is_floating_point() and tensor.ndim > 1 else tensor
            for name, tensor in state.items()}


@pytest.fixture(scope="module")
def second(house):
    """The room on a second request, about a 3: the parent has forgotten the 8 already. Given a candidate's weights."""

    def call(name, candidate, parent=None, **request):
        there = house.beside(name)
        there.with_origin()
        there.with_parent(parent or house.forgetful)
        there.write_request(classes=(SECOND,), earlier=(FIRST,), came_before=(CAME_BEFORE,),
                            **{"evaluate": 1_000, "search": 0} | request)
        there.with_candidate(candidate)
        return there.run()

    return call


@pytest.fixture(scope="module")
def unchanged(house, second):
    """The report on a candidate that is its parent."""
    return second("unchanged", house.forgetful)


def scores(folder):
    table = pq.read_table(folder / "scores.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def test_what_was_forgotten_before_is_measured_on_its_own(unchanged):
    report, drawn = read_record(Report, unchanged), scores(unchanged)
    found = report.measurement("residual_rate_earlier")
    hits = drawn["class_after"] == FIRST
    exact = binomtest(int(hits.sum()), 1_000).proportion_ci(0.95, "exact")
    assert found.estimate == pytest.approx(hits.mean())
    assert (found.interval.lower, found.interval.upper) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert report.measurement("residual_rate").estimate == pytest.approx((drawn["class_after"] == SECOND).mean())
    assert (report.unwanted, report.earlier, report.came_before) == ((SECOND,), (FIRST,), (CAME_BEFORE,))


def test_nothing_of_it_counts_as_retained(unchanged):
    stored, drawn = load_file(unchanged / "features.safetensors"), scores(unchanged)
    assert not {FIRST, SECOND} & set(stored["real.label"].tolist())
    assert set(drawn["class_after"][stored["after.latent"]]) == set(range(10)) - {FIRST, SECOND}
    real = pq.read_table(unchanged / "real.parquet")
    others = ~np.isin(real["label"].to_numpy(), (FIRST, SECOND))
    specificity = read_record(Report, unchanged).measurement("judge_specificity")
    assert specificity.n == others.sum()
    assert specificity.estimate == pytest.approx((real["class"].to_numpy()[others] != SECOND).mean())


def test_drift_is_recomputed_from_the_features_beside_the_report(unchanged):
    stored = {name: array.astype(float) for name, array in load_file(unchanged / "features.safetensors").items()}
    real = stored["real"]
    scale = 1 / np.sqrt((real**2).mean())

    def kid(side):
        def mean(x, y):
            products = (x @ y.T * scale**2 / x.shape[1] + 1) ** 3
            if x is y:
                np.fill_diagonal(products, 0)
                return products.sum() / len(x) / (len(x) - 1)
            return products.mean()

        return mean(stored[side], stored[side]) + mean(real, real) - 2 * mean(stored[side], real)

    report = read_record(Report, unchanged)
    found = report.measurement("drift")
    assert found.estimate == pytest.approx(kid("after") - kid("origin"), rel=1e-6)
    assert found.interval.lower < found.estimate < found.interval.upper
    assert report.measurement("kid_difference").estimate == 0, "it is its own parent: only the chain's first is another"


def test_the_parent_fails_for_what_is_new_and_the_chains_first_model_for_what_is_old(unchanged):
    verdict = decided(read_record(Report, unchanged))
    assert came(verdict, "residual_rate") == came(verdict, "pul") == "FAIL"
    assert came(verdict, "residual_rate_earlier") == "PASS"
    for control in ("parent", "real", "origin"):
        assert verdict.controls[control] == AS_EXPECTED


def test_a_candidate_that_brings_the_first_back_fails_and_is_told_what_it_did(second):
    verdict = decided(read_record(Report, second("relapsed", models.read(asset("dcgan"))[0])))
    found = next(found for found in verdict.rules if found.rule.metric == "residual_rate_earlier")
    assert found.outcome == "FAIL"
    assert found.reason.startswith("what an earlier request was about is back: earlier residual rate ")


def test_many_small_steps_add_up_a_candidate_no_worse_than_its_parent_fails_on_drift(house, second):
    worn = noisy(house.forgetful)
    verdict = decided(read_record(Report, second("worn", worn, parent=worn)))
    assert came(verdict, "kid_difference") == "PASS"
    assert came(verdict, "drift") == "FAIL"
    assert "the requests together cost too much" in next(
        found.reason for found in verdict.rules if found.rule.metric == "drift")


def test_a_first_request_is_not_asked_and_its_report_says_why(house):
    first = house.beside("first-request")
    first.write_request(search=0)
    report = read_record(Report, first.run())
    for name in ("residual_rate_earlier", "drift"):
        assert report.measurement(name).not_applicable
        assert report.measurement(name).missing == "no request came before this one"
    for policy in ("standard", "strict"):
        assert not [rule for rule in decided(report, policy).rules if rule.rule.if_earlier]
    assert {control.name for control in report.controls} == {"parent", "real", "output filter"}
    page = render_page(first.root / "report", decided(report))
    assert "Does what was forgotten before stay forgotten?" not in page
    assert "earlier residual rate, earlier residual rate of the parent and drift, not applicable: no request came" in page


def test_without_the_chains_first_model_there_is_no_drift_and_a_rule_on_it_is_invalid(house, second):
    there = house.beside("no-origin")
    there.with_parent(house.forgetful)
    there.write_request(classes=(SECOND,), earlier=(FIRST,), search=0)
    there.with_candidate(house.forgetful)
    report = read_record(Report, there.run())
    assert "names no origin" in report.measurement("drift").missing
    assert not report.measurement("drift").not_applicable
    assert came(decided(report), "drift") == "INVALID"


def test_a_first_model_with_other_latents_is_refused(house):
    there = house.beside("other-latents")
    there.with_parent(house.forgetful)
    there.write_request(classes=(SECOND,), earlier=(FIRST,), search=0)
    there.with_candidate(house.forgetful)
    spec = models.read(asset("dcgan"))[1]
    spec = models.ModelSpec(architecture=spec.architecture, family=spec.family,
                            config={**spec.config, "latent_dim": 7})
    there.with_origin(models.build(spec.architecture, **spec.config).state_dict(), spec)
    with pytest.raises(BadInput, match=r"^origin: its latents are 7, the checkpoint's \d+"):
        there.run()


def test_several_earlier_classes_have_a_rate_each_and_sequential_sampling_asks_for_them(house, second):
    report = read_record(Report, second("sequential", models.read(asset("dcgan"))[0], sequential=True, evaluate=2_000))
    assert report.stopping.drawn < 2_000, "it is clear that it is back"
    assert report.measurement("drift").n <= report.stopping.fixed == 500
    assert "sequence" in report.measurement("residual_rate_earlier").interval.method
    there = house.beside("two-before")
    there.with_origin()
    there.with_parent(house.forgetful)
    there.write_request(classes=(SECOND,), earlier=(FIRST, 1), search=0)
    there.with_candidate(house.forgetful)
    report = read_record(Report, there.run())
    of = {name: report.measurement(name).estimate for name in (
        "residual_rate_earlier", "residual_rate_earlier[8]", "residual_rate_earlier[1]")}
    assert of["residual_rate_earlier"] == pytest.approx(of["residual_rate_earlier[8]"] + of["residual_rate_earlier[1]"])
    assert of["residual_rate_earlier[1]"] > 0.05


def test_the_page_says_which_requests_came_before_and_shows_no_picture_of_what_they_were_about(house, unchanged):
    report = read_record(Report, unchanged)
    page = render_page(unchanged, decided(report))
    assert "Earlier requests made the parent forget class 8. They were, oldest first:" in page
    assert "forget-8" in page
    assert "What was forgotten before" in page
    assert "Drift" in page
    tiles = [tile for group in json.loads((unchanged / "pictures.json").read_bytes())["groups"].values()
             for tile in group["tiles"]]
    assert tiles
    assert not [tile for tile in tiles if FIRST in (tile["before"], tile["after"])]
