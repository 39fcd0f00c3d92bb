"""A request about a model that completes images goes all the way, for each kind; what cannot go is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_image_to_image import DIFFUSION, FORGOTTEN, KINDS, MAE, OF_SECONDS, SCHEDULER, VQ_GAN
from tests_support import (
    bare_environment,
    blocks,
    call,
    carried_out,
    exported_and_disposed_of,
    two_people,
    typed,
    without,
    write_policy,
)

from components.adapt.step import adapt
from components.unlearn.step import unlearn
from expunge import assets, models
from expunge.contracts import Candidate, Checkpoint, Hidden, Request, parse_record, read_record
from expunge.errors import BadInput
from expunge.models import image_to_image_files as files
from expunge.runs import Run
from expunge.samples import read_samples
from expunge.settings import Workspace
from expunge.stores.sources import pin
from pipelines.cli import carry_out

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "image-to-image.md").read_text()
EXAMPLE = yaml.safe_load((ROOT / "examples" / "image-to-image" / "request.yaml").read_text())
QUICK = {"method": {"name": "image_to_image", "preset": "debug"}, "policy": "debug", "threads": 1, "sampling": {"evaluate": 200, "lessons": 2}}
TRAIN = {"uri": "builtin://digits/train"}
LIBRARY = {"mae": transformers.ViTMAEForPreTraining, "vq-gan": diffusers.VQModel, "diffusion-inpainting": diffusers.UNet2DModel}
FRESH = {  # as the library builds them, for images of 16x16
    "mae": lambda: transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**MAE | {"image_size": 16, "patch_size": 4})),
    "vq-gan": lambda: diffusers.VQModel(**VQ_GAN | {"sample_size": 16}),
    "diffusion-inpainting": lambda: diffusers.UNet2DModel(**DIFFUSION | {"sample_size": 16}),
}


def asked(**changes):
    return EXAMPLE | QUICK | changes


def parent(**changes):
    return {"uri": "parent", "hidden": {"mask": "centre", "ratio": 0.25}} | changes


def save_as_its_library_does(kind, folder, **how):
    torch.manual_seed(0)
    FRESH[kind]().save_pretrained(folder, **how)
    if kind == "diffusion-inpainting":
        diffusers.DDPMScheduler.from_config(SCHEDULER).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A folder per kind, as its library writes it: good enough to be looked at, fetched and refused."""
    base = tmp_path_factory.mktemp("untrained")
    return {kind: save_as_its_library_does(kind, base / kind) for kind in KINDS}


@pytest.fixture
def here(untrained, tmp_path):
    """The test's folder, with a masked autoencoder for a parent."""
    (tmp_path / "parent").symlink_to(untrained["mae"])
    return tmp_path


@pytest.fixture
def rooms(first_rooms, here):
    """The first two rooms, for a request that differs from the example; returns the records by role."""
    return lambda **changes: first_rooms(asked(**changes))


# ------------------------------------------------------------------------------------- what the request says

REFUSED = {
    "an oracle": ({"oracle": {"uri": "builtin://digits/oracle"}}, "oracle: it means nothing for an image-to-image model"),
    "a discriminator": ({"discriminator": {"uri": "builtin://digits/dcgan"}}, "discriminator: it means nothing for an image-to-image model"),
    "a latent": ({"checkpoint": parent(latent=3)}, "checkpoint.latent: it means nothing"),
    "a range": ({"checkpoint": parent(range=[0, 1])}, "checkpoint.range: it means nothing"),
    "draws to curate": ({"sampling": {"curate": 500}}, "sampling.curate: it means nothing for an image-to-image model"),
    "a search": ({"sampling": {"search": 0}}, "sampling.search: it means nothing for an image-to-image model"),
    "no training": ({"training": None}, "training: an image-to-image model needs one"),
    "no judge": ({"judge": None}, "judge: an image-to-image model needs one"),
    "a generator for a reference": ({"reference": {"uri": "builtin://digits/dcgan"}}, "reference: it is a generator, the checkpoint is an image"),
    "another family": ({"checkpoint": parent(family="flow")}, "checkpoint.family: the request says flow, the model is an image-to-image model"),
    "a method of generators": ({"method": "retrain"}, "method 'retrain' is for gan models, and this one is an image-to-image model"),
    "nothing hidden": ({"checkpoint": parent(hidden={"ratio": 0})}, "'checkpoint.hidden.ratio' input should be greater than 0"),
    "all hidden": ({"checkpoint": parent(hidden={"ratio": 1})}, "'checkpoint.hidden.ratio' input should be less than 1"),
    "no number": ({"checkpoint": parent(hidden={"ratio": float("nan")})}, "'checkpoint.hidden.ratio' input should be"),
    "an unknown mask": ({"checkpoint": parent(hidden={"mask": "stripes"})}, "'checkpoint.hidden.mask' input should be 'centre', 'border' or 'random'"),
    "a cell of a pixel and a half": ({"checkpoint": parent(hidden={"cell": 1.5})}, "'checkpoint.hidden.cell' input should be a valid integer"),
    "hidden of a generator": (
        {"checkpoint": {"uri": "builtin://digits/dcgan", "hidden": {}}, "oracle": {"uri": "builtin://digits/oracle"}, "training": None},
        "checkpoint.hidden: it means nothing for a generator"),
    "a proxy of a generator's": (
        {"checkpoint": {"uri": "builtin://digits/dcgan"}, "oracle": {"uri": "builtin://digits/oracle"}, "proxy": TRAIN},
        "proxy: it means nothing for a generator"),
    "a proxy of a classifier's": (
        {"checkpoint": {"uri": "builtin://digits/oracle"}, "judge": None, "proxy": TRAIN}, "proxy: it means nothing for a classifier"),
    "another hole for the reference": (
        {"reference": parent(hidden={"ratio": 0.5})}, "reference.hidden: it is compared behind the masks of checkpoint.hidden"),
    "its method's own mask": (
        {"method": {"name": "image_to_image", "params": {"ratio": 0.5}}}, "ratio"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_for_such_a_model_is_refused_before_anything_runs(name, workspace, here, capsys, monkeypatch):
    changes, said = REFUSED[name]
    monkeypatch.chdir(here)
    Path("request.yaml").write_text(yaml.safe_dump(asked(**changes)))
    assert carry_out(["run", "request.yaml", "--plan"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert said in line
    assert not Run.all(workspace)


def a_folder_of(here, kind, untrained, **spoiled):
    """A copy of a kind's folder in the place of the parent, without or with some files."""
    (here / "parent").unlink()
    (here / "parent").mkdir()
    for file in untrained[kind].iterdir():
        (here / "parent" / file.name).write_bytes(file.read_bytes())
    return here / "parent"


def only_a_pickle(folder):
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, folder / "diffusion_pytorch_model.bin")


def of_another_kind(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))


def in_parts(folder):
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    FRESH["vq-gan"]().save_pretrained(folder, max_shard_size="50KB")


SPOILED = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"checkpoint\.\w+: .* does not say what it is"),
    "no weights": (lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(), "diffusion_pytorch_model.safetensors is missing"),
    "half a config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is missing or not JSON"),
    "another class": (of_another_kind, "does not say what it is"),
    "a pickle": (only_a_pickle, "its weights are a pickle, which can run code .*: open it where you trust it, and save it again"),
    "several files": (in_parts, "its weights are in several files: save it again in one"),
    "nothing": (lambda folder: [file.unlink() for file in folder.iterdir()], "holds no model file"),
    "weights cut short": (
        lambda folder: (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 50), "truncated or not a safetensors file"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_folder_that_is_no_model_is_refused_in_a_line_that_says_what_to_do(name, rooms, here, untrained):
    spoil, said = SPOILED[name]
    spoil(a_folder_of(here, "vq-gan", untrained))
    with pytest.raises(BadInput, match=said) as refused:
        rooms()
    assert refused.value.problem.startswith("checkpoint")
    assert refused.value.remedy
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_folder_says_of_its_model_is_pinned_with_the_request(kind, workspace, here, untrained):
    (here / "parent").unlink()
    (here / "parent").symlink_to(untrained[kind])
    pinned = pin(parse_record(Request, asked(method="auto", checkpoint={"uri": "parent"}), "request"), here, workspace)
    assert (pinned.family, pinned.checkpoint.architecture) == ("image_to_image", kind)
    assert pinned.checkpoint.config == files.arguments_in(untrained[kind])[1]
    assert pinned.method.name == "image_to_image"
    assert "the decoder stays as it is" in pinned.method.chosen
    assert pin(pinned, Path("/elsewhere"), workspace) == pinned


# ------------------------------------------------------------------------------------- what the rooms find


def test_a_class_goes_and_nothing_of_it_or_of_what_went_before_is_kept(rooms, here):
    found = rooms(forget={"classes": ["4"], "earlier": ["7"]}, members=TRAIN)
    assert found.keys() == {"forget", "retain", "holdout", "members"}
    assert set(found["forget"].class_counts) == set(found["members"].class_counts) == {"4"}
    assert set(found["retain"].class_counts) == set("01235689")
    came = read_record(Checkpoint, here / "in" / "checkpoint")
    assert (came.family, came.interface.hidden.ratio) == ("image_to_image", 0.25)
    assert models.load_recorded(here / "in" / "checkpoint", came).hidden == came.interface.hidden


def test_single_images_go_and_the_others_of_their_class_are_kept(rooms, workspace):
    found = rooms(forget={"classes": ["4"], "images": [2, 13, 45]})
    of_class = int((assets.digits("train")[1] == 4).sum())
    assert (found["forget"].count, found["retain"].class_counts["4"]) == (3, of_class - 3)
    table, (images, _) = read_samples(workspace, found["forget"]), assets.digits("train")
    assert np.allclose(table.images, images[[2, 13, 45]], atol=1 / 255)


@pytest.fixture
def tree(tmp_path):
    """The first training images as files in a folder per class; the folder, and the name of each."""
    from PIL import Image

    images, labels = assets.digits("train")
    names = [f"{label}/{number:04d}.png" for number, label in enumerate(labels[:300])]
    for name, image in zip(names, images, strict=False):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint((image[0] + 1) * 127.5).astype(np.uint8)).save(tmp_path / "tree" / name)
    return tmp_path / "tree", names


@pytest.mark.parametrize("imported", [False, True], ids=["a folder", "an imported set"])
def test_images_named_by_their_files_go_and_no_name_is_kept(imported, rooms, here, workspace, tree, capsys):
    folder, names = tree
    training = {"uri": "tree"}
    if imported:
        assert carry_out(["samples", "import", "learn", str(folder)]) == 0
        training = {"uri": "samples://learn"}
    fours = [name for name in names if name.startswith("4/")]
    (here / "gone.txt").write_text("".join(f"./{name}\n" for name in fours[:3]))
    found = rooms(training=training, forget={"classes": ["4"], "files": "gone.txt"})
    assert found["forget"].class_counts == {"4": 3}
    assert found["retain"].class_counts["4"] == len(fours) - 3
    ordered = sorted(names)
    pinned = json.loads((here / "request.json").read_text())["forget"]
    assert (pinned["images"], pinned["files"]) == ([ordered.index(name) for name in fours[:3]], None)
    table, (images, _) = read_samples(workspace, found["forget"]), assets.digits("train")
    assert np.allclose(table.images, images[[names.index(name) for name in fours[:3]]], atol=1 / 255)
    told = capsys.readouterr()
    told_and_kept = told.out.encode() + told.err.encode() + b"".join(
        file.read_bytes() for file in workspace.root.rglob("*") if file.is_file())
    assert fours[0].encode() not in told_and_kept


def test_a_list_of_files_that_is_none_is_refused_by_the_field(rooms, here, tree):
    with pytest.raises(BadInput, match=r"forget\.files: .*gone\.txt: no such file"):
        rooms(training={"uri": "tree"}, forget={"classes": ["4"], "files": "gone.txt"})
    (here / "gone.txt").write_text("4/no.png\n")
    with pytest.raises(BadInput, match=r"forget\.files: gone\.txt: line 1: no image of training is called so: .* '0/"):
        rooms(training={"uri": "tree"}, forget={"classes": ["4"], "files": "gone.txt"})
    with pytest.raises(BadInput, match=r"forget\.files: the images of training have no names of files: name their numbers"):
        rooms(forget={"classes": ["4"], "files": "gone.txt"})


def test_a_split_by_lists_of_classes_is_made_as_the_page_says_and_read(workspace, here, tree):
    split, = (block for block in blocks(PAGE, "py") if "def split" in block)
    exec(split, made := {})
    made["split"](here / "tree", here / "part", ["4", "7"], 5)
    assert sorted(path.name for path in (here / "part").iterdir()) == ["4", "7"]
    assert carry_out(["samples", "import", "part", str(here / "part"), "--size", "8", "--channels", "3"]) == 0
    from expunge.samples.imported import names_in, open_imported

    found = open_imported(workspace, "part")
    assert found.table.images.shape == (10, 3, 8, 8)
    assert names_in(workspace, "part")[0] == sorted(name for name in tree[1] if name.startswith("4/"))[0]


def test_the_request_on_the_page_is_the_examples():
    shown, = blocks(PAGE, "yaml")
    assert yaml.safe_load(shown) == EXAMPLE


@pytest.mark.thorough
def test_the_page_can_be_followed_line_by_line(tmp_path):
    shutil.copyfile(ROOT / "examples" / "image-to-image" / "train.py", tmp_path / "train.py")
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(
        EXAMPLE | {"method": {"name": "auto", "preset": "debug"}, "threads": 1, "sampling": {"evaluate": 200, "lessons": 1}}))
    small = "python train.py --threads 1 --width 16 --steps 60"
    typed((block.replace("python train.py", small) for block in blocks(PAGE, "bash")), tmp_path, OMP_NUM_THREADS="1")
    ended = call(tmp_path, "status", EXAMPLE["id"], "--json").json
    assert ended["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")  # of seconds: it is a model of next to nothing
    assert ended["method"]["chosen"]


def test_the_plan_says_what_is_hidden_and_what_may_be_read(workspace, here, capsys, monkeypatch, pictures):
    monkeypatch.chdir(here)
    pictures("others.parquet", change=without(4))
    request = asked(method="auto", checkpoint=parent(hidden={"mask": "random", "ratio": 0.75}), proxy={"uri": "others.parquet"})
    Path("request.yaml").write_text(yaml.safe_dump(request))
    assert carry_out(["run", "request.yaml", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    does = {room["room"]: room["does"] for room in plan["rooms"]}
    assert [*does] == ["fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate", "gate"]
    assert "75% of each hidden (random)" in does["evaluate"]
    assert "images of proxy stand in for what is to stay" in does["curate_forget_set"]
    assert plan["method"]["may_read"] == "of training, images to forget; of proxy, images in the place of those to keep"
    assert carry_out(["run", "request.yaml", "--plan"]) == 0
    told = capsys.readouterr().out
    assert "image_to_image, for an image-to-image model; chosen by auto, given training images: it moves the encoder only" in " ".join(told.split())
    assert "what is measured is what the model completes" in " ".join(told.split())


@pytest.mark.parametrize(("kind", "missing"), [("mae", "transformers"), ("vq-gan", "diffusers"), ("diffusion-inpainting", "diffusers")])
def test_a_library_that_is_not_installed_is_said_with_what_to_install(kind, missing, rooms, here, untrained, monkeypatch):
    (here / "parent").unlink()
    (here / "parent").symlink_to(untrained[kind])
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BadInput, match=rf"checkpoint\.architecture '{kind}': the library {missing} is not installed: pip install 'expunge\[image"):
        rooms()


def test_a_reference_completes_the_same_images_behind_the_same_masks(rooms, here, untrained):
    (here / "never").symlink_to(untrained["vq-gan"])
    hidden = {"mask": "border", "ratio": 0.5}
    assert rooms(checkpoint=parent(hidden=hidden), reference={"uri": "never"})
    found = read_record(Checkpoint, here / "in" / "reference")
    assert found.interface.hidden == Hidden(mask="border", ratio=0.5)
    FRESH["vq-gan"]().from_config(VQ_GAN | {"sample_size": 8}).save_pretrained(here / "small")
    with pytest.raises(BadInput, match=r"reference: it completes images of 1x8x8, the checkpoint of 1x16x16: name a model of the same images"):
        rooms(reference={"uri": "small"})


def test_proxies_stand_in_for_what_is_kept_and_training_need_hold_nothing_else(rooms, pictures):
    fours = pictures("fours.parquet", change=lambda images, labels: (images[labels == 4], labels[labels == 4]))
    others = pictures("others.parquet", change=without(4))
    found = rooms(training=fours, proxy=others)
    assert set(found["forget"].class_counts) == {"4"}
    assert set(found["retain"].class_counts) == set("012356789")
    with pytest.raises(BadInput, match=r"proxy: an image is of class 4, which is to be forgotten: leave such images out"):
        rooms(training=fours, proxy=TRAIN)


def test_an_image_that_is_to_go_and_to_stay_is_refused_by_its_content(rooms, pictures):
    called_a_three = pictures("again.parquet", change=lambda images, labels: (images[labels == 4], np.full((labels == 4).sum(), 3)))
    with pytest.raises(BadInput, match=r"proxy: image 0 is the same as one that is to be forgotten: leave it out, and \d+ more: they would be kept"):
        rooms(proxy=called_a_three)
    with pytest.raises(BadInput, match=r"the same image is in the .* and the holdout set"):
        rooms(training={"uri": "builtin://digits/holdout"})


@pytest.mark.parametrize(("forget", "said"), [
    ({"classes": ["cat"]}, r"forget\.classes: the judge does not know class 'cat': it knows 0 to 9|it knows 0, 1"),
    ({"classes": list(range(10))}, r"forget\.classes: all 10 classes of the judge would be forgotten: leave at least one"),
    ({"classes": ["4"], "images": [2, 1258]}, r"forget\.images: training has no image 1258, its 1258 are 0 to 1257: count"),
    ({"classes": ["4"], "images": [0]}, r"forget\.images: image 0 of training is of class 0, which forget\.classes does not name"),
])
def test_what_there_is_not_cannot_be_forgotten(rooms, forget, said):
    with pytest.raises(BadInput, match=said):
        rooms(forget=forget)


def test_a_class_without_an_image_is_refused(rooms, pictures):
    with pytest.raises(BadInput, match="training: no image is of class 4, which is to be forgotten: add labelled"):
        rooms(training=pictures("train.parquet", change=without(4)))
    with pytest.raises(BadInput, match=r"holdout: no image is of class 4, .* nothing else could show"):
        rooms(holdout=pictures("holdout.parquet", "holdout", without(4)))


def in_colour(images, labels):
    return np.repeat(images, 3, axis=1), labels


def test_images_of_another_size_mode_or_class_are_refused_by_their_field(rooms, pictures):
    with pytest.raises(BadInput, match="training: its images are 1x15x16, the checkpoint was trained on 1x16x16: import them"):
        rooms(training=pictures("small.parquet", change=lambda images, labels: (images[:, :, 1:], labels)))
    with pytest.raises(BadInput, match=r"training: its images are 3x16x16, the checkpoint was trained on 1x16x16: .*--channels 1"):
        rooms(training=pictures("colour.parquet", change=in_colour))
    with pytest.raises(BadInput, match="proxy: its images are 3x16x16, the checkpoint was trained on 1x16x16"):
        rooms(proxy=pictures("proxy.parquet", change=in_colour))
    with pytest.raises(BadInput, match=r"holdout: .*3x16x16.* 1x16x16"):
        rooms(holdout=pictures("held.parquet", "holdout", in_colour))
    for field in ("training", "proxy"):
        with pytest.raises(BadInput, match=rf"{field}: .* images are of class 14, which the judge does not know"):
            rooms(**{field: pictures("more.parquet", change=lambda images, labels: (images, np.where(labels == 3, 14, labels)))})


def test_cells_that_do_not_divide_an_image_are_refused_by_the_field(rooms):
    with pytest.raises(BadInput, match=r"^checkpoint\.hidden\.cell: an image of 16x16 does not divide into two or more cells of 5 .*: name another"):
        rooms(checkpoint=parent(hidden={"mask": "random", "cell": 5}))
    with pytest.raises(BadInput, match=r"^checkpoint\.hidden\.cell: it hides parts of cells of 4x4 pixels: make it of whole cells of 4"):
        rooms(checkpoint=parent(hidden={"mask": "random", "cell": 2}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_of_every_kind_has_its_parents_decoder_bit_for_bit(kind, rooms, here, untrained, pictures):
    (here / "parent").unlink()
    (here / "parent").symlink_to(untrained[kind])
    few = pictures("few.parquet", change=lambda images, labels: (images[:80], labels[:80]))
    rooms(training=few)
    recipe = {"method": "image_to_image", "preset": "debug", "overrides": '{"steps": 3}', "seed": 0, "threads": 1}
    sets = {role: here / "out" / role for role in ("negative", "forget", "retain")}
    adapt(checkpoint=here / "in" / "checkpoint", adaptation=here / "a", statement=here / "s3.json", **sets, **recipe)
    unlearn(checkpoint=here / "in" / "checkpoint", oracle=here / "in" / "oracle", adaptation=here / "a",
            positive=here / "out" / "positive", candidate=here / "c", statement=here / "s4.json", **sets, **recipe)
    came, made = read_record(Checkpoint, here / "in" / "checkpoint"), read_record(Candidate, here / "c")
    assert (made.family, made.claim, made.interface) == ("image_to_image", "output suppression", came.interface)
    before, after = load_file(here / "in" / "checkpoint" / "model.safetensors"), load_file(here / "c" / "model.safetensors")
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert all(name.startswith(files.open_folder(untrained[kind]).encoder_parts) for name in moved)


# ------------------------------------------------------------------------------------- from the folder to the release


def trained_by_the_example(kind, folder, *more):
    script = ROOT / "examples" / "image-to-image" / "train.py"
    done = subprocess.run([sys.executable, script, "--kind", kind, "--threads", "1", *map(str, more)], cwd=folder, capture_output=True,
                          text=True, env=bare_environment(OMP_NUM_THREADS="1", GOMP_SPINCOUNT="1000"), check=False)
    assert done.returncode == 0, done.stderr
    return folder / "parent"


def released(kind, folder, **changes):
    """Where the release of a kind lies that forgot, and the folder that it was made of."""
    training, request = OF_SECONDS[kind].training, OF_SECONDS[kind].request
    before = trained_by_the_example(kind, folder, *training)
    two_people(folder)
    if request["policy"] != "debug":
        write_policy(Workspace(folder / ".expunge"), request["policy"], OF_SECONDS[kind].policy)
    found = carried_out(folder, EXAMPLE | request | changes, "it completes them no more")
    assert (found["state"], found["family"]) == ("released", "image_to_image")
    return folder / ".expunge" / "releases" / EXAMPLE["model"] / "current", before


def states_of(kind, *folders):
    return [LIBRARY[kind].from_pretrained(folder).state_dict() for folder in folders]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_goes_all_the_way_and_its_library_opens_what_is_released(kind, tmp_path, tmp_path_factory):
    served, before = released(kind, tmp_path)
    weights = files.LAYOUTS[LIBRARY[kind].__name__].weights
    assert {file.name for file in served.iterdir()} == {file.name for file in before.iterdir()} | {"release.json"}
    assert (served / weights).is_file()

    was, now = states_of(kind, before, served)
    assert was.keys() == now.keys()
    moved = {name for name in was if not torch.equal(was[name], now[name])}
    assert moved
    of_encoder = files.open_folder(before).encoder_parts
    assert all(name.startswith(of_encoder) for name in moved), "the decoder is the parent's, bit for bit"

    audit = call(tmp_path, "audit", "verify")
    assert audit.code == 0, audit.out + audit.err
    config = served / "config.json"
    kept = config.read_bytes()
    config.write_text(json.dumps(json.loads(kept) | {"mask_ratio": 0.5}))
    assert call(tmp_path, "audit", "verify").code == 40, "what the library reads beside the weights is signed, too"
    config.write_bytes(kept)

    again = asked(id="next", checkpoint={"uri": f"release://{EXAMPLE['model']}"}, forget={"classes": ["0"]}, method="auto")
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(again))
    planned = call(tmp_path, "run", "next.yaml", "--plan", "--json")
    assert planned.code == 0, planned.err
    assert planned.json["earlier"] == FORGOTTEN

    said, receipt = exported_and_disposed_of(tmp_path, EXAMPLE["id"], tmp_path_factory.mktemp("again"), "--deep")
    assert "recognised_excess at most" in said
    assert "the features themselves" in said
    assert receipt["images"] > 0
