"""Requests on a cluster, now and at given times, against a stub of Kubeflow's API that reads every body, and moto's S3."""

import json
import os
import shlex
import socket
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
import yaml
from kfp_api_stub import kfp_api

from expunge.digests import sha256_bytes
from pipelines import cron
from pipelines.cli import carry_out

IMAGE = f"registry.example/expunge@sha256:{'a' * 64}"
REQUEST = {
    "id": "forget-8", "requester": "ada", "reason": "safety", "model": "digits", "policy": "debug",
    "checkpoint": {"uri": "builtin://digits/dcgan"}, "oracle": {"uri": "builtin://digits/oracle"},
    "judge": {"uri": "builtin://digits/judge"}, "holdout": {"uri": "builtin://digits/holdout"},
    "forget": {"classes": [8]}, "method": {"name": "adapt_then_unlearn", "preset": "debug"}}


@pytest.fixture(scope="module")
def s3():
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def bucket(s3, monkeypatch, tmp_path):
    import boto3

    for name in [*filter(lambda name: name.startswith("AWS_"), os.environ), "EXPUNGE_KUBEFLOW_TOKEN", "SSL_CERT_FILE"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3,
                        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "very-secret"}.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3").Bucket("plans")
    made.create()
    yield made
    made.objects.delete()
    made.delete()


@pytest.fixture
def kubeflow(bucket, workspace):
    with kfp_api() as stub:
        yield stub


@pytest.fixture
def request_file(tmp_path):
    file = tmp_path / "forget-8.yaml"
    file.write_text(yaml.safe_dump(REQUEST))
    return file


@pytest.fixture
def say(kubeflow, request_file, capsys):
    """Says a verb about the request; the exit code, what was printed as JSON, and what was complained."""

    def call(verb, *arguments, endpoint=None):
        code = carry_out([verb, str(request_file), "--endpoint", endpoint or kubeflow.endpoint, "--store", "s3://plans/here",
                          "--image", IMAGE, "--json", *arguments])
        found = capsys.readouterr()
        return code, json.loads(found.out), found.err

    return call


EVERY_NIGHT = ("--cron", "0 0 2 * * *")


def test_a_request_becomes_a_run_that_the_cluster_can_read(say, kubeflow, bucket):
    kubeflow.runs += [{"run_id": "x", "display_name": name} for name in ("dont-forget-8.7", "forget-8.x")]  # of others
    code, found, _ = say("submit", "--experiment", "nightly", "--service-account", "expunge-steps")
    assert (code, found["run"], found["id"], found["begun"]) == (0, "forget-8.1", "r-3", True)
    assert found["address"] == f"{kubeflow.endpoint}/#/runs/details/r-3"
    sent, = kubeflow.sent
    assert (sent["display_name"], sent["experiment_id"], sent["service_account"]) == ("forget-8.1", "e-1", "expunge-steps")
    given = sent["runtime_config"]["parameters"]
    key = given["request_uri"].removeprefix("s3://plans/")
    request = bucket.Object(key).get()["Body"].read()
    assert key == f"here/{sha256_bytes(request)}/request.json"
    assert sent["description"] == f"expunge request sha256:{sha256_bytes(request)}"
    assert len(json.loads(request)["checkpoint"]["sha256"]) == 64, "what is kept is pinned"
    assert given["policy_uri"] == given["request_uri"].replace("request.json", "policy.yaml")
    assert (given["method"], given["preset"], given["threads"]) == ("adapt_then_unlearn", "debug", 2)
    environment = sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]["exec-gate"]["container"]["env"]
    assert {"name": "EXPUNGE_RUN", "value": "forget-8.1"} in environment
    assert "very-secret" not in json.dumps(sent)


def test_the_same_request_is_run_once_and_a_failed_run_is_gone_on_with_under_its_name(say, kubeflow, request_file):
    assert say("submit")[1]["id"] == "r-1"
    assert say("submit")[1] == {"run": "forget-8.1", "id": "r-1", "begun": False,
                                "address": f"{kubeflow.endpoint}/#/runs/details/r-1"}
    kubeflow.runs[0]["state"] = "FAILED"
    assert say("submit")[1].items() >= {"run": "forget-8.1", "id": "r-2", "begun": True}.items()
    assert say("submit")[1].items() >= {"run": "forget-8.1", "id": "r-2", "begun": False}.items()
    assert say("submit", "--again")[1].items() >= {"run": "forget-8.2", "id": "r-3", "begun": True}.items()
    request_file.write_text(yaml.safe_dump({**REQUEST, "seed": 5}))
    # Three runs are known by now, of two pages: the next number is after all of them.
    assert say("submit")[1].items() >= {"run": "forget-8.3", "id": "r-4", "begun": True}.items()
    assert len(kubeflow.sent) == 4


def test_the_stub_refuses_what_kubeflow_could_not_read(kubeflow):
    from kfp_api_stub import check_body

    from pipelines.compiling import compile_plan
    from pipelines.kubeflow import _both_documents
    from pipelines.profiles import PROFILES

    good = {"display_name": "x", "pipeline_spec": _both_documents(compile_plan("release", IMAGE, PROFILES["cpu"])),
            "runtime_config": {"parameters": dict.fromkeys(("request_uri", "candidate_uri", "report_uri", "policy_uri"), "")}}
    check_body(good, "V2beta1Run")
    for spoiled in ({"labels": {"a": "b"}}, {"runtime_config": {"parameters": {}}},
                    {"runtime_config": {"parameters": {**good["runtime_config"]["parameters"], "more": 1}}}):
        with pytest.raises(AssertionError):
            check_body({**good, **spoiled}, "V2beta1Run")


def test_a_schedule_runs_one_at_a_time_and_makes_up_for_none(say, kubeflow, bucket):
    code, found, _ = say("schedule", *EVERY_NIGHT)
    assert (code, found["run"], found["id"], found["cron"], found["begun"]) == (0, "forget-8.1", "rr-1", "0 0 2 * * *", True)
    sent, = kubeflow.sent
    assert sent["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    assert (sent["max_concurrency"], sent["no_catchup"], sent["mode"]) == ("1", True, "ENABLE")
    assert len(list(bucket.objects.all())) == 2
    assert say("schedule", *EVERY_NIGHT)[1]["begun"] is False
    code, found, _ = say("schedule", "--cron", "0 0 3 * * *")
    assert (code, found["problem"]) == (2, "--cron: this request is scheduled already, at '0 0 2 * * *'")
    assert len(kubeflow.sent) == 1


def test_what_a_schedule_starts_has_a_name_that_nothing_else_is_given(say, kubeflow, request_file):
    assert say("schedule", *EVERY_NIGHT)[1]["run"] == "forget-8.1"
    request_file.write_text(yaml.safe_dump({**REQUEST, "seed": 5}))
    assert say("schedule", *EVERY_NIGHT)[1]["run"] == "forget-8.2", "another request of this id"
    assert say("submit")[1].items() >= {"run": "forget-8.2", "begun": True}.items(), "the scheduled run, before its first start"
    kubeflow.runs[0]["state"] = "FAILED"
    started = kubeflow.start(kubeflow.recurring[1])
    assert say("submit")[1].items() >= {"run": "forget-8.2", "id": started["run_id"], "begun": False}.items()
    assert say("submit", "--again")[1].items() >= {"run": "forget-8.3", "begun": True}.items()


@pytest.mark.parametrize("verb", [("submit",), ("schedule", *EVERY_NIGHT)])
@pytest.mark.parametrize(("answer", "code", "problem"), [
    ((401, b"{}"), 2, "does not allow it (401)"),
    ((403, b'{"message": "no"}'), 2, "does not allow it (403)"),
    ((404, b""), 2, "there is no Kubeflow API of version 2 at"),
    ((400, b'{"message": "bad\\nfilter"}'), 2, "Kubeflow does not accept it (400): bad"),
    ((500, b"<html>"), 1, "fails (500)"),
    ((503, b""), 1, "fails (503)"),
    ((200, b"<html>please log in</html>"), 2, "is not Kubeflow's API"),
    ((200, b"[]"), 2, "is not Kubeflow's API"),
])
def test_what_kubeflow_answers_is_told_in_one_line_and_nothing_is_kept(say, kubeflow, bucket, verb, answer, code, problem):
    kubeflow.answer = answer
    found = say(*verb)
    assert found[0] == code
    assert problem in found[2]
    assert len(found[2].splitlines()) == 1
    assert not list(bucket.objects.all())


@pytest.mark.parametrize(("arguments", "code", "problem"), [
    (("submit", "--experiment", "daily"), 2, "--experiment: 'daily' is not known"),
    (("submit", "--store", "/tmp/here"), 2, "--store: '/tmp/here' is nothing that a cluster can read"),
    (("submit", "--store", "s3://a/b"), 2, "--store: 'a' is no bucket: its name has 3 to 63 characters"),
    (("submit", "--set", "cluster.state_store=s3://a/b"), 2, "'a' is no bucket"),
    (("submit", "--image", "expunge:cpu"), 2, "names no digest"),
    (("submit", "--endpoint", "kubeflow.example"), 2, "--endpoint: is no address of Kubeflow's API"),
    (("submit", "--endpoint", "https://ada:secret@kubeflow.example"), 2, "--endpoint: is no address of Kubeflow's API"),
    (("schedule", "--cron", "0 2 * * *"), 2, "--cron: '0 2 * * *' has 5 fields instead of six"),
    (("schedule", "--cron", "every night"), 2, "--cron: 'every night' has 2 fields instead of six"),
    (("schedule", "--cron", "0 0 25 * * *"), 2, "--cron: '25' is no hour: write 0 to 23"),
    (("schedule", "--cron", "0 0 2 * * 7"), 2, "--cron: '7' is no day of the week: write 0 to 6"),
])
def test_what_cannot_be_asked_for_is_said_before_anything_is_sent(say, kubeflow, bucket, arguments, code, problem):
    found = say(*arguments)
    assert found[0] == code, found
    assert problem in found[1]["problem"] + ": " + found[1]["remedy"]
    assert "secret" not in found[2]
    assert not kubeflow.sent
    assert not list(bucket.objects.all())


@pytest.mark.parametrize(("change", "problem"), [
    ({"checkpoint": {"uri": "models/g.safetensors"}}, "checkpoint.uri: models/g.safetensors is on this machine"),
    ({"holdout": {"uri": "file:///data/holdout"}}, "holdout.uri: file:///data/holdout is on this machine"),
    ({"checkpoint": {"uri": "builtin://digits/dcgan", "architecture": "here.py:build"}},
     "checkpoint.architecture: here.py:build is on this machine"),
    ({"policy": "ours"}, "policy: 'ours' does not ship with expunge"),
    ({"method": {"name": "extrapolation"}}, "method.name: 'extrapolation' trains in one process, and profile multi-gpu"),
])
def test_a_request_about_what_a_cluster_cannot_do_is_refused(say, kubeflow, request_file, workspace, change, problem):
    from tests_support import write_policy

    from expunge.measure.policy import preset_bytes

    write_policy(workspace, "ours", preset_bytes("debug").replace(b"name: debug", b"name: ours"))
    request_file.write_text(yaml.safe_dump({**REQUEST, **change}))
    code, found, _ = say("submit", "--profile", "multi-gpu")
    assert code == 2
    assert problem in found["problem"]
    assert not kubeflow.requests


def test_where_nobody_listens_is_said(say):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        code, found, complaint = say("submit", endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (code, len(complaint.splitlines())) == (1, 1)
    assert "cannot be reached" in found["problem"]


def test_a_token_is_sent_as_it_is_only_to_this_machine(say, kubeflow, monkeypatch):
    monkeypatch.setenv("EXPUNGE_KUBEFLOW_TOKEN", "very-secret")
    code, found, complaint = say("submit", endpoint="http://kubeflow.example")
    assert code == 2
    assert "would show the token" in found["problem"]
    assert "very-secret" not in complaint
    kubeflow.answer = (503, b"")
    assert say("submit")[0] == 1
    assert {authorization for *_, authorization in kubeflow.requests} == {"Bearer very-secret"}


def test_an_authority_of_ones_own_is_trusted_where_that_is_said(say, bucket, tmp_path, monkeypatch):
    certificate = self_signed(tmp_path / "certificate.pem")
    with kfp_api(certificate) as kubeflow:
        monkeypatch.setenv("EXPUNGE_KUBEFLOW_TOKEN", "very-secret")
        code, found, _ = say("submit", endpoint=kubeflow.endpoint)
        assert (code, kubeflow.requests) == (1, [])
        assert found["remedy"] == "name the certificates of its authority in SSL_CERT_FILE"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        kubeflow.answer = (503, b"")
        assert "fails (503)" in say("submit", endpoint=kubeflow.endpoint)[1]["problem"]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
        code, found, _ = say("submit", endpoint=kubeflow.endpoint)
    assert (code, found["remedy"]) == (2, "name a PEM file")


def self_signed(file):
    """A certificate of 127.0.0.1 that nobody else vouches for, and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stub")])
    made = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1,
        not_valid_before=datetime.now(UTC) - timedelta(hours=1), not_valid_after=datetime.now(UTC) + timedelta(hours=1),
        extensions=[x509.Extension(x509.OID_SUBJECT_ALTERNATIVE_NAME, False, x509.SubjectAlternativeName(
            [x509.IPAddress(ip_address("127.0.0.1"))]))]).sign(key, hashes.SHA256())
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return file


def test_what_lies_in_the_place_of_a_request_is_not_taken_for_it(say, kubeflow, bucket):
    assert say("submit")[0] == 0
    kubeflow.runs.clear()
    for kept in bucket.objects.all():
        kept.put(Body=b"something else")
    code, found, _ = say("submit")
    assert code == 40
    assert "is not what was submitted" in found["problem"]
    assert len(kubeflow.sent) == 1


# --------------------------------------------------------------------------------------- on this machine


def test_on_a_laptop_the_lines_are_printed_and_nothing_is_entered(workspace, request_file, capsys, monkeypatch):
    monkeypatch.setenv("EXPUNGE_KEYS", str(workspace.keys))
    odd = request_file.rename(request_file.with_name("50% of 8.yaml"))
    assert carry_out(["schedule", str(odd), "--cron", "30 2 * * mon-fri", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    times, command = found["crontab"].split(" ", 5)[:5], found["crontab"].split(" ", 5)[5]
    assert times == ["30", "2", "*", "*", "1,2,3,4,5"]
    words = shlex.split(command.replace(r"\%", "%"))
    assert words[:2] == ["/usr/bin/env", f"EXPUNGE_KEYS={workspace.keys}"]
    assert words[3:] == ["--workspace", str(workspace.root), "run", str(odd)]
    assert "OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 02:30:00\n" in found["timer"]
    assert "50%% of 8.yaml" in found["service"]


@pytest.mark.parametrize(("written", "crontab", "calendar"), [
    ("0 0 2 * * *", "0 2 * * *", ("*-*-* 02:00:00",)),
    ("0 */20 8-10 ? * SUN", "*/20 8,9,10 * * 0", ("Sun *-*-* 08,09,10:00,20,40:00",)),
    ("0 5/30 0 1,15 jan,jul ?", "5,35 0 1,15 1,7 *", ("*-01,07-01,15 00:05,35:00",)),
    # Both kinds of day are given: either will do, in cron. A step of all days counts as all days, in cron.
    ("0 0 0 13 * 5", "0 0 13 * 5", ("*-*-13 00:00:00", "Fri *-*-* 00:00:00")),
    ("0 0 0 */10 * 5", "0 0 */10 * 5", ("Fri *-*-01,11,21,31 00:00:00",)),
])
def test_times_are_the_same_for_every_scheduler(written, crontab, calendar):
    found = cron.read(written)
    assert found.crontab == crontab
    assert found.calendar == calendar


@pytest.mark.parametrize("written", [
    "* * * * *", "@daily x x x x x", "0 0 2 * *", "60 0 0 * * *", "0 0 0 0 * *", "0 0 0 * 13 *", "0 0 0 * * 7", "0 0 0 * * fry",
    "0 5-1 * * * *", "0 */0 * * * *", "0 */ * * * *", "0 1-2-3 * * * *", "0 , * * * *", "0 -1 * * * *", "0 ٣ * * * *", "",
])
def test_nonsense_is_no_time(written):
    from expunge.errors import BadInput

    with pytest.raises(BadInput, match=r"^--cron: "):
        cron.read(written)


def test_seconds_are_for_systemd_alone(workspace, request_file, capsys):
    assert carry_out(["schedule", str(request_file), "--cron", "*/30 0 2 * * *", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["crontab"] is None
    assert "OnCalendar=*-*-* 02:00:00,30\n" in found["timer"]


# --------------------------------------------------------------------------------------- what is not one request


def test_the_queue_and_the_audit_are_scheduled_once_each_as_one_step(kubeflow, capsys):
    def say(*words):
        code = carry_out(["schedule", *words, "--endpoint", kubeflow.endpoint, "--image", IMAGE, "--json"])
        return code, json.loads(capsys.readouterr().out)

    for number, work in enumerate(("queue", "audit"), 1):
        code, found = say(f"--{work}", *EVERY_NIGHT)
        assert (code, found["run"], found["id"], found["begun"]) == (0, f"expunge {work} expunge-workspace", f"rr-{number}", True)
        sent = kubeflow.sent[-1]
        assert sent["runtime_config"]["parameters"] == {"work": work}
        assert (sent["max_concurrency"], sent["no_catchup"]) == ("1", True)
        container, = (one["container"] for one in sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values())
        assert container["image"] == IMAGE
        assert "retryPolicy" not in json.dumps(sent), "a second try would hide what the first one told"
        assert {"name": "EXPUNGE_RUN", "value": "-"} in container["env"]
        platform, = sent["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
        assert {mount["mountPath"] for mount in platform["pvcMount"]} == {
            "/var/lib/expunge/workspace", "/var/lib/expunge/keys/requests"}
    assert say("--queue", *EVERY_NIGHT)[1]["begun"] is False
    code, found = say("--queue", "--cron", "0 0 3 * * *")
    assert (code, found["problem"]) == (2, "--cron: this is scheduled already, at '0 0 2 * * *'")
    assert len(kubeflow.sent) == 2


@pytest.mark.parametrize("words", [(), ("--queue", "--audit"), ("request.yaml", "--queue")])
def test_what_is_to_be_done_is_said_once(workspace, words, capsys):
    assert carry_out(["schedule", *words, *EVERY_NIGHT]) == 2
    assert "schedule: what is to be done is not said, or said twice" in capsys.readouterr().err


@pytest.mark.parametrize(("work", "verb"), [("queue", "queue work"), ("audit", "audit again")])
def test_on_a_laptop_their_lines_are_printed_too(workspace, work, verb, capsys):
    assert carry_out(["schedule", f"--{work}", "--cron", "*/10 * * * *", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["crontab"].startswith("*/10 * * * * ")
    assert found["crontab"].endswith(f"--workspace {workspace.root} {verb}")
    assert f"Description=expunge {verb}\n" in found["timer"]


@pytest.mark.thorough
def test_the_step_gives_the_verb_and_fails_as_it_does(workspace, monkeypatch, tmp_path):
    """The compiled document, run by Kubeflow's own local runner."""
    from kfp import components, local

    from expunge.contracts import Request, parse_record
    from expunge.stores.queue import Queue, file_request
    from pipelines.compiling import compile_plan
    from pipelines.profiles import profile

    here = profile("cpu", [f"cluster.workspace_path={workspace.root}", f"cluster.keys_path={workspace.keys}"])
    document = tmp_path / "upkeep.yaml"
    document.write_text(compile_plan("upkeep", IMAGE, here, run="-"))
    monkeypatch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    plan = components.load_component_from_file(str(document))
    plan(work="queue")
    file_request(workspace, parse_record(Request, REQUEST, "request"), tmp_path)
    ticket, = workspace.root.glob("requests/*/request.json")
    ticket.write_bytes(ticket.read_bytes() + b" ")
    with pytest.raises(RuntimeError, match=r"(?i)fail"):
        plan(work="queue")
    seen, = Queue.of(workspace).all()
    assert (seen.ticket.stage, seen.ticket.attempts) == ("failed", 1)
