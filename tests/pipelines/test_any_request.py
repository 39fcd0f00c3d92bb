"""Whatever somebody writes into a request: it is understood, or refused in one line. Never a traceback."""

import copy
import json

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipelines.demo import request_for

DOCUMENTED = {0, 2, 41}
FULL = request_for(8, 0, True) | {
    "due": "2027-01-31", "show_before": False, "labels": None, "discriminator": None, "threads": 2,
    "checkpoint": {"uri": "builtin://digits/dcgan", "sha256": None, "architecture": None, "config": {}, "range": [-1, 1],
                   "channels": 1, "latent": 32, "latent_distribution": "normal"},
    "judge": {"uri": "builtin://digits/judge", "output": "logit", "classes": [], "features": None},
    "method": {"name": "adapt_then_unlearn", "preset": "debug", "params": {"steps": 3}},
}
ODD = [
    "", " ", "\x00", "a\nb", "../../x", "/", "/dev/null", "/etc/passwd", "~", ".", "none.py:build", "x.py:", ":", "-1", "1e999",
    "file://", "file:///etc", "builtin://", "builtin://digits/holdout", "samples://", "samples://no", "s3://", "models:/", "hf://",
    "忘れて", "ö" * 300, "x" * 5000, "\ud800", "{{ x }}", "[red]x[/]", "%s", True, False, None, 0, -1, 1, 2**31, 2**63, 2**70,
    0.5, -0.0, float("nan"), float("inf"), [], {}, [[]], [None], {"": ""}, {"a": {"b": {}}}, [1, "1", True], [8, 8], [8, "8"],
]
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)
COPIES = VALUES.map(copy.deepcopy)  # what is changed next must not be the strategy itself


def places(document, path=()):
    """Every place in a document, as the keys that lead there."""
    for key, value in document.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@st.composite
def documents(draw):
    """A sound request with one to three things done to it."""
    document = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(sorted(places(document), key=str)))
        inner = document
        for key in way:
            inner = inner[key]
        change = draw(st.sampled_from(["replace", "replace", "remove", "add", "nest"]))
        if change == "replace":
            inner[last] = draw(COPIES)
        elif change == "remove":
            del inner[last]
        elif change == "add":
            inner[draw(st.text(max_size=10) | st.sampled_from(sorted(FULL)))] = draw(COPIES)
        else:
            inner[last] = {last: inner[last]} if draw(st.booleans()) else [inner[last]]
    return document


TEXTS = st.one_of(
    documents().map(lambda found: yaml.safe_dump(found, allow_unicode=True).encode("utf-8", "surrogatepass")),
    documents().map(lambda found: json.dumps(found, default=str).encode("utf-8", "surrogatepass")),
    st.binary(max_size=200),
    st.text(alphabet="{}[]:,-&*!#|>'\" \nab\t?%@`0", max_size=60).map(str.encode),
)


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Asks in this process what a request would do; returns the exit code and what was complained of."""
    import os

    from expunge.settings import WORKSPACE_VARIABLE, Workspace
    from pipelines import cli
    from pipelines.workspace import initialise

    folder = tmp_path_factory.mktemp("fuzz")
    workspace = initialise(Workspace(folder / ".expunge"))

    def call(data, name):
        file = folder / name
        file.write_bytes(data)
        os.environ[WORKSPACE_VARIABLE] = str(workspace.root)
        try:
            return cli.carry_out(["run", str(file), "--plan", "--json"])
        finally:
            os.environ.pop(WORKSPACE_VARIABLE, None)

    return call


def check(ask, capsys, data, name):
    code = ask(data, name)
    out, err = capsys.readouterr()
    assert code in DOCUMENTED, (code, err)
    assert "Traceback" not in err
    if code:
        said = json.loads(out)
        assert said["exit_code"] == code
        assert said["problem"]
        assert said["remedy"]
        assert len(err.splitlines()) == 1, err


ANY = given(data=TEXTS, name=st.sampled_from(["r.yaml", "r.json"]))


def examples(count):
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


@ANY
@examples(250)
def test_requests_end_in_a_plan_or_in_one_line(ask, capsys, data, name):
    check(ask, capsys, data, name)


@pytest.mark.thorough
@pytest.mark.parametrize("lot", range(5))
def test_thousands_of_requests_end_in_a_plan_or_in_one_line(ask, capsys, lot):
    @seed(lot)
    @ANY
    @examples(1_000)
    def of_this_lot(data, name):
        check(ask, capsys, data, name)

    of_this_lot()


def test_the_sound_request_is_planned(ask, capsys):
    assert ask(yaml.safe_dump(FULL).encode(), "sound.yaml") == 0, capsys.readouterr().err


@pytest.mark.parametrize("odd", range(len(ODD)))
def test_an_odd_value_anywhere_is_understood_or_refused(ask, capsys, odd):
    for *way, last in sorted(places(FULL))[odd % 3 :: 3]:  # those above go everywhere
        document = copy.deepcopy(FULL)
        inner = document
        for key in way:
            inner = inner[key]
        inner[last] = ODD[odd]
        check(ask, capsys, yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"), "odd.yaml")
