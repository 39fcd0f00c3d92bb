"""Numbers for Prometheus, read back by its own parser."""

import signal
import subprocess
import urllib.error
from datetime import date

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_servers import fetch
from tests_support import EXPUNGE, bare_environment, call, write_policy

from expunge.contracts import read_record, write_record
from expunge.deciding import waiting_since
from expunge.evidence import audits
from expunge.live import live
from expunge.measure.policy import preset_bytes
from expunge.settings import Workspace
from pipelines.metrics import collected, in_text
from pipelines.workspace import initialise


def numbers(text):
    return {(one.name, *one.labels.values()): one.value
            for family in text_string_to_metric_families(text) for one in family.samples}


@pytest.fixture
def waiting(begin_run):
    made = begin_run()
    assert made.make().gate() == "waiting"
    return made.as_run("awaiting_approval")


def test_a_workspace_in_which_nothing_happened_has_every_number_and_all_are_zero(tmp_path):
    found = numbers(in_text(initialise(Workspace(tmp_path / "ws"))))
    assert len(found) > 15
    assert not any(found.values())


def test_a_run_that_waits_is_counted_in_its_state_and_says_since_when_and_until_when(waiting):
    deadline = "expunge_approvals_deadline_timestamp_seconds"
    found = numbers(in_text(waiting.workspace))
    assert found["expunge_runs", "awaiting_approval"] == found["expunge_approvals_waiting",] == 1
    assert sum(value for (name, *_), value in found.items() if name == "expunge_runs") == 1
    since = waiting_since(waiting.workspace, waiting.name).timestamp()
    assert found["expunge_approvals_waiting_since_timestamp_seconds",] == since
    assert (deadline,) not in found, "its policy has none: absent is not zero"
    write_policy(waiting.workspace, "debug", preset_bytes("debug") + b"deadline_days: 2\n", run_folder=waiting.folder)
    text = in_text(waiting.workspace)
    assert numbers(text)[deadline,] == since + 2 * 24 * 3600
    assert waiting.request().requester not in text
    assert waiting.name not in text


def test_audits_are_known_by_when_they_were_done_and_when_nothing_was_wrong(tmp_path):
    assert call(tmp_path, "init").code == 0
    place = Workspace(tmp_path / ".expunge")
    assert call(tmp_path, "audit", "verify").code == call(tmp_path, "audit", "live").code == 0
    good = audits.known(place)
    assert [one.last for one in good.values()] == [one.last_success for one in good.values()]
    found = numbers(in_text(place))
    assert found["expunge_audit_last_success_timestamp_seconds", "live"] == good["live"].last
    place.keyring.write_text("{}")
    assert call(tmp_path, "audit", "verify").code == 40
    after = audits.known(place)["verify"]
    assert after.last > after.last_success == good["verify"].last_success


def test_what_is_late_and_kept_too_long_is_counted_from_the_day_after(waiting):
    last = date(2027, 3, 31)
    request = waiting.request().model_copy(update={"due": last, "retain_until": last})
    write_record(waiting.request_file, request)
    assert read_record(type(request), waiting.request_file) == request

    def late(today):
        registry = collected(waiting.workspace, today)
        return [registry.get_sample_value(f"expunge_requests_{what}") for what in ("overdue", "kept_too_long")]

    assert late(last) == [0, 0]
    assert late(date(2027, 4, 1)) == [1, 1]


def test_the_verb_writes_a_file_that_prometheus_reads(tmp_path):
    assert call(tmp_path, "init").code == 0
    done = call(tmp_path, "metrics", tmp_path / "expunge.prom")
    assert done.code == 0, done.err
    assert numbers((tmp_path / "expunge.prom").read_text())["expunge_runs", "released"] == 0


def test_what_is_served_is_counted_by_records_and_sizes_and_its_bytes_are_left_to_audit_live(copy_of_demo, workspace_of):
    workspace = workspace_of(copy_of_demo)

    def counted():
        found = numbers(in_text(workspace))
        return [found[f"expunge_models_{what}",] for what in ("served", "tainted", "changed")]

    weights = workspace.releases / "digits" / "current" / "model.safetensors"
    whole = weights.read_bytes()
    assert counted() == [1, 0, 0]
    weights.chmod(0o644)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert counted() == [1, 0, 0]
    assert live(workspace).served[0].standing == "not what was released"
    weights.write_bytes(whole[:-1])
    assert counted() == [1, 0, 1]


@pytest.fixture
def exporter(tmp_path):
    """The installed command answering scrapes, its address and its process."""
    assert call(tmp_path, "init").code == 0
    with subprocess.Popen([EXPUNGE, "metrics", "--serve", "127.0.0.1:0"], cwd=tmp_path, env=bare_environment(),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip(), process
        process.kill()


def test_the_verb_answers_scrapes_says_when_it_cannot_and_ends_when_told(exporter, tmp_path):
    address, process = exporter
    assert numbers(fetch(address))["expunge_approvals_waiting",] == 0
    (tmp_path / ".expunge" / "config.yaml").write_text("datebase: x\n")
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(address)
    assert refused.value.code == 503
    assert refused.value.read().startswith(b"config.yaml: unknown key 'datebase'")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize(("words", "problem"), [
    (("--serve", "nonsense"), "--serve: 'nonsense' is no address"),
    (("--serve", "127.0.0.1:99999"), "--serve: '127.0.0.1:99999' is no address"),
    (("file", "--serve", "127.0.0.1:0"), "a file and --serve cannot be given together"),
])
def test_what_cannot_be_served_is_one_line(words, problem, tmp_path):
    assert call(tmp_path, "init").code == 0
    done = call(tmp_path, "metrics", *words)
    assert done.code == 2
    assert problem in done.err
    assert done.err.count("\n") == 1
