"""Numbers for Prometheus, read back by its own parser."""

from datetime import date

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests_support import call

from expunge.contracts import read_record, write_record
from expunge.live import live
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


def test_a_run_that_waits_is_counted_in_its_state(waiting):
    found = numbers(in_text(waiting.workspace))
    assert found["expunge_runs", "awaiting_approval"] == 1
    assert sum(value for (name, *_), value in found.items() if name == "expunge_runs") == 1


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
