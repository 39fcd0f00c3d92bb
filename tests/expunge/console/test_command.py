"""The command that opens the console, and what its page in the documents says."""

import json
import subprocess

import pytest
import requests
import yaml
from tests_support import EXPUNGE, bare_environment, blocks, call, two_people

from expunge.configuration import Configuration
from expunge.contracts import parse_record


@pytest.mark.thorough
def test_the_printed_link_lets_its_reader_in(tmp_path):
    two_people(tmp_path)
    served = subprocess.Popen([EXPUNGE, "console", "--port", "0", "--as", "grace", "--json"], cwd=tmp_path, text=True,
                              env=bare_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        told = json.loads(served.stdout.readline())
        browser = requests.Session()
        page = browser.get(told["link"], timeout=60)
        assert page.url == f"{told['address']}/"
        assert "<b>grace</b> reviewer" in page.text
        assert "expunge_runs" in browser.get(f"{told['address']}/metrics", timeout=60).text
        busy = call(tmp_path, "console", "--port", told["address"].rpartition(":")[2])
        assert (busy.code, "cannot be listened on" in busy.err) == (2, True)
    finally:
        served.terminate()
        _, complained = served.communicate(timeout=60)
    assert told["link"].partition("token=")[2] not in complained


def test_the_configuration_that_the_page_shows_is_one(request):
    page = (request.config.rootpath / "docs" / "console.md").read_text()
    block, = blocks(page, "yaml")
    assert parse_record(Configuration, yaml.safe_load(block), "config.yaml").console.tokens[0].person == "ci"
