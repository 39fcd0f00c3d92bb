"""The second room, on the built-in models: who says what is unwanted, and when there is too little of it."""

from typing import get_args

import numpy as np
import pytest
import yaml

from components.curate_forget_set.step import curate_forget_set
from components.fetch_checkpoint.step import fetch_checkpoint
from expunge import assets, models
from expunge.contracts import Request, SampleRole, SampleSet, parse_record, read_record_if_any, write_record
from expunge.errors import BadInput, NotNeeded
from expunge.samples import SampleTable, read_samples
from expunge.stores.sources import pin
from pipelines.demo import request_for


@pytest.fixture
def curate(workspace, tmp_path):
    """Curates for a request that differs from the demo's; returns the records by role."""

    def call(policy=None, **changes):
        document = request_for(8, 0, False) | {"sampling": {"curate": 600}} | changes
        request = tmp_path / "request.json"
        write_record(request, pin(parse_record(Request, document, "request"), tmp_path, workspace))
        fetched = {name: tmp_path / "in" / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
        fetch_checkpoint(request=request, statement=tmp_path / "s1.json", **fetched)
        if policy is not None:
            (workspace.policies / "standard.yaml").write_text(policy)
        folders = {role: tmp_path / "out" / role for role in get_args(SampleRole)}
        curate_forget_set(request=request, checkpoint=fetched["checkpoint"], oracle=fetched["oracle"],
                          policy=workspace.policies / f"{document.get('policy', 'standard')}.yaml", statement=tmp_path / "s2.json", **folders)
        found = {role: read_record_if_any(SampleSet, folder) for role, folder in folders.items()}
        return {role: record for role, record in found.items() if record is not None}

    return call


def test_the_oracle_sorts_what_the_parent_draws(curate, workspace):
    records = curate()
    assert set(records["negative"].class_counts) == {"8"}
    assert "8" not in records["positive"].class_counts
    assert sum(records[role].count for role in ("negative", "positive")) <= 600
    table = read_samples(workspace, records["negative"])
    assert table.images.shape[1:] == records["negative"].image_shape == (1, 16, 16)
    assert len(table.latents) == len(table) == records["negative"].count


def test_the_same_seed_draws_the_same_sets_and_another_seed_others(curate):
    first, again = curate(), curate()
    assert {role: record.set_id for role, record in first.items()} == {role: record.set_id for role, record in again.items()}
    assert curate(seed=1)["negative"].set_id != first["negative"].set_id


def test_several_classes_can_be_unwanted_at_once(curate):
    records = curate(forget={"classes": [3, 8]})
    assert set(records["negative"].class_counts) == {"3", "8"}
    assert not {"3", "8"} & set(records["positive"].class_counts)


def test_what_was_forgotten_before_is_in_neither_set(curate, workspace):
    records = curate(forget={"classes": [3], "earlier": [8]}, training={"uri": "builtin://digits/train"})
    assert set(records["negative"].class_counts) == set(records["forget"].class_counts) == {"3"}
    for kept in ("positive", "retain"):
        assert set(records[kept].class_counts) == set("01245679"), kept
    assert (records["negative"].unwanted, records["negative"].earlier) == ((3,), (8,))
    assert "8" in records["holdout"].class_counts, "evaluation has to see it come back"


def test_a_persons_labels_stand_in_for_the_oracle(curate, workspace, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("index,label\n" + "".join(f"{n},{8 if n < 30 else 1}\n" for n in range(100)))
    records = curate(labels={"uri": str(labels)})
    assert records["negative"].count == 30
    assert records["positive"].count == 70, "what nobody labelled is in neither set"
    assert "labels" in records["negative"].made_from
    assert np.all(read_samples(workspace, records["negative"]).labels == 8)


@pytest.mark.parametrize(("content", "words"), [
    ("index,label\n1,eight\n", "line 2 has no whole number .index."),
    ("number,label\n1,8\n", "line 2 has no whole number .index."),
    ("index,label\n600,8\n", "names sample 600, 600 were drawn"),
    ("", "labels.uri: .* is empty"),
    ("index,label\n", "none of 600 samples is unwanted"),
    ("index,label\n1,10\n", "line 2 names class 10, the oracle knows 0 to 9"),
    ("index,label\n1,-1\n", "line 2 names class -1"),
])
def test_a_labels_file_that_cannot_be_used_is_refused(curate, tmp_path, content, words):
    labels = tmp_path / "labels.csv"
    labels.write_text(content)
    with pytest.raises(BadInput, match=words):
        curate(labels={"uri": str(labels)})


def test_a_class_that_the_oracle_does_not_know_is_refused(curate):
    with pytest.raises(BadInput, match=r"forget\.classes: the oracle does not know class 10"):
        curate(forget={"classes": [10]})


def test_too_few_unwanted_samples_are_refused_with_how_many_to_draw(curate):
    with pytest.raises(BadInput, match=r"only \d+ of 100 samples are unwanted, not 20: draw at least \d+"):
        curate(sampling={"curate": 100})


def test_a_request_that_leaves_nothing_to_keep_is_refused(curate):
    with pytest.raises(BadInput, match="something to keep"):
        curate(forget={"classes": list(range(10))})


def oracle_that(says, folder):
    """The built-in oracle with its mind made up: it `says` a class of everything, or never one."""
    state, spec = models.read(assets.path("oracle"))
    state["head.bias"][says if says >= 0 else -says] += 1e3 if says >= 0 else -1e3
    models.save(folder / "oracle.safetensors", state, spec)
    return {"uri": str(folder / "oracle.safetensors")}


def test_an_oracle_that_never_sees_the_unwanted_is_refused(curate, tmp_path):
    with pytest.raises(BadInput, match="oracle: it sees the unwanted in 0 of 52 held-out images that show it"):
        curate(oracle=oracle_that(-8, tmp_path))


def test_an_oracle_that_always_sees_the_unwanted_is_refused(curate, tmp_path):
    with pytest.raises(BadInput, match="oracle: it sees the unwanted in 487 of 487 held-out images of other classes"):
        curate(oracle=oracle_that(8, tmp_path))


def test_a_model_that_hardly_draws_the_unwanted_does_not_need_it(curate):
    lenient = yaml.safe_dump({"name": "standard", "rules": [
        {"metric": "residual_rate", "side": "at most", "limit": 0.5, "confidence": 0.95, "reason": "a test"}]})
    with pytest.raises(NotNeeded, match=r"the model does not need it: \d+ of 600 samples show the unwanted, at most \d") as stop:
        curate(policy=lenient)
    assert stop.value.exit_code == 11


def test_where_no_real_image_shows_the_unwanted_nothing_is_said_of_need(curate, tmp_path, workspace):
    images, labels = assets.digits("holdout")
    others = SampleTable(images[labels != 8], labels[labels != 8])
    (tmp_path / "others.parquet").write_bytes(others.to_parquet())
    lenient = yaml.safe_dump({"name": "standard", "rules": [
        {"metric": "residual_rate", "side": "at most", "limit": 0.5, "confidence": 0.95, "reason": "a test"}]})
    assert curate(policy=lenient, holdout={"uri": str(tmp_path / "others.parquet")})["negative"].count > 20


def test_held_out_images_of_another_size_are_refused_with_how_to_import_them(curate, tmp_path):
    small = SampleTable(np.zeros((3, 1, 8, 8), np.float32), np.array([1, 2, 3]))
    (tmp_path / "small.parquet").write_bytes(small.to_parquet())
    with pytest.raises(BadInput, match=r"holdout: its images are 1x8x8, the generator draws 1x16x16: import them: .* --size 16"):
        curate(holdout={"uri": str(tmp_path / "small.parquet")})


def test_classes_can_be_named_and_each_set_keeps_the_numbering_of_its_labels(curate, tmp_path, workspace):
    names = tuple(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    backwards = tuple(reversed(names))
    images, labels = assets.digits("holdout")
    (tmp_path / "held.parquet").write_bytes(SampleTable(images, 9 - labels).to_parquet(classes=backwards))
    records = curate(forget={"classes": ["eight"]}, oracle={"uri": "builtin://digits/oracle", "classes": names},
                     judge={"uri": "builtin://digits/judge", "classes": names}, holdout={"uri": str(tmp_path / "held.parquet")})
    assert records["negative"].unwanted == (8,)
    assert records["holdout"].unwanted == (1,)
    assert records["holdout"].classes == backwards


def test_members_are_the_unwanted_among_the_training_images(curate, workspace):
    assert "members" not in curate()
    records = curate(members={"uri": "builtin://digits/train"})
    _, labels = assets.digits("train")
    assert records["members"].class_counts == {"8": int((labels == 8).sum())}
    assert records["members"].role == "members"
    assert set(read_samples(workspace, records["members"]).labels) == {8}


def test_what_training_may_read_is_split_by_its_labels(curate, workspace):
    assert not {"forget", "retain"} & set(curate())
    records = curate(training={"uri": "builtin://digits/train"}, members={"uri": "builtin://digits/train"})
    _, labels = assets.digits("train")
    assert records["forget"].class_counts == {"8": int((labels == 8).sum())}
    assert records["retain"].count == (labels != 8).sum()
    assert 8 not in read_samples(workspace, records["retain"]).labels
    assert read_samples(workspace, records["forget"]).latents is None


def test_an_image_that_is_held_out_cannot_be_trained_on(curate):
    with pytest.raises(BadInput, match=r"the same image is in the holdout and the (forget|retain) set"):
        curate(training={"uri": "builtin://digits/holdout"})


def test_training_images_of_which_none_may_stay_are_refused(curate, tmp_path):
    images, labels = assets.digits("train")
    (tmp_path / "only.parquet").write_bytes(SampleTable(images[labels == 8], labels[labels == 8]).to_parquet())
    with pytest.raises(BadInput, match="training: every image is of an unwanted class"):
        curate(training={"uri": str(tmp_path / "only.parquet")})


def test_members_that_show_nothing_unwanted_are_refused(curate, tmp_path):
    images, labels = assets.digits("train")
    (tmp_path / "members.parquet").write_bytes(SampleTable(images[labels == 3], labels[labels == 3]).to_parquet())
    with pytest.raises(BadInput, match="members: no image is of an unwanted class"):
        curate(members={"uri": str(tmp_path / "members.parquet")})


def test_an_image_that_is_held_out_cannot_be_a_member(curate):
    with pytest.raises(BadInput, match="the same image is in the holdout and the members set"):
        curate(members={"uri": "builtin://digits/holdout"})
