"""Alert rules and the dashboard: held against Prometheus' own tools and against what is really exposed."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_servers import program, prometheus, pushgateway, pushgateway_server  # noqa: F401 - fixtures
from tests_support import EXPUNGE, bare_environment

from expunge.evidence import audits
from expunge.stores import telemetry
from pipelines.metrics import in_text

MONITORING = Path(__file__).parent.parent / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
PANELS = [panel for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"] if panel["type"] != "row"]
QUERIES = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in PANELS}


def promtool(*words):
    done = subprocess.run([program("promtool", "prometheus"), *words], cwd=MONITORING, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_number_that_is_asked_for_is_exposed_and_every_one_exposed_is_looked_at(workspace):
    exposed = {family.name for family in text_string_to_metric_families(in_text(workspace))} | telemetry.NUMBERS.keys()
    asked = [expr for exprs in QUERIES.values() for expr in exprs]
    asked += [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    assert {name for expr in asked for name in re.findall(r"\bexpunge_\w+", expr)} == exposed


def test_alerts_come_when_they_should_and_not_before():
    promtool("check", "rules", "rules.yaml")
    promtool("test", "rules", "rules.test.yaml", "rules.days.test.yaml")
    tested = [test for name in ("rules.test.yaml", "rules.days.test.yaml")
              for group in yaml.safe_load((MONITORING / name).read_text())["tests"] for test in group["alert_rule_test"]]
    for alert in (rule["alert"] for group in RULES["groups"] for rule in group["rules"]):
        assert {bool(test["exp_alerts"]) for test in tested if test["alertname"] == alert} == {True, False}, alert


@pytest.mark.thorough
def test_a_real_prometheus_answers_every_panel_from_what_a_gate_and_the_installation_say(
        begin_run, pushgateway, tmp_path, monkeypatch):  # noqa: F811
    run = begin_run().make()
    run.gate()
    run.as_run("awaiting_approval")
    audits.note(run.workspace, "verify", success=True)
    with subprocess.Popen([EXPUNGE, "metrics", "--serve", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True,
                          env=bare_environment(EXPUNGE_WORKSPACE=str(run.workspace.root))) as exporter:
        address = exporter.stdout.readline().strip()
        try:
            with prometheus(tmp_path, pushgateway, address) as ask:
                answers = {title: [ask(expr) for expr in exprs] for title, exprs in QUERIES.items()}
        finally:
            exporter.terminate()
    nothing = {title for title, results in answers.items() if not all(results)}
    # No deadline, no GPU, no failure, no sample set, no model in service, no queue: absent is not zero.
    assert nothing == {"Time left until the nearest deadline", "GPU seconds", "Since a failure", "Samples", "Samples a second",
                       "Days since it was evaluated", "Evaluated again", "The oldest unfinished"}
    assert answers["Verdict"][0][0]["metric"]["outcome"] == "PASS"
