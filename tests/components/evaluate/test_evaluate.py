import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from tests_support import counted_again

from components.evaluate.step import show
from expunge.contracts import Report, read_record
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify
from expunge.measure.policy import AS_EXPECTED, decide, preset

DIGIT = 8


@pytest.fixture(scope="module")
def measured(house):
    house.write_request(evaluate=1_500)
    folder = house.run("first")
    return folder, read_record(Report, folder)


def decided(report, policy="standard"):
    return decide(report, preset(policy), report_sha256="a" * 64, policy_sha256="b" * 64)


@pytest.fixture
def scores(measured):
    table = pq.read_table(measured[0] / "scores.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def test_every_file_is_named_with_its_digest(measured):
    folder, report = measured
    assert {file.name for file in report.files} == {p.name for p in folder.iterdir()} - {"record.json"}
    assert all(sha256_file(folder / file.name) == file.sha256 for file in report.files)
    assert report.latent_seed == sha256_bytes(bytes.fromhex(report.candidate_sha256 + report.request_sha256))


def test_rates_and_pul_follow_from_the_scores(measured, scores):
    _, report = measured
    before, after = scores["class_before"] == DIGIT, scores["class_after"] == DIGIT
    residual, pul = report.measurement("residual_rate"), report.measurement("pul")
    exact = binomtest(int(after.sum()), 1_500).proportion_ci(0.95, "exact")
    assert residual.estimate == pytest.approx(after.mean())
    assert (residual.interval.lower, residual.interval.upper) == pytest.approx(
        (exact.low, exact.high), abs=1e-9
    )
    assert report.measurement("residual_rate_before").estimate == pytest.approx(before.mean())
    assert pul.estimate == pytest.approx((before.sum() - after.sum()) / before.sum())
    assert pul.n == before.sum()
    assert 0.5 < pul.interval.lower <= pul.estimate  # the candidate really forgot something


def test_shares_follow_from_the_scores(measured, scores):
    _, report = measured
    for label, (before, after) in report.shares.items():
        assert before == pytest.approx((scores["class_before"] == int(label)).mean())
        assert after == pytest.approx((scores["class_after"] == int(label)).mean())
    ratios = [after / before for label, (before, after) in report.shares.items() if int(label) != DIGIT]
    assert report.measurement("kept_share").estimate == pytest.approx(min(ratios))


def test_distances_follow_from_the_features(measured, scores):
    folder, report = measured
    found = load_file(folder / "features.safetensors")
    real = found["real"].astype(np.float64)
    assert np.array_equal(found["after.latent"], np.flatnonzero(scores["class_after"] != DIGIT))
    scale = 1 / np.sqrt((real**2).mean())
    kids = {}
    for side in ("before", "after"):
        x = found[side].astype(np.float64)
        a, b = np.cov(x.T), np.cov(real.T)
        fid = ((x.mean(0) - real.mean(0)) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
        assert report.measurement(f"fid_{side}").estimate == pytest.approx(fid, rel=1e-3)
        k = [
            ((u * scale) @ (v * scale).T / x.shape[1] + 1) ** 3 for u, v in ((x, x), (real, real), (x, real))
        ]
        n, m = len(x), len(real)
        kids[side] = (
            (k[0].sum() - np.trace(k[0])) / (n * (n - 1))
            + (k[1].sum() - np.trace(k[1])) / (m * (m - 1))
            - 2 * k[2].mean()
        )
        assert report.measurement(f"kid_{side}").estimate == pytest.approx(kids[side], abs=1e-8)
    difference = report.measurement("kid_difference")
    assert difference.estimate == pytest.approx(kids["after"] - kids["before"], abs=1e-8)
    assert difference.interval.lower < difference.estimate < difference.interval.upper


def test_the_controls_come_out_as_they_must(measured):
    assert decided(measured[1]).controls == {
        "parent": AS_EXPECTED, "real": AS_EXPECTED, "output filter": AS_EXPECTED}


def test_the_scores_hold_no_picture_and_the_features_nothing_unwanted(measured, scores):
    assert set(scores) == {
        "latent",
        "class_before",
        "class_after",
        "unwanted_before",
        "unwanted_after",
        "confidence_before",
        "confidence_after",
    }
    found = load_file(measured[0] / "features.safetensors")
    assert not np.any(scores["class_before"][found["before.latent"]] == DIGIT)


def test_the_same_bytes_give_the_same_report(house, measured, monkeypatch):
    monkeypatch.setenv("EXPUNGE_KEYS", str(house.root / "keys"))
    from components.evaluate import step

    again = house.root / "again"
    again.mkdir()

    class Entered:
        workspace = house.workspace

        @staticmethod
        def progress(step, total):
            assert step <= total

    step.evaluate.__wrapped__(Entered, **house.inputs(), report=again)
    assert (again / "record.json").read_bytes() == (measured[0] / "record.json").read_bytes()


def test_one_bar_goes_from_the_first_sample_to_the_last_lesson(house, monkeypatch):
    monkeypatch.setenv("EXPUNGE_KEYS", str(house.root / "keys"))
    for name, value in {"SAMPLES": 4, "FRESH": 100, "SEEK": 2, "CHECKS": (1, 2)}.items():
        monkeypatch.setattr(f"components.evaluate.relearning.{name}", value)
    from components.evaluate import step

    other = house.beside("bar")
    other.write_request(evaluate=600, search=20, lessons=2)
    told, notes = [], []

    class Entered:
        workspace = house.workspace
        progress = staticmethod(lambda step, total: told.append((step, total)))
        note = staticmethod(notes.append)

    (other.root / "report").mkdir()
    step.evaluate.__wrapped__(Entered, **other.inputs(), report=other.root / "report")
    steps, totals = zip(*told, strict=True)
    assert steps == tuple(sorted(steps))
    assert {*totals} == {steps[-1]}
    drawn = steps.index(1_200)  # both models' images of all latents
    assert len([step for step in steps[drawn + 1 :] if step < 1_200 + 2 * 2 * 40 * 20]) >= 40  # each step of the search
    assert len(notes) == 2


def test_the_extractor_looks_at_what_is_compared_and_at_nothing_else(house, monkeypatch):
    monkeypatch.setenv("EXPUNGE_KEYS", str(house.root / "keys"))
    from components.evaluate import step
    from expunge.models.classifiers import LeNet

    other, looked = house.beside("counted"), []
    other.write_request(evaluate=600, search=20)
    other.with_extractor()  # the oracle's network: a LeNet, as which the judge is no
    keep = LeNet.features

    def counted(self, images):
        if not images.requires_grad:
            looked.append(len(images))
        return keep(self, images)

    monkeypatch.setattr(LeNet, "features", counted)

    class Entered:
        workspace = house.workspace
        progress = staticmethod(lambda step, total: None)

    (other.root / "report").mkdir()
    step.evaluate.__wrapped__(Entered, **other.inputs(), report=other.root / "report")
    held_out = len(pq.read_table(other.root / "report" / "real.parquet"))
    assert sum(looked) <= 2 * 600 + held_out + 5  # and a few zeros, to see whether it can


def test_show_gives_the_engine_the_page_and_finite_numbers(measured, tmp_path):
    numbers = show(measured[0], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == (measured[0] / "page.html").read_bytes()
    assert set(numbers) >= {"residual_rate", "pul", "fid_ratio", "kid_difference", "kept_share"}
    assert all(np.isfinite(value) for value in numbers.values())


@pytest.fixture
def with_candidate(house):
    """Puts another candidate in place for one test."""
    from expunge import models
    from expunge.assets import path as asset

    yield lambda state=None: house.write_model(
        "candidate", "candidate", "gan", state or models.read(asset("dcgan"))[0]
    )
    house.write_model("candidate", "candidate", "gan", house.forgetful)


def test_the_parent_planted_as_candidate_fails(house, with_candidate):
    house.write_request(evaluate=1_500)
    with_candidate()
    report = read_record(Report, house.run("planted"))
    assert decided(report).outcome == "FAIL"
    assert report.measurement("pul").estimate == 0
    assert report.measurement("kid_difference").estimate == 0


def test_zeroed_weights_do_not_pass_and_say_what_could_not_be_measured(house, with_candidate):
    from expunge import models
    from expunge.assets import path as asset

    house.write_request(evaluate=600)
    state = models.read(asset("dcgan"))[0]
    with_candidate({name: tensor * 0 for name, tensor in state.items()})
    verdict = decided(read_record(Report, house.run("zeroed")))
    assert verdict.outcome in ("FAIL", "INVALID")
    assert verdict.rules[2].outcome == "FAIL" or verdict.rules[3].outcome == "FAIL"


@pytest.mark.parametrize(("says", "wrong"), [(DIGIT, "real"), (0, "parent")])
def test_a_judge_that_always_says_the_same_makes_the_verdict_invalid(house, says, wrong):
    from expunge import models
    from expunge.assets import path as asset

    house.write_request(evaluate=600)
    state = models.read(asset("judge"))[0]
    state["head.weight"] = state["head.weight"] * 0
    state["head.bias"] = state["head.bias"] * 0
    state["head.bias"][says] = 5.0
    house.write_model("judge", "judge", "classifier", state)
    report = read_record(Report, house.run(f"judge-{says}"))
    house.write_model("judge", "judge", "classifier")
    verdict = decided(report)
    assert verdict.outcome == "INVALID"
    assert verdict.controls[wrong] != AS_EXPECTED
    assert report.measurement(
        "kept_share"
    ).missing  # a class that was never drawn has no ratio, and is not zero


@pytest.mark.parametrize("reason", ["privacy", "copyright"])
def test_what_must_not_be_shown_is_not_stored(house, reason):
    house.write_request(reason=reason)
    folder = house.run(reason)
    index = json.loads((folder / "pictures.json").read_bytes())
    assert not (folder / "unwanted-before.png").exists()
    assert not index["before_shown"]
    assert all(tile["after"] != DIGIT for group in index["groups"].values() for tile in group["tiles"])
    assert "does not allow" in " ".join((folder / "page.html").read_text().split())


def test_weights_that_are_not_those_of_the_record(house):
    house.write_request(evaluate=100)
    weights = house.root / "judge" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(DoesNotVerify, match="judge"):
        house.run("tampered")
    weights.write_bytes(kept)


def test_a_judge_that_does_not_know_the_class(house):
    house.write_request(evaluate=100, classes=(12,))
    with pytest.raises(BadInput, match=r"forget\.classes"):
        house.run("unknown")
    house.write_request()


def test_each_of_several_unwanted_classes_has_its_own_rate(house):
    house.write_request(evaluate=600, classes=(3, DIGIT))
    report = read_record(Report, house.run("several"))
    house.write_request()
    scores = pq.read_table(house.root / "several" / "scores.parquet")
    for label in (3, DIGIT):
        found = report.measurement(f"residual_rate[{label}]")
        assert found.estimate == pytest.approx((scores["class_after"].to_numpy() == label).mean())
        assert found.interval is not None
    together = report.measurement("residual_rate").estimate
    assert together == pytest.approx(sum(report.measurement(f"residual_rate[{label}]").estimate for label in (3, DIGIT)))
    assert counted_again(house.root / "several") >= {
        "residual_rate", "residual_rate[3]", "residual_rate[8]", "residual_rate_before", "pul"}
    page = (house.root / "several" / "page.html").read_text()
    assert "Class 3" in page
    assert "Forgetting class 3 and 8" in page
