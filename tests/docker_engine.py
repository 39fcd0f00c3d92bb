"""This machine's Docker engine, the images of this code, and a workspace whose rooms go through them."""

import pytest
import yaml

from pipelines import containers
from pipelines.demo import request_for


@pytest.fixture(scope="session")
def engine():
    """This machine's engine. Without one there is nothing to test; with one that lacks the image, something is wrong."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
    except DockerException as error:
        pytest.skip(f"no Docker engine: {error}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(engine):
    """The id of the rooms' image."""
    return containers.find_image()


def write_request(folder):
    """The demo's request, as a file in a folder."""
    (folder / "request.yaml").write_text(yaml.safe_dump(request_for(8, 0, True)))


def containers_of(engine, folder):
    """Every container of the workspace in a folder, whatever it does."""
    return engine.containers.list(
        all=True, ignore_removed=True, filters={"label": f"{containers.WORKSPACE_LABEL}={folder}/.expunge"})
