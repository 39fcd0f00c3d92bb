"""What goes into the wheel, and what must not shadow a package."""

from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("package", ["expunge", "components", "pipelines"])
def test_the_names_are_ours_alone(package):
    assert set(packages_distributions()[package]) == {"expunge"}


@pytest.mark.parametrize("folder", ["docker", "mlflow"])
def test_configuration_folders_hold_no_code(folder):
    assert (ROOT / folder).is_dir()
    assert not list((ROOT / folder).rglob("*.py"))


def test_tests_are_no_packages():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_room_has_the_same_furniture():
    rooms = [path for path in (ROOT / "components").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(rooms) == 7
    for room in rooms:
        assert {"__init__.py", "step.py", "component.py", "README.md"} <= {path.name for path in room.iterdir()}
