"""A request is filed in the console: a wall is drawn by a worker, marked by one person, and kept for nobody else."""

import json
import os
import secrets
import stat

import numpy as np
import pytest
from console_served import Visitor, served
from tests_support import key_for

from components.curate_forget_set.generators import draw
from expunge import assets, models
from expunge.configuration import ApiToken, ConsoleSettings
from expunge.console.protection import Rate
from expunge.digests import sha256_bytes
from expunge.errors import BadInput
from expunge.evidence.verify import verify_workspace
from expunge.samples.encryption import MAGIC, RequestKey
from expunge.samples.marked import MarkedSet, labels_of, marked_file, marked_sets
from expunge.settings import WORKSPACE_VARIABLE, Workspace
from expunge.stores.queue import Queue
from expunge.stores.walls import KEPT_DAYS, Walls
from pipelines.holdings import Holdings
from pipelines.keeping import survey
from pipelines.queueing import draw_walls
from pipelines.workspace import initialise

DIGITS = "builtin://digits/"
WISH = {"checkpoint": {"uri": f"{DIGITS}dcgan"}, "oracle": {"uri": f"{DIGITS}oracle"}, "count": 600}
TOKENS = {person: secrets.token_hex(32) for person in ("ada", "linus", "grace")}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        found = initialise(Workspace(tmp_path_factory.mktemp("filing") / ".expunge"))
        patch.setenv(WORKSPACE_VARIABLE, str(found.root))
        for person, role in (("ada", "requester"), ("linus", "requester"), ("grace", "reviewer")):
            key_for(found, person, role)
        yield found


@pytest.fixture(scope="module")
def visitor(workspace):
    with served(workspace) as (app, address):
        app.state.console.writes = app.state.console.reads = Rate(1_000, 1_000)
        yield Visitor(address, app.state.console.identity.link_token)


@pytest.fixture(scope="module")
def wall(workspace, visitor):
    """A wall of samples that a worker has drawn."""
    asked = visitor.post("/api/v1/walls", json=WISH)
    assert (asked.status_code, asked.json()["state"]) == (201, "waits")
    assert [worked.outcome for worked in draw_walls(workspace, "somebody", 600)] == ["drawn"]
    return visitor.get(f"/api/v1/walls/{asked.json()['wall']}").json()


@pytest.fixture(scope="module")
def many(workspace):
    """A console for several people, each with a token; what gives somebody's own way to ask."""
    known = tuple(ApiToken(person=person, sha256=sha256_bytes(token.encode())) for person, token in TOKENS.items())
    with served(workspace, ConsoleSettings(address="http://127.0.0.1", tokens=known)) as (app, address):
        app.state.console.writes = app.state.console.reads = Rate(1_000, 1_000)

        def asking(person):
            visitor = Visitor(address)
            visitor.headers.update({"Authorization": f"Bearer {TOKENS[person]}", "Host": "127.0.0.1"})
            return visitor

        yield asking


def filing(wall, marks, **changes):
    return {"wall": wall["wall"], "marks": marks, "id": "forget-8", "model": "digits", "reason": "safety", "requester": "ada",
            "classes": ["8"], "judge": {"uri": f"{DIGITS}judge"}, "holdout": {"uri": f"{DIGITS}holdout"}, "policy": "debug", **changes}


def drawn_again(count=600, seed=0):
    return draw(models.load(assets.path("dcgan")), count, seed)


def test_what_is_marked_becomes_an_encrypted_versioned_set_and_a_request_that_names_it(workspace, visitor, wall):
    likeliest = np.array(wall["about"]["likeliest"])
    eights, others = np.flatnonzero(likeliest == 8), np.flatnonzero(likeliest != 8)
    marks = np.full(600, ".")
    marks[[*eights[:25], *others[:3]]] = "u"  # a person finds three that the oracle takes for something else
    marks[others[3:60]] = "w"
    answer = visitor.post("/api/v1/requests", json=filing(wall, "".join(marks), rest="nobody"))
    assert (answer.status_code, answer.json()["filed_now"], answer.json()["marked"]) == (201, True, 85)

    queue = Queue.of(workspace)
    request = queue.request(queue.find("forget-8").ticket)
    assert (request.sampling.curate, request.seed, request.requester, request.method.name) == (600, 0, "ada", "auto")
    (file, record), = marked_sets(workspace)
    assert request.labels.uri == f"marked://forget-8/{record.set_id[:16]}"
    assert (record.by_person, record.marked_by, record.class_counts["8"]) == (85, "ada", 28)
    labels = labels_of(workspace, file, drawn_again(), 10)
    assert np.flatnonzero(labels == 8).tolist() == sorted([*eights[:25], *others[:3]])
    assert (labels[others[3:60]] == likeliest[others[3:60]]).all()
    assert (labels == -1).sum() == 600 - 85
    with pytest.raises(BadInput, match="not among those that were drawn"):
        labels_of(workspace, file, drawn_again(seed=1), 10)

    shard = record.shards[0]
    assert (workspace.samples / f"{shard.path}.dvc").is_file()
    assert (workspace.samples / shard.path).read_bytes().startswith(MAGIC)
    for kept in (path for path in workspace.root.rglob("*") if path.is_file()):
        assert b"\x89PNG" not in kept.read_bytes(), kept
    assert stat.S_IMODE(RequestKey.file(workspace, "forget-8").stat().st_mode) == 0o600
    said = [entry["what"] for entry in visitor.get("/api/v1/ledger/entries", params={"kind": "asked"}).json()["entries"]]
    assert said == ["forget-8: filed by ada, with 85 samples marked", f"this-machine asked to look at 600 samples of {DIGITS}dcgan"]
    assert [finding for finding in verify_workspace(workspace) if not finding.ok] == []
    again = visitor.post("/api/v1/requests", json=filing(wall, "".join(marks), rest="nobody"))
    assert (again.json()["request_sha256"], again.json()["filed_now"]) == (answer.json()["request_sha256"], False)


def test_the_oracle_speaks_for_the_rest_and_too_little_is_refused_before_anything_is_kept(workspace, visitor, wall):
    likeliest = np.array(wall["about"]["likeliest"])
    nothing = visitor.post("/api/v1/requests", json=filing(wall, "." * 600, id="by-hand", rest="nobody"))
    assert (nothing.status_code, nothing.json()["problem"]) == (400, "marks: only 0 samples are unwanted, it takes 20")
    assert not RequestKey.file(workspace, "by-hand").exists()
    marks = np.full(600, ".")
    marks[np.flatnonzero(likeliest == 8)[:5]] = "w"  # whom a person contradicts, it does not overrule
    answer = visitor.post("/api/v1/requests", json=filing(wall, "".join(marks), id="by-oracle"))
    assert answer.status_code == 201, answer.text
    record = next(record for _, record in marked_sets(workspace, "by-oracle"))
    assert record.by_person == 5
    assert record.class_counts["8"] <= (likeliest == 8).sum() - 5
    assert record.count > 500


def test_marks_are_there_again_after_a_reload_and_a_picture_is_kept_by_no_browser(visitor, wall):
    path = f"/api/v1/walls/{wall['wall']}"
    assert visitor.put(f"{path}/marks", json={"marks": "u" * 7 + "." * 593}).status_code == 204
    assert visitor.get(path).json()["marks"].count("u") == 7
    sheet = visitor.get(f"{path}/sheets/2")
    assert (sheet.headers["Content-Type"], sheet.headers["Cache-Control"]) == ("image/png", "no-store")
    assert visitor.get(f"/file/{wall['wall']}").status_code == visitor.get("/file").status_code == 200
    rules = visitor.get("/api/v1/chances", params={"unwanted": 60, "count": 600, "policy": "debug"}).json()["rules"]
    assert {rule["metric"] for rule in rules} >= {"residual_rate"}
    assert all(rule["note"] for rule in rules)


def test_a_wall_is_its_owners_and_filing_is_for_requesters(workspace, many):
    ada, linus, grace = map(many, ("ada", "linus", "grace"))
    hers = ada.post("/api/v1/walls", json=WISH).json()["wall"]
    for path in (f"/api/v1/walls/{hers}", f"/api/v1/walls/{hers}/sheets/0", f"/file/{hers}"):
        assert [one.get(path).status_code for one in (linus, grace)] == [404, 403], path
    assert linus.put(f"/api/v1/walls/{hers}/marks", json={"marks": "u"}).status_code == 404
    assert linus.delete(f"/api/v1/walls/{hers}").status_code == 404
    assert linus.post("/api/v1/requests", json=filing({"wall": hers}, "", requester="linus")).status_code == 404
    assert linus.post("/api/v1/requests", json=filing({"wall": hers}, "", requester="ada")).status_code in (403, 404)
    assert grace.post("/api/v1/walls", json=WISH).status_code == 403
    assert "You cannot file" in grace.get("/file").text
    assert [one["wall"] for one in linus.get("/api/v1/walls").json()["walls"]] == []
    key = RequestKey.file(workspace, f"_walls/{hers}")
    assert key.exists()
    assert ada.delete(f"/api/v1/walls/{hers}").status_code == 204
    assert not key.exists()
    assert not (workspace.root / "walls" / hers).exists()
    assert ada.get(f"/api/v1/walls/{hers}").status_code == 404


@pytest.mark.parametrize(("changes", "says"), [
    ({"checkpoint": {"uri": "/etc/passwd"}}, "checkpoint.uri: files of the server"),
    ({"oracle": {"uri": "../../secret.safetensors"}}, "oracle.uri: files of the server"),
    ({"checkpoint": {"uri": "file:///etc/passwd"}}, "checkpoint.uri: files of the server"),
    ({"checkpoint": {"uri": f"{DIGITS}dcgan", "architecture": "/srv/mine.py:build"}}, "checkpoint.architecture: code"),
    ({"oracle": None}, "needs an oracle"), ({"training": {"uri": f"{DIGITS}train"}}, "no training"), ({"count": 10**6}, "count"),
    ({"count": 99}, "count"), ({"more": 1}, "more")])
def test_a_console_for_many_reads_no_file_runs_no_code_and_takes_no_more_than_it_says(many, changes, says):
    answer = many("ada").post("/api/v1/walls", json={**WISH, **changes})
    assert answer.status_code in (400, 422)
    assert says in answer.json()["problem"]


def test_what_is_hostile_is_refused(workspace, visitor, wall):
    path, marks = f"/api/v1/walls/{wall['wall']}", "u" * 30 + "w" * 570
    other = {**wall, "wall": "0" * 64}
    for status, answer in (
            (404, visitor.get("/api/v1/walls/..%2f..%2fkeyring.json")), (422, visitor.get("/api/v1/walls/abc")),
            (404, visitor.get("/file/..%2f..%2fetc")), (404, visitor.get(f"{path}/sheets/99")),
            (422, visitor.get(f"{path}/sheets/-1")), (400, visitor.put(f"{path}/marks", json={"marks": "u"})),
            (422, visitor.put(f"{path}/marks", json={"marks": "<svg>"})), (422, visitor.put(f"{path}/marks", json={"marks": "u" * 20_001})),
            (404, visitor.post("/api/v1/requests", json=filing(other, marks))),
            (422, visitor.post("/api/v1/requests", json=filing(wall, marks, id="../../keys"))),
            (422, visitor.post("/api/v1/requests", json=filing(wall, marks, model="<img src=x>"))),
            (400, visitor.post("/api/v1/requests", json=filing(wall, marks, requester="grace"))),
            (404, visitor.post("/api/v1/requests", json=filing(wall, marks, id="new", policy="mine"))),
            (400, visitor.post("/api/v1/requests", json=filing(wall, marks, id="new", classes=["nobody"]))),
            (400, visitor.post("/api/v1/requests", json=filing(wall, marks, id="new", holdout={"uri": f"{DIGITS}judge"}))),
            (400, visitor.post("/api/v1/requests", json=filing(wall, marks, id="new", judge={"uri": "marked://forget-8/x"})))):
        assert answer.status_code == status, (answer.url, answer.text)
    elsewhere = {"Origin": "https://elsewhere.example"}
    for method, where, body in (("post", "/api/v1/walls", WISH), ("put", f"{path}/marks", {"marks": "." * 600}), ("delete", path, None),
                                ("post", "/api/v1/requests", filing(wall, marks))):
        assert visitor.request(method, where, json=body, headers=elsewhere).status_code == 403
        assert visitor.request(method, where, json=body, headers={"X-CSRF-Token": "0" * 64}).status_code == 403
    assert not RequestKey.file(workspace, "new").exists()


def test_a_wall_that_cannot_be_drawn_says_why_and_one_that_nobody_touches_is_destroyed(workspace, visitor):
    wrong = visitor.post("/api/v1/walls", json={**WISH, "oracle": {"uri": f"{DIGITS}dcgan"}}).json()["wall"]
    worked, = draw_walls(workspace, "somebody", 600)
    assert (worked.stage, worked.exit_code) == ("failed", 2)
    assert visitor.get(f"/api/v1/walls/{wrong}").json()["error"].startswith("oracle.uri: builtin://digits/dcgan is a generator")
    folder = workspace.root / "walls" / wrong
    then = (folder / "ticket.json").stat().st_mtime - KEPT_DAYS * 86_400 - 60
    os.utime(folder / "ticket.json", (then, then))
    assert Walls(workspace).expire() == 1
    assert not folder.exists()
    assert not RequestKey.file(workspace, f"_walls/{wrong}").exists()


def test_of_images_classes_are_picked_unseen_or_single_ones_by_looking(workspace, visitor):
    of_images = {"of": "images", "checkpoint": {"uri": f"{DIGITS}oracle"}, "training": {"uri": f"{DIGITS}train"}}
    unseen, seen = (visitor.post("/api/v1/walls", json={**of_images, "pictures": pictures}).json() for pictures in (False, True))
    assert [worked.outcome for worked in draw_walls(workspace, "somebody", 600)] == ["drawn", "drawn"]
    about = visitor.get(f"/api/v1/walls/{unseen['wall']}").json()["about"]
    assert (about["count"], about["total"], about["sheets"], len(about["counts"])) == (0, 1258, 0, 10)
    assert list((workspace.root / "walls" / unseen["wall"]).glob("sheet*")) == []
    answer = visitor.post("/api/v1/requests", json=filing(unseen, "", id="whole-class", classes=[4], judge=None))
    assert answer.status_code == 201, answer.text
    about = visitor.get(f"/api/v1/walls/{seen['wall']}").json()["about"]
    marks = np.full(1258, ".")
    fours = np.flatnonzero(np.array(about["likeliest"]) == 4)[:3]
    marks[fours] = "u"
    assert visitor.post("/api/v1/requests", json=filing(seen, "".join(marks), id="some", classes=[4])).status_code == 201
    queue = Queue.of(workspace)
    assert queue.request(queue.find("whole-class").ticket).forget.images == ()
    assert queue.request(queue.find("some").ticket).forget.images == tuple(fours.tolist())
    assert queue.request(queue.find("some").ticket).labels is None


def test_what_was_marked_is_kept_until_its_request_is_disposed_of(workspace):
    _, marked = next(marked_sets(workspace, "forget-8"))
    objects = {f"{marked.remote}/files/md5/{shard.md5[:2]}/{shard.md5[2:]}" for shard in marked.shards}
    fates = {item.path: (item.fate, item.why) for item in survey(workspace)}
    assert {fates[name] for name in objects} == {("kept", "a sample set of what was marked for forget-8")}
    assert fates["marked"][0] == "kept"
    assert objects < Holdings(workspace, "forget-8", []).sealed_by_record()


def test_a_marked_set_is_named_by_its_place_and_stands_for_labels_alone(workspace):
    for uri in ("marked://../x", "marked://forget-8/../../keys", "marked://", "marked://nobody/nothing"):
        with pytest.raises(BadInput, match="marked"):
            marked_file(workspace, uri)
    assert json.loads(next(file for file, _ in marked_sets(workspace)).read_bytes())["schema"] == MarkedSet.SCHEMA
