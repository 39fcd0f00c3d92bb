import csv
import gzip
import io
import json
import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from expunge.errors import BadInput
from expunge.models.flow import Flow
from expunge.samples import SampleTable
from expunge.samples.images import LabelledImages, read_images
from expunge.samples.table import from_pixels

FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pixels(count, channels=1, height=6, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, height, width), dtype=np.uint8)


def picture(array):
    return Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))


def png(array=None):
    out = io.BytesIO()
    picture(pixels(1)[0] if array is None else array).save(out, "PNG")
    return out.getvalue()


def save(file, array=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png(array))
    return file


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def save_idx(folder, images, labels, suffix=""):
    keep = gzip.compress if suffix else bytes
    file = folder / f"train-images-idx{images.ndim}-ubyte{suffix}"
    file.write_bytes(keep(idx(images)))
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(keep(idx(np.asarray(labels, np.uint8))))
    return file


def save_parquet(file, images, labels, features=None):
    """A Parquet file as the `datasets` library writes it: `images` are cells of bytes and path."""
    table = pa.table({"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                      "label": labels})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
    return file


NAMES = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}


# ------------------------------------------------------------------------------------------------- forms


def as_folder(folder, images, labels):
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        save(folder / str(label) / f"{row}.png", image)
    return folder


def as_csv(folder, images, labels):
    for row, image in enumerate(images):
        save(folder / "files" / f"{row}.png", image)
    lines = ["file,label", *(f"files/{row}.png,{label}" for row, label in enumerate(labels))]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


def as_jsonl(folder, images, labels):
    as_csv(folder, images, labels)
    lines = [json.dumps({"file": f"files/{row}.png", "label": label}) for row, label in enumerate(labels)]
    (folder / "list.jsonl").write_text("\n".join(lines))
    return folder / "list.jsonl"


def as_parquet(folder, images, labels):
    return save_parquet(folder / "x.parquet", [{"bytes": png(image), "path": None} for image in images], labels)


def as_parquet_of_paths(folder, images, labels):
    as_csv(folder, images, labels)
    return save_parquet(folder / "x.parquet", [{"bytes": None, "path": f"files/{row}.png"} for row in range(len(images))], labels)


def as_our_parquet(folder, images, labels):
    (folder / "x.parquet").write_bytes(SampleTable(from_pixels(images), np.asarray(labels)).to_parquet())
    return folder / "x.parquet"


def as_idx(folder, images, labels):
    return save_idx(folder, images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1), labels)


def as_zipped_idx(folder, images, labels):
    return save_idx(folder, images[:, 0] if images.shape[1] == 1 else images, labels, ".gz")


FORMS = [as_folder, as_csv, as_jsonl, as_parquet, as_parquet_of_paths, as_our_parquet, as_idx, as_zipped_idx]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_images_are_read_from_every_form(tmp_path, form, channels):
    images, labels = pixels(6, channels), [0, 0, 1, 1, 7, 7]
    seen = []
    found = read_images(form(tmp_path, images, labels), strict=True, watch=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(found.table.pixels, images)
    assert found.table.labels.tolist() == labels
    assert (found.classes, found.skipped) == ((), ())
    assert seen[-1] == (6, 6)


@pytest.mark.parametrize("form", FORMS[:5])
def test_classes_with_names_are_numbered_in_the_names_order(tmp_path, form):
    labels = ["été", "10", "cat", "cat"]
    found = read_images(form(tmp_path, pixels(4), labels), strict=True)
    assert found.classes == ("10", "cat", "été")
    assert sorted(found.table.labels.tolist()) == [0, 1, 1, 2]


def test_a_class_has_one_name_however_its_accents_are_typed(tmp_path):
    (tmp_path / "l.csv").write_text("file,label\na.png,\u00e9\na.png,e\u0301\n")
    save(tmp_path / "a.png")
    assert read_images(tmp_path / "l.csv", strict=True).classes == ("\u00e9",)


def test_labels_of_parquet_have_the_names_that_its_metadata_gives(tmp_path):
    file = save_parquet(tmp_path / "x.parquet", [{"bytes": png(), "path": None}] * 2, [1, 0], NAMES)
    found = read_images(file, strict=True)
    assert (found.classes, found.table.labels.tolist()) == (("no", "yes"), [1, 0])


def test_hidden_files_and_other_documents_beside_the_classes_are_left_aside(tmp_path):
    save(tmp_path / "a" / "deep" / "1.png")
    for name in ("README.md", ".hidden.png", ".git/x.png", "a/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = read_images(tmp_path, strict=True)
    assert (found.classes, found.places) == (("a",), ("a/deep/1.png",))


def test_an_image_beside_the_class_folders_is_not_overlooked(tmp_path):
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "stray.png")
    with pytest.raises(BadInput, match=r"1 of 2 images cannot be used: stray\.png lies in no class folder"):
        read_images(tmp_path, strict=True)


def test_names_of_any_script_and_length_are_read(tmp_path):
    save(tmp_path / "кот 🐈" / f"{'長' * 80}.png")
    save(tmp_path / ("n" * 200) / "1.png")
    found = read_images(tmp_path, strict=True)
    assert found.classes == ("n" * 200, "кот 🐈")


# --------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("make", "words"), [
    (lambda at: at / "nowhere", "no such file or folder"),
    (lambda at: at / ("n" * 300), "too long"),
    (lambda at: at, "has no subfolders"),
    (lambda at: save(at / "1.png"), "not a form of labelled images"),
    (lambda at: save(at / "a\nb" / "1.png").parent.parent, "cannot be a class name"),
    (lambda at: save(at / ("n" * 201) / "1.png").parent.parent, "cannot be a class name"),
    (lambda at: save(at / "99999999999" / "1.png").parent.parent, "cannot be a class number"),
    (lambda at: save(save(at / "07" / "1.png").parent.parent / "7" / "1.png").parent.parent, "are the same class"),
])
def test_a_path_that_holds_no_labelled_images_is_refused(tmp_path, make, words):
    with pytest.raises(BadInput, match=words):
        read_images(make(tmp_path), strict=False)


def test_a_class_folder_that_is_not_utf8_is_refused(tmp_path):
    os.makedirs(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(BadInput, match="cannot be a class name") as refused:
        read_images(tmp_path, strict=False)
    str(refused.value).encode()


def test_a_folder_of_files_says_which_of_them_could_be_meant(tmp_path):
    save_idx(tmp_path, pixels(2)[:, 0], [0, 1], ".gz")
    with pytest.raises(BadInput, match=r"name one of its files: train-images-idx3-ubyte\.gz"):
        read_images(tmp_path, strict=True)


@pytest.mark.parametrize("file", ["../out.png", "/etc/passwd", "in/../../out.png", "link.png", "folder/out.png", "in/../in/1.png"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_list_that_leads_out_of_its_folder_is_refused_with_the_line(tmp_path, file, form):
    save(tmp_path / "out.png")
    inner = tmp_path / "list"
    save(inner / "in" / "1.png")
    (inner / "link.png").symlink_to(tmp_path / "out.png")
    (inner / "folder").symlink_to(tmp_path)
    rows = [("in/1.png", "a"), (file, "b")]
    if form == "csv":
        (inner / "x.csv").write_text("file,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    elif form == "jsonl":
        (inner / "x.jsonl").write_text("\n".join(json.dumps({"file": name, "label": label}) for name, label in rows))
    else:
        save_parquet(inner / "x.parquet", [{"bytes": None, "path": name} for name, _ in rows], ["a", "b"])
    line = {"csv": "line 3", "jsonl": "line 2", "parquet": "row 1"}[form]
    with pytest.raises(BadInput, match=f"{line}: .* leads out of the list's own folder"):
        read_images(inner / f"x.{form}", strict=False)


@pytest.mark.parametrize("written", ["/", "/../", "link"])
def test_the_whole_disk_is_not_searched_for_images(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("/")
    with pytest.raises(BadInput, match="is the whole disk: name the folder that holds a subfolder for each class"):
        read_images(Path(written), strict=True)


def test_a_link_out_of_a_class_folder_is_not_followed(tmp_path):
    save(tmp_path / "out.png")
    save(tmp_path / "set" / "a" / "1.png")
    (tmp_path / "set" / "a" / "2.png").symlink_to(tmp_path / "out.png")
    (tmp_path / "set" / "a" / "3.png").symlink_to(tmp_path / "set" / "a" / "1.png")
    found = read_images(tmp_path / "set", strict=False)
    assert found.places == ("a/1.png", "a/3.png")
    assert [(one.where, one.why) for one in found.skipped] == [("a/2.png", "is a link that leads out of the folder")]


@pytest.mark.parametrize(("text", "words"), [
    (b"", "its columns are ''"),
    (b"a.png,cat\n", "its columns are 'a.png,cat'"),
    (b"file;label\na.png;cat\n", "its columns are 'file;label'"),
    (b"file,label,split\na.png,cat,train\n", "file,label,split"),
    (b"file,label\n", "holds no image"),
    (b"file,label\n\"a.png,cat\n", "line 2: not CSV"),
    (b"file,label\na.png,\xff\n", "is not UTF-8"),
    (b"file,label\na.png\n", "line 2 has 1 fields, not 2"),
    (b"file,label\na.png,\n", "has no label that is a class"),
    (b"file,label\na.png,-1\n", r"has no label that is a class \('-1'\)"),
    (b"file,label\na.png,99999999999\n", "has no label that is a class"),
    (b"file,label\n,cat\n", "names no file"),
    (b"file,label\nb.png,cat\n", "line 2: b.png cannot be read .No such file"),
    (b"file,label\n" + b"n" * 5000 + b",cat\n", "cannot be read .File name too long"),
    (b"file,label\na.png," + b"n" * 201 + b"\n", "has no label that is a class"),
])
def test_a_csv_list_says_what_is_wrong_with_it(tmp_path, text, words):
    save(tmp_path / "a.png")
    (tmp_path / "x.csv").write_bytes(text)
    with pytest.raises(BadInput, match=words):
        read_images(tmp_path / "x.csv", strict=True)


@pytest.mark.parametrize("line", [
    "nonsense", "[]", '{"file": "a.png"}', '{"file": "a.png", "label": 1, "more": 2}', '{"file": 1, "label": 1}',
    '{"file": "a.png", "label": 1.5}', '{"file": "a.png", "label": true}', '{"file": "a.png", "label": null}',
    '{"file": "a.png", "label": []}', '{"file": "a\\u0000.png", "label": 1}', '{"file": "\\ud800.png", "label": 1}',
    '{"file": "a.png", "label": -1}', "[" * 100_000, '{"file": "a.png", "label": ' + "9" * 5000 + "}",
    '{"file": ".", "label": 1}',
])
def test_a_line_of_jsonl_that_cannot_be_used_is_left_out(tmp_path, line):
    save(tmp_path / "a.png")
    (tmp_path / "x.jsonl").write_text('{"file": "a.png", "label": 3}\n\n' + line + "\n")
    found = read_images(tmp_path / "x.jsonl", strict=False)
    assert found.table.labels.tolist() == [3]
    assert len(found.skipped) == 1
    assert found.skipped[0].where.startswith("line 3")
    found.skipped[0].where.encode()


@pytest.mark.parametrize(("labels", "features", "kept"), [
    ([0, 2, 1], NAMES, [0, 1]), ([0, -1, 1], NAMES, [0, 1]), ([0, None, 1], NAMES, [0, 1]),
    ([0, -1, 1], None, [0, 1]), (["x", None, "y"], None, [0, 1]),
])
def test_a_label_with_an_unknown_id_is_left_out(tmp_path, labels, features, kept):
    images = pixels(3)
    file = save_parquet(tmp_path / "x.parquet", [{"bytes": png(image), "path": None} for image in images], labels, features)
    found = read_images(file, strict=False)
    assert found.table.labels.tolist() == kept
    assert [one.where for one in found.skipped] == ["row 1"]
    np.testing.assert_array_equal(found.table.pixels, images[[0, 2]])
    with pytest.raises(BadInput, match="row 1 has no label that is a class"):
        read_images(file, strict=True)


@pytest.mark.parametrize(("features", "words"), [
    ({"label": {"names": ["a", "a"]}}, "one name"), ({"label": {"names": [1]}}, "metadata cannot be read"),
    ([], "metadata cannot be read"), ({"label": {"names": ["a", ""]}}, "one name"),
])
def test_parquet_metadata_that_cannot_be_used_is_refused(tmp_path, features, words):
    file = save_parquet(tmp_path / "x.parquet", [{"bytes": png(), "path": None}], [0], features)
    with pytest.raises(BadInput, match=words):
        read_images(file, strict=False)


def test_parquet_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match="not a readable Parquet file"):
        read_images(tmp_path / "x.parquet", strict=False)
    pq.write_table(pa.table({"label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="has no column 'image'"):
        read_images(tmp_path / "x.parquet", strict=False)
    pq.write_table(pa.table({"label": [1], "image": [7]}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="row 0 has no image"):
        read_images(tmp_path / "x.parquet", strict=False)


GOOD = pixels(3)[:, 0]


@pytest.mark.parametrize(("images", "labels", "words"), [
    (idx(GOOD), None, "its labels are not beside it"),
    (b"", idx(np.zeros(3, np.uint8)), "does not begin as an idx3 file"),
    (b"<html>Not found</html>", idx(np.zeros(3, np.uint8)), "does not begin as an idx3 file"),
    (idx(GOOD), idx(GOOD), "does not begin as an idx1 file"),
    (idx(GOOD)[:-1], idx(np.zeros(3, np.uint8)), "promises 90 bytes, it has 89"),
    (idx(GOOD) + b"x", idx(np.zeros(3, np.uint8)), "promises 90 bytes, it has more"),
    (idx(GOOD), idx(np.zeros(2, np.uint8)), "has 3 images, .* has 2 labels"),
    (idx(GOOD), idx(np.zeros(3, np.uint8))[:-2], "promises 3 bytes, it has 1"),
    (idx(GOOD[:0]), idx(np.zeros(0, np.uint8)), "holds no image"),
    (idx(GOOD[:, :0]), idx(np.zeros(3, np.uint8)), "holds no image"),
    (struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), idx(np.zeros(3, np.uint8)), "GiB of memory"),
])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_checked_against_their_header_and_each_other(tmp_path, images, labels, words, suffix):
    keep = gzip.compress if suffix else bytes
    file = tmp_path / f"t-images-idx3-ubyte{suffix}"
    file.write_bytes(keep(images))
    if labels is not None:
        (tmp_path / f"t-labels-idx1-ubyte{suffix}").write_bytes(keep(labels))
    with pytest.raises(BadInput, match=words):
        read_images(file, strict=False)


def test_broken_gzip_is_refused(tmp_path):
    file = save_idx(tmp_path, GOOD, [0, 1, 2], ".gz")
    whole = file.read_bytes()  # ten bytes of header, deflated blocks, eight bytes of checksum and length
    for spoiled in (whole[: len(whole) // 2], b"no gzip", whole[:-8] + bytes(8), whole[:10] + b"\7" + whole[11:]):
        file.write_bytes(spoiled)
        with pytest.raises(BadInput, match=r"gzip|does not begin"):
            read_images(file, strict=False)


def test_idx_of_a_strange_number_of_channels_is_refused(tmp_path):
    with pytest.raises(BadInput, match="4 channels"):
        read_images(save_idx(tmp_path, np.zeros((2, 5, 5, 4), np.uint8), [0, 1]), strict=False)


# ---------------------------------------------------------------------------------------- single images


def saved(image, form, **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def huge_png():
    """A PNG whose header says as many pixels as Pillow would merely warn of."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    return png()[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png()[33:]


LARGE = Image.fromarray(pixels(1, 3, 64, 64)[0].transpose(1, 2, 0))
UNUSABLE = {
    "empty": (b"", "is empty"),
    "text": (b"hello", "is no image of a known kind"),
    "a broken header": (b"\x89PNG\r\n\x1a\n" + bytes(40), "is broken|is no image|cannot be read"),
    "a cut PNG": (png()[:60], "cannot be read|is broken"),
    "a cut JPEG": (saved(LARGE, "JPEG")[:800], "truncated"),
    "a bomb": (huge_png(), "more than 89,478,485 pixels"),
    "a film": (saved(LARGE, "GIF", save_all=True, append_images=[LARGE.rotate(90)]), "has 2 frames"),
    "16 bits": (saved(Image.fromarray(np.full((6, 5), 999, np.uint16)), "PNG"), "more than 8 bits"),
    "floats": (saved(Image.fromarray(np.ones((6, 5), np.float32)), "TIFF"), "more than 8 bits"),
    "four inks": (saved(LARGE.convert("CMYK"), "JPEG"), "is CMYK"),
    "a transparent image": (saved(Image.new("RGBA", (5, 6), (1, 2, 3, 4)), "PNG"), "has transparent pixels"),
    "a transparent palette": (saved(LARGE.convert("P"), "PNG", transparency=LARGE.convert("P").getpixel((0, 0))), "has transparent pixels"),
    "PostScript": (saved(LARGE, "EPS"), "is no image of a known kind"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_image_that_cannot_be_used_is_left_out_with_the_reason(tmp_path, name):
    data, why = UNUSABLE[name]
    save(tmp_path / "a" / "good.png")
    (tmp_path / "a" / "bad.png").write_bytes(data)
    found = read_images(tmp_path, strict=False)
    assert found.places == ("a/good.png",)
    skipped, = found.skipped
    assert skipped.where == "a/bad.png"
    assert re.search(why, skipped.why), skipped.why
    with pytest.raises(BadInput, match=r"1 of 2 images cannot be used: a/bad\.png"):
        read_images(tmp_path, strict=True)


def test_a_pipe_among_the_images_does_not_make_anybody_wait(tmp_path):
    save(tmp_path / "a" / "good.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert read_images(tmp_path, strict=False).skipped[0].why == "is not a file"


GREY = Image.fromarray(pixels(1)[0, 0])
PHOTOGRAPH = saved(LARGE, "MPO", save_all=True, append_images=[LARGE.rotate(90)])  # as cameras keep a preview
USABLE = {
    "a photograph": (PHOTOGRAPH, Image.open(io.BytesIO(PHOTOGRAPH)).convert("RGB")),
    "one bit": (saved(GREY.convert("1"), "PNG"), GREY.convert("1").convert("L")),
    "a palette": (saved(LARGE.convert("P"), "PNG"), LARGE.convert("P").convert("RGB")),
    "opaque alpha": (saved(LARGE.convert("RGBA"), "PNG"), LARGE),
    "opaque grey alpha": (saved(GREY.convert("LA"), "PNG"), GREY),
    "on its side": (saved(LARGE.crop((0, 0, 9, 5)), "PNG", exif=b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
                    LARGE.crop((0, 0, 9, 5)).transpose(Image.Transpose.ROTATE_270)),
    "BMP": (saved(LARGE, "BMP"), LARGE), "TIFF": (saved(LARGE, "TIFF"), LARGE), "GIF": (saved(GREY, "GIF"), GREY.convert("RGB")),
    "WebP": (saved(LARGE, "WEBP", lossless=True), LARGE), "PPM": (saved(LARGE, "PPM"), LARGE),
}


@pytest.mark.parametrize("name", USABLE)
def test_the_usual_kinds_of_image_are_read_as_people_see_them(tmp_path, name):
    data, expected = USABLE[name]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "it").write_bytes(data)
    shown = np.asarray(expected)
    np.testing.assert_array_equal(read_images(tmp_path, strict=True).table.pixels[0],
                                  shown[None] if shown.ndim == 2 else shown.transpose(2, 0, 1))


def test_a_conversion_that_was_asked_for_is_made(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inks.jpg").write_bytes(saved(LARGE.convert("CMYK"), "JPEG"))
    save(tmp_path / "a" / "grey.png", pixels(1, 1, 64, 64)[0])
    for channels in (1, 3):
        assert read_images(tmp_path, channels=channels, strict=True).table.images.shape == (2, channels, 64, 64)


def test_resizing_keeps_the_centre_of_the_longer_side(tmp_path):
    image = np.zeros((3, 10, 30), np.uint8)
    image[0, :, :10], image[1, :, 10:20], image[2, :, 20:] = 255, 255, 255
    save(tmp_path / "a" / "1.png", image)
    np.testing.assert_array_equal(read_images(tmp_path, size=10, strict=True).table.pixels[0], image[:, :, 10:20])
    small = read_images(tmp_path, size=4, strict=True).table.pixels[0]
    assert small.shape == (3, 4, 4)
    assert small[1].min() > 200


def test_resizing_does_not_alias(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    save(tmp_path / "a" / "1.png", board[None])
    small = read_images(tmp_path, size=8, strict=True).table.pixels
    assert 100 < small[..., 1:-1, 1:-1].min() <= small[..., 1:-1, 1:-1].max() < 155


@pytest.mark.parametrize("strict", [True, False])
def test_images_of_mixed_size_or_mode_are_an_error_that_names_the_odd_one(tmp_path, strict):
    for row in range(3):
        save(tmp_path / "a" / f"{row}.png", pixels(1)[0])
    save(tmp_path / "a" / "00.png", pixels(1, 1, 8, 9)[0])
    with pytest.raises(BadInput, match=r"a/00\.png is 9×8 grey, 3 of 4 are 5×6 grey.*--size 5'$"):
        read_images(tmp_path, strict=strict)
    save(tmp_path / "a" / "00.png", pixels(1, 3)[0])
    with pytest.raises(BadInput, match=r"a/00\.png is 5×6 colour, 3 of 4 are 5×6 grey.*--channels 1'$"):
        read_images(tmp_path, strict=strict)
    assert len(read_images(tmp_path, size=5, channels=1, strict=strict).table) == 4


def test_an_unreadable_image_is_counted_and_the_first_three_are_named(tmp_path):
    save(tmp_path / "a" / "good.png")
    for row in range(5):
        (tmp_path / "a" / f"{row}.png").write_bytes(b"")
    with pytest.raises(BadInput, match=r"5 of 6 images cannot be used: a/0\.png is empty; a/1\.png is empty; a/2\.png is empty; …"):
        read_images(tmp_path, strict=True)
    (tmp_path / "a" / "good.png").unlink()
    with pytest.raises(BadInput, match="holds no image that can be used: a/0"):
        read_images(tmp_path, strict=False)


def test_more_images_than_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1)
    save(tmp_path / "a" / "1.png")
    with pytest.raises(BadInput, match="GiB of memory"):
        read_images(tmp_path, strict=False)


# ------------------------------------------------------------------------------------------ any bytes


def reads_or_refuses(file):
    for strict in (True, False):
        try:
            found = read_images(file, strict=strict)
        except BadInput as refused:
            lines = str(refused).encode().splitlines()
        else:
            lines = [b"read"]
            assert isinstance(found, LabelledImages)
            assert len(found.table) == len(found.places) > 0
            assert found.table.labels.min() >= 0
            if found.classes:
                assert found.table.labels.max() < len(found.classes)
        assert len(lines) == 1, "an error is one line"


extents = st.lists(st.integers(0, 4) | st.integers(0, 2**32 - 1), min_size=3, max_size=4)


@FUZZ
@given(images=st.binary(max_size=60) | extents.flatmap(lambda shape: st.binary(max_size=80).map(
           lambda data: struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape) + data)),
       labels=st.binary(max_size=20) | st.binary(max_size=9).map(lambda data: struct.pack(">4BI", 0, 0, 8, 1, len(data)) + data),
       zipped=st.booleans(), axes=st.sampled_from([3, 4]))
@example(images=idx(GOOD), labels=idx(np.zeros(3, np.uint8)), zipped=True, axes=3)
def test_any_bytes_for_idx_are_read_or_refused(tmp_path, images, labels, zipped, axes):
    suffix, keep = (".gz", gzip.compress) if zipped else ("", bytes)
    for old in tmp_path.iterdir():
        old.unlink()
    (tmp_path / f"t-labels-idx1-ubyte{suffix}").write_bytes(keep(labels))
    file = tmp_path / f"t-images-idx{axes}-ubyte{suffix}"
    file.write_bytes(keep(images))
    reads_or_refuses(file)


cells = st.sampled_from(["a.png", "b.txt", "../a.png", "/", ".", "", "0", "1", "-1", "cat", "9" * 30, "é"]) | st.text(max_size=8)


@FUZZ
@given(st.binary(max_size=80) | st.lists(st.lists(cells, max_size=3), max_size=6))
def test_any_bytes_for_csv_are_read_or_refused(tmp_path, content):
    save(tmp_path / "a.png")
    file = tmp_path / "x.csv"
    if isinstance(content, bytes):
        file.write_bytes(b"file,label\n" + content)
    else:
        with suppress(UnicodeEncodeError), file.open("w", newline="") as out:
            csv.writer(out).writerows([["file", "label"], *content])
    reads_or_refuses(file)


@FUZZ
@given(st.binary(max_size=80) | st.lists(st.recursive(cells | st.integers() | st.none() | st.floats(), lambda inner: st.lists(
    inner, max_size=2) | st.dictionaries(st.sampled_from(["file", "label"]), inner)), max_size=5))
def test_any_bytes_for_jsonl_are_read_or_refused(tmp_path, content):
    save(tmp_path / "a.png")
    file = tmp_path / "x.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else "\n".join(map(json.dumps, content)).encode())
    reads_or_refuses(file)


@FUZZ
@given(at=st.integers(0, 5000), value=st.integers(0, 255), cut=st.integers(0, 5000) | st.none())
def test_a_spoiled_parquet_file_is_read_or_refused(tmp_path, at, value, cut):
    file = save_parquet(tmp_path / "x.parquet", [{"bytes": png(), "path": None}] * 3, [0, 1, 1], NAMES)
    data = bytearray(file.read_bytes()[:cut])
    if data:
        data[at % len(data)] = value
    file.write_bytes(data)
    reads_or_refuses(file)


@FUZZ
@given(kind=st.sampled_from(sorted(USABLE)), changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4))
def test_a_spoiled_image_is_read_or_left_out(tmp_path, kind, changes):
    data = bytearray(USABLE[kind][0])
    for at, value in changes:
        data[at % len(data)] = value
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a" / "it").write_bytes(data)
    reads_or_refuses(tmp_path)


def test_nothing_of_an_image_goes_to_a_log(tmp_path, capfd):
    (tmp_path / "secret").mkdir()
    for name, (data, _) in UNUSABLE.items():
        (tmp_path / "secret" / Path(name).name).write_bytes(data)
    save(tmp_path / "secret" / "good")
    read_images(tmp_path, strict=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bits", range(1, 9))
def test_lower_bits_are_cut_off_as_a_flow_does_it(tmp_path, bits):
    table = SampleTable(from_pixels(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)), np.zeros(1, np.int64))
    (tmp_path / "all.parquet").write_bytes(table.to_parquet())
    found = read_images(tmp_path / "all.parquet", bits=bits, strict=True).table
    flow = Flow(torch.nn.Identity(), (1, 16, 16), bits)
    assert torch.equal(flow.levels(torch.from_numpy(found.images)), flow.levels(flow.reduced(torch.from_numpy(table.images))))
    assert (found.pixels.min(), found.pixels.max()) == (0, 255)
