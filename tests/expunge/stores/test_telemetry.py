"""What steps leave at a real Pushgateway, and what one that does not answer costs them: a sentence."""

import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_servers import fetch, pushgateway, pushgateway_server  # noqa: F401 - fixtures

from expunge.configuration import CONFIG_FILE
from expunge.contracts import Outcome, SampleRole
from expunge.digests import write_atomically
from expunge.errors import NotNeeded
from expunge.events import Event
from expunge.measure import words
from expunge.room import room
from expunge.stores import telemetry

PLACES = {"job": telemetry.JOB, "instance": ""}
GOLDEN = Path(__file__).parents[2] / "golden" / "0.1.0"


def told(address):
    """What the gateway has of us: name, labels and value of each number, without what Prometheus' client says of itself."""
    return [(one.name, {name: value for name, value in one.labels.items() if name not in PLACES}, one.value)
            for family in text_string_to_metric_families(fetch(f"{address}/metrics")) for one in family.samples
            if one.labels.get("job") == telemetry.JOB and one.name.startswith("expunge_")]


def values(address, wanted, *labels):
    """One number by its labels, or by none; `labels` names those of interest."""
    found = {tuple(given[label] for label in labels): value for name, given, value in told(address) if name == wanted}
    return found if labels else found.get(())


def notes(out):
    """What a room outside of a run has said to whoever watches."""
    return [event.text for event in map(Event.model_validate_json, out.splitlines()) if event.kind == "note"]


@pytest.fixture
def adapt(workspace, tmp_path):
    """Enters a room that does next to nothing, or fails; other content of its input is other work."""
    def enter(error=None, content=b"{}"):
        @room(outputs=("out",))
        def adapt(entered, *, source: Path, out: Path):
            (out / "made").write_bytes(b"abc")
            if error:
                raise error

        write_atomically(tmp_path / "source" / "record.json", content)
        return adapt(source=tmp_path / "source", out=tmp_path / "out", statement=tmp_path / "statement.json")

    return enter


def test_a_gate_tells_its_verdict_and_the_bound_of_every_rule_and_no_label_says_who_or_what(begin_run, pushgateway):  # noqa: F811
    run = begin_run(request_id="forget-jane-doe", name="forget-jane-doe.1", model="faces-of-jane").make()
    run.gate()
    assert values(pushgateway, telemetry.VERDICT, "outcome") == {
        ("PASS",): 1, ("INCONCLUSIVE",): 0, ("FAIL",): 0, ("INVALID",): 0}
    assert values(pushgateway, telemetry.BOUND, "metric", "side") == {
        ("residual_rate", "at most"): 0.002, ("pul", "at least"): pytest.approx(0.882)}
    assert values(pushgateway, telemetry.LIMIT, "metric", "side") == {
        ("residual_rate", "at most"): 0.05, ("pul", "at least"): 0.5}
    rooms = {("unlearn",), ("evaluate",), ("gate",)}
    assert values(pushgateway, telemetry.DURATION, "component").keys() == rooms, "a group for each room, none for a run"
    assert values(pushgateway, telemetry.GPU, "component") == {}, "no GPU was used: absent is not zero"
    allowed = {"pipeline": {"unlearning"}, "component": {"unlearn", "evaluate", "gate"}, "set": set(get_args(SampleRole)),
               "outcome": set(get_args(Outcome)), "metric": words.METRICS.keys(), "side": {"at most", "at least"}}
    for name, labels, _ in told(pushgateway):
        assert telemetry.NUMBERS[name]
        for label, value in labels.items():
            assert value in allowed[label], f"{name}: {label} says {value}"
    assert "jane" not in fetch(f"{pushgateway}/metrics")


def test_work_tells_its_samples_and_what_was_only_taken_over_leaves_them(adapt, pushgateway):  # noqa: F811
    content = (GOLDEN / "sampleset.json").read_bytes()
    record = json.loads(content)
    for reused in (False, True):
        assert adapt(content=content).reused is reused
        assert values(pushgateway, telemetry.REUSED, "component") == {("adapt",): reused}
        assert values(pushgateway, telemetry.SAMPLES, "set") == {(record["role"],): record["count"]}
        assert values(pushgateway, telemetry.DURATION, "component").keys() == {("adapt",)}


def test_a_failure_is_told_beside_the_last_success_until_work_is_done_again(adapt, pushgateway):  # noqa: F811
    adapt()
    with pytest.raises(NotNeeded):
        adapt(NotNeeded("there is nothing to do", "rest"), b"1")
    assert values(pushgateway, telemetry.FAILURE, "component") == {}
    with pytest.raises(ZeroDivisionError):
        adapt(ZeroDivisionError(), b"1")
    failure, = values(pushgateway, telemetry.FAILURE, "component").values()
    success, = values(pushgateway, telemetry.SUCCESS, "component").values()
    assert failure > success
    adapt(content=b"2")
    assert values(pushgateway, telemetry.FAILURE, "component") == {}


@pytest.fixture
def silent():
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("dead", ["refuses", "is silent", "is no gateway", "is no address", "cannot be read"])
def test_a_dead_gateway_costs_one_sentence_and_never_the_step(dead, adapt, workspace, silent, monkeypatch, capsys):
    monkeypatch.setattr(telemetry, "PATIENCE", 0.3)
    config = {"refuses": "http://127.0.0.1:9", "is silent": silent, "is no address": "gopher://x"}.get(dead)
    if dead == "is no gateway":
        monkeypatch.setenv(telemetry.GATEWAY_VARIABLE, "http://ada:secret@127.0.0.1:9/x?token=secret")
    elif dead == "is no address":
        monkeypatch.setenv(telemetry.GATEWAY_VARIABLE, config)
    else:
        (workspace.root / CONFIG_FILE).write_text(f"pushgateway: {config or 'ftp://elsewhere'}\n")
    assert (adapt().folder / "out" / "made").read_bytes() == b"abc"
    said, = notes(capsys.readouterr().out)
    assert said.startswith("monitoring: ")
    assert "secret" not in said
    with pytest.raises(ZeroDivisionError):
        adapt(ZeroDivisionError(), b"1")
    said, = notes(capsys.readouterr().out)
    assert said.startswith("monitoring: ")


def test_nobody_is_told_where_no_gateway_is_named(adapt, capsys):
    adapt()
    assert notes(capsys.readouterr().out) == []


def test_gpu_seconds_are_those_of_the_gpus_that_something_was_put_on(monkeypatch):
    used = [{"allocation.all.allocated": 7}, {}, {"allocation.all.allocated": 1}]
    cuda = SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 3, memory_stats=used.__getitem__)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert telemetry.Figure(telemetry.GPU, 20.0) in telemetry.of_work(10.0, ())
    cuda.is_initialized = lambda: False
    assert telemetry.of_work(10.0, ()) == [telemetry.Figure(telemetry.DURATION, 10.0)]
