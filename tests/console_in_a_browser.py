"""What a real browser shows of the console: looked at, held against what keeps people out, and kept as pictures."""

import io
import os
from pathlib import Path

PICTURES = os.environ.get("EXPUNGE_PICTURES")  # a folder: what is seen on the way is kept in its folder `console`


def complaints(browser):
    """What the browser has logged as wrong: a script that the policy held back, an error."""
    return [one["message"] for one in browser.get_log("browser") if one["level"] == "SEVERE"]


def serious(browser, axe):
    """What axe finds on the page that is serious, or worse."""
    browser.execute_script(axe)
    violations = browser.execute_async_script(
        "axe.run(document, {iframes: false}).then(found => arguments[0](found.violations))")
    return [(one["id"], one["nodes"][0]["html"]) for one in violations if one["impact"] in ("serious", "critical")]


def seen(browser, axe, name, height=1400, section=""):
    """A page in a state: nobody is kept out of it; and it is kept as a picture in docs/console, if somebody wants that."""
    browser.set_window_size(1100, height)
    browser.execute_script("(document.getElementById(arguments[0]) ?? document.body)"
                           ".scrollIntoView({behavior: 'instant'})", section)
    if PICTURES:
        keep(browser, name)
    if axe:
        assert serious(browser, axe) == [], name


def keep(browser, name):
    """Of few colours, so that a folder of them is small; rare ones are among them."""
    from PIL import Image

    file = Path(PICTURES) / "console" / f"{name}.png"
    file.parent.mkdir(exist_ok=True)
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as taken:
        taken.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE).save(file, optimize=True)


def verification(browser):
    """What the page says of the ledger once it has verified it: how, and in which words."""
    from selenium.webdriver.support.ui import WebDriverWait

    box = WebDriverWait(browser, 60).until(lambda there: (
        found := there.find_element("id", "verification")).get_attribute("data-result") in ("good", "bad") and found)
    return box.get_attribute("data-result"), box.text
