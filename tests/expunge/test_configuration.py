"""What an installation is told about the world outside its workspace."""

import pytest

from expunge.configuration import CONFIG_FILE, Configuration
from expunge.errors import BadInput
from expunge.settings import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "ws").create()


def test_a_workspace_needs_no_configuration(workspace):
    found = Configuration.load(workspace)
    assert (found.database, found.checkpoints, found.notice) == (None, (), None)


def test_what_is_written_is_what_is_read(workspace):
    (workspace.root / CONFIG_FILE).write_text(
        "database: postgresql+psycopg://writer@localhost/expunge\n"
        "checkpoints:\n- folder: /mnt/elsewhere\n- command: [./send, --now]\n"
        "notice: {before_hours: 2, webhook: 'https://example.org/hook'}\n")
    found = Configuration.load(workspace)
    assert found.database == "postgresql+psycopg://writer@localhost/expunge"
    assert [copy.folder or copy.command for copy in found.checkpoints] == ["/mnt/elsewhere", ("./send", "--now")]
    assert found.notice is not None
    assert found.notice.before_hours == 2


@pytest.mark.parametrize(("text", "problem"), [
    ("database: postgresql://writer:secret@localhost/expunge", "'database' holds a password"),
    ("checkpoints: [{folder: /a, s3: 's3://b/c'}]", "'checkpoints.0' name exactly one"),
    ("checkpoints: [{}]", "'checkpoints.0' name exactly one"),
    ("checkpoints: [{folder: elsewhere}]", "'checkpoints.0' folder must be an absolute path"),
    ("notice: {webhook: 'ftp://example.org'}", "'notice.webhook' must begin with http"),
    ("notice: {before_hours: 0}", "'notice.before_hours'"),
    ("releases: s3://bucket", "'releases' must be s3://bucket/prefix"),
    ("releases: s3://a/b", "'releases' 'a' is no bucket: its name has 3 to 63 characters"),
    ("training_state: {store: 's3://a/b'}", "'training_state.store' 'a' is no bucket"),
    ("checkpoints: [{s3: 's3://a/b'}]", "'checkpoints.0' 'a' is no bucket"),
    ("releases: s3://key:secret@bucket/prefix", "'releases' must be s3://bucket/prefix"),
    ("releases: s3://bucket/p\nkserve: {model_format: f}", "'kserve.namespace' is missing: add it"),
    ("releases: s3://bucket/p\nkserve: {model_format: f, namespace: My_Models}", "'kserve.namespace'"),
    ("releases: s3://bucket/p\nkserve: {model_format: f, namespace: n, services: {a: A_b}}", "'kserve.services.a'"),
    ("releases: s3://bucket/p\nkserve: {model_format: f, namespace: n, canary_percent: 100, canary_minutes: 1}",
     "'kserve.canary_percent'"),
    ("releases: s3://bucket/p\nkserve: {model_format: f, namespace: n, canary_percent: 10}",
     "'kserve' canary_percent and canary_minutes go together"),
    ("kserve: {model_format: f, namespace: n}", "'kserve' serves from S3: set 'releases'"),
    ("pushgateway: 'http://key:secret@example.org'", "'pushgateway' must be http"),
    ("pushgateway: example.org:9091", "'pushgateway' must be http"),
    ("datebase: x", "unknown key 'datebase'"),
])
def test_a_wrong_configuration_is_one_line_that_names_the_field(workspace, text, problem):
    (workspace.root / CONFIG_FILE).write_text(text + "\n")
    with pytest.raises(BadInput) as refused:
        Configuration.load(workspace)
    assert problem in str(refused.value)
    assert "secret" not in str(refused.value)
