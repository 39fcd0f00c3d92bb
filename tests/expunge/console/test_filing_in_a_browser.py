"""From marking unwanted samples to a release, and filing besides, in a real browser: Debian's Chromium, without a window."""

import json
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from console_in_a_browser import PICTURES, complaints, keep, seen, serious, verification
from tests_support import EXPUNGE, bare_environment, call, two_people

from expunge.samples.marked import marked_sets
from expunge.settings import Workspace
from expunge.stores.queue import Queue

pytestmark = pytest.mark.thorough


@pytest.fixture
def folder(tmp_path):
    """A folder with a workspace and two people."""
    (tmp_path / "it").mkdir()
    two_people(tmp_path / "it")
    return tmp_path / "it"


@contextmanager
def console_of(person, folder):
    """The command itself, in a process of its own: where it is, the link that lets one in, and the process."""
    process = subprocess.Popen([EXPUNGE, "console", "--port", "0", "--as", person, "--json"], cwd=folder, text=True,
                               env=bare_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        told = json.loads(process.stdout.readline())
        yield told["address"], told["link"], process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def fill(browser, **fields):
    for name, value in fields.items():
        box = browser.find_element("id", name)
        box.clear()
        box.send_keys(value)


def counts(browser):
    """What the page says is marked: by word."""
    said = browser.find_element("id", "counts").text.split(" · ")
    return {word: int(count.replace(",", "")) for count, word in (one.split(" ", 1) for one in said)}


def test_what_a_person_marks_is_filed_forgotten_signed_by_a_second_person_released_and_verified(folder, browser, axe):
    with console_of("ada", folder) as (address, link, process):
        marked = mark_and_file(browser, axe, folder, address, link)
        assert complaints(browser) == []
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()
        carry_out_what_was_filed(browser, axe, folder, address, marked)
    with console_of("grace", folder) as (address, link, _):
        sign_and_ask_for_the_release(browser, folder, address, link)
        done = call(folder, "queue", "work", "--json")
        assert (done.code, [one["outcome"] for one in done.json]) == (0, ["released"]), done.err
        assert len([*folder.glob(".expunge/releases/digits/[0-9]*")]) == 1  # of what was filed, and asked for on the page
        browser.get(f"{address}/audit")
        assert verification(browser)[0] == "good"
        browser.get(f"{address}/live")
        assert browser.find_element("css selector", ".served em").text == "clean"
        assert complaints(browser) == []
    verified = call(folder, "audit", "verify", "--json")
    assert verified.code == 0, verified.out


def mark_and_file(browser, axe, folder, address, link):
    """By hand and by keyboard; what is marked outlives a reload. How many are unwanted."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.ui import WebDriverWait

    settled = WebDriverWait(browser, 90).until
    browser.get(link)
    browser.get(f"{address}/file")
    fill(browser, checkpoint="builtin://digits/dcgan", oracle="builtin://digits/oracle", count="1000")
    seen(browser, axe, "file", 1100)
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
    seen(browser, axe, "wall", 1400)

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
    seen(browser, axe, "filing", 1100, "file")
    ticket = Queue.of(Workspace(folder / ".expunge")).find("forget-8").ticket
    assert (ticket.request_sha256[:12], ticket.filed_by, ticket.stage) == (digest, "ada", "filed")
    return proposed + 1


def carry_out_what_was_filed(browser, axe, folder, address, marked):
    """A worker takes it to its verdict, of what was marked; the run is in the queue."""
    done = call(folder, "queue", "work", "--json")
    assert (done.code, [one["outcome"] for one in done.json]) == (0, ["awaiting_approval"]), done.err
    (_, record), = marked_sets(Workspace(folder / ".expunge"))
    assert record.class_counts["8"] == marked
    browser.get(address)
    assert [one.text for one in browser.find_elements("css selector", "a.run")] == ["forget-8.1"]
    browser.get(f"{address}/file")
    assert browser.find_element("link text", "forget-8.1")
    seen(browser, axe, "filed", 1300)


def sign_and_ask_for_the_release(browser, folder, address, link):
    """With the key that a second person brings."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    settled = WebDriverWait(browser, 90).until
    browser.get(link)
    browser.get(f"{address}/key")
    key, = (Workspace(folder / ".expunge").keys / "people").glob("grace*.pem")
    browser.find_element("id", "file").send_keys(str(key))
    settled(lambda there: "grace’s key" in there.find_element("id", "mine").text)
    browser.get(f"{address}/runs/forget-8.1")
    settled(lambda there: there.find_element("css selector", "button.approve").is_enabled())
    browser.find_element("id", "reason").send_keys("it draws no eight", Keys.TAB, Keys.ENTER)
    settled(lambda there: there.find_element("id", "confirm").is_displayed())
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    settled(lambda there: there.find_elements("css selector", ".decisions li.approve"))
    browser.find_element("id", "ask-release").send_keys(Keys.ENTER)
    settled(lambda there: there.find_element("id", "confirm-release").is_displayed())
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    settled(lambda there: there.find_elements("id", "asked"))


def test_filing_fits_a_telephone_and_axe_finds_nothing_serious(folder, browser, axe):
    from selenium.webdriver.support.ui import WebDriverWait

    with console_of("ada", folder) as (address, link, _):
        browser.get(link)
        made = [browser.execute_async_script("""
            const [wish, done] = arguments;
            import("/static/change.js").then(({change}) => change("/api/v1/walls", "POST", wish))
                .then(answer => answer.json()).then(one => done(one.wall), error => done(error.message))""", wish) for wish in (
            {"checkpoint": {"uri": "builtin://digits/dcgan"}, "oracle": {"uri": "builtin://digits/oracle"}, "count": 300},
            {"of": "images", "checkpoint": {"uri": "builtin://digits/oracle"}, "training": {"uri": "builtin://digits/train"}})]
        assert call(folder, "queue", "work").code == 0
        pages = ["/file", *(f"/file/{one}" for one in made)]

        def opened(path):
            browser.get(address + path)
            if path != "/file":
                WebDriverWait(browser, 60).until(lambda there: there.find_element("id", "wall").is_displayed())

        for scheme in ("light", "dark") if axe else ():
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
            for path in pages:
                opened(path)
                assert serious(browser, axe) == [], (scheme, path)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True})
        for path in pages:
            opened(path)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 360, path
        opened(pages[1])
        browser.execute_script("document.getElementById('look').scrollIntoView({behavior: 'instant'})")
        if PICTURES:
            keep(browser, "wall-telephone")
