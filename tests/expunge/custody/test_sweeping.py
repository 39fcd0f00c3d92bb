"""Copies are found in every kind of file, by exactly the searcher whose kind it is; what is not read is said."""

import gzip
import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from planting import PLANTS, array, encoded, idx, notebook, npz, parquet, plant, safetensors, sqlite

from expunge.assets import digits
from expunge.custody.layouts import as_images, levels
from expunge.custody.places import Folder
from expunge.custody.searchers import searchers
from expunge.custody.sweeping import sweep
from expunge.custody.wanted import LOOKS_LIKE, Wanted, digest, is_telling, tensor_digest
from expunge.samples.encryption import RequestKey
from expunge.samples.table import SampleTable, from_pixels

OWN, OTHER, LOST = (RequestKey(name, name.encode() * 32) for name in ("m", "n", "o"))
KNOWN = searchers(OWN, [OTHER])


@pytest.fixture(scope="module")
def pixels():
    images, labels = digits("train")
    return SampleTable(images, labels).pixels[labels == 8]


@pytest.fixture(scope="module")
def wanted(pixels):
    made = Wanted()
    made.add(pixels[:30])
    return made


def look(folder, wanted, known=KNOWN):
    return {found.path: found for found in sweep([Folder("here", folder)], wanted, known).found}


def test_a_copy_in_any_kind_of_file_is_found(tmp_path, pixels, wanted):
    planted = plant(tmp_path, pixels[:3])
    found = look(tmp_path, wanted)
    for searcher, file in planted.items():
        assert found[file.name].copies in (1, 3), searcher
        assert not found[file.name].unread
    assert found["some.parquet"].copies == 3


@pytest.mark.parametrize("searcher", PLANTS)
def test_without_its_searcher_a_copy_is_not_found(tmp_path, pixels, wanted, searcher):
    planted = plant(tmp_path, pixels[:3])
    found = look(tmp_path, wanted, [known for known in KNOWN if known.name != searcher])
    assert not any(found[path].certain for path in found if path == planted[searcher].name)


def test_what_is_sealed_under_the_own_key_is_the_requests_whatever_it_is_called(tmp_path, pixels, wanted):
    (tmp_path / "holiday.doc").write_bytes(OWN.seal(parquet(pixels[:1])))
    (tmp_path / "theirs").write_bytes(OTHER.seal(parquet(pixels[:2])))
    (tmp_path / "nobodys").write_bytes(LOST.seal(b"x"))
    found = look(tmp_path, wanted)
    assert found["holiday.doc"].sealed
    assert (found["theirs"].copies, found["theirs"].owners) == (2, ["n"])
    assert found["nobodys"].unread == ["is sealed under a key that is not here"]
    assert not look(tmp_path, wanted, [known for known in KNOWN if known.name != "sealed files"])


def test_only_a_file_that_holds_nothing_else_is_a_copy_as_a_whole(tmp_path, pixels, wanted):
    (tmp_path / "only.npz").write_bytes(npz(pixels[:3]))
    (tmp_path / "mixed.npz").write_bytes(npz(pixels[28:32]))
    found = look(tmp_path, wanted)
    assert found["only.npz"].whole
    assert found["mixed.npz"].copies == 2
    assert not found["mixed.npz"].whole


@pytest.mark.parametrize(("name", "make"), [
    ("grey.bmp", lambda one: encoded(one, "BMP")), ("rgb.png", lambda one: encoded(one.repeat(3, axis=0))),
    ("same.tiff", lambda one: encoded(one, "TIFF", compression="tiff_deflate")),
    ("lossless.webp", lambda one: encoded(one.repeat(3, axis=0), "WEBP", lossless=True)),
    ("palette.gif", lambda one: encoded(one, "GIF")),
    ("enlarged.png", lambda one: encoded(one.repeat(4, axis=1).repeat(4, axis=2))),
    ("packed.png.xz", lambda one: __import__("lzma").compress(encoded(one))),
    ("deep.zip", lambda one: zip_of("a.zip", zip_of("b.png", encoded(one)))),
    ("notebook.ipynb", lambda one: notebook(one[None])), ("blobs.db.gz", lambda one: gzip.compress(sqlite(one[None]))),
    ("images.gz", lambda one: gzip.compress(idx(one[None]))),
])
def test_a_lossless_re_encoding_is_a_copy(tmp_path, pixels, wanted, name, make):
    (tmp_path / name).write_bytes(make(pixels[4]))
    assert look(tmp_path, wanted)[name].copies == 1


def zip_of(name, data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


def test_sixteen_bits_alpha_and_a_picture_on_its_side_are_copies(tmp_path, pixels, wanted):
    one = pixels[2, 0]
    Image.fromarray(one.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.dstack([one, one, one, np.full_like(one, 128)])).save(tmp_path / "alpha.png")
    turned = Image.fromarray(np.rot90(one))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert {name: found.copies for name, found in look(tmp_path, wanted).items()} == {
        "deep.png": 1, "alpha.png": 1, "turned.png": 1}


def test_pytorch_files_are_looked_at_without_their_pickle(tmp_path, pixels, wanted):
    import torch

    torch.save({"x": torch.from_numpy(from_pixels(pixels[:2]))}, tmp_path / "data.pt")
    assert look(tmp_path, wanted)["data.pt"].copies == 2


def test_arrow_as_the_datasets_library_keeps_it(tmp_path, pixels, wanted):
    import pyarrow as pa

    table = pa.table({"image": [{"bytes": encoded(one), "path": None} for one in pixels[:2]],
                      "raw": [one[0].tolist() for one in pixels[2:4]]})
    with pa.OSFile(str(tmp_path / "cache.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pa.OSFile(str(tmp_path / "file.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert {name: found.copies for name, found in look(tmp_path, wanted).items()} == {
        "cache.arrow": 4, "file.arrow": 4}


def test_images_inside_of_a_sheet_are_found_at_any_position(tmp_path, pixels, wanted):
    sheet = np.full((210, 330), 20, np.uint8)
    for number, (top, left) in enumerate([(0, 0), (7, 95), (194, 314), (101, 33)]):
        sheet[top : top + 16, left : left + 16] = pixels[number, 0]
    sheet[60:76, 60:76] = pixels[50, 0]  # not wanted
    Image.fromarray(sheet).save(tmp_path / "sheet.png")
    Image.fromarray(np.dstack([sheet] * 3).repeat(2, 0).repeat(2, 1)).save(tmp_path / "larger.png")
    found = look(tmp_path, wanted)
    assert found["sheet.png"].parts == found["larger.png"].parts == 4
    assert not found["sheet.png"].whole


@pytest.mark.parametrize("change", [
    lambda image: (image, {"format": "JPEG", "quality": 60}),
    lambda image: (image.resize((40, 40), Image.Resampling.BICUBIC), {"format": "PNG"}),
    lambda image: (Image.eval(image, lambda level: 255 - level), {"format": "PNG"}),
    lambda image: (Image.eval(image, lambda level: level // 2 + 40), {"format": "WEBP", "quality": 70}),
])
def test_a_lossy_or_resized_copy_looks_like_one_and_is_not_called_one(tmp_path, pixels, wanted, change):
    image, options = change(Image.fromarray(pixels[1, 0]))
    image.save(tmp_path / "x", **options)
    found = look(tmp_path, wanted)["x"]
    assert (found.copies, found.looks_like, found.certain) == (0, 1, False)
    assert found.closest >= LOOKS_LIKE


def test_other_images_are_no_copies(tmp_path, pixels, wanted):
    images, labels = digits("train")
    others = SampleTable(images, labels).pixels[labels != 8]
    (tmp_path / "others.npy").write_bytes(array(others))
    (tmp_path / "others.parquet").write_bytes(parquet(others[:50]))
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "black.png")
    assert not any(found.certain for found in look(tmp_path, wanted).values())


@pytest.mark.parametrize(("name", "data"), [
    ("cut.png", lambda pixels: encoded(pixels[0])[:60]), ("cut.npy", lambda pixels: array(pixels)[:-7]),
    ("cut.parquet", lambda pixels: parquet(pixels[:3])[:-9]), ("cut.db", lambda pixels: sqlite(pixels[:40])[:5000]),
    ("cut.zip", lambda pixels: zip_of("a.png", encoded(pixels[0]))[:-30]),
    ("cut.gz", lambda pixels: gzip.compress(encoded(pixels[0]))[:40]),
    ("cut.safetensors", lambda pixels: safetensors(pixels[:2])[:-3]), ("pickle", lambda pixels: b"\x80\x04\x95"),
    ("table.h5", lambda pixels: b"\x89HDF\r\n\x1a\n" + bytes(90)), ("book.pdf", lambda pixels: b"%PDF-1.7 ..."),
])
def test_what_cannot_be_read_is_said(tmp_path, pixels, wanted, name, data):
    (tmp_path / name).write_bytes(data(pixels))
    found = look(tmp_path, wanted)
    assert found[name].unread
    assert "\n" not in found[name].unread[0]


def test_an_encrypted_member_a_link_out_and_a_locked_file_are_said(tmp_path, pixels, wanted):
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "inner").symlink_to(folder)
    locked = bytearray(zip_of("a.png", encoded(pixels[0])))
    locked[6] |= 1
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1
    (folder / "locked.zip").write_bytes(locked)
    found = look(folder, wanted)
    assert found["link"].unread == ["is a link that leads out of the place"]
    assert found["locked.zip"].unread == ["a.png: is encrypted"]
    assert "inner" not in found
    if os.geteuid():
        (folder / "shut.png").write_bytes(encoded(pixels[0]))
        (folder / "shut.png").chmod(0)
        assert "Permission denied" in look(folder, wanted)["shut.png"].unread[0]


def test_a_nest_of_archives_ends_somewhere_and_says_so(tmp_path, pixels, wanted):
    data = encoded(pixels[0])
    for _ in range(8):
        data = zip_of("x", data)
    (tmp_path / "nest.zip").write_bytes(data)
    assert "too deep" in look(tmp_path, wanted)["nest.zip"].unread[0]


def test_a_large_array_is_looked_at_in_pieces(tmp_path, pixels, wanted):
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (4096, 16 * 1024))
    large[4000, :256] = pixels[3, 0].ravel()
    reshaped = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (2**18, 16, 16))
    reshaped[200_000] = pixels[3, 0]
    del large, reshaped
    tracemalloc.start()
    found = look(tmp_path, wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["images.npy"].copies == 1
    assert peak < 160 * 2**20, "of files of 64 MiB each, some MiB at a time"


def test_a_large_picture_is_looked_at_in_bands(tmp_path, pixels, wanted):
    large = np.zeros((4000, 3000, 3), np.uint8)
    large[3777:3793, 2222:2238] = pixels[3, 0][..., None]
    Image.fromarray(large).save(tmp_path / "large.png")
    tracemalloc.start()
    found = look(tmp_path, wanted)["large.png"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.parts, found.copies) == (1, 0)
    assert peak < 3 * large.nbytes, "the picture, and what is summed of it at once"


@settings(max_examples=30, deadline=None)
@given(channels=st.sampled_from([1, 3]), last=st.booleans(), flat=st.booleans(), how=st.sampled_from(
    ["uint8", "int64", "float32 ±1", "float64 0..1", "float32 0..255", "float16 ±1"]), seed=st.integers(0, 2**16))
def test_every_layout_and_range_is_the_same_image(channels, last, flat, how, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (2, channels, 9, 12)).astype(np.uint8)
    wanted = Wanted()
    wanted.add(pixels)
    values = pixels.transpose(0, 2, 3, 1) if last else pixels
    values = values.reshape(2, -1) if flat else values
    kind, _, span = how.partition(" ")
    values = values.astype(kind)
    if span == "±1":
        values = values.astype("float32") / 127.5 - 1
    elif span == "0..1":
        values = values / 255
    found = max((int(wanted.copies(meant).sum()) for images in as_images(values.astype(kind), wanted.shapes)
                 for meant in levels(images)), default=0)
    assert found == 2 or how == "float16 ±1", "eleven bits do not hold every one of 256 levels"


def test_adapted_weights_are_known_by_their_tensors(tmp_path, wanted):
    from safetensors.numpy import save

    weights = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    made = Wanted(tensors={tensor_digest("F32", (40, 8), weights.tobytes())})
    (tmp_path / "model.safetensors").write_bytes(save({"a": weights, "b": np.zeros((9, 9), np.float32)}))
    assert look(tmp_path, made)["model.safetensors"].weights == 1
    assert not is_telling(81, np.zeros(81, np.float32).tobytes())


def test_nothing_that_is_kept_for_searching_is_an_image(pixels):
    made = Wanted()
    made.add(pixels[:5])
    assert len(made) == 5
    assert all(len(key) == 32 for key in made.images)
    assert digest(pixels[0].transpose(1, 2, 0)) in made.images
