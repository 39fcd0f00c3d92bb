"""What people do with the console, in a real browser: Debian's Chromium, without a window."""

import json

import numpy as np
import pytest
from console_in_a_browser import PICTURES, complaints, keep, seen, serious, verification
from console_served import served, waiting_runs

from expunge.console.protection import Rate
from expunge.evidence import key_changes
from expunge.evidence.decisions import decisions_of
from expunge.evidence.verify import verify_workspace
from expunge.runs import Run

pytestmark = pytest.mark.thorough


@pytest.fixture
def workspace(tmp_path):
    return waiting_runs(tmp_path, ["forget-8", "forget-3"], days={"forget-3": 1}, seen=("forget-8",))


def test_a_person_makes_a_key_signs_with_the_keyboard_alone_has_it_released_and_the_trail_verifies(workspace, browser, axe):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    from pipelines.queueing import Engine, work

    def settled(what):
        return WebDriverWait(browser, 60).until(what)

    with served(workspace) as (app, address):
        app.state.console.reads = Rate(10_000, 1_000)
        browser.get(address)
        seen(browser, axe, "refusal", 450)
        browser.get(f"{address}/enter?token={app.state.console.identity.link_token}")
        assert [one.text for one in browser.find_elements("css selector", "a.run")] == ["forget-3.1", "forget-8.1"]
        seen(browser, axe, "queue", 500)
        browser.get(f"{address}/?state=released")
        seen(browser, axe, "queue-of-none", 450)
        browser.get(f"{address}/live")
        seen(browser, axe, "live-nothing", 450)

        browser.get(f"{address}/key")
        settled(lambda there: "no key in this browser" in there.find_element("id", "mine").text)
        seen(browser, axe, "key-none", 800)
        browser.find_element("id", "make").send_keys(Keys.ENTER)
        public = settled(lambda there: there.find_element("id", "public").text)
        seen(browser, axe, "key", 1150)
        browser.get(f"{address}/runs/forget-8.1")
        settled(lambda there: "the keyring does not know this browser" in there.find_element("id", "checks").text)
        assert not browser.find_element("css selector", "button.approve").is_enabled()
        seen(browser, axe, "decide-unknown-key", 1000, "decide")
        key_changes.enter(workspace, "hopper", ("reviewer",), by="olga", public_key=public)
        readable = browser.execute_async_script("""
            const done = arguments[0];
            import("/static/keys.js").then(keys => keys.mine())
                .then(key => crypto.subtle.exportKey("pkcs8", key.privateKey)).then(() => done(true), () => done(false))""")
        assert readable is False

        browser.get(f"{address}/runs/forget-8.1")
        settled(lambda there: there.find_element("css selector", "button.approve").is_enabled())
        assert browser.find_element("id", "checks").get_attribute("data-agrees") == "true"
        assert verification(browser)[0] == "good"
        seen(browser, axe, "run", 1150)
        seen(browser, axe, "lineage", 760, "lineage")
        seen(browser, axe, "decide", 950, "decide")
        reason = browser.find_element("id", "reason")
        reason.send_keys("<b>clean</b> “grids”", Keys.TAB, Keys.ENTER)
        settled(lambda there: there.find_element("id", "confirm").is_displayed())
        seen(browser, axe, "sign", 700)
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        settled(lambda there: there.find_elements("css selector", ".decisions li.approve"))
        decided, = decisions_of(workspace, "forget-8.1")
        assert (decided.signer.person, decided.reason) == ("hopper", "<b>clean</b> “grids”")
        assert Run(workspace, "forget-8.1").state().state == "approved"

        seen(browser, axe, "release", 620, "release")
        browser.find_element("id", "ask-release").send_keys(Keys.ENTER)
        settled(lambda there: there.find_element("id", "confirm-release").is_displayed())
        seen(browser, axe, "release-asking", 700)
        browser.switch_to.active_element.send_keys(Keys.ENTER)
        settled(lambda there: there.find_elements("id", "asked"))
        seen(browser, axe, "release-asked", 500, "release")
        assert [one.outcome for one in work(workspace, Engine())] == ["released"]
        assert [finding for finding in verify_workspace(workspace) if not finding.ok] == []
        browser.get(f"{address}/runs/forget-8.1")
        assert browser.find_element("css selector", ".facts .state").text == "released"
        seen(browser, axe, "trail", 700, "trail")

        browser.get(f"{address}/audit?person=hopper")
        how, said = verification(browser)
        assert how == "good", said
        assert "it begins with" in said
        assert "approve forget-8.1" in browser.find_element("css selector", "td.checked").text
        browser.get(f"{address}/audit")
        verification(browser)
        seen(browser, axe, "audit", 1100)
        browser.find_element("css selector", "[data-view=timeline]").send_keys(Keys.ENTER)
        seen(browser, axe, "timeline", 1100)
        browser.get(f"{address}/audit?person=nobody")
        verification(browser)
        seen(browser, axe, "audit-nothing", 700)
        browser.get(f"{address}/live")
        assert browser.find_element("css selector", ".served em").text == "clean"
        seen(browser, axe, "live", 450)
        assert [one for one in complaints(browser) if "401" not in one] == []


def shades(browser, group):
    """The grey of every pixel of a group's first picture, as a person would see it: one number for each."""
    return browser.execute_script("""
        const canvas = document.querySelector(`#tiles-${arguments[0]} canvas`);
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return Array.from(data).filter((byte, at) => at % 4 === 0);""", group)


def test_before_and_after_lie_beside_each_other_flip_in_place_and_are_subtracted(workspace, browser, axe):
    from PIL import Image
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    report = Run(workspace, "forget-8.1").output("evaluate", "report")
    was, became = (np.asarray(Image.open(report / f"unwanted-{side}.png"))[:, :16].ravel().tolist()
                   for side in ("before", "after"))

    def press(words):
        next(one for one in browser.find_elements("css selector", "#pairs button") if words in one.text).send_keys(Keys.ENTER)

    with served(workspace) as (app, address):
        app.state.console.reads = Rate(10_000, 1_000)
        browser.get(f"{address}/enter?token={app.state.console.identity.link_token}")
        browser.get(f"{address}/runs/forget-8.1")
        WebDriverWait(browser, 60).until(lambda there: len(there.find_elements("css selector", "#tiles-retained li")) > 9)
        assert len(browser.find_elements("css selector", "#tiles-unwanted li:first-child canvas")) == 2
        assert shades(browser, "unwanted") == was
        seen(browser, axe, "before-and-after", 1000, "pictures")
        press("Flip")
        assert shades(browser, "unwanted") == was
        first = browser.find_element("css selector", "#tiles-unwanted button")
        assert first.get_attribute("aria-label") == "before, latent 0: class 8. Flip"
        first.send_keys(Keys.SPACE)
        assert first.get_attribute("aria-label") == "after, latent 0: class 3. Flip"
        assert shades(browser, "unwanted") == became
        press("All show before")
        assert {one.get_attribute("data-side") for one in browser.find_elements("css selector", "#tiles-unwanted button")} == {"after"}
        seen(browser, axe, "flip", 1000, "pictures")
        press("Difference")
        assert shades(browser, "unwanted") == [abs(one - other) for one, other in zip(was, became, strict=True)]
        assert browser.find_element("css selector", "#tiles-unwanted small").text.startswith("latent 0: 8 → 3, by ")
        seen(browser, axe, "difference", 1000, "pictures")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        seen(browser, axe, "dark", 1000, "pictures")
        assert complaints(browser) == []


def test_the_requester_is_told_before_they_try_and_a_page_fits_a_telephone(workspace, browser, axe):
    from selenium.webdriver.support.ui import WebDriverWait

    with served(workspace, person="ada") as (app, address):
        app.state.console.reads = Rate(10_000, 1_000)
        browser.get(f"{address}/enter?token={app.state.console.identity.link_token}")
        browser.get(f"{address}/key")
        browser.find_element("id", "file").send_keys(str(next((workspace.keys / "people").glob("ada*.pem"))))
        WebDriverWait(browser, 60).until(lambda there: "ada’s key" in there.find_element("id", "mine").text)
        browser.get(f"{address}/runs/forget-8.1")
        WebDriverWait(browser, 60).until(lambda there: "You cannot approve" in there.find_element("id", "checks").text)
        assert not browser.find_element("css selector", "button.approve").is_enabled()
        assert verification(browser)[0] == "good"
        seen(browser, axe, "decide-as-requester", 950, "decide")
        for path in ("/", "/runs/forget-8.1", "/audit", "/live", "/key"):
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                "width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True})
            browser.get(address + path)
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= 360, (path, wide)
        browser.get(f"{address}/runs/forget-8.1")
        if PICTURES:
            keep(browser, "telephone")


def test_axe_finds_nothing_serious_in_the_dark_and_would_find_something(workspace, browser, axe):
    if not axe:
        pytest.skip("no npm on this machine")
    with served(workspace) as (app, address):
        app.state.console.reads = Rate(10_000, 1_000)
        browser.get(f"{address}/enter?token={app.state.console.identity.link_token}")
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
        for path in ("/", "/runs/forget-8.1", "/audit", "/live", "/key"):
            browser.get(address + path)
            if path in ("/audit", "/runs/forget-8.1"):
                assert verification(browser)[0] == "good"
            assert serious(browser, axe) == [], path
        browser.execute_script("document.documentElement.removeAttribute('lang')")
        assert serious(browser, axe)


# ------------------------------------------------------------------------------------------------ a server that lies


def lying(change):
    """Puts a liar before the console: `change` gets path and answer of what scripts ask, and gives another answer."""

    def around(app):
        async def answer(scope, receive, send):
            held = []

            async def hold(message):
                if scope.get("type") != "http" or not scope["path"].startswith("/api/v1/ledger"):
                    return await send(message)
                held.append(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    body = change(scope["path"], b"".join(one.get("body", b"") for one in held[1:]))
                    headers = [(name, value) for name, value in held[0]["headers"] if name != b"content-length"]
                    await send({**held[0], "headers": headers})
                    await send({"type": "http.response.body", "body": body})

            await app(scope, receive, hold)

        return answer

    return around


def another_envelope(path, body):
    if not path.endswith("proofs"):
        return body
    found = json.loads(body)
    found["entries"][0]["envelope"] = found["entries"][1]["envelope"]
    return json.dumps(found).encode()


def another_proof(path, body):
    if not path.endswith("proofs"):
        return body
    found = json.loads(body)
    found["entries"][0]["proof"][0] = "00" * 32
    return json.dumps(found).encode()


def as_it_is(path, body):
    return body


def another_name(path, body):
    return body.replace("— ".encode(), "— x".encode(), 1) if path.endswith("checkpoint") else body


def another_signature(path, body):
    if not path.endswith("checkpoint"):
        return body
    return body[:-10] + (b"A" if body[-10:-9] != b"A" else b"B") + body[-9:]


def an_earlier_end(earlier):
    return lambda path, body: earlier if path.endswith("checkpoint") else body


def no_consistency(path, body):
    return json.dumps({"proof": ["11" * 32]}).encode() if path.endswith("consistency") else body


def test_the_page_turns_red_against_a_server_that_lies(workspace, browser, axe):
    from expunge.evidence.ledger import Ledger

    ledger = Ledger.open(workspace)
    earlier = next(note for size, note in ledger.checkpoints(3) if size == 3)
    said, memory = {}, ""
    for name, change in (("honest", as_it_is), ("envelope", another_envelope), ("proof", another_proof),
                         ("name", another_name), ("signature", another_signature), ("shortened", an_earlier_end(earlier)),
                         ("grown", as_it_is), ("forked", no_consistency)):
        if name == "forked":
            key_changes.enter(workspace, "turing", ("reviewer",), by="olga")
        with served(workspace, around=lying(change)) as (app, address):
            app.state.console.reads = Rate(10_000, 1_000)
            browser.get(f"{address}/enter?token={app.state.console.identity.link_token}")
            browser.get(f"{address}/key")
            if name != "honest":  # another port is another memory: what this browser saw is put there
                browser.execute_script("localStorage.setItem('expunge:checkpoint', arguments[0])", memory)
            browser.get(f"{address}/audit")
            said[name] = verification(browser)
            if name == "honest":
                memory = browser.execute_script("return localStorage.getItem('expunge:checkpoint')")
            if name == "forked":
                seen(browser, axe, "alarm", 700)
    assert {name for name, (how, _) in said.items() if how == "good"} == {"honest", "grown"}, said
    for name, words in (("envelope", "1 of the entries"), ("proof", "1 of the entries"),
                        ("name", "in another name"), ("signature", "signed by no operator"),
                        ("shortened", "has 3 entries"), ("forked", "does not begin with")):
        assert words in said[name][1], said
