"""Models from the Hugging Face Hub: its real client, on a cache as it lays one out and on a server on loopback.

The client reads its settings when it is imported, hence a process for each environment.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from expunge.contracts import ParentSource
from expunge.digests import sha256_bytes
from expunge.errors import BadInput
from expunge.stores import sources

WEIGHTS, COMMIT, OTHER = b"some weights", "1" * 40, "2" * 40
ASK = """
import json, sys
from pathlib import Path
from expunge.contracts import ParentSource
from expunge.errors import ExpungeError
from expunge.settings import Workspace
from expunge.stores import sources
said = []
for source in json.loads(sys.argv[2]):
    try:
        said.append(str(sources.model_file("checkpoint", ParentSource(**source), Workspace(Path(sys.argv[1])))))
    except ExpungeError as error:
        said.append(f"{type(error).__name__} {error}")
print(json.dumps(said))
"""


@pytest.fixture
def ask(workspace, tmp_path):
    """What becomes of each URI, in a process with a Hub's home in a temporary folder."""

    def call(*uris, sha256=None, **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(workspace.root), json.dumps([{"uri": uri, "sha256": sha256} for uri in uris])],
            capture_output=True, text=True, check=False, timeout=300,
            env={**kept, "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path), **environment})
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return call


@pytest.fixture
def cache(tmp_path):
    """A cache with one repository: a file on the branch `main`, and another under the tag `v1`."""
    home = tmp_path / "hf" / "hub" / "models--ada--faces"
    for revision, commit, weights in (("main", COMMIT, WEIGHTS), ("v1", OTHER, WEIGHTS * 2), ("refs/pr/1", OTHER, b"")):
        (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / revision).write_text(commit)
        if weights:
            (home / "blobs").mkdir(exist_ok=True)
            (home / "blobs" / sha256_bytes(weights)).write_bytes(weights)
            file = home / "snapshots" / commit / "weights" / "g.safetensors"
            file.parent.mkdir(parents=True)
            file.symlink_to(os.path.relpath(home / "blobs" / sha256_bytes(weights), file.parent))
    return home


def test_what_the_cache_holds_is_taken_offline_by_branch_tag_or_commit(workspace, ask, cache):
    uris = [f"hf://ada/faces{revision}/weights/g.safetensors" for revision in ("", "@main", f"@{COMMIT}", "@v1", "@refs%2Fpr%2F1")]
    first, second = (str(workspace.sources / sha256_bytes(found) / "g.safetensors") for found in (WEIGHTS, WEIGHTS * 2))
    assert ask(*uris, HF_HUB_OFFLINE="1") == [first] * 3 + [second] * 2
    assert Path(first).read_bytes() == WEIGHTS
    assert not Path(first).is_symlink()
    shutil.rmtree(cache)
    assert ask(uris[0], sha256=sha256_bytes(WEIGHTS), HF_HUB_OFFLINE="1") == [first]


def test_offline_what_the_cache_does_not_hold_is_named(ask, cache):
    said = ask("hf://ada/faces/other.pt", "hf://ada/faces@v9/weights/g.safetensors", "hf://ada/hands/g.pt", HF_HUB_OFFLINE="1")
    for line in said:
        assert line.startswith("BadInput checkpoint.uri: hf://ada/")
        assert "is not in the local cache, and HF_HUB_OFFLINE forbids to ask for it: unset HF_HUB_OFFLINE" in line


def test_other_bytes_than_the_pinned_ones_are_refused(ask, cache):
    said, = ask("hf://ada/faces/weights/g.safetensors", sha256="0" * 64, HF_HUB_OFFLINE="1")
    assert said.startswith("Refused checkpoint.sha256: hf://ada/faces/weights/g.safetensors has digest")


def test_a_hub_that_cannot_be_reached_is_no_fault_of_the_request_and_the_cache_is_asked(workspace, ask, cache):
    missing, there = ask("hf://ada/faces/other.pt", "hf://ada/faces/weights/g.safetensors", HF_ENDPOINT="http://127.0.0.1:9")
    assert missing.startswith("ExpungeError checkpoint.uri: hf://ada/faces/other.pt: the Hub cannot be reached")
    assert there == str(workspace.sources / sha256_bytes(WEIGHTS) / "g.safetensors")


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does where a file is asked for."""

    stumbled = False

    def do_HEAD(self):
        _, name, _, revision, file = self.path.strip("/").split("/", 4)
        refusal = {"secret": (401, "RepoNotFound"), "gated": (403, "GatedRepo"), "wrong-token": (401, ""),
                   "broken": (500, "")}.get(name)
        if name == "private" and self.headers["Authorization"] != "Bearer hf_hidden":
            refusal = 401, "RepoNotFound"
        if name == "stumbles" and self.command == "GET" and not Hub.stumbled:
            Hub.stumbled, refusal = True, (429, "")
        if refusal is None and revision != "main":
            refusal = 404, "RevisionNotFound"
        if refusal is None and file != "g.safetensors":
            refusal = 404, "EntryNotFound"
        self.send_response(refusal[0] if refusal else 200)
        if refusal and refusal[1]:
            self.send_header("X-Error-Code", refusal[1])
        self.send_header("Retry-After", "0")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{sha256_bytes(WEIGHTS)}"')
        self.send_header("Content-Length", "0" if refusal else str(len(WEIGHTS)))
        self.end_headers()
        if self.command == "GET" and not refusal:
            self.wfile.write(WEIGHTS)

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_file_comes_from_the_hub_and_what_it_refuses_is_told_without_the_token(workspace, ask, hub):
    said = ask("hf://ada/faces/g.safetensors", "hf://ada/faces/other.pt", "hf://ada/faces@v9/g.safetensors",
               "hf://ada/secret/g.safetensors", "hf://ada/gated/g.safetensors", "hf://ada/wrong-token/g.safetensors",
               "hf://ada/broken/g.safetensors", "hf://ada/private/g.safetensors", "hf://ada/stumbles/g.safetensors",
               HF_ENDPOINT=hub, HF_TOKEN="hf_hidden")
    fetched = str(workspace.sources / sha256_bytes(WEIGHTS) / "g.safetensors")
    expected = [
        fetched,
        "no such file in 'ada/faces': check the path", "no revision 'v9': check the branch",
        "no repository 'ada/secret' can be seen: check its name; a private one needs HF_TOKEN",
        "access denied: ask for access", "HF_TOKEN",
        "ExpungeError checkpoint.uri: hf://ada/broken/g.safetensors: the Hub answers 500, and the local cache does not have it",
        fetched, fetched]
    for line, part in zip(said, expected, strict=True):
        assert part in line
    assert all(line.startswith("BadInput checkpoint.uri: hf://ada/") for line in said[1:6])
    assert "hidden" not in "".join(said)


PIN = """
import json, sys
from pathlib import Path
from expunge.errors import ExpungeError
from expunge.contracts import ClassifierSource
from expunge.settings import Workspace
from expunge.stores import sources
def said(uri):
    source = ClassifierSource(uri=uri)
    try:
        return sources._said_by_folder(source, Workspace(Path(sys.argv[1])))
    except ExpungeError as error:
        return str(error)
print(json.dumps([said(f"hf://ada/faces/weights/{folder}/model.safetensors") for folder in sys.argv[2:]]))
"""


def test_what_a_library_keeps_beside_its_weights_comes_along(workspace, cache, tmp_path):
    """Offline, so that only what was fetched before counts: a file that was not, and one of which is known that it is not there."""
    from safetensors.numpy import save_file

    for name in ("complete", "unknown", "none", "ours"):
        folder = cache / "snapshots" / COMMIT / "weights" / name
        folder.mkdir()
        (folder / "config.json").write_text('{"architectures": ["CLIPModel"]}')
        save_file({}, folder / "model.safetensors",
                  {"expunge": '{"architecture": "lenet", "family": "classifier"}'} if name == "ours" else None)
        if name == "complete":
            (folder / "preprocessor_config.json").write_text('{"resample": 3}')
        if name == "none":
            never = cache / ".no_exist" / COMMIT / "weights" / name / "preprocessor_config.json"
            never.parent.mkdir(parents=True)
            never.touch()
    done = subprocess.run([sys.executable, "-c", PIN, str(workspace.root), "complete", "unknown", "none", "ours"],
                          capture_output=True, text=True, check=False,
                          env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    complete, unknown, none, ours = json.loads(done.stdout)
    config = {"config": {"architectures": ["CLIPModel"]}}
    assert complete == {"architecture": "clip", "config": config | {"preprocessor": {"resample": 3}}}
    assert "weights/unknown/preprocessor_config.json: is not in the local cache, and HF_HUB_OFFLINE forbids" in unknown
    assert none == {"architecture": "clip", "config": config}
    assert ours == {}  # its file says what it is


@pytest.mark.parametrize("uri", ["hf://", "hf://ada", "hf://ada/faces", "hf://ada/faces/", "hf://ada/faces@v1", "hf:/ada/faces/g.pt",
                                 "hf://ada/faces@/g.pt", "hf://ada/faces//g.pt", "hf://ada/faces/../g.pt", "hf://ada/faces/g.pt?token=hidden", "hf://a b/c/d"])
def test_what_names_no_file_is_turned_away(workspace, uri):
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*names no file of a repository: write hf://owner/name/") as caught:
        sources.model_file("checkpoint", ParentSource(uri=uri), workspace)
    assert "hidden" not in str(caught.value)


def test_without_its_package_it_says_what_to_install(workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*pip install 'expunge\[hub\]'"):
        sources.model_file("checkpoint", ParentSource(uri="hf://ada/faces/g.pt"), workspace)
