"""A browser for the tests of pages: Debian's Chromium, without a window."""

import shutil
import subprocess

import pytest

DRIVER = shutil.which("chromedriver")


@pytest.fixture
def browser(tmp_path):
    if DRIVER is None:
        pytest.skip("no chromium-driver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1400",
                     "--force-prefers-reduced-motion", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    started.implicitly_wait(20)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The script that finds what keeps people out of a page; empty where it cannot be had."""
    if shutil.which("npm") is None:
        return ""
    folder = tmp_path_factory.mktemp("npm")
    subprocess.run(["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", "axe-core@4.10.3"], check=True,
                   capture_output=True)
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()
