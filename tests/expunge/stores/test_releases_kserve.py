"""Releases through KServe: one deployer wins, what is not ready serves nobody, and the one before stays."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kserve_stub import GROUP, NAMESPACE
from tests_support import blocks
from two_deployers import two_deployers_at_once

from expunge.configuration import CONFIG_FILE
from expunge.contracts import Release
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, NotServed, WorkspaceBusy
from expunge.live import live
from expunge.stores import releases, releases_kserve
from expunge.stores.releases_kserve import KServeReleases
from pipelines import doctor

SETTINGS = {"namespace": NAMESPACE, "model_format": "expunge", "runtime": "generators", "deadline_minutes": 1}
BRIEF = {"deadline_minutes": 0.002}


def describe(generation, weights, beside):
    return Release(
        model="digits", generation=generation, run="run.1", request_id="r", request_sha256="a" * 64,
        parent_sha256="f" * 64, candidate_sha256=weights.sha256, verdict_sha256="b" * 64, report_sha256="c" * 64,
        approvals=(), weights=weights, beside=beside, released_at="2026-11-20T00:00:00+00:00")


def publish(workspace, weights, tell=lambda _: None):
    file = workspace.root.parent / f"weights-{sha256_bytes(weights)[:8]}"
    file.write_bytes(weights)
    return releases.publish(workspace, "digits", file, sha256_bytes(weights), describe, {}, tell=tell)


def configure(workspace, **more):
    (workspace.root / CONFIG_FILE).write_text(f"releases: s3://models/served\nkserve: {json.dumps(SETTINGS | more)}\n")


@pytest.fixture
def served(workspace, bucket, kserve):
    """A workspace that serves by KServe."""
    configure(workspace)
    return workspace


def spec(kserve):
    return kserve.services["digits"]["spec"]["predictor"]


def on_s3(bucket):
    """The folders of releases that lie there."""
    return {found.key.split("/")[2] for found in bucket.objects.all() if found.key.count("/") == 3}


def wait_for(what):
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_release_is_in_service_once_it_is_ready_and_every_request_goes_there(served, bucket, kserve):
    (asked,) = doctor._kserve(served)
    assert (asked.level, asked.found) == ("ok", "the Kubernetes API answers, for InferenceServices in models")
    one, two = publish(served, b"one"), publish(served, b"two")
    assert releases.current(served, "digits") == two
    first, second = map(releases.folder_name, (one, two))
    assert kserve.shares == [{}, {first: 100}, {second: 100}]
    folder, digest = f"s3://models/served/digits/{second}", sha256_file(releases.folder_of(served, two) / "release.json")
    assert spec(kserve) == {"minReplicas": 1, "model": {
        "modelFormat": {"name": "expunge"}, "runtime": "generators", "storageUri": folder,
        "env": [{"name": "EXPUNGE_RELEASE_SHA256", "value": digest}]}}
    said = kserve.services["digits"]["metadata"]["annotations"]
    assert (said["expunge/weights-sha256"], said["expunge/release-sha256"]) == (sha256_bytes(b"two"), digest)
    assert on_s3(bucket) == {first, second}
    assert live(served).served[0].path == f"{folder}/model.safetensors"
    revisions = len(kserve.made["digits"][1])
    assert publish(served, b"two") == two
    assert len(kserve.made["digits"][1]) == revisions == 2, "nobody starts servers to take a share away"


def test_a_server_that_compares_as_the_page_says_never_answers_with_other_bytes(served, kserve, monkeypatch, tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "kserve.md").read_text()
    (served.root / CONFIG_FILE).write_text(blocks(page, "yaml")[0].replace("expunge-models", NAMESPACE).replace("15", "0.001"))
    release = publish(served, b"one")
    check, = blocks(page, "python")
    loaded = releases.folder_of(served, release)
    (told,) = spec(kserve)["model"]["env"]
    monkeypatch.setenv(told["name"], told["value"])
    exec(check.replace("/mnt/models", str(loaded)), {})
    (loaded / "model.safetensors").write_bytes(b"two")
    with pytest.raises(AssertionError):
        exec(check.replace("/mnt/models", str(loaded)), {})


def test_a_canary_gets_its_share_is_in_nobodys_way_and_then_gets_everything(served, kserve):
    old = publish(served, b"old")
    configure(served, canary_percent=10, canary_minutes=0.005)
    told = []
    new = publish(served, b"new", told.append)
    old_name, new_name = map(releases.folder_name, (old, new))
    assert kserve.shares[1:] == [{old_name: 100}, {new_name: 10, old_name: 90}, {new_name: 100}]
    assert told == [f"kserve://models/digits: generation 2 gets {state}" for state in (
        "10 % of the requests; not ready (KServe gives no reason)",
        "10 % of the requests; not ready (ModelLoadFailed)", "10 % of the requests; ready",
        "100 % of the requests; not ready (KServe gives no reason)")]
    assert releases.rollback(served, "digits").now == old
    assert kserve.shares[-1] == {old_name: 100}


def test_a_rollout_that_takes_long_can_be_seen_and_ended_by_somebody_else(served, bucket, kserve):
    old = publish(served, b"old")
    configure(served, canary_percent=25, canary_minutes=5)
    with ThreadPoolExecutor() as pool:
        rollout = pool.submit(publish, served, b"new")
        wait_for(lambda: 25 in kserve.shares[-1].values())
        (found,) = live(served).served
        assert (found.generation, found.underway) == (1, f"2-{sha256_bytes(b'new')[:12]}")
        with pytest.raises(WorkspaceBusy, match=r"^kserve://models/digits: 2-.* is being rolled out: wait for it, or end"):
            publish(served, b"another")
        ended = releases.rollback(served, "digits")
        assert (ended.was, ended.now) == (old, old)
        with pytest.raises(WorkspaceBusy, match="somebody else has changed what is served"):
            rollout.result()
    assert kserve.shares[-1] == {releases.folder_name(old): 100}
    assert releases.history(served, "digits") == (old,)
    assert on_s3(bucket) == {releases.folder_name(old)}
    assert live(served).served[0].underway is None


@pytest.mark.parametrize("share", [{}, pytest.param({"canary_percent": 50, "canary_minutes": 0.0001},
                                                    marks=pytest.mark.thorough)])
def test_what_does_not_become_ready_in_time_leaves_nothing_and_the_one_before_stays(served, bucket, kserve, share):
    kserve.works = lambda folder: False
    configure(served, **share, **BRIEF)
    with pytest.raises(NotServed, match=r"^kserve://models/digits: generation 1 was not ready within 0\.002 minutes "
                                        r"\(RevisionFailed, ModelLoadFailed\): see 'kubectl describe"):
        publish(served, b"first")
    assert (kserve.services, on_s3(bucket)) == ({}, set())
    kserve.works = lambda folder: folder.startswith("1-")
    configure(served)
    old = publish(served, b"old")
    configure(served, **share, **BRIEF)
    asked = len(kserve.requests)
    with pytest.raises(NotServed, match="generation 2 was not ready"):
        publish(served, b"new")
    shares = [body["spec"]["predictor"]["canaryTrafficPercent"] for verb, _, body, _ in kserve.requests[asked:] if verb == "PATCH"]
    assert {*shares} == {share.get("canary_percent", 0), 0}, "what is not ready is given no more"
    assert releases.current(served, "digits") == old
    assert releases.history(served, "digits") == (old,)
    assert on_s3(bucket) == {releases.folder_name(old)}
    assert spec(kserve)["model"]["storageUri"].endswith(releases.folder_name(old))
    assert not any(releases.folder_name(old) not in one for one in kserve.shares[2:])
    kserve.works = lambda folder: True
    configure(served)
    assert publish(served, b"newer").generation == 2
    assert kserve.shares[-1] == {f"2-{sha256_bytes(b'newer')[:12]}": 100}


@pytest.mark.thorough
def test_who_is_killed_in_a_rollout_goes_on_with_it(served, kserve, monkeypatch):
    old = publish(served, b"old")

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patched:
        patched.setattr(KServeReleases, "settle", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            publish(served, b"new")
    assert releases.current(served, "digits") == old
    new = publish(served, b"new")
    assert (new.generation, releases.current(served, "digits")) == (2, new)
    assert len(kserve.made["digits"][1]) == 2


@pytest.mark.parametrize("earlier", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_of_two_deployers_at_once_one_wins_and_the_other_is_told_and_leaves_nothing(
        served, bucket, kserve, monkeypatch, earlier):
    old = {releases.folder_name(publish(served, b"old"))} if earlier else set()
    copy, won, lost = two_deployers_at_once(monkeypatch, KServeReleases, served, publish)
    assert "give the same command again" in lost
    assert kserve.shares[-1] == {releases.folder_name(won): 100}
    assert on_s3(bucket) == old | {releases.folder_name(won)}
    assert sorted(len(releases.history(one, "digits")) for one in (served, copy)) == [len(old), len(old) + 1]


def test_a_service_that_came_and_went_meanwhile_is_noticed(served, kserve):
    """Before and after there is none: by the service alone it would look as if nothing had happened (ABA)."""
    one = publish(served, b"one")
    releases.withdraw(served, "digits")
    store = releases.store_of(served)
    before = store.pointed("digits")
    store.serve("digits", one, before)
    store.settle("digits", one, lambda _: None)
    assert releases.current(served, "digits") == one
    store.serve("digits", None, store.pointed("digits"))
    store.settle("digits", None, lambda _: None)
    assert store.pointed("digits").folder is before.folder is None
    with pytest.raises(WorkspaceBusy, match=r"^kserve://models/digits: somebody else has changed"):
        store.serve("digits", one, before)
    assert kserve.services == {}


@pytest.mark.thorough
def test_what_s3_served_is_served_until_kserve_is_ready_to(workspace, bucket, kserve):
    (workspace.root / CONFIG_FILE).write_text("releases: s3://models/served\n")
    old = publish(workspace, b"old")
    kserve.works = lambda folder: False
    configure(workspace, **BRIEF)
    with pytest.raises(NotServed):
        publish(workspace, b"new")
    assert releases.current(workspace, "digits") == old
    kserve.works = lambda folder: True
    configure(workspace)
    new = publish(workspace, b"new")
    assert releases.current(workspace, "digits") == new
    assert json.loads(bucket.Object("served/digits/current").get()["Body"].read())["folder"] is None
    releases.withdraw(workspace, "digits")
    assert (releases.current(workspace, "digits"), kserve.services) == (None, {})


@pytest.mark.thorough
@pytest.mark.parametrize("how", [(503, {}), (500, b"oops"), (429, {}), "lost"])
def test_a_kubernetes_api_that_fails_half_of_the_time_ends_in_one_release(served, kserve, how):
    fails = iter([True, False] * 1000)
    kserve.trouble = lambda verb, path: how if next(fails) else None
    assert publish(served, b"one").generation == 1
    kserve.trouble = lambda verb, path: None
    assert releases.current(served, "digits").generation == 1
    assert len(kserve.made["digits"][1]) == 1


def test_a_server_that_refuses_is_one_line_and_nothing_is_changed(served, bucket, kserve):
    for answer, code, said in (
            ((401, {"reason": "Unauthorized"}), 2, "does not accept who asks (401): check KUBECONFIG"),
            ((403, {"reason": "Forbidden"}), 2, "may not GET inferenceservices in namespace 'models' (403): bind"),
            ((404, b"404 page not found\n"), 2, "the cluster knows no InferenceService of serving.kserve.io/v1beta1"),
            ((418, {"message": "short\nand stout"}), 1, "answers 418: short\N{REPLACEMENT CHARACTER}and stout: check"),
            ((503, {}), 1, "is busy or broken (503 Service Unavailable): give the same command again later")):
        kserve.trouble = lambda verb, path, answer=answer: answer
        with pytest.raises(ExpungeError) as refused:
            publish(served, b"one") if code == 1 else releases.current(served, "digits")
        assert said in str(refused.value)
        assert refused.value.exit_code == code
        assert "\n" not in str(refused.value)
    assert releases.history(served, "digits") == ()
    assert on_s3(bucket) == set()


def test_no_cluster_a_missing_namespace_and_an_impossible_name_are_one_line(served, kserve, environment):
    configure(served, namespace="elsewhere")
    with pytest.raises(BadInput, match=r"^kserve\.namespace: there is no namespace 'elsewhere': correct config\.yaml"):
        publish(served, b"one")
    configure(served, services={"digits": "my-digits"})
    assert releases.current(served, "digits") is None
    with pytest.raises(BadInput, match=r"^model: 'My_Model' cannot be the name of an InferenceService: give it one in"):
        releases.current(served, "My_Model")
    environment.setenv("KUBECONFIG", str(served.root / "nothing"))
    with pytest.raises(BadInput, match=r"^kserve: no cluster is known \(ConfigException\): set KUBECONFIG"):
        releases.current(served, "digits")
    (served.root / "nothing").write_text("apiVersion: v1\nclusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]\n"
                                         "contexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n"
                                         "users: [{name: a, user: {token: t}}]\n")
    with pytest.raises(ExpungeError, match=r"^kserve: the Kubernetes API cannot be reached \(NewConnectionError\): check"):
        releases.current(served, "digits")


@pytest.mark.thorough
@pytest.mark.parametrize(("change", "said"), [
    ({"metadata": {"annotations": {"expunge/model": "letters"}}}, "is not what expunge made for digits"),
    ({"spec": {"predictor": {"model": {"storageUri": "s3://models/other"}}}}, "serves something else than 1-"),
    ({"spec": {"predictor": {"model": {"env": []}}}}, "serves something else than 1-"),
])
def test_a_service_that_somebody_else_changed_is_said_and_not_written_over(served, kserve, change, said):
    publish(served, b"one")
    found = kserve.services["digits"]
    kserve.write("PATCH", "digits", {**change, "metadata": {
        **change.get("metadata", {}), "resourceVersion": found["metadata"]["resourceVersion"]}})
    with pytest.raises(DoesNotVerify, match=rf"^kserve://models/digits: {said}"):
        publish(served, b"two")
    (looked_at,) = live(served).served
    assert (looked_at.standing, live(served).exit_code) == ("not what was released", 40)


def test_a_pod_asks_as_the_account_whose_token_it_was_given(served, kserve, environment, tmp_path):
    (tmp_path / "account").mkdir()
    (tmp_path / "account" / "token").write_text("t")
    (tmp_path / "account" / "ca.crt").write_text("c")
    host, _, port = kserve.endpoint.removeprefix("http://").partition(":")
    environment.setenv("KUBERNETES_SERVICE_HOST", host)
    environment.setenv("KUBERNETES_SERVICE_PORT", port)
    environment.setenv("EXPUNGE_SERVICE_ACCOUNT", str(tmp_path / "account"))
    connected = releases_kserve._connect()
    assert connected.configuration.host == f"https://{host}:{port}"
    assert connected.configuration.get_api_key_with_prefix("authorization") == "bearer t"
    (tmp_path / "account" / "token").unlink()
    with pytest.raises(BadInput, match="no cluster is known"):
        releases.current(served, "digits")
    assert GROUP.startswith(f"/apis/{releases_kserve.API}/")
