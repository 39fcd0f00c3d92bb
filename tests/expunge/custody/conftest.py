"""An S3 server on loopback, and images that are looked for."""

import os

import pytest

from expunge.assets import digits
from expunge.custody.wanted import Wanted
from expunge.samples.table import SampleTable


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": server,
                        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3").Bucket("faces")
    made.create()
    yield made
    made.objects.delete()
    made.delete()


@pytest.fixture
def pixels():
    images, labels = digits("train")
    return SampleTable(images, labels).pixels[labels == 8][:3]


@pytest.fixture
def wanted(pixels):
    made = Wanted()
    made.add(pixels)
    return made
