"""Methods by name, and what is said of a wrong one."""

from uuid import uuid4

import pytest

from expunge.errors import BadInput
from expunge.methods import available, find, names


def test_every_method_says_what_it_is_for():
    for name, method in available().items():
        assert method.name == name
        assert method.paper
        assert "default" in method.presets
        for preset in method.presets:
            method.parameters(preset)
        for field, info in method.params.model_fields.items():
            assert info.description, f"{name}.{field} says nothing of its meaning"


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(BadInput, match="'forget_me' is not known: use one of adapt_then_unlearn"):
        find("forget_me", "gan")


def test_a_method_for_another_family_is_refused():
    with pytest.raises(BadInput, match="is for gan models, and this one is a normalizing flow"):
        find("adapt_then_unlearn", "flow")


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("fast", {}, "no preset 'fast': use one of brief, debug, default, paper"),
        ("default", {"lr": 1}, "method.params.lr: Extra inputs"),
        ("default", {"steps": 0}, "method.params.steps: Input should be greater"),
    ],
)
def test_wrong_parameters_are_refused_by_name(preset, overrides, message):
    with pytest.raises(BadInput, match=message):
        find("adapt_then_unlearn", "gan").parameters(preset, overrides)


def test_parameters_cannot_change_once_made():
    params = find("adapt_then_unlearn", "gan").parameters()
    with pytest.raises(ValueError, match="frozen"):
        params.steps = 1


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package that offers a method, with a real entry point; nothing of it is loaded yet."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(name, source, package="theirs"):
        module = f"module_{uuid4().hex}"  # Python keeps what it has imported
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{package}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[expunge.methods]\n{name} = {module}:METHOD\n")

    return installed


COPY = """
from dataclasses import replace
from expunge.methods.adapt_then_unlearn import METHOD
METHOD = replace(METHOD, name={name!r})
"""


def test_a_package_adds_a_method(install):
    install("gentle", COPY.format(name="gentle"))
    assert "gentle" in names()
    assert find("gentle", "gan").name == available()["gentle"].name == "gentle"


def test_a_built_in_method_cannot_be_replaced(install):
    install("adapt_then_unlearn", "raise SystemExit('never loaded')")
    assert find("adapt_then_unlearn", "gan").params.__module__ == "expunge.methods.adapt_then_unlearn"


@pytest.mark.parametrize(("source", "message"), [
    ("import nowhere_to_be_found", r"'gentle' of theirs cannot be loaded \(ModuleNotFoundError: .*: mend the package"),
    ("METHOD = 7", r"'gentle' of theirs: module_\w+:METHOD is int: let the entry point name"),
    ("x = 7", r"'gentle' of theirs cannot be loaded \(AttributeError"),
    (COPY.format(name="rough"), "METHOD is a method called 'rough'"),
])
def test_a_package_that_offers_no_method_is_named_and_in_nobody_elses_way(install, source, message):
    install("gentle", source)
    with pytest.raises(BadInput, match=message):
        find("gentle", "gan")
    with pytest.raises(BadInput, match=message):
        available()
    assert find("adapt_then_unlearn", "gan")


def test_two_packages_with_one_name_are_both_named(install):
    install("gentle", COPY.format(name="gentle"))
    install("gentle", COPY.format(name="gentle"), package="others")
    with pytest.raises(BadInput, match="'gentle' is offered by others and theirs: uninstall all but one"):
        find("gentle", "gan")
