"""`method: auto`: what is chosen for which request, what is said of it, and what is refused."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.contracts import MethodChoice, Request, parse_record
from expunge.errors import BadInput
from expunge.methods import available, choosing
from expunge.methods.adapt_then_unlearn import METHOD
from expunge.methods.choosing import decided, suited
from expunge.methods.method import Need, Preference
from expunge.stores.sources import pin
from pipelines.demo import request_for

PACKAGE = '''
from dataclasses import replace
from expunge.methods.adapt_then_unlearn import METHOD
from expunge.methods.method import Preference

{definitions}
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with methods, each given by what differs from a built-in one; its entry points are real."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(**methods):
        module = f"package_{uuid4().hex}"  # Python keeps what it has imported
        definitions = "\n".join(f"{name} = replace(METHOD, name={name!r}, {changes})" for name, changes in methods.items())
        (tmp_path / f"{module}.py").write_text(PACKAGE.format(definitions=definitions))
        info = tmp_path / f"{module}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        points = "\n".join(f"{name} = {module}:{name}" for name in methods)
        (info / "entry_points.txt").write_text(f"[expunge.methods]\n{points}\n")

    return installed


def request(**changes):
    return parse_record(Request, {**request_for(8, 0, False), **changes}, "request")


WITH_TRAINING = {"training": {"uri": "builtin://digits/train"}}


def test_a_named_method_stays_as_it_is_named():
    for named in ({}, {"method": "adapt_then_unlearn"}, {"method": {"name": "x", "params": {"a": 1}}}):
        asked = request(**named)
        assert decided(asked, "gan") == asked.method


@pytest.mark.parametrize("written", ["auto", {"name": "auto"}])
def test_auto_comes_to_a_method_that_can_work_on_the_request_and_says_why(written):
    for brings in ({}, WITH_TRAINING):
        choice = decided(request(method=written, **brings), "gan")
        assert suited(request(method=choice.model_dump(), **brings), "gan").name == choice.name
        assert available()[choice.name].preference.because in choice.chosen
        assert choice.chosen.startswith("given training images: " if brings else "given no training images: ")


def test_without_training_images_the_method_that_reads_none_is_chosen():
    assert decided(request(method="auto"), "gan").name == "adapt_then_unlearn"


def test_no_baseline_is_ever_chosen(install):
    for method in available().values():
        assert not (method.baseline and method.preference), f"{method.name} is a baseline and wants to be chosen"
    install(eager="baseline=True, preference=Preference(-1, 'it is quick')")
    assert decided(request(method="auto"), "gan").name != "eager"


def test_a_packages_method_takes_part_on_the_same_terms_as_a_built_in_one(install):
    install(silent="preference=None", first="preference=Preference(-1, 'it is ours')")
    assert decided(request(method="auto"), "gan").name == "first"
    assert "it is ours" in decided(request(method="auto"), "gan").chosen


def test_at_the_same_order_a_built_in_method_comes_before_a_packages(install):
    order = available()["adapt_then_unlearn"].preference.order
    install(aaa=f"preference=Preference({order}, 'its name comes first')")
    assert decided(request(method="auto"), "gan").name == "adapt_then_unlearn"


def test_a_method_that_lacks_its_data_is_passed_over_and_said_to_be(install):
    install(reader="needs=('retain',), preference=Preference(-1, 'real images keep the rest as it was')")
    without = decided(request(method="auto"), "gan")
    assert without.name == "adapt_then_unlearn"
    assert "reader would come first with real images of what is to stay" in without.chosen
    assert decided(request(method="auto", **WITH_TRAINING), "gan").name == "reader"


def test_a_method_may_be_chosen_only_with_data_that_it_could_do_without(install):
    install(better="preference=Preference(-1, 'with real images it is better', given=('retain',))")
    assert decided(request(method="auto"), "gan").name == "adapt_then_unlearn"
    assert decided(request(method="auto", **WITH_TRAINING), "gan").name == "better"
    assert suited(request(method="better"), "gan").name == "better"


def test_a_family_that_no_method_is_for_is_said_so(install):
    with pytest.raises(BadInput, match="'auto' has none to choose from for a diffusion: name one"):
        decided(request(method="auto"), "diffusion")
    install(reader="family='diffusion', needs=('retain',), preference=Preference(1, 'it is the only one')")
    with pytest.raises(BadInput, match=r"reader needs real images of what is to stay\).* \(training\)"):
        decided(request(method="auto"), "diffusion")
    assert decided(request(method="auto", **WITH_TRAINING), "diffusion").name == "reader"


def test_of_a_flow_its_taming_is_chosen():
    assert decided(request(method="auto", **WITH_TRAINING), "flow").name == "taming_flow"


def test_a_method_without_its_data_is_refused_with_the_field_and_those_that_would_do(install):
    install(reader="needs=('forget', 'retain')")
    with pytest.raises(BadInput, match="needs real images of what is to be forgotten and real images of what is to "
                                       "stay, and the request names no images: name labelled ones or choose adapt"):
        suited(request(method="reader"), "gan")
    assert suited(request(method="reader", **WITH_TRAINING), "gan").name == "reader"


def test_parameters_with_auto_are_refused_for_whose_would_they_be():
    with pytest.raises(BadInput, match="'method' has params, and 'auto' has no parameters of its own"):
        request(method={"name": "auto", "params": {"steps": 3}})


def test_a_preset_goes_to_the_method_that_is_chosen():
    choice = decided(request(method={"name": "auto", "preset": "debug"}), "gan")
    assert choice.preset == "debug"
    with pytest.raises(BadInput, match=f"method {choice.name!r} has no preset 'hasty'"):
        suited(request(method=decided(request(method={"name": "auto", "preset": "hasty"}), "gan").model_dump()), "gan")


def test_what_is_still_open_begins_no_run():
    with pytest.raises(BadInput, match="'auto' is still open"):
        suited(request(method="auto"), "gan")


def test_a_reason_that_was_written_by_hand_is_not_taken_for_ours():
    forged = request(method={"name": "adapt_then_unlearn", "chosen": "it is the best there is"})
    with pytest.raises(BadInput, match=r"method\.chosen: 'auto' comes to something else here: adapt_then_unlearn, given"):
        suited(forged, "gan")
    assert decided(forged, "gan").chosen != forged.method.chosen


def test_a_choice_that_was_made_is_made_again_from_the_data():
    first = decided(request(method="auto"), "gan")
    assert decided(request(method=first.model_dump()), "gan") == first


@given(st.lists(st.tuples(st.integers(0, 3), st.sets(st.sampled_from(Need.__args__))), max_size=6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_is_installed_the_choice_is_the_first_that_can_work(methods, training):
    known = {f"m{i}": replace(METHOD, name=f"m{i}", needs=tuple(needs), preference=Preference(order, "x"))
             for i, (order, needs) in enumerate(methods)}
    asked = request(method="auto", **(WITH_TRAINING if training else {}))
    can = [(order, f"m{i}") for i, (order, needs) in enumerate(methods) if training or not needs & {"forget", "retain"}]
    with patch.object(choosing, "available", lambda: known):
        if can:
            assert decided(asked, "gan").name == min(can)[1]
        else:
            with pytest.raises(BadInput, match="method: 'auto'"):
                decided(asked, "gan")


def test_the_choice_is_in_the_pinned_request_and_pinning_again_changes_nothing(workspace):
    pinned = pin(request(method="auto"), Path("/"), workspace)
    assert pinned.method == MethodChoice(name="adapt_then_unlearn", chosen=pinned.method.chosen)
    assert pinned.method.chosen
    assert pin(pinned, Path("/"), workspace).to_bytes() == pinned.to_bytes()
    written = parse_record(Request, pinned.model_dump(mode="json", by_alias=True), "request.json")
    assert pin(written, Path("/"), workspace).to_bytes() == pinned.to_bytes()
