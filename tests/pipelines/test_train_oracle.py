"""`samples train-oracle`, through the command: what it leaves, what it says of it, and what it refuses."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from scipy.stats import binomtest
from tests_support import EXPUNGE, bare_environment

from expunge import assets
from expunge.contracts import read_record
from expunge.digests import sha256_file
from expunge.measure.screening import LOWEST_SENSITIVITY, fewest_to_say
from expunge.models import Classifier, load, read, supervised
from expunge.models.cards import ClassifierCard
from expunge.samples.images import read_images
from expunge.samples.labels import UNWANTED_FROM, WANTED_BELOW
from expunge.settings import Workspace
from pipelines import training
from pipelines.demo import request_for

TRAIN = ("samples", "train-oracle")
ONE = ("--epochs", "1", "--threads", "1")
FILES = {"oracle.safetensors", "oracle.json", "judge.safetensors", "judge.json", "holdout.parquet"}


def draw(folder, counts, size=8, seed=0):
    """Images of noise, brighter class by class: `counts` are {class: how many}."""
    random = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            pixels = random.integers(0, 60, (size, size)) + 60 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{image}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, expunge):
    """Both, trained on the built-in digits until they are fairly good: the folder, and what was printed."""
    folder = tmp_path_factory.mktemp("trained")
    done = expunge(folder, *TRAIN, "builtin://digits/train", "--holdout", "holdout.parquet", "--epochs", "12",
                   "--threads", "1", "--json")
    assert done.code == 0, done.err
    return folder, done


@pytest.mark.parametrize("role", ["oracle", "judge"])
def test_what_the_card_says_can_be_counted_again_from_the_held_out_images(trained, role):
    folder, done = trained
    card, model = read_record(ClassifierCard, folder / f"{role}.json"), load(folder / f"{role}.safetensors")
    held_out = read_images(folder / "holdout.parquet", strict=True)
    assert isinstance(model, Classifier)
    assert held_out.classes == card.classes == tuple("0123456789")
    with torch.inference_mode():
        scores = model(torch.from_numpy(held_out.table.images)).softmax(1).numpy()
    choices = scores.argmax(1)
    for number, found in enumerate(card.screening):
        of_it, seen = held_out.table.labels == number, choices == number
        for measured, hits, n in ((found.sensitivity, (of_it & seen).sum(), of_it.sum()),
                                  (found.specificity, (~of_it & ~seen).sum(), (~of_it).sum())):
            exact = binomtest(int(hits), int(n)).proportion_ci(0.95, "exact")
            assert (measured.estimate, measured.n) == (hits / n, n)
            assert (measured.interval.lower, measured.interval.upper) == pytest.approx((exact.low, exact.high))
    assert card.accuracy.estimate == (choices == held_out.table.labels).mean() > 0.8
    own = scores[np.arange(len(choices)), held_out.table.labels]
    assert card.overlooked.estimate == (own < 0.05).mean()
    assert card.log_loss == pytest.approx(-np.log(own).mean(), rel=1e-4)
    assert card.weights.sha256 == sha256_file(folder / f"{role}.safetensors")
    assert done.json[role]["screening"] == json.loads((folder / f"{role}.json").read_text())["screening"]


def test_the_two_are_different_networks_that_say_what_their_classes_are_called(trained):
    folder, _ = trained
    specs = {role: read(folder / f"{role}.safetensors")[1] for role in ("oracle", "judge")}
    assert {role: spec.architecture for role, spec in specs.items()} == {"oracle": "lenet", "judge": "resnet"}
    assert all(spec.family == "classifier" and spec.classes == tuple("0123456789") for spec in specs.values())


def test_every_image_is_in_one_part_and_the_held_out_ones_are_those_of_the_card(trained):
    folder, done = trained
    images, labels = assets.digits("train")
    splits = done.json["oracle"]["splits"]
    assert splits == done.json["judge"]["splits"]
    assert sum(sum(part.values()) for part in splits.values()) == len(labels)
    held_out = read_images(folder / "holdout.parquet", strict=True)
    assert np.bincount(held_out.table.labels).tolist() == list(splits["holdout"].values())
    given = {np.rint((image + 1) * 127.5).astype(np.uint8).tobytes() for image in images}
    kept = {image.tobytes() for image in held_out.table.pixels}
    assert kept < given
    assert len(kept) == len(held_out.table)


def test_no_image_that_examines_has_taught_and_the_two_learn_from_different_ones(tmp_path, monkeypatch):
    draw(tmp_path / "images", {"dark": 60, "bright": 60})
    learned, real = {}, supervised.train

    def listening(architecture, learn, validation, *rest):
        learned[architecture] = {image.tobytes() for part in (learn, validation) for image in part.pixels}
        return real(architecture, learn, validation, *rest)

    monkeypatch.setattr(supervised, "train", listening)
    wanted = training.Wanted(str(tmp_path / "images"), tmp_path / "o.safetensors", tmp_path / "j.safetensors",
                             tmp_path / "h.parquet", "lenet", 1, 0, 1, False)
    training.train_oracle_and_judge(wanted, Workspace(tmp_path / "none"), Console(quiet=True))
    examined = {image.tobytes() for image in read_images(tmp_path / "h.parquet", strict=True).table.pixels}
    parts = [learned["lenet"], learned["resnet"], examined]
    assert [len(part) for part in parts] == [48, 48, 24]
    assert len(set.union(*parts)) == 120


def test_nothing_else_is_left_and_the_worst_class_is_named(trained):
    folder, done = trained
    assert {file.name for file in folder.iterdir()} == FILES
    for role in ("oracle", "judge"):
        seen = {found["name"]: found["sensitivity"]["estimate"] for found in done.json[role]["screening"]}
        assert seen[done.json[role]["worst"]] == min(seen.values())


def test_the_same_seed_gives_the_same_bytes_whatever_the_files_are_called(expunge, tmp_path):
    draw(tmp_path / "images", {"dark": 60, "bright": 60})
    for folder in ("first", "again", "other"):
        (tmp_path / folder).mkdir()
    shutil.copytree(tmp_path / "images", tmp_path / "again" / "images")
    for file in (tmp_path / "again" / "images").rglob("*.png"):
        file.rename(file.with_name(f"{1000 - int(file.stem)}x.png"))
    made = {}
    for folder, images, seed in (("first", "../images", 0), ("again", "images", 0), ("other", "../images", 1)):
        done = expunge(tmp_path / folder, *TRAIN, images, *ONE, "--seed", seed, "--holdout", "holdout.parquet")
        assert done.code == 0, done.err
        made[folder] = {name: sha256_file(tmp_path / folder / name) for name in FILES}
    assert made["first"] == made["again"]
    assert not made["first"].items() & made["other"].items()


def test_people_read_a_table_and_are_warned_of_classes_that_are_not_shown_to_be_seen(expunge, tmp_path):
    draw(tmp_path / "images", {"dark [bold]": 50, "bright": 100})
    shutil.copy(tmp_path / "images" / "bright" / "0.png", tmp_path / "images" / "bright" / "same.png")
    done = expunge(tmp_path, *TRAIN, "images", *ONE, COLUMNS="100")
    assert done.code == 0, done.err
    assert "dark [bold]" in done.out
    assert "worst class" in done.out
    assert "10 held-out images cannot show a sensitivity of 80%, 17 could" in done.out
    assert "1 images left out: equal ones are there" in done.out


def test_files_that_are_there_stay_unless_force_is_given(expunge, tmp_path):
    draw(tmp_path / "images", {"dark": 60, "bright": 60})
    (tmp_path / "judge.json").write_text("precious")
    refused = expunge(tmp_path, *TRAIN, "images", *ONE)
    assert refused.code == 2
    assert "--judge: judge.json is there already" in refused.err
    assert (tmp_path / "judge.json").read_text() == "precious"
    assert not (tmp_path / "oracle.safetensors").exists()
    done = expunge(tmp_path, *TRAIN, "images", *ONE, "--architecture", "resnet", "--force")
    assert done.code == 0, done.err
    assert read_record(ClassifierCard, tmp_path / "judge.json").architecture == "lenet"


def test_killed_it_leaves_nothing(tmp_path):
    draw(tmp_path / "images", {"dark": 60, "bright": 60})
    process = subprocess.Popen([EXPUNGE, *TRAIN, "images", "--epochs", "1000", "--threads", "1"], cwd=tmp_path,
                               env=bare_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(4)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["images"]


@pytest.fixture(scope="module")
def images_of_all_kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    draw(folder / "good", {"a": 60, "b": 60})
    draw(folder / "one", {"only": 60})
    draw(folder / "few", {"many": 60, "rare": 12})
    draw(folder / "tiny", {"a": 60, "b": 60}, size=4)
    draw(folder / "mixed", {"a": 60, "b": 60})
    draw(folder / "mixed", {"b": 1}, size=9)
    shutil.copytree(folder / "good", folder / "broken")
    (folder / "broken" / "a" / "7.png").write_bytes(b"no image")
    shutil.copytree(folder / "good", folder / "equal")
    for file in (folder / "equal" / "b").iterdir():
        shutil.copy(folder / "good" / "b" / "0.png", file)
    shutil.copytree(folder / "good", folder / "contradictory")
    for file in (folder / "contradictory" / "b").iterdir():
        shutil.copy(folder / "good" / "a" / file.name, file)
    lines = [f"good/{name}/{image}.png,{label}" for name, label in (("a", 0), ("b", 2)) for image in range(60)]
    (folder / "gap.csv").write_text("\n".join(["file,label", *lines]) + "\n")
    (folder / "there.safetensors").write_text("precious")
    (folder / "folder.safetensors").mkdir()
    return folder


CASES = {
    "no such images": (["nowhere"], "IMAGES.uri: ", "nowhere: no such file"),
    "a model": (["builtin://digits/oracle"], "is a model, not a data set", "name a data set"),
    "nothing built in": (["builtin://digits/nobody"], "builtin://digits/nobody", "use one of"),
    "one class only": (["one"], "IMAGES: there is one class only, only", "under another label"),
    "too few": (["few"], "IMAGES: class rare has 12 different images", "at least 50 are needed"),
    "too few that differ": (["equal"], "IMAGES: class b has 1 different images", "59 equal or contradictory"),
    "contradictory": (["contradictory"], "IMAGES: class a has 0 different images", "120 equal or contradictory"),
    "too small": (["tiny"], "IMAGES: 4×4 pixels", "at least 8×8"),
    "mixed sizes": (["mixed"], "mixed images", "--size 8"),
    "a broken image": (["broken"], "7.png", "1 of 120 images cannot be used"),
    "a gap in the numbers": (["gap.csv"], "IMAGES: no image has class 1, but some have class 2", "without a gap"),
    "an oracle that is there": (["good", "--oracle", "there.safetensors"], "--oracle: there.safetensors", "--force"),
    "another kind of file": (["good", "--judge", "judge.pt"], "--judge: judge.pt", "call it judge.safetensors"),
    "a holdout of another kind": (["good", "--holdout", "images"], "--holdout: images", "call it holdout.parquet"),
    "one place for both": (["good", "--oracle", "x.safetensors", "--judge", "./x.safetensors"], "--judge: ",
                           "is also what --oracle writes"),
    "a folder": (["good", "--oracle", "folder.safetensors"], "folder.safetensors is a folder", "name a file"),
    "nowhere to write": (["good", "--oracle", "gap.csv/oracle.safetensors"], "--oracle: cannot write to gap.csv",
                         "choose another folder"),
    "no epochs": (["good", "--epochs", "0"], "--epochs", "see --help"),
    "another architecture": (["good", "--architecture", "wish"], "--architecture", "see --help"),
    "no threads": (["good", "--threads", "0"], "--threads", "see --help"),
    "no seed": (["good", "--seed", "-1"], "--seed", "see --help"),
    "no images": ([], "Missing argument", "see --help"),
    "nothing imported": (["samples://mine"], "samples://mine: no set of that name was imported", "samples import"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_used_is_refused_in_one_line_and_nothing_is_written(images_of_all_kinds, expunge, name):
    arguments, *words = CASES[name]
    before = sorted(images_of_all_kinds.rglob("*"))
    done = expunge(images_of_all_kinds, *TRAIN, *arguments)
    assert done.code == 2, done.err
    assert all(word in done.err for word in words), done.err
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert sorted(images_of_all_kinds.rglob("*")) == before
    assert (images_of_all_kinds / "there.safetensors").read_text() == "precious"


def test_imported_images_can_be_trained_on(expunge, tmp_path):
    draw(tmp_path / "images", {"dark": 60, "bright": 60})
    assert expunge(tmp_path, "init").code == 0
    assert expunge(tmp_path, "samples", "import", "mine", "images").code == 0
    done = expunge(tmp_path, *TRAIN, "samples://mine", *ONE, "--json")
    assert done.code == 0, done.err
    assert done.json["judge"]["classes"] == ["bright", "dark"]


def test_the_page_says_what_the_code_does():
    page = (Path(__file__).parents[2] / "docs" / "oracles.md").read_text()
    shares = [training.SHARES[role] + training.SHARES[f"{role} validation"] for role in training.ROLES]
    assert f"{shares[0]:.0%} for the oracle, {shares[1]:.0%} for the judge".replace("%", " %") in page
    assert f"{training.SHARES['holdout']:.0%} held out".replace("%", " %") in page
    assert f"learns from {training.SHARES['oracle'] / shares[0]:.0%}".replace("%", " %") in page
    assert f"needs {training.FEWEST_PER_CLASS} different images" in page
    assert f"at least {training.SMALLEST}×{training.SMALLEST} pixels" in page
    assert f"about {supervised.STEPS:,} updates, at least {supervised.FEWEST_EPOCHS} and at most {supervised.MOST_EPOCHS}" in page
    assert f"fewer than {fewest_to_say()} held-out\nimages" in page
    assert f"at least {LOWEST_SENSITIVITY:.0%}".replace("%", " %") in page
    assert f"a probability below {WANTED_BELOW:.0%}".replace("%", " %") in page
    assert f"from a probability of {UNWANTED_FROM:.0%} on".replace("%", " %") in page.replace("\n", " ")


@pytest.mark.thorough
def test_a_request_runs_with_the_two_and_with_the_held_out_images(trained, expunge, tmp_path):
    folder, _ = trained
    request = {**request_for(8, 0, True), "forget": {"classes": ["8"]},
               "oracle": {"uri": str(folder / "oracle.safetensors")},
               "judge": {"uri": str(folder / "judge.safetensors")},
               "holdout": {"uri": str(folder / "holdout.parquet")}}
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(request))
    assert expunge(tmp_path, "init").code == 0
    assert expunge(tmp_path, "keys", "new", request["requester"], "--role", "requester").code == 0
    done = expunge(tmp_path, "run", "request.yaml", "--json")
    assert done.code in (10, 20, 21), done.err
    assert done.json["pul"]["estimate"] is not None
