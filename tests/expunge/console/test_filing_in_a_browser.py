"""Marking unwanted samples and filing a request, in a real browser: Debian's Chromium, without a window."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tests_support import EXPUNGE, bare_environment, call, two_people

from expunge.samples.marked import marked_sets
from expunge.settings import Workspace
from expunge.stores.queue import Queue

pytestmark = pytest.mark.thorough
DRIVER = shutil.which("chromedriver")
PICTURES = os.environ.get("EXPUNGE_PICTURES")  # a folder: what is seen on the way is kept there


@pytest.fixture
def browser(tmp_path):
    if DRIVER is None:
        pytest.skip("no chromium-driver on this machine")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1400", "--force-prefers-reduced-motion",
                     f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    started.implicitly_wait(20)
    yield started
    started.quit()


@pytest.fixture
def console(tmp_path):
    """The command itself, in a process of its own: its folder, the link that lets one in, and the process."""
    folder = tmp_path / "it"
    folder.mkdir()
    two_people(folder)
    process = subprocess.Popen([EXPUNGE, "console", "--port", "0", "--as", "ada", "--json"], cwd=folder, text=True,
                               env=bare_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield folder, json.loads(process.stdout.readline()), process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def picture(browser, name, width=1100, height=1400):
    """Keeps what is seen, if somebody wants it."""
    if PICTURES:
        browser.set_window_size(width, height)
        time.sleep(0.5)  # for what is laid out anew
        browser.save_screenshot(str(Path(PICTURES) / f"console-{name}.png"))


def fill(browser, **fields):
    for name, value in fields.items():
        box = browser.find_element("id", name)
        box.clear()
        box.send_keys(value)


def counts(browser):
    """What the page says is marked: by word."""
    said = browser.find_element("id", "counts").text.split(" · ")
    return {word: int(count.replace(",", "")) for count, word in (one.split(" ", 1) for one in said)}


def test_unwanted_samples_are_marked_by_hand_and_keyboard_filed_and_carried_out(console, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.ui import WebDriverWait

    folder, told, process = console
    settled = WebDriverWait(browser, 90).until
    browser.get(told["link"])
    browser.get(f"{told['address']}/file")
    fill(browser, checkpoint="builtin://digits/dcgan", oracle="builtin://digits/oracle", count="1000")
    picture(browser, "file", height=1100)
    browser.find_element("css selector", "#ask button[type=submit]").click()
    settled(lambda there: "expunge queue work" in there.find_element("id", "state").text)
    assert call(folder, "queue", "work").code == 0
    settled(lambda there: there.find_element("id", "wall").is_displayed())
    assert counts(browser) == {"unwanted": 0, "to stay": 0, "not said": 1000}

    wall = browser.find_element("id", "wall")
    canvas = browser.find_element("css selector", "#wall canvas")
    middle = canvas.size["width"] / 2, canvas.size["height"] / 2

    def at(x, y):
        return {"xoffset": int(x - middle[0]), "yoffset": int(y - middle[1])}

    browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", browser.find_element("css selector", ".tools"))
    ActionChains(browser).move_to_element_with_offset(canvas, **at(30, 120)).click().perform()
    assert counts(browser)["unwanted"] == 1
    ActionChains(browser).move_to_element_with_offset(canvas, **at(30, 190)).click_and_hold().move_to_element_with_offset(
        canvas, **at(500, 190)).release().perform()
    dragged = counts(browser)["unwanted"]
    assert dragged >= 7  # all that the line went over, and not its ends alone
    wall.send_keys("z")
    assert counts(browser)["unwanted"] < dragged
    while counts(browser)["unwanted"]:
        wall.send_keys("z")

    for box in browser.find_elements("css selector", "#classes label"):
        if box.text.startswith("8 "):
            box.click()
    proposed = counts(browser)["proposed"]
    assert proposed > 40
    Select(browser.find_element("id", "order")).select_by_value("likely")
    wall.send_keys(Keys.HOME, Keys.SHIFT + Keys.ARROW_RIGHT * 9 + Keys.NULL, "u")
    assert counts(browser)["unwanted"] == 10
    assert browser.find_element("id", "current").get_attribute("textContent").endswith("%")
    assert "takes what you marked for 8" in browser.find_element("id", "suggestion").text
    browser.find_element("id", "accept").click()
    assert counts(browser)["unwanted"] == proposed
    Select(browser.find_element("id", "order")).select_by_value("unsure")
    wall.send_keys(Keys.HOME, "w", Keys.ARROW_RIGHT, " ")  # asked first for what it is least sure of
    assert (counts(browser)["to stay"], counts(browser)["unwanted"]) == (1, proposed + 1)
    Select(browser.find_element("id", "order")).select_by_value("marked")
    browser.execute_script("scrollTo(0, 0)")
    picture(browser, "wall")

    settled(lambda there: there.find_element("id", "saved").text == "saved")
    browser.refresh()
    settled(lambda there: there.find_element("id", "wall").is_displayed())
    assert counts(browser)["unwanted"] == proposed + 1  # nothing was lost
    for box in browser.find_elements("css selector", "#classes label"):
        if box.text.startswith("8 "):
            box.click()
    Select(browser.find_element("id", "policy")).select_by_visible_text("debug")
    fill(browser, id="forget-8", model="digits", judge="builtin://digits/judge", holdout="builtin://digits/holdout",
         method="adapt_then_unlearn", preset="debug", evaluate="2000", search="20", lessons="0")
    settled(lambda there: "residual" in there.find_element("id", "chances").text)
    browser.find_element("css selector", "#file button[type=submit]").click()
    digest = settled(lambda there: there.find_element("id", "filed").text)
    picture(browser, "filing", height=1100)
    severe = [one["message"] for one in browser.get_log("browser") if one["level"] == "SEVERE"]
    assert severe == []
    assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()

    workspace = Workspace(folder / ".expunge")
    ticket = Queue.of(workspace).find("forget-8").ticket
    assert (ticket.request_sha256[:12], ticket.filed_by, ticket.stage) == (digest, "ada", "filed")
    done = call(folder, "queue", "work", "--json")
    assert done.code == 0, done.err
    worked, = done.json
    assert worked["outcome"] in ("awaiting_approval", "inconclusive", "refused"), worked
    (_, record), = marked_sets(workspace)
    assert record.class_counts["8"] == proposed + 1
    browser.get(told["address"])
    assert [one.text for one in browser.find_elements("css selector", "a.run")] == ["forget-8.1"]
    browser.get(f"{told['address']}/file")
    picture(browser, "filed", height=1300)
    assert browser.find_element("link text", "forget-8.1")


def test_filing_fits_a_telephone_and_axe_finds_nothing_serious(console, browser, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine")
    subprocess.run(["npm", "install", "--prefix", tmp_path / "npm", "--no-audit", "--no-fund", "axe-core@4.10.3"], check=True,
                   capture_output=True)
    axe = (tmp_path / "npm" / "node_modules" / "axe-core" / "axe.min.js").read_text()
    folder, told, _ = console
    browser.get(told["link"])
    made = [browser.execute_async_script("""
        const [wish, done] = arguments;
        import("/static/change.js").then(({change}) => change("/api/v1/walls", "POST", wish)).then(answer => answer.json())
            .then(one => done(one.wall), error => done(error.message))""", wish) for wish in (
        {"checkpoint": {"uri": "builtin://digits/dcgan"}, "oracle": {"uri": "builtin://digits/oracle"}, "count": 300},
        {"of": "images", "checkpoint": {"uri": "builtin://digits/oracle"}, "training": {"uri": "builtin://digits/train"}})]
    assert call(folder, "queue", "work").code == 0
    found = {}
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        for path in ("/file", *(f"/file/{one}" for one in made)):
            browser.get(told["address"] + path)
            if path != "/file":
                WebDriverWait(browser, 60).until(lambda there: there.find_element("id", "wall").is_displayed())
            browser.execute_script(axe)
            violations = browser.execute_async_script("axe.run(document).then(found => arguments[0](found.violations))")
            found[scheme, path] = [(one["id"], one["nodes"][0]["html"]) for one in violations
                                   if one["impact"] in ("serious", "critical")]
    assert {where: what for where, what in found.items() if what} == {}
    for path in ("/file", *(f"/file/{one}" for one in made)):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": 360, "height": 800, "deviceScaleFactor": 2, "mobile": True})
        browser.get(told["address"] + path)
        if path != "/file":
            WebDriverWait(browser, 60).until(lambda there: there.find_element("id", "wall").is_displayed())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360, path
        if PICTURES and path.endswith(made[0]):
            browser.execute_script("document.getElementById('look').scrollIntoView()")
            time.sleep(0.5)
            browser.save_screenshot(str(Path(PICTURES) / "console-wall-telephone.png"))
