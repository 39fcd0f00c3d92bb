import re
from html.parser import HTMLParser

import pytest

from components.evaluate.page import render_page
from expunge.contracts import Report, read_record
from expunge.errors import DoesNotVerify
from expunge.measure.policy import decide, preset

VOID = {"meta", "br", "img", "link"}


@pytest.fixture(scope="module")
def folder(house):
    house.write_request(evaluate=600)
    return house.run("page")


@pytest.fixture(scope="module")
def verdict(folder):
    return decide(
        read_record(Report, folder), preset("standard"), report_sha256="a" * 64, policy_sha256="b" * 64
    )


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_one_file_no_network_no_script(folder):
    page = (folder / "page.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.tags.isdisjoint({"script", "link", "iframe", "object", "form"})
    assert not re.search(r"https?://|//[a-z]|@import|\son[a-z]+=", re.sub(r"base64,[^)]*", "", page))
    assert len(page) < 3_000_000


def test_without_a_verdict_it_says_who_decides(folder):
    page = (folder / "page.html").read_text()
    assert "decided by the gate" in page
    assert "PASS" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_the_verdict_comes_first_with_every_reason_and_limit(folder, verdict):
    page = render_page(folder, verdict)
    assert page.index(f"<strong>{verdict.outcome}</strong>") < page.index("Is it gone?")
    for found in verdict.rules:
        assert found.reason in page
    assert page.count('class="limit"') >= len(verdict.rules)


def test_the_verdict_of_another_candidate_is_refused(folder, verdict):
    with pytest.raises(DoesNotVerify):
        render_page(folder, verdict.model_copy(update={"candidate_sha256": "e" * 64}))


def test_a_control_that_went_wrong_is_named(folder, verdict):
    wrong = verdict.model_copy(
        update={"outcome": "INVALID", "controls": {"parent": "must FAIL, came out PASS: x"}}
    )
    page = render_page(folder, wrong)
    assert "control parent must FAIL, came out PASS" in page


def test_a_stricter_policy_hides_what_the_room_had_stored(folder, verdict):
    assert ".unwanted-before {" in render_page(folder, verdict, preset("standard"), "safety")
    closed = preset("standard").model_copy(update={"show_before": ()})
    page = render_page(folder, verdict, closed, "safety")
    assert ".unwanted-before {" not in page
    assert "does not allow" in page


def test_what_a_report_says_cannot_become_markup(folder, tmp_path):
    import shutil

    from expunge.contracts import Measurement, write_record

    shutil.copytree(folder, tmp_path / "copy")
    report = read_record(Report, folder)
    evil = Measurement(name="kid_difference", missing="<script>alert(1)</script>")
    others = tuple(found for found in report.measurements if found.name != "kid_difference")
    write_record(tmp_path / "copy", report.model_copy(update={"measurements": (*others, evil)}))
    page = render_page(tmp_path / "copy")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
