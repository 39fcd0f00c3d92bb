"""How soon can somebody work on a page with a thousand thumbnails, and how much memory does the server take?

    python benchmarks/wall.py [--samples 1000] [--times 10]

A worker draws so many samples of the built-in digits for the console, which is started as `expunge console` starts it.
Headless Chromium opens the page again and again, keeping nothing of it, and says by its own clock when all thumbnails
of the first page are there and those in sight are painted, counted from when the page was asked for. Then one click is
timed until it is painted. At the end half of the samples are marked and a request is filed: the memory of the server is
the most that it had.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recording import record

from expunge.evidence.keys import create_key
from expunge.settings import WORKSPACE_VARIABLE, Workspace
from pipelines.queueing import draw_walls
from pipelines.workspace import initialise

DIGITS = "builtin://digits/"
ASK = """
const [path, method, body, done] = arguments;
import("/static/change.js").then(({change}) => change(path, method, body)).then((answer) => answer.json())
  .then(done, (error) => done({problem: error.message}))"""
DRAWN = "return performance.getEntriesByName('wall drawn')[0]?.startTime ?? null"
CLICK = """
const done = arguments[0], wall = document.getElementById("wall");
scrollTo(0, wall.getBoundingClientRect().top);
requestAnimationFrame(() => {
  const now = wall.querySelector("canvas").getBoundingClientRect(), began = performance.now();
  const where = {clientX: now.left + 20, clientY: now.top + 20, pointerId: 1, pointerType: "pen", bubbles: true};
  wall.dispatchEvent(new PointerEvent("pointerdown", where));
  wall.dispatchEvent(new PointerEvent("pointerup", where));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})"""


def main() -> None:
    """Draws, serves, looks, and writes down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = look(Workspace(Path(folder, ".expunge")), given.samples, given.times)
    rows = "\n".join(f"| {name} | {found[name]['median_ms']:,.0f} | {found[name]['longest_ms']:,.0f} |"
                     for name in ("drawn", "click"))
    record("wall", {"samples": given.samples, "times": given.times, **found}, f"""\
{given.samples:,} samples; the page opened {given.times} times. The server took at most {found['memory_mib']:,} MiB.

| until | median, ms | longest, ms |
|---|---:|---:|
{rows}""")


def look(workspace: Workspace, samples: int, times: int) -> dict[str, Any]:
    """Times by the browser's clock in milliseconds, and the server's memory."""
    initialise(workspace)
    create_key(workspace, "ada", ("requester",))
    served = subprocess.Popen(
        [Path(sys.executable).with_name("expunge"), "console", "--port", "0", "--as", "ada", "--json"], text=True,
        stdout=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", WORKSPACE_VARIABLE: str(workspace.root)})
    browser = _browser()
    try:
        assert served.stdout is not None
        told = json.loads(served.stdout.readline())
        browser.get(told["link"])
        wall = browser.execute_async_script(ASK, "/api/v1/walls", "POST", {
            "checkpoint": {"uri": f"{DIGITS}dcgan"}, "oracle": {"uri": f"{DIGITS}oracle"}, "count": samples})["wall"]
        assert [worked.outcome for worked in draw_walls(workspace, "benchmark", 600)] == ["drawn"]
        drawn, clicks = [], []
        for _ in range(times):
            browser.get("about:blank")
            browser.get(f"{told['address']}/file/{wall}")
            drawn.append(_once_drawn(browser))
            clicks.append(browser.execute_async_script(CLICK))
        filed = browser.execute_async_script(ASK, "/api/v1/requests", "POST", {
            "wall": wall, "marks": "u" * (samples // 2) + "w" * (samples - samples // 2), "id": "many",
            "model": "digits", "reason": "safety", "classes": [8], "policy": "debug",
            "judge": {"uri": f"{DIGITS}judge"}, "holdout": {"uri": f"{DIGITS}holdout"}})
        assert filed.get("filed_now"), filed
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.pid}/status").read_text())
        assert peak is not None
    finally:
        browser.quit()
        served.terminate()
    return {"drawn": _summed(drawn), "click": _summed(clicks), "memory_mib": round(int(peak[1]) / 1024)}


def _browser() -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,1400"):
        options.add_argument(argument)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(
        executable_path=shutil.which("chromedriver")))
    found.set_script_timeout(120)
    return found


def _once_drawn(browser: Any) -> float:
    from selenium.webdriver.support.ui import WebDriverWait

    return float(WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda there: there.execute_script(DRAWN)))


def _summed(spent: list[float]) -> dict[str, float]:
    return {"median_ms": round(statistics.median(spent), 1), "longest_ms": round(max(spent), 1)}


if __name__ == "__main__":
    main()
