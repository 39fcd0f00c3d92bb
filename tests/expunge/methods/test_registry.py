"""Methods by name, and what is said of a wrong one."""

import pytest

from expunge.errors import BadInput
from expunge.methods import available, find


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
    with pytest.raises(BadInput, match="is for gan models, and this one is a flow"):
        find("adapt_then_unlearn", "flow")


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("fast", {}, "no preset 'fast': use one of debug, default, paper"),
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
