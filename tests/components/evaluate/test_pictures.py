import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from components.evaluate.pictures import LARGEST, Pictures, may_show_before
from expunge.measure.policy import preset
from expunge.pictures import to_show


def shown(folder, show_before, before, after, shape=(1, 4, 4)):
    pictures = Pictures((8,), show_before)
    before, after = np.array(before), np.array(after)
    images = [
        (np.arange(1, len(before) + 1) / 100).astype(np.float32)[:, None, None, None] * np.ones(shape, np.float32)
    ] * 2
    pictures.consider(100, tuple(images), (before, after))
    pictures.save(folder)
    return json.loads((folder / "pictures.json").read_bytes())


@pytest.mark.parametrize(
    ("reason", "allowed"), [("safety", True), ("bias", True), ("privacy", False), ("copyright", False)]
)
def test_the_reason_decides_what_may_be_shown(reason, allowed):
    assert may_show_before(reason) is allowed


def test_where_it_may_not_be_shown_nothing_the_judge_calls_unwanted_is_kept(tmp_path):
    index = shown(tmp_path, False, before=[8, 8, 1, 1], after=[8, 3, 8, 1])
    tiles = [tile for group in index["groups"].values() for tile in group["tiles"]]
    assert sorted(tile["latent"] for tile in tiles) == [101, 103]
    assert index["withheld"] == 2
    assert not (tmp_path / "unwanted-before.png").exists()


def test_where_it_may_be_shown_the_first_latents_are_kept_in_order(tmp_path):
    index = shown(tmp_path, True, before=[8] * 30 + [1] * 5, after=[8] * 35)
    assert [tile["latent"] for tile in index["groups"]["unwanted"]["tiles"]] == list(range(100, 124))
    assert [tile["latent"] for tile in index["groups"]["retained"]["tiles"]] == [130, 131, 132]


def test_large_colour_images_are_made_small(tmp_path):
    shown(tmp_path, True, before=[8, 8], after=[1, 1], shape=(3, 256, 128))
    strip = Image.open(tmp_path / "unwanted-before.png")
    assert (strip.mode, strip.size) == ("RGB", (2 * LARGEST // 2, LARGEST))


def test_what_a_policy_forbids_beyond_the_reason_is_in_no_pixel_that_a_reader_gets(tmp_path):
    shown(tmp_path, True, before=[8, 8, 1, 1], after=[8, 3, 8, 1])
    report = SimpleNamespace(files=(), unwanted=(8,))
    allowed, narrowed = (to_show(tmp_path, report, preset("standard"), reason) for reason in ("safety", "privacy"))
    assert (allowed.before_shown, allowed.narrowed, set(allowed.groups["unwanted"].strips)) == (True, False, {"before", "after"})
    assert (narrowed.before_shown, narrowed.narrowed, set(narrowed.groups["unwanted"].strips)) == (False, True, {"after"})
    for name in ("unwanted", "retained"):
        stored = (tmp_path / f"{name}-after.png").read_bytes()
        assert allowed.groups[name].png("after") == stored
        group = narrowed.groups[name]
        seen, kept = (np.split(np.asarray(Image.open(io.BytesIO(data))), 2, axis=1) for data in (group.png("after"), stored))
        assert {tile["after"] == 8 for tile in group.tiles} == {True, False}
        for tile, now, was in zip(group.tiles, seen, kept, strict=True):
            assert (now == (128 if tile["after"] == 8 else was)).all()
            assert not (was == 128).any()
