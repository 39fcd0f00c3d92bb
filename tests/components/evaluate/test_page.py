import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluate import figures
from components.evaluate.page import render_page
from components.evaluate.plots import Histogram
from expunge.contracts import Curve, Measurement, Report, Stopping, read_record, write_record
from expunge.errors import DoesNotVerify
from expunge.measure.policy import NOT_ASKED, decide, preset
from expunge.measure.ranks import auc

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


def taught(model, steps, values, repeat=0):
    return Curve(name="residual_rate", model=model, repeat=repeat, steps=steps, values=values)


@pytest.fixture(scope="module")
def full(folder, tmp_path_factory):
    """The room's own report, with what further inputs would have added to it."""
    copy = tmp_path_factory.mktemp("full") / "report"
    shutil.copytree(folder, copy)
    report, rng = read_record(Report, folder), np.random.default_rng(0)
    members, others = rng.normal(1, 1, 40), rng.normal(0, 1, 60)
    pq.write_table(pa.table({"member": [True] * 40 + [False] * 60, "score": np.concatenate([members, others])}),
                   copy / "membership.parquet")
    found = auc(members, others, 0.95)
    more = (
        Measurement(name="membership_auc", estimate=found.value, interval=found.interval, n=found.n),
        Measurement(name="ret_fid", estimate=1.0, n=10), Measurement(name="ret_fid_before", estimate=2.0, n=10),
        Measurement(name="never_heard_of", estimate=41.5, n=10),
    )
    replaced = {measured.name for measured in more}
    write_record(copy, report.model_copy(update={
        "measurements": (*(m for m in report.measurements if m.name not in replaced), *more),
        "curves": (taught("never exposed", (0, 1, 4, 32), (0.0, 0.0, 0.01, 0.09)), taught("parent", (0,), (0.1,)),
                   taught("candidate", (0, 1), (0.0, 0.08)), taught("candidate", (0, 1), (0.0, 0.08), repeat=1)),
        "stopping": Stopping(planned=600, drawn=400, fixed=300, decided="PUL is met", seconds_saved=3.25),
        "extractor_sha256": "e" * 64, "extractor": "clip", "reference_sha256": "d" * 64, "members_id": "c" * 64}))
    return copy


@pytest.fixture(scope="module")
def old(folder, tmp_path_factory):
    """A report as version 0.1.0 left it: its record, its pictures, its scores."""
    copy = tmp_path_factory.mktemp("old") / "report"
    shutil.copytree(folder, copy)
    for table in copy.glob("*.parquet"):
        if table.name != "scores.parquet":
            table.unlink()
    shutil.copy(Path(__file__).parents[2] / "golden" / "0.1.0" / "report.json", copy / "record.json")
    return copy


def text_of(page):
    """What a reader reads: no markup, no style, one space between words."""
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", page, flags=re.S)).split())


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.unlabelled = [], set(), [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.links += ["#" + found["aria-labelledby"]] if "aria-labelledby" in found else []
        if found.get("role") == "img" and not found.get("aria-label"):
            self.unlabelled.append(tag)
        if tag == "svg" and found.get("role") != "img":
            self.unlabelled.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):  # as in SVG
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)


@pytest.mark.parametrize("which", ["folder", "full", "old"])
def test_one_file_no_network_no_script(which, request):
    page = render_page(request.getfixturevalue(which))
    parser = Balanced()
    parser.feed(page)
    assert len(set(parser.ids)) == len(parser.ids)
    assert {link[1:] for link in parser.links} <= set(parser.ids)
    assert parser.unlabelled == []
    assert parser.open == []
    assert parser.tags.isdisjoint({"script", "link", "iframe", "object", "form"})
    assert not re.search(r"https?://|//[a-z]|@import|\son[a-z]+=", re.sub(r"base64,[^)]*", "", page))
    assert len(page) < 3_000_000


@pytest.mark.parametrize(("read", "what"), [
    ({"forget_id": "a" * 64, "retain_id": "b" * 64}, "what was to be forgotten and what was to stay"),
    ({"retain_id": "b" * 64}, "what was to stay"), ({}, None)])
def test_what_training_could_read_of_real_images_is_said(folder, tmp_path, read, what):
    shutil.copytree(folder, tmp_path / "report")
    write_record(tmp_path / "report", read_record(Report, folder).model_copy(update=read))
    page = text_of(render_page(tmp_path / "report"))
    assert (what is None) == ("training could read" not in page)
    if what:
        assert f"training could read real images of {what}, so it is not bounded by what the parent draws." in page
        assert "b" * 64 in page


def test_the_method_its_parameters_and_what_is_claimed_stand_at_the_top(folder, tmp_path, old):
    shutil.copytree(folder, tmp_path / "report")
    record = read_record(Report, folder)
    made = record.made_by.model_copy(update={"preset": "debug", "changed": {"steps": 3}, "chosen": "it needs nothing"})
    write_record(tmp_path / "report", record.model_copy(update={"made_by": made}))
    page = text_of(render_page(tmp_path / "report"))
    assert ("Made by m, preset debug with steps 3; auto took it: it needs nothing. What is claimed: approximate removal."
            in page)
    assert "Made by m, preset default. What is claimed: approximate removal." in text_of(render_page(folder))
    assert "Made by" not in text_of(render_page(old))


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
    shutil.copytree(folder, tmp_path / "copy")
    report = read_record(Report, folder)
    evil = Measurement(name="kid_difference", missing="<script>alert(1)</script>")
    others = tuple(found for found in report.measurements if found.name != "kid_difference")
    write_record(tmp_path / "copy", report.model_copy(update={"measurements": (*others, evil)}))
    page = render_page(tmp_path / "copy")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


QUESTIONS = ("Is it gone?", "Is the rest still good?", "Did it ever see it?", "Can it still be found",
             "Is it like a model that never knew?", "Can the ruler be believed?", "What is not shown", "Which bytes")


@pytest.mark.parametrize("which", ["folder", "full", "old"])
def test_every_question_has_its_place_in_this_order(which, request):
    page = render_page(request.getfixturevalue(which))
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    places = [next(n for n, heading in enumerate(headings) if heading.startswith(q)) for q in QUESTIONS]
    assert places == sorted(places)


@pytest.mark.parametrize("which", ["folder", "full", "old"])
def test_every_number_of_a_report_is_on_its_page_and_every_reason_for_there_being_none(which, request):
    folder = request.getfixturevalue(which)
    page = text_of(render_page(folder))
    from expunge.measure import words

    for found in read_record(Report, folder).measurements:
        said = found.missing or words.number(found.name, found.estimate, found.interval)
        assert said in page.replace("&#39;", "'"), found.name


def test_questions_that_an_old_report_did_not_ask_are_said_not_to_be_asked(old):
    page = text_of(render_page(old))
    assert page.count("Not asked in this report.") == 3
    assert "nothing in this report looked at more than outputs" in page


def test_a_report_that_looked_at_the_weights_does_not_say_that_nobody_did(folder):
    page = text_of(render_page(folder))
    assert "looked at more than outputs" not in page
    assert "may not carry over" in page
    assert "That nothing is left of it." in page


def test_a_first_attempt_is_not_spoken_of_and_a_third_is(folder, verdict):
    assert "more chances to pass by luck" not in render_page(folder, verdict)
    page = render_page(folder, verdict, attempt=3, attempts=3)
    assert "Attempt 3 of 3 on this request: more tries mean more chances to pass by luck" in page
    assert page.index("Attempt 3 of 3") < page.index("Is it gone?")


def test_what_decides_is_read_before_what_was_met(folder, verdict):
    met = tuple(rule.model_copy(update={"outcome": "PASS"}) for rule in verdict.rules)
    broke = met[0].model_copy(update={"outcome": "FAIL", "reason": "the one that broke"})
    page = render_page(folder, verdict.model_copy(update={"rules": (*met[1:], broke)}))
    assert all(page.index("the one that broke") < page.index(rule.reason) for rule in met[1:])


def test_a_control_that_no_rule_asks_for_is_no_fault(folder, verdict):
    came = {**verdict.controls, "output filter": f"{NOT_ASKED}: no rule looks at weights"}
    page = render_page(folder, verdict.model_copy(update={"controls": came}))
    assert "no rule looks at weights" in page
    assert "control output filter" not in page


def test_sampling_that_ended_early_says_when_and_why(full, folder):
    page = text_of(render_page(full))
    assert "400 of at most 600 latents were drawn" in page
    assert "What ended it: PUL is met. About 3.2 seconds of drawing were saved." in page
    assert "Sampling could end" not in render_page(folder)


def test_sampling_that_could_have_ended_early_and_did_not_saved_nothing(full, tmp_path):
    shutil.copytree(full, tmp_path / "copy")
    report = read_record(Report, full)
    write_record(tmp_path / "copy", report.model_copy(update={
        "stopping": report.stopping.model_copy(update={"drawn": 600, "seconds_saved": 0.0})}))
    page = text_of(render_page(tmp_path / "copy"))
    assert "Nothing decided it before the last of them." in page
    assert "were saved" not in page


def test_digests_of_all_that_it_was_made_from(full):
    page = render_page(full)
    assert all(letter * 64 in page for letter in "edc")
    assert "features of the extractor eeeeeeeeeeee… (clip)" in page
    assert "judge&#39;s own features do not notice" not in page


def test_the_histogram_counts_the_stored_scores(folder):
    scores = pq.read_table(folder / "scores.parquet")
    found = figures.chances(folder)
    for side in ("before", "after"):
        values = scores[f"unwanted_{side}"].to_numpy()
        assert sum(found.counts[side]) == len(values) == 600
        assert figures.above_half(found, side) == np.sum(values >= 0.5)
    assert f"One half or more: {np.sum(scores['unwanted_before'].to_numpy() >= 0.5)} samples before" in text_of(
        render_page(folder))


def test_one_half_itself_is_one_half_or_more():
    found = Histogram.of({"a": [0.49, 0.5, 0.51, 1.0]}, figures.BINS, (0.0, 1.0))
    assert figures.above_half(found, "a") == 3


def test_the_search_is_told_as_its_table_has_it(folder):
    rows = pq.read_table(folder / "search.parquet").to_pylist()
    told = {each.model: each for each in figures.searches(folder)}
    for model in ("parent", "candidate"):
        of = [row for row in rows if row["model"] == model]
        assert (told[model].starts, told[model].at_start, told[model].found) == (
            len(of), sum(row["at_start"] for row in of), sum(row["found"] for row in of))


def test_one_relearning_line_per_lesson_and_the_line_that_counts_as_back(full):
    report = read_record(Report, full)
    found = figures.relearning(report)
    assert [taught.model for taught in found.taught] == ["candidate", "parent", "never exposed"]
    assert [len(taught.lines) for taught in found.taught] == [2, 1, 1]
    page = render_page(full)
    assert len(re.findall(r'class="[a-z ]+ thin"', page)) == len(report.curves)
    never, before = found.taught[-1], report.measurement("residual_rate_before").estimate
    # Heights are as the values: the line of half the parent's rate beside the end of a curve at 9 %.
    assert (100 - found.half) / (100 - never.lines[0].end[1]) == pytest.approx(before / 2 / 0.09, rel=0.01)
    assert never.looks == (((0, "0.00 %"), (1, "0.00 %"), (4, "1.0 %"), (32, "9.0 %")),)


def test_a_report_without_lessons_or_tables_has_no_such_figures(old):
    assert figures.relearning(read_record(Report, old)) is None
    assert figures.searches(old) == ()
    assert figures.closeness(old) is None
    assert figures.chances(old) is not None


def test_members_and_others_are_drawn_apart(full, folder):
    found = figures.closeness(full)
    assert (sum(found.counts["members"]), sum(found.counts["others"])) == (40, 60)
    assert "40 members, 60 others" in text_of(render_page(full))
    assert "does not apply" in text_of(render_page(folder))


def test_long_class_names_lie_beside_their_bars(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    names = tuple(f"a very long name {letter}" for letter in "abcdefghij")
    write_record(tmp_path / "copy", read_record(Report, folder).model_copy(update={"classes": names}))
    assert 'class="bars long"' in render_page(tmp_path / "copy")
    assert 'class="bars long"' not in render_page(folder)
