"""The index finds what belongs on a page, keeps up, and is made again when another ledger lies there."""

import pytest
from console_served import signed, waiting_runs

from expunge import deciding
from expunge.console import views
from expunge.console.index import Behind, Index
from expunge.evidence.ledger import Ledger
from expunge.runs import Run


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return waiting_runs(tmp_path_factory.mktemp("index"), ["never", "later", "sooner"], days={"later": 5, "sooner": 2})


@pytest.fixture
def index(workspace):
    opened = Index(workspace)
    while opened.refresh() != Behind(entries=0, runs=0):
        pass
    yield opened
    opened.close()


def test_the_queue_goes_by_deadline_page_by_page_and_keeps_up(workspace, index):
    rows, after = [], None
    while True:
        page, after = index.runs(None, after and tuple(after), 1)
        rows += page
        if after is None:
            break
    assert [row.run for row in rows] == ["sooner.1", "later.1", "never.1"]
    for row in rows:
        run = Run(workspace, row.run)
        deadline = deciding.deadline_of(run, run.state())
        assert row.deadline == (deadline and deadline.isoformat(timespec="seconds"))
    deciding.take_in(Run(workspace, "sooner.1"), signed(workspace, "sooner.1", "grace", "reject").encode(), "the grids are clean")
    index.refresh()
    assert [row.run for row in index.runs(None, None, 10)[0]] == ["later.1", "never.1", "sooner.1"]
    assert [row.run for row in index.runs("rejected", None, 10)[0]] == ["sooner.1"]
    assert index.states() == {"awaiting_approval": 2, "rejected": 1}


def test_entries_are_found_by_request_person_kind_and_digest_page_by_page(workspace, index):
    everything = views.trail(workspace, index, limit=200)["entries"]
    assert [one["index"] for one in everything] == list(reversed(range(Ledger.open(workspace).size)))

    def found(**asked):
        return [one["index"] for one in views.trail(workspace, index, **asked)["entries"]]

    subject = deciding.subject_of(Run(workspace, "later.1"))
    of_later = [one["index"] for one in everything if "later.1" in one["what"]]
    assert found(request="later") == of_later
    naming = [one["index"] for one in everything
              if subject.candidate_sha256 in (*one["subjects"].values(), *one["inputs"].values())]
    assert naming
    for digest in (subject.candidate_sha256, subject.candidate_sha256[:9]):
        assert found(digest=digest) == naming
        assert found(digest=digest, request="later", kind="room") == naming
    assert found(digest=everything[3]["sha256"]) == [everything[3]["index"]]
    assert found(kind="keyring", person="linus") == [one["index"] for one in everything if "linus's key" in one["what"]]
    assert found(person="nobody") == []
    first = views.trail(workspace, index, request="later", limit=2)
    second = views.trail(workspace, index, request="later", limit=2, before=first["next"])
    assert [one["index"] for one in first["entries"] + second["entries"]] == of_later[:4]


def test_an_index_of_another_ledger_is_made_again(workspace, index):
    before = index._file.execute("SELECT * FROM terms ORDER BY term, position").fetchall()
    for lie in ("UPDATE taken SET last = 'of another'", "UPDATE taken SET entries = entries + 7"):
        index._file.execute("INSERT OR IGNORE INTO terms VALUES ('person:mallory', 0)")
        index._file.execute(lie)
        while index.refresh() != Behind(entries=0, runs=0):
            pass
        assert index._file.execute("SELECT * FROM terms ORDER BY term, position").fetchall() == before
