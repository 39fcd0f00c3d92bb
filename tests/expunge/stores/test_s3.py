"""Models from S3: a real server on loopback, asked by the real client."""

import socket
import sys
import threading

import pytest
from s3_server import SECRET

from expunge.contracts import ParentSource
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, ExpungeError, Refused, WorkspaceBusy
from expunge.room import exclusive
from expunge.stores import s3, sources

WEIGHTS = b"some weights" * 1000


def fetch(workspace, uri, sha256=None):
    return sources.model_file("checkpoint", ParentSource(uri=uri, sha256=sha256), workspace)


def test_an_object_lands_in_the_workspace_under_its_digest(workspace, bucket):
    bucket.put_object(Key="runs/7/Modell ä?.safetensors", Body=WEIGHTS)
    file = fetch(workspace, "s3://models/runs/7/Modell ä?.safetensors")
    assert file == workspace.sources / sha256_bytes(WEIGHTS) / "Modell ä?.safetensors"
    assert file.read_bytes() == WEIGHTS
    assert {path.name for path in workspace.sources.iterdir()} == {".lock", sha256_bytes(WEIGHTS)}


def test_what_is_pinned_and_there_is_not_fetched_again(workspace, bucket):
    bucket.put_object(Key="g.safetensors", Body=WEIGHTS)
    source = ParentSource(uri="s3://models/g.safetensors")
    pinned = source.model_copy(update={"sha256": sources.digest("checkpoint", source, workspace)})
    bucket.objects.delete()
    assert sources.model_file("checkpoint", pinned, workspace).read_bytes() == WEIGHTS
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: s3://models/g\.safetensors: no such object"):
        sources.model_file("checkpoint", source, workspace)


def test_a_damaged_copy_is_fetched_again(workspace, bucket):
    bucket.put_object(Key="g.safetensors", Body=WEIGHTS)
    file = fetch(workspace, "s3://models/g.safetensors")
    file.write_bytes(b"damaged")
    assert fetch(workspace, "s3://models/g.safetensors", sha256_bytes(WEIGHTS)) == file
    assert sha256_file(file) == sha256_bytes(WEIGHTS)


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(workspace, bucket):
    bucket.put_object(Key="g.safetensors", Body=WEIGHTS)
    with pytest.raises(Refused, match=r"^checkpoint\.sha256: s3://models/g\.safetensors has digest .*pins 000"):
        fetch(workspace, "s3://models/g.safetensors", "0" * 64)
    assert [path.name for path in workspace.sources.iterdir()] == [".lock"]


def test_equal_bytes_under_a_name_of_another_kind_keep_their_own_name(workspace, bucket):
    for name in ("g.safetensors", "g.pt"):
        bucket.put_object(Key=name, Body=WEIGHTS)
        fetch(workspace, f"s3://models/{name}")
    for name in ("g.safetensors", "g.pt"):
        assert fetch(workspace, f"s3://models/{name}", sha256_bytes(WEIGHTS)).name == name


def test_what_is_there_already_is_not_kept_twice_when_fetched_files_go_elsewhere(workspace, bucket, tmp_path):
    bucket.put_object(Key="g.safetensors", Body=WEIGHTS)
    file = fetch(workspace, "s3://models/g.safetensors")
    (tmp_path / ".plan" / "sources").mkdir(parents=True)
    (tmp_path / ".plan" / "sources" / file.parent.name).symlink_to(file.parent)
    assert fetch(type(workspace)(tmp_path / ".plan"), "s3://models/g.safetensors").samefile(file)
    assert list(file.parent.iterdir()) == [file]


def test_a_name_too_long_to_keep_is_not_kept(workspace, bucket):
    bucket.put_object(Key="x" * 300 + ".safetensors", Body=WEIGHTS)
    assert fetch(workspace, f"s3://models/{'x' * 300}.safetensors").name == "model.safetensors"


def test_what_a_killed_fetch_left_is_cleared_away(workspace, bucket):
    (workspace.sources / ".incoming-killed").mkdir(parents=True)
    (workspace.sources / ".incoming-killed" / "object").write_bytes(b"half")
    bucket.put_object(Key="g.safetensors", Body=WEIGHTS)
    fetch(workspace, "s3://models/g.safetensors")
    assert not (workspace.sources / ".incoming-killed").exists()


def test_the_second_of_two_fetches_is_told_so_at_once(workspace, bucket):
    with exclusive(workspace.sources / ".lock", "", ""), pytest.raises(WorkspaceBusy, match=r"^another process fetches a source"):
        fetch(workspace, "s3://models/g.safetensors")


def test_an_empty_object_is_no_model(workspace, bucket):
    bucket.put_object(Key="g.safetensors", Body=b"")
    with pytest.raises(BadInput, match="is empty"):
        fetch(workspace, "s3://models/g.safetensors")


@pytest.mark.parametrize("uri", ["s3://", "s3:/models/g.pt", "s3://models", "s3://models/", "s3://models/folder/",
                                 f"s3://key:{SECRET}@models/g.pt"])
def test_what_names_no_object_is_turned_away(workspace, environment, uri):
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*names no object: write s3://bucket/key") as caught:
        fetch(workspace, uri)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "ab", "m" * 64, "-models", "my models"])
def test_what_can_be_no_bucket_is_said_before_a_server_is_asked(workspace, environment, name):
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .* is no bucket: its name has 3 to 63 characters.*: name the bucket"):
        fetch(workspace, f"s3://{name}/g.pt")


def test_a_bucket_that_is_not_there_is_named(workspace, bucket):
    with pytest.raises(BadInput, match=r"s3://elsewhere/g\.pt: no such bucket"):
        fetch(workspace, "s3://elsewhere/g.pt")


def test_without_credentials_it_says_which_to_set(workspace, s3_server, environment):
    environment.setenv("AWS_ENDPOINT_URL", s3_server)
    with pytest.raises(BadInput, match=r"no usable AWS credentials .*: set AWS_ACCESS_KEY_ID"):
        fetch(workspace, "s3://models/g.pt")
    environment.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(BadInput, match="no usable AWS credentials"):
        fetch(workspace, "s3://models/g.pt")


@pytest.fixture
def answer(environment):
    """Lets a server of one's own answer whatever is asked."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(head, body=b"", linger=0.0):
        def run():
            while True:
                try:
                    asking, _ = listening.accept()
                except OSError:
                    return
                asking.recv(65536)
                asking.sendall(head.encode() + body)
                over.wait(linger)
                asking.close()

        over.clear()
        threading.Thread(target=run, daemon=True).start()
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    over = threading.Event()
    yield serve
    over.set()
    listening.close()


@pytest.mark.parametrize(("status", "code", "kind", "said"), [
    ("403 Forbidden", "AccessDenied", BadInput, "access denied"),
    ("403 Forbidden", "InvalidAccessKeyId", BadInput, r"does not accept the credentials \(InvalidAccessKeyId\)"),
    ("403 Forbidden", "SignatureDoesNotMatch", BadInput, "does not accept the credentials"),
    ("400 Bad Request", "ExpiredToken", BadInput, "does not accept the credentials"),
    ("400 Bad Request", "AuthorizationHeaderMalformed", BadInput, "AWS_REGION"),
    ("403 Forbidden", "InvalidObjectState", ExpungeError, "the S3 server answers InvalidObjectState"),
])
def test_what_the_server_refuses_is_told_by_its_code_and_without_secrets(workspace, answer, status, code, kind, said):
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
    answer(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n", body)
    with pytest.raises(ExpungeError, match=said) as caught:
        fetch(workspace, "s3://models/g.pt")
    assert type(caught.value) is kind
    assert SECRET not in str(caught.value)


def test_a_download_that_breaks_off_leaves_nothing(workspace, answer):
    answer("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n", b"half")
    with pytest.raises(ExpungeError, match="the S3 server cannot be reached") as caught:
        fetch(workspace, "s3://models/g.pt")
    assert caught.value.exit_code == 1
    assert [path.name for path in workspace.sources.iterdir()] == [".lock"]


def test_a_server_that_falls_silent_is_given_up(workspace, answer, monkeypatch):
    monkeypatch.setattr(s3.asking, "READ_SECONDS", 0.2)
    answer("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"half", linger=30)
    with pytest.raises(ExpungeError, match=r"the S3 server cannot be reached \(ReadTimeoutError\)"):
        fetch(workspace, "s3://models/g.pt")


def test_a_server_that_is_not_there_is_no_fault_of_the_request(workspace, bucket, environment):
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ExpungeError, match=r"the S3 server cannot be reached .*AWS_ENDPOINT_URL") as caught:
        fetch(workspace, "s3://models/g.pt")
    assert caught.value.exit_code == 1
    environment.setenv("AWS_ENDPOINT_URL", "no address")
    with pytest.raises(ExpungeError, match="check AWS_ENDPOINT_URL"):
        fetch(workspace, "s3://models/g.pt")


def test_without_its_package_it_says_what_to_install(workspace, environment):
    environment.setitem(sys.modules, "botocore", None)
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*pip install 'expunge\[s3\]'"):
        fetch(workspace, "s3://models/g.pt")


def test_a_full_disk_is_not_taken_for_the_server(workspace, bucket, tmp_path):
    bucket.put_object(Key="g.pt", Body=WEIGHTS)
    (tmp_path / "object").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        s3.fetch("s3://models/g.pt", tmp_path, workspace)
