"""Distances computed again from features: what `--deep` adds to a bundle, and whom it catches."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from finished_run import FinishedRun
from tests_support import write_policy

from components.evaluate.evidence import Evidence, Real, Seen
from components.evaluate.probes.is_it_gone import is_it_gone
from components.evaluate.probes.is_the_rest_still_good import is_the_rest_still_good
from components.evaluate.tables import FEATURES, write_tables
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence.bundle import certificate
from expunge.evidence.bundle.gathered import gather
from expunge.evidence.bundle.writing import export
from expunge.evidence.standalone import verify
from expunge.settings import RUN_VARIABLE

RULE = b"""rules:
  - metric: kid_difference
    side: at most
    limit: 1.0
    confidence: 0.95
    reason: a test
"""
CLASSES, EIGHT = 4, 3
DEEP = "kid_difference at most 1: "


def drawn(worse):
    """What a judge sees of 300 samples of either model and of 120 images; the candidate's are `worse` than its parent's."""
    random = np.random.default_rng(0)

    def seen(classes, shift=0.0):
        features = random.normal(shift, 1, (len(classes), 3)) + classes[:, None]
        return Seen(classes, np.zeros(len(classes), np.float32), np.ones(len(classes), np.float32),
                    features.astype(np.float32))

    was, labels = random.integers(0, CLASSES, 300), np.repeat(range(CLASSES), 30)
    is_now = np.where(was == EIGHT, random.integers(0, EIGHT, 300), was)
    return Evidence((EIGHT,), CLASSES, seen(was), seen(is_now, worse), Real(seen(labels), labels))


class MeasuredRun(FinishedRun):
    """A run whose report is on samples that were drawn, and says of the candidate's KID what its operator likes."""

    def __init__(self, workspace, worse=0.0, told=lambda found: found, as_of_old=False):
        super().__init__(workspace, classes=(EIGHT,))
        self.as_of_old = as_of_old
        self.evidence_drawn, self.told, self.shares = drawn(worse), told, dict.fromkeys("0123", (0.25, 0.25))
        write_policy(workspace, "debug", self.policy_file.read_bytes().replace(b"rules:\n", RULE),
                     run_folder=self.policy_file.parent)

    def write_tables(self, folder):
        write_tables(folder, self.evidence_drawn)
        for file in folder.glob("*.csv") if self.as_of_old else ():
            file.unlink()

    def measurements(self, made_up):
        found = (*is_it_gone(self.evidence_drawn), *is_the_rest_still_good(self.evidence_drawn))
        return tuple(self.told(one) if one.name.startswith("kid_difference") else one for one in found)


@pytest.fixture
def released(workspace, monkeypatch):
    """Releases such a run, and finds what is said of it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    def release(**how):
        made = MeasuredRun(workspace, **how)
        monkeypatch.setenv(RUN_VARIABLE, made.name)
        made.release()
        return gather(workspace, made.name)

    return release


def lines(bundle, deep):
    said, problem = verify.check(bundle, deep=deep)
    assert problem is None, problem
    return [f"{kind} {text}" for kind, text in said]


def test_a_rule_on_a_distance_is_shown_with_the_features_and_attested_without(released, tmp_path):
    found = released()
    export(found, tmp_path / "deep.zip", deep=True)
    export(found, tmp_path / "plain.zip")
    (shown,) = (line for line in lines(tmp_path / "deep.zip", True) if DEEP in line)
    assert shown.startswith("PROVED")
    assert shown.endswith("PASS, computed again from the features")
    for bundle, deep in (("deep.zip", False), ("plain.zip", False), ("plain.zip", True)):
        (attested,) = (line for line in lines(tmp_path / bundle, deep) if DEEP in line)
        assert attested.startswith("ATTESTED")
        assert attested.endswith("the number is attested, not recomputed")
    lacking = "NOT SHOWN --deep: nothing was computed again from features, for the bundle was written without features"
    assert lines(tmp_path / "plain.zip", True).count(lacking) == 1
    assert not [line for line in lines(tmp_path / "plain.zip", False) if "--deep" in line]
    bounds = {one.metric: one.shown_by for one in certificate.of(found, deep=True).bounds}
    assert bounds["kid_difference"] == "computed again from features"


def test_without_numpy_it_says_so_and_shows_no_more_than_without_being_asked(released, tmp_path):
    export(released(), tmp_path / "deep.zip", deep=True)
    program = "import sys; sys.modules['numpy'] = None; sys.argv = ['verify.py', *sys.argv[2:]]; " \
              f"import runpy; runpy.run_path({verify.__file__!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program, "-", tmp_path / "deep.zip", "--deep"], text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT SHOWN  --deep: nothing was computed again from features, for the package numpy is not" in done.stdout
    assert f"ATTESTED   {DEEP}" in done.stdout


def test_a_report_from_before_answers_were_kept_verifies_as_ever(released, tmp_path):
    export(released(as_of_old=True), tmp_path / "deep.zip", deep=True)
    lacking = "NOT SHOWN --deep: nothing was computed again from features, for the report has no answers that say whose"
    assert [line for line in lines(tmp_path / "deep.zip", True) if line.startswith(lacking)]
    assert not [line for line in lines(tmp_path / "deep.zip", False) if "--deep" in line]


def test_a_distance_that_the_operator_made_up_and_signed_is_caught_by_going_deep_and_only_so(released, tmp_path):
    honest = {}

    def better(found):
        honest[found.name] = found
        away = found.interval.upper - 0.5
        return found.model_copy(update={"estimate": found.estimate - away, "interval": found.interval.model_copy(
            update={"lower": found.interval.lower - away, "upper": found.interval.upper - away})})

    found = released(worse=1.0, told=better)
    assert honest["kid_difference"].interval.lower > 1, "the rule would be broken"
    export(found, tmp_path / "plain.zip")
    assert lines(tmp_path / "plain.zip", False)
    with pytest.raises(DoesNotVerify, match=r"report/record\.json: kid_difference\S* is not what its features give"):
        export(found, tmp_path / "deep.zip", deep=True)
    assert not (tmp_path / "deep.zip").exists()


def test_features_of_other_samples_than_those_that_were_judged_are_named(released, tmp_path):
    found = released()
    export(found, tmp_path / "deep.zip", deep=True)
    check = verify.Check(verify.Bundle(tmp_path / "deep.zip"), [], [], None, deep=True)
    for step in (check.serving, check.digests, check.signatures, check.inclusion, check.consistency):
        step()
    reads = check.bundle.read

    def the_last_row_first(name):
        head, *rows = reads(name).decode().splitlines()
        return "\n".join((head, *reversed(rows), "")).encode()

    for table, array in (("scores.csv", r"\w+\.latent"), ("real.csv", r"real\.label")):
        check.bundle.read = lambda name, table=table: the_last_row_first(name) if name.endswith(table) else reads(name)
        with pytest.raises(verify.Wrong, match=rf"features.safetensors.*{array} is not what the report's answers say"):
            check.rules()  # every rate is as it was
    check.bundle.read = reads
    check.rules()


def test_what_was_to_be_forgotten_does_not_leave_with_the_features(released, tmp_path):
    from safetensors.numpy import save_file

    found = released()
    export(found, tmp_path / "b.zip", deep=True)
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert [name.rpartition("/")[2] for name in archive.namelist() if "features" in name] == [FEATURES]
    file = found.record_file("evaluate").parent / FEATURES
    file.chmod(0o600)
    save_file({"forget.image": np.ones((2, 3), np.float32), "rest.image": np.ones((2, 3), np.float32)}, file)
    with pytest.raises(BadInput, match="these do not leave the house"):
        export(found, tmp_path / "c.zip", deep=True)
    file.unlink()
    with pytest.raises(BadInput, match="no longer there"):
        export(found, tmp_path / "c.zip", deep=True)
