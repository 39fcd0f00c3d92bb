"""A request about a normalizing flow goes all the way, for a class and for single images; what cannot go is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tests_support import blocks, call, carried_out, exported_and_disposed_of, two_people, typed, without

from components.adapt.step import adapt
from components.unlearn.step import unlearn
from expunge import assets, models
from expunge.contracts import (
    Absent,
    Candidate,
    Checkpoint,
    Request,
    SampleSet,
    parse_record,
    read_record,
)
from expunge.errors import BadInput, NotNeeded
from expunge.families import refuse_what_does_not_fit
from expunge.runs import Run
from expunge.samples import SampleTable, read_samples
from expunge.stores.sources import pin
from pipelines.cli import carry_out

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "flows.md").read_text()
EXAMPLE = yaml.safe_load((ROOT / "examples" / "flow" / "request.yaml").read_text())
QUICK = {"method": {"name": "taming_flow", "preset": "debug"}, "policy": "debug", "threads": 1,
         "sampling": {"evaluate": 200}}
# What takes seconds, and passes the policy for runs of debug size: of a class, and of single images.
OF_CLASS, OF_IMAGES = ({"name": "taming_flow", "preset": "debug", "params": {"steps": 100, "rate": 3e-3, **params}}
                       for params in ({"alpha": 0.99, "delta": 12.0, "batch": 16}, {"alpha": 0.95, "delta": 4.0}))
SMALL = ["--depth", "2", "--hidden", "8", "--steps", "60", "--rate", "5e-3", "--threads", "1"]
WHOLE = {"forget": {"classes": ["4"]}}
TRAIN = {"uri": "builtin://digits/train"}

GENERATOR = {"checkpoint": {"uri": "builtin://digits/dcgan"}, "oracle": {"uri": "builtin://digits/oracle"},
             "method": {"name": "adapt_then_unlearn"}}

# A flow of somebody's own: points in [0, 1], a scale of its own for every pixel.
FACTORY = '''
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, side=16, skew=1.0):
        super().__init__()
        self.middle = nn.Parameter(torch.zeros(1, side, side))
        self.log_scale = nn.Parameter(torch.zeros(1, side, side))
        self.skew = skew

    def forward(self, x):
        return (x - self.middle) / self.log_scale.exp(), -self.log_scale.sum().expand(len(x))

    def inverse(self, z):
        return z * self.log_scale.exp() * self.skew + self.middle

    def log_prob(self, x):
        z, log_det = self(x)
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1) + log_det

    def sample(self, count, generator):
        return self.inverse(torch.randn(count, *self.middle.shape, generator=generator))
'''


def asked(**changes):
    return EXAMPLE | QUICK | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the flow that the example's script makes, at debug size, and one by a factory."""
    folder = tmp_path_factory.mktemp("flow")
    done = subprocess.run([sys.executable, ROOT / "examples" / "flow" / "train.py", *SMALL], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "mine.py").write_text(FACTORY)
    images = (torch.from_numpy(assets.digits("train")[0]) + 1) / 2
    save_file({"middle": images.mean(0), "log_scale": (images.std(0) + 0.05).log()}, folder / "mine.safetensors")
    return folder


@pytest.fixture
def here(trained, tmp_path):
    """The same files, in a folder of the test's own."""
    for file in trained.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


MINE = {"uri": "mine.safetensors", "architecture": "mine.py:Mine", "family": "flow", "range": [0, 1]}


def forgot(folder, **changes):
    """What a request of debug size came to, from the file to the release."""
    return carried_out(folder, asked(sampling={"evaluate": 500}, **changes), "it is unlikely now")


@pytest.fixture(scope="module")
def released(trained, tmp_path_factory):
    """A folder in which a whole class was forgotten, agreed on and released."""
    folder = tmp_path_factory.mktemp("released")
    shutil.copyfile(trained / "flow.safetensors", folder / "flow.safetensors")
    two_people(folder)
    return folder, forgot(folder, id="a-class", method=OF_CLASS, **WHOLE)


def test_the_request_on_the_page_is_the_examples():
    shown, = blocks(PAGE, "yaml")
    assert yaml.safe_load(shown) == EXAMPLE


@pytest.mark.thorough
def test_the_page_can_be_followed_line_by_line(tmp_path):
    shutil.copyfile(ROOT / "examples" / "flow" / "train.py", tmp_path / "train.py")
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(EXAMPLE | {"method": {"name": "auto", "preset": "debug"}, "threads": 1}))
    typed((block.replace("python train.py", " ".join(["python train.py", *SMALL])) for block in blocks(PAGE, "bash")), tmp_path)
    ended = call(tmp_path, "status", EXAMPLE["id"], "--json").json
    assert ended["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE")  # of debug size: it need not pass, nor be INVALID
    assert ended["method"]["chosen"]


@pytest.mark.thorough
def test_a_flow_is_made_to_find_a_class_unlikely_and_comes_home(released, workspace_of):
    folder, found = released
    assert found["state"] == "released"
    assert found["forget_z_lowest"]["lower"] >= 1
    assert found["pul"] is found["forget_accuracy"] is None
    assert found["kid"]["after"] is not None
    audit = call(folder, "audit", "verify")
    assert audit.code == 0, audit.out + audit.err

    served = folder / ".expunge" / "releases" / "digits-flow" / "current" / "model.safetensors"
    before, after = load_file(folder / "flow.safetensors"), load_file(served)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert isinstance(models.load(served), models.Flow)

    run = Run.find(workspace_of(folder), "a-class")
    for room, name in (("curate_forget_set", "negative"), ("curate_forget_set", "positive"), ("fetch_checkpoint", "oracle")):
        assert read_record(Absent, run.output(room, name)).reason
    candidate, report = run.candidate(), run.report()
    assert report.family == candidate.family == run.request().family == "flow"
    assert (report.forget_id, report.retain_id) == (candidate.forget_id, candidate.retain_id)
    told = call(folder, "status", "a-class").out
    assert "lowest z of the forgotten" in told


@pytest.mark.thorough
def test_what_a_flow_forgot_is_exported_for_a_stranger_and_disposed_of(released, tmp_path):
    said, receipt = exported_and_disposed_of(released[0], "a-class", tmp_path, "--deep")
    assert "unlikely_share at least" in said
    assert "counted again from the answers" in said
    assert "the features themselves" in said
    assert receipt["images"] == int((assets.digits("train")[1] == 4).sum())
    assert receipt["redrawn"] == [], "a flow's own samples are not what was to be forgotten"


@pytest.mark.thorough
def test_what_was_released_is_made_to_forget_single_images_and_the_class_stays_forgotten(released, workspace_of):
    folder, _ = released
    sevens = [int(number) for number in np.flatnonzero(assets.digits("train")[1] == 7)[:3]]
    there = {"uri": "release://digits-flow"}
    found = forgot(folder, id="images", method=OF_IMAGES, checkpoint=there, forget={"classes": ["7"], "images": sevens})
    assert (found["state"], found["forgotten"], found["images"]) == ("released", ["7"], sevens)
    run = Run.find(workspace_of(folder), "images")
    assert (run.request().forget.earlier, run.request().forget.earlier_images) == (("4",), ())
    retained = read_record(SampleSet, run.output("curate_forget_set", "retain"))
    of_class = int((assets.digits("train")[1] == 7).sum())
    assert (retained.class_counts["7"], retained.class_counts.get("4")) == (of_class - 3, None)

    # What comes next knows of these images as well, and finds them in whatever it may train on.
    images, labels = assets.digits("train")
    (folder / "fewer.parquet").write_bytes(SampleTable(images[sevens[1]:], labels[sevens[1]:]).to_parquet())
    for training, known in ((TRAIN, sevens), ({"uri": "fewer.parquet"}, [sevens[1] - sevens[1], sevens[2] - sevens[1]])):
        document = asked(id="next", checkpoint=there, training=training, forget={"classes": ["1"]})
        pinned = pin(parse_record(Request, document, "request"), folder, workspace_of(folder))
        assert pinned.forget.earlier == ("4",), "of class 7 three images have gone, and no more"
        assert list(pinned.forget.earlier_images) == known
        assert [(came.classes, came.images) for came in pinned.came_before] == [(("4",), 0), (("7",), 3)]
        assert pin(pinned, folder, workspace_of(folder)) == pinned
    with pytest.raises(BadInput, match=r"forget\.earlier_images: not those of which the runs here .*: leave it out"):
        pin(parse_record(Request, document | {"forget": {"classes": ["1"], "earlier_images": [5]}}, "request"),
            folder, workspace_of(folder))


# ------------------------------------------------------------------------------------- what the request says

REFUSED = {
    "an oracle": ({"oracle": {"uri": "builtin://digits/oracle"}}, "oracle: it means nothing for a normalizing flow"),
    "a discriminator": ({"discriminator": {"uri": "builtin://digits/dcgan"}}, "discriminator: it means nothing for a normalizing flow"),
    "names of classes": ({"checkpoint": {"uri": "flow.safetensors", "classes": ["a"]}}, "checkpoint.classes: it means nothing"),
    "draws to curate": ({"sampling": {"curate": 500}}, "sampling.curate: it means nothing for a normalizing flow"),
    "lessons": ({"sampling": {"lessons": 2}}, "sampling.lessons: it means nothing for a normalizing flow"),
    "no training": ({"training": None}, "training: a normalizing flow needs one"),
    "no judge": ({"judge": None}, "judge: a normalizing flow needs one"),
    "a generator for a reference": (
        {"reference": {"uri": "builtin://digits/dcgan"}}, "reference: it is a generator, the checkpoint is a normalizing flow"),
    "another family": ({"checkpoint": {"uri": "flow.safetensors", "family": "gan"}}, "checkpoint.family: the request says gan"),
    "a method of generators": ({"method": {"name": "retrain"}}, "method 'retrain' is for gan models"),
    "a truth value for an image": ({"forget": {"classes": ["4"], "images": [True]}}, "'forget.images' holds a truth value"),
    "single images of a generator": (
        {**GENERATOR, "forget": {"classes": [4], "earlier_images": [1]}}, "forget.earlier_images: it means nothing for a generator"),
    "an image before the first": ({"forget": {"classes": ["4"], "images": [-1]}}, "'forget.images.0' input should be greater"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_for_a_flow_is_refused_before_anything_runs(name, workspace, here, capsys, monkeypatch):
    changes, said = REFUSED[name]
    monkeypatch.chdir(here)
    Path("request.yaml").write_text(yaml.safe_dump(asked(**changes)))
    assert carry_out(["run", "request.yaml", "--plan"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert said in line
    assert not Run.all(workspace)


def test_the_plan_says_what_becomes_of_which_images(workspace, here, capsys, monkeypatch):
    monkeypatch.chdir(here)
    Path("request.yaml").write_text(yaml.safe_dump(asked(method="auto")))
    assert carry_out(["run", "request.yaml", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["forget"], plan["images"], plan["method"]["family"]) == (["4"], [2, 13, 45], "flow")
    assert plan["method"]["name"] == "taming_flow"
    does = {room["room"]: room["does"] for room in plan["rooms"]}
    assert does["curate_forget_set"] == "takes 3 images of training to forget, and keeps the others"
    assert "each draws 200 samples" in does["evaluate"]
    assert (plan["samples"]["planned"], plan["samples"]["of"]) == (200, "draws of each flow")
    assert carry_out(["run", "request.yaml", "--plan"]) == 0
    told = capsys.readouterr().out
    assert "4: of training, images 2, 13, 45" in told
    assert "what is measured is what the model finds likely" in told
    Path("request.yaml").write_text(yaml.safe_dump(asked(forget={"classes": ["4"], "earlier": ["7"], "earlier_images": [3]})))
    assert carry_out(["run", "request.yaml", "--plan"]) == 0
    told = capsys.readouterr().out
    assert "sorts the training images by their labels" in told
    assert "7; of training, image 3" in told


def test_the_family_is_read_off_the_file_or_the_architecture_and_else_said(workspace, here):
    state, spec = models.read(here / "flow.safetensors")
    torch.save(state, here / "plain.pt")
    bare = {"uri": "plain.pt", "architecture": "glow", "config": spec.config}
    for checkpoint in (EXAMPLE["checkpoint"], bare, {**bare, "family": "flow"}, MINE):
        pinned = pin(parse_record(Request, asked(checkpoint=checkpoint), "r"), here, workspace)
        assert pinned.family == pinned.checkpoint.family == "flow"
    assert pin(pinned, Path("/elsewhere"), workspace) == pinned
    refuse_what_does_not_fit(pinned)


# ------------------------------------------------------------------------------------- what the rooms find


@pytest.fixture
def rooms(first_rooms, here):
    """The first two rooms, for a request that differs from the example; returns the records by role."""
    return lambda **changes: first_rooms(asked(**changes))


def test_single_images_go_and_the_others_of_their_class_stay(rooms, workspace):
    found = rooms()
    assert found.keys() == {"forget", "retain", "holdout"}
    assert found["forget"].class_counts == {"4": 3}
    of_class = int((assets.digits("train")[1] == 4).sum())
    assert found["retain"].class_counts["4"] == of_class - 3
    assert {record.unwanted for record in found.values()} == {(4,)}
    table, (images, _) = read_samples(workspace, found["forget"]), assets.digits("train")
    assert np.allclose(table.images, images[[2, 13, 45]], atol=1 / 255)
    assert found["holdout"].count == len(assets.digits("holdout")[1])


def test_a_whole_class_goes_and_nothing_of_it_or_of_what_went_before_is_remembered(rooms):
    found = rooms(forget={"classes": ["4"], "earlier": ["7"]}, members=TRAIN)
    assert set(found["forget"].class_counts) == set(found["members"].class_counts) == {"4"}
    assert set(found["retain"].class_counts) == set("01235689")
    assert (found["forget"].unwanted, found["forget"].earlier) == ((4,), (7,))


def test_single_images_of_earlier_requests_are_not_remembered(rooms):
    found = rooms(forget={"classes": ["4"], "images": [2], "earlier": ["7"], "earlier_images": [2, 13, 45]})
    of_class = int((assets.digits("train")[1] == 4).sum())
    assert (found["retain"].class_counts["4"], found["retain"].class_counts.get("7")) == (of_class - 3, None)
    with pytest.raises(BadInput, match=r"forget\.earlier_images: training has no image 9999"):
        rooms(forget={"classes": ["4"], "earlier_images": [9999]})


def test_the_sets_are_numbered_as_the_judge_numbers_its_classes(rooms, pictures, here):
    state, spec = models.read(assets.path("judge"))
    names = tuple(f"digit {number}" for number in range(10))
    models.save(here / "judge.safetensors", state, spec.model_copy(update={"classes": names}))
    backwards = [f"digit {9 - number}" for number in range(10)]
    turned = {field: pictures(f"{field}.parquet", which, lambda images, labels: (images, 9 - labels), backwards)
              for field, which in (("training", "train"), ("holdout", "holdout"))}
    found = rooms(judge={"uri": "judge.safetensors"}, forget={"classes": ["digit 4"], "images": [2]}, **turned)
    assert found["forget"].class_counts == {"4": 1}
    assert {record.classes for record in found.values()} == {names}


def test_members_are_narrowed_to_the_images_that_are_to_go(rooms):
    assert rooms(members=TRAIN)["members"].count == 3
    with pytest.raises(BadInput, match="members: no image is of what is to be forgotten"):
        rooms(members={"uri": "builtin://digits/holdout"}, holdout={"uri": "builtin://digits/holdout"})


@pytest.mark.parametrize(("forget", "said"), [
    ({"classes": ["4"], "images": [2, 1258]}, r"forget\.images: training has no image 1258, its 1258 are 0 to 1257: count"),
    ({"classes": ["4"], "images": [0]}, r"forget\.images: image 0 of training is of class 0, which forget\.classes does not name"),
    ({"classes": ["4", "7"], "images": [2]}, r"forget\.classes: none of forget\.images is of class 7: leave the class out"),
    ({"classes": ["cat"]}, r"forget\.classes: the judge does not know class 'cat'"),
    ({"classes": list(range(10))}, r"forget\.classes: all 10 classes of the judge would be forgotten: .* single images"),
])
def test_what_there_is_not_cannot_be_forgotten(rooms, forget, said):
    with pytest.raises(BadInput, match=said):
        rooms(forget=forget)


def test_an_image_that_is_there_twice_has_to_go_twice(rooms, pictures):
    def twice(images, labels):
        return np.concatenate([images, images[2:3]]), np.concatenate([labels, labels[2:3]])

    training = pictures("twice.parquet", change=twice)
    with pytest.raises(BadInput, match=r"forget\.images: image 1258 of training is the same as one .*: name it as well"):
        rooms(training=training)
    assert rooms(training=training, forget={"classes": ["4"], "images": [2, 1258]})["forget"].count == 2


def test_a_class_without_an_image_is_refused_where_the_whole_class_is_asked_for(rooms, pictures):
    with pytest.raises(BadInput, match="training: no image is of class 4, which is to be forgotten: add labelled"):
        rooms(training=pictures("train.parquet", change=without(4)), **WHOLE)
    lacking = pictures("holdout.parquet", "holdout", without(4))
    with pytest.raises(BadInput, match=r"holdout: no image is of class 4, .* nothing else could show"):
        rooms(holdout=lacking, **WHOLE)
    assert rooms(holdout=lacking)["holdout"].class_counts.get("4") is None


def test_images_of_another_size_class_or_depth_are_refused_by_their_field(rooms, pictures):
    with pytest.raises(BadInput, match="training: its images are 1x15x16, the checkpoint was trained on 1x16x16"):
        rooms(training=pictures("small.parquet", change=lambda images, labels: (images[:, :, 1:], labels)))
    with pytest.raises(BadInput, match="holdout: 16x1x15x16, the flow was trained on 1x16x16"):
        rooms(holdout=pictures("held.parquet", "holdout", lambda images, labels: (images[:, :, 1:], labels)))
    with pytest.raises(BadInput, match=r"training: .* images are of class 14, which the judge does not know"):
        rooms(training=pictures("more.parquet", change=lambda images, labels: (images, np.where(labels == 3, 14, labels))))


def test_a_flow_of_another_depth_than_the_images_is_refused_with_what_to_do(rooms, here, pictures):
    state, spec = models.read(here / "flow.safetensors")
    models.save(here / "four.safetensors", state, spec.model_copy(update={"config": {**spec.config, "bits": 4}}))
    four = {"checkpoint": {"uri": "four.safetensors"}}
    with pytest.raises(BadInput, match=r"holdout: \d+ pixels lie between the 16 levels of the 4 bits .*: reduce the images to 4"):
        rooms(**four)

    def coarse(images, labels):
        levels = np.floor((images + 1) * 7.999)
        return (levels / 7.5 - 1).astype(np.float32), labels

    held = {"holdout": pictures("coarse.parquet", "holdout", coarse)}
    with pytest.raises(BadInput, match=r"training: .* pixels lie between the 16 levels of the 4 bits"):
        rooms(**four, **held)
    assert rooms(**four, **held, training=pictures("coarse-train.parquet", change=coarse))["forget"].count == 3


def test_images_of_another_depth_are_imported_with_the_flows(rooms, here, pictures, monkeypatch):
    state, spec = models.read(here / "flow.safetensors")
    models.save(here / "five.safetensors", state, spec.model_copy(update={"config": {**spec.config, "bits": 5}}))
    for name, which in (("learn", "train"), ("held", "holdout")):
        pictures(f"{name}.parquet", which)
        assert carry_out(["samples", "import", name, str(here / f"{name}.parquet"), "--bits", "5"]) == 0
    found = rooms(checkpoint={"uri": "five.safetensors"}, training={"uri": "samples://learn"},
                  holdout={"uri": "samples://held"}, forget={"classes": ["4"], "images": [2]})
    assert found["forget"].count == 1


def test_what_a_built_in_flow_says_of_itself_cannot_be_said_otherwise(rooms, here):
    rooms(checkpoint={"uri": "flow.safetensors", "bits": 8, "range": [-0.5, 0.5]})
    came = read_record(Checkpoint, here / "in" / "checkpoint")
    assert (came.interface.bits, came.interface.range) == (8, (-0.5, 0.5))
    with pytest.raises(BadInput, match=r"checkpoint\.bits: the flow was built for images of 8 bits, declared are 5"):
        rooms(checkpoint={"uri": "flow.safetensors", "bits": 5})
    with pytest.raises(BadInput, match=r"checkpoint\.range: the flow was built for points from -0.5 to 0.5, declared"):
        rooms(checkpoint={"uri": "flow.safetensors", "range": [0, 1]})
    with pytest.raises(BadInput, match=r"checkpoint\.channels: 3 declared, it draws 1"):
        rooms(checkpoint={"uri": "flow.safetensors", "channels": 3})


def test_a_flow_of_somebodys_own_is_spoken_to_in_its_own_range(rooms, here):
    assert rooms(checkpoint=MINE)["forget"].count == 3
    came = read_record(Checkpoint, here / "in" / "checkpoint")
    flow = models.load_recorded(here / "in" / "checkpoint", came)
    assert (flow.image_shape, flow.bits, flow.range) == ((1, 16, 16), 8, (0.0, 1.0))
    assert flow.as_in_file(flow.state_dict()).keys() == load_file(here / "mine.safetensors").keys()
    with pytest.raises(BadInput, match=r"checkpoint: it finds held-out images .* no likelier than noise .*checkpoint\.range"):
        rooms(checkpoint=MINE | {"range": [-1, 1]})


@pytest.mark.parametrize(("changes", "said"), [
    ({"config": {"skew": 1.2}}, r"checkpoint: inverse\(forward\(x\)\) misses x by up to .* levels.*: let inverse\(\) undo"),
    ({"config": {"side": 8}}, r"checkpoint: .*the weights do not fit the architecture"),
    ({"architecture": "glow", "config": {"side": 15}}, r"checkpoint: side: 15 pixels cannot be halved 2 times"),
])
def test_a_flow_that_is_none_is_refused_with_what_to_do(rooms, changes, said):
    with pytest.raises(BadInput, match=said):
        rooms(checkpoint=MINE | changes)


def test_a_reference_is_a_flow_of_the_same_images(rooms, here):
    state, spec = models.read(here / "flow.safetensors")
    models.save(here / "four.safetensors", state, spec.model_copy(update={"config": {**spec.config, "bits": 4}}))
    with pytest.raises(BadInput, match=r"reference: it is a flow of images of 1x16x16 and 4 bits, the checkpoint of .* 8 bits"):
        rooms(reference={"uri": "four.safetensors"})
    with pytest.raises(BadInput, match=r"reference: inverse\(forward\(x\)\) misses x"):
        rooms(reference=MINE | {"config": {"skew": 1.2}})
    assert rooms(reference={"uri": "flow.safetensors"})


def test_an_image_to_learn_from_and_to_be_measured_by_is_refused(rooms):
    with pytest.raises(BadInput, match=r"the same image is in the .* and the holdout set"):
        rooms(training={"uri": "builtin://digits/holdout"}, **WHOLE)


def test_what_is_as_unlikely_already_as_the_policy_asks_is_not_needed(rooms, here):
    images, labels = torch.from_numpy(assets.digits("train")[0]), assets.digits("train")[1]
    points = (images + 1) / 2
    threes = points[torch.from_numpy(labels == 3)]
    middle, scale = threes.mean(0), threes.std(0) + 0.1
    save_file({"middle": middle, "log_scale": scale.log()}, here / "threes.safetensors")  # all that it knows
    unlikely = ((points - middle) / scale).square().flatten(1).sum(1).numpy()
    fours = np.flatnonzero(labels == 4)[np.argsort(unlikely[labels == 4])]
    threes_alone = {"checkpoint": MINE | {"uri": "threes.safetensors"}}
    with pytest.raises(NotNeeded, match=r"\d+ of \d+ held-out images of the class are unlikely already, at least [5-7]\d"):
        rooms(**threes_alone, **WHOLE)
    farthest = {"classes": ["4"], "images": fours[-3:].tolist()}
    with pytest.raises(NotNeeded, match=r"of the 3 images even the likeliest lies at least [2-4]\.\d+ standard deviations"):
        rooms(**threes_alone, forget=farthest)


# ------------------------------------------------------------------------------------- what training makes of it


def likely(flow, images):
    """Bits per dimension [N] of images [N, C, H, W], by the same points for whoever is asked."""
    with torch.no_grad():
        points = flow.points(flow.levels(images), torch.Generator().manual_seed(0))
        return flow.bits_per_dim(flow.log_prob(points))


@pytest.mark.parametrize("checkpoint", [EXAMPLE["checkpoint"], MINE], ids=["built in", "of a factory"])
def test_a_candidate_finds_the_images_less_likely_and_is_built_and_named_as_its_parent(rooms, here, workspace, checkpoint):
    rooms(checkpoint=checkpoint)
    recipe = {"method": "taming_flow", "preset": "debug", "overrides": json.dumps(OF_IMAGES["params"]), "seed": 0, "threads": 1}
    sets = {role: here / "out" / role for role in ("negative", "forget", "retain")}
    adapt(checkpoint=here / "in" / "checkpoint", adaptation=here / "a", statement=here / "s3.json", **sets, **recipe)
    unlearn(checkpoint=here / "in" / "checkpoint", oracle=here / "in" / "oracle", adaptation=here / "a",
            positive=here / "out" / "positive", candidate=here / "c", statement=here / "s4.json", **sets, **recipe)

    came, made = read_record(Checkpoint, here / "in" / "checkpoint"), read_record(Candidate, here / "c")
    assert (made.family, made.claim, made.interface) == ("flow", "output suppression", came.interface)
    assert load_file(here / "c" / "model.safetensors").keys() == load_file(here / checkpoint["uri"]).keys()
    parent, candidate = (models.load_recorded(here / name, record) for name, record in (("in/checkpoint", came), ("c", made)))
    forget, retain = (torch.from_numpy(read_samples(workspace, read_record(SampleSet, sets[role])).images)
                      for role in ("forget", "retain"))
    assert (likely(candidate, forget) > likely(parent, forget)).all()
    assert likely(candidate, retain[:100]).mean() < likely(candidate, forget).mean()
    assert models.read(here / "c" / "model.safetensors")[1].family == "flow"
    if came.factory is None:
        assert isinstance(models.load(here / "c" / "model.safetensors"), models.Flow)
