"""docs/disposal.md and docs/backup.md are followed line by line, in a copy of a finished and of a waiting run."""

from pathlib import Path

import pytest
from tests_support import blocks, call, typed

from expunge.contracts import Request
from expunge.custody.contents import MOST_AT_ONCE
from expunge.custody.searchers import searchers
from expunge.custody.sweeping import DEEPEST
from expunge.custody.wanted import LOOKS_LIKE
from expunge.samples import RequestKey

DOCS = Path(__file__).parent.parent.parent / "docs"


def follow(page, folder):
    return "".join(typed(blocks((DOCS / page).read_text(), "bash"), folder))


@pytest.mark.slow
def test_the_page_on_disposal_can_be_followed(copy_of_demo):
    said = follow("disposal.md", copy_of_demo)
    assert "would be removed" in said
    assert "was disposed of on" in said
    assert not (copy_of_demo / ".expunge-keys" / "requests" / "forget-8.key").exists()


@pytest.mark.thorough
def test_a_workspace_is_backed_up_moved_and_released_elsewhere(waiting):
    said, folder = follow("backup.md", waiting), waiting.with_name("elsewhere")
    waiting.rename(waiting.with_name("gone"))
    assert (folder / ".expunge" / "releases" / "digits" / "current" / "model.safetensors").exists()
    assert "digits: clean; generation 1" in said
    assert call(folder, "audit", "verify").code == 0


def test_the_page_on_disposal_says_what_the_code_does():
    page = (DOCS / "disposal.md").read_text()
    assert f"cosine of {LOOKS_LIKE}" in page
    assert f"{MOST_AT_ONCE // 2**20} MiB" in page
    assert DEEPEST == 5
    assert "up to five deep" in page
    assert "retain_until" in Request.model_fields
    for searcher in searchers(RequestKey("x", b"k" * 32)):
        if searcher.name not in ("sealed files", "files that are not opened", "texts", "compressed files"):
            assert searcher.name.removesuffix("s").split()[0].lower() in page.lower(), searcher.name

