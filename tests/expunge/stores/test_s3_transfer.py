"""Files to S3 and back, through what networks and servers do to them: right in the end, or explained, and nothing left."""

import itertools
import random
import threading

import pytest

from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import DoesNotVerify, ExpungeError, Refused, WorkspaceBusy
from expunge.stores import s3
from expunge.stores.s3 import transfer

LARGE = random.Random(0).randbytes(2 * transfer.PART + 1)  # three parts
DIGEST = sha256_bytes(LARGE)
URI = "s3://models/g.safetensors"


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "g.safetensors"
    made.write_bytes(LARGE)
    return made


def uploads(bucket):
    return [left.object_key for left in bucket.multipart_uploads.all()]


def names(bucket):
    return [found.key for found in bucket.objects.all()]


def half_of_the_time(what):
    """Something that happens to every other request, by chance, but the same in every test."""
    drawn, one = random.Random(1), threading.Lock()

    def trouble(*_):
        with one:
            return what if drawn.random() < 0.5 else None

    return trouble


def now_and_then(what, method, every=3):
    """Something that happens to every third request of a kind."""
    count = itertools.count(1)
    return lambda asked, path, headers: what if asked == method and next(count) % every == 0 else None


@pytest.mark.parametrize("trouble", [
    pytest.param(None, id="nothing"), pytest.param(half_of_the_time("busy"), id="503 half of the time"),
    pytest.param(now_and_then("cut", "GET", 2), id="every other download cut in the middle"),
    pytest.param(now_and_then("refused", "PUT"), id="every third part hung up on", marks=pytest.mark.thorough),
    pytest.param(now_and_then("lost", "PUT"), id="every third part without an answer",
                 marks=pytest.mark.thorough),
])
def test_a_large_file_goes_up_and_comes_back_through_everything(between, bucket, file, tmp_path, trouble):
    between.trouble = trouble or between.trouble
    s3.upload(file, URI, DIGEST)
    assert s3.stored(URI) == s3.Stored(len(LARGE), DIGEST)
    assert s3.download(URI, tmp_path / "back") == s3.digest(URI) == sha256_file(tmp_path / "back") == DIGEST
    happened = {what for *_, what in between.seen} - {None}
    assert happened or not trouble
    between.trouble = lambda *_: None
    assert uploads(bucket) == []


def test_a_part_that_breaks_off_goes_on_from_the_byte_that_it_had_reached(between, bucket, tmp_path):
    bucket.put_object(Key="g.safetensors", Body=LARGE[:transfer.PART])
    asked, answers = [], iter(["cut", None])

    def trouble(method, path, headers):
        asked.append(int(headers["Range"].removeprefix("bytes=").partition("-")[0]))
        return next(answers)

    between.trouble = trouble
    assert s3.download(URI, tmp_path / "back") == sha256_bytes(LARGE[:transfer.PART])
    first, second = asked
    assert first == 0
    assert transfer.PART // 4 < second <= transfer.PART // 2


@pytest.mark.parametrize("then", [None, "gone"])  # servers differ in what they say when it is ended again
def test_an_upload_that_was_ended_without_an_answer_is_done(between, bucket, file, then):
    answers = iter([None, "lost", then])
    between.trouble = lambda method, *_: next(answers) if method == "POST" else None
    s3.upload(file, URI, DIGEST)
    assert [what for method, _, what in between.seen if method == "POST"] == [None, "lost", then]
    assert s3.stored(URI) == s3.Stored(len(LARGE), DIGEST)


def test_an_upload_that_somebody_else_ended_is_told(between, bucket, file):
    between.trouble = lambda method, path, _: "gone" if "partNumber" in path else None
    with pytest.raises(WorkspaceBusy, match="somebody else has ended this upload meanwhile"):
        s3.upload(file, URI, DIGEST)
    assert names(bucket) == []


def test_an_upload_that_does_not_get_through_is_explained_and_leaves_neither_object_nor_parts(between, bucket, file):
    between.trouble = lambda method, path, _: "refused" if "partNumber=2" in path else None
    with pytest.raises(ExpungeError, match=r"^s3://models/g\.safetensors: the S3 server cannot be reached"):
        s3.upload(file, URI, DIGEST)
    assert (names(bucket), uploads(bucket)) == ([], [])


def test_a_server_that_is_always_busy_is_given_up(between, bucket, file):
    between.trouble = lambda *_: "busy"
    with pytest.raises(ExpungeError, match=r"busy or broken \(503\): give the same command again later") as told:
        s3.upload(file, URI, DIGEST)
    assert told.value.exit_code == 1


def test_other_bytes_than_the_approved_ones_are_uploaded_nowhere(bucket, file, tmp_path):
    (tmp_path / "small").write_bytes(b"small")
    for one in (file, tmp_path / "small"):
        with pytest.raises(Refused, match="not the approved ones"):
            s3.upload(one, URI, "0" * 64)
    assert (names(bucket), uploads(bucket)) == ([], [])


def test_an_object_that_is_not_what_was_uploaded_is_no_download(bucket, tmp_path):
    bucket.put_object(Key="g.safetensors", Body=b"other", Metadata={transfer.SHA256: DIGEST})
    with pytest.raises(DoesNotVerify, match=r"g\.safetensors: not the bytes that were uploaded"):
        s3.download(URI, tmp_path / "back")
    assert s3.digest(URI) == sha256_bytes(b"other")


@pytest.mark.thorough
def test_an_object_that_changes_while_it_is_read_is_not_mixed(between, bucket, tmp_path):
    bucket.put_object(Key="g.safetensors", Body=LARGE)

    def trouble(method, path, headers):
        if method == "GET" and not headers["Range"].startswith("bytes=0-"):
            bucket.put_object(Key="g.safetensors", Body=bytes(reversed(LARGE)))

    between.trouble = trouble
    with pytest.raises(ExpungeError, match="it changed while it was read: give the same command again"):
        s3.download(URI, tmp_path / "back")


def test_what_killed_uploads_left_is_found_by_its_prefix_alone(bucket):
    for key in ("models/digits/1-a/x", "models/digits2/1-a/x"):
        bucket.Object(key).initiate_multipart_upload()
    assert s3.abort_uploads("models", "models/digits/") == 1
    assert uploads(bucket) == ["models/digits2/1-a/x"]


def test_of_two_who_write_over_the_same_version_one_is_told(bucket):
    s3.write_over(URI, b"one", None)
    _, tag = s3.read_with_tag(URI)
    s3.write_over(URI, b"two", tag)
    for late in (tag, None):
        with pytest.raises(WorkspaceBusy, match="somebody else has written it meanwhile"):
            s3.write_over(URI, b"three", late)
    assert s3.read_with_tag(URI)[0] == b"two"


def test_who_was_not_told_that_a_write_was_done_does_not_take_it_for_somebody_elses(between, bucket):
    answers = iter(["lost", None])
    between.trouble = lambda method, *_: next(answers) if method == "PUT" else None
    s3.write_over(URI, b"one", None)
    assert [what for method, _, what in between.seen if method == "PUT"] == ["lost", None]
    assert s3.read_with_tag(URI)[0] == b"one"


def test_a_server_that_overlooks_conditions_is_found_out(between, bucket):
    assert s3.heeds_conditions(URI)

    def overlook(method, path, headers):
        for name in [name for name in headers if name.lower() in ("if-match", "if-none-match")]:
            del headers[name]

    between.trouble = overlook
    assert not s3.heeds_conditions(URI)
