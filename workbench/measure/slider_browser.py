"""How fast the sliders follow in a real browser: from the input event to the repainted picture.

    python -m workbench.measure.slider_browser          # needs chromium, chromedriver and the extra "test"

JupyterLab is served from this environment with a notebook that builds the sliders from the last run's tables, and the
report's opening page from its file. Chromium's driver moves a real pointer over a slider and presses real keys. A
listener takes the event's own time stamp; the end is the animation frame after the one in which the picture that is
seen is another one and decoded, when it has been painted. Moves that would not change the place are not made.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.paths import MEASUREMENTS_DIR, PLOTS_DIR, PROJECT_ROOT
from specsync_lib.provenance import machine

INPUTS = 50  # of each kind, a slider
WANTED_MS = 100.0
START_S, FOLLOW_S = 180, 5
OUTPUT = MEASUREMENTS_DIR / "slider_browser.json"
CELLS = (
    """import json
import numpy as np
import pandas as pd
from specsync_lib import paths
from specsync_lib.figures import sliders, style
from specsync_lib.measures import latency_tables, recording
from specsync_lib.measures.acceptance import acceptance_table
from specsync_lib.pipeline import stage_times
style.use_style()
run, rng = paths.RUN_DIR, np.random.default_rng(0)""",
    """own, words = (pd.read_csv(run / name, keep_default_na=False) for name in ("recording_frames.csv", "words.csv"))
sweep = pd.read_csv(run / "recording_sweep.csv")
predicted_on = recording.stage_times()[2]
one = sliders.RecordingExplorer(own, sweep, words, "gate", 0.85, predicted_on=predicted_on)
one.widget.add_class("recording")
one.widget""",
    """frames = pd.read_csv(run / "acceptance_frames.csv", keep_default_na=False)
table = acceptance_table(frames["confidence"], frames["accepted"], frames["utterance"], n_resamples=100, rng=rng)
two = sliders.AcceptanceExplorer(table, frames, 0.85, judge="the reasoner")
two.widget.add_class("corpus")
two.widget""",
    """setup = stage_times.reference_setup("384px", steps=2)
late, serial_ms = latency_tables.late_tables([setup], np.linspace(0, 0.5, 6), rng, chunks=40)
chunks = latency_tables.chunk_table(frames)
thresholds = latency_tables.threshold_table(chunks, setup, np.linspace(0, 1, 11), rng, n=40)
three = sliders.LatencyExplorer(late, serial_ms, thresholds)
three.widget.add_class("latency")
three.widget""",
)
# A slider's name, what it is drawn in, its own element, what is seen to change.
IN_NOTEBOOK = {
    "notebook 03, this recording": (".recording", ".widget-hslider", 0),
    "notebook 03, corpus": (".corpus", ".widget-hslider", 0),
    "notebook 05, rejection rate": (".latency", ".widget-hslider", 0),
    "notebook 05, threshold": (".latency", ".widget-hslider", 1),
}
ON_PAGE = {
    "report, this recording": ("#recording", "input[type=range]", 0),
    "report, corpus": ("#corpus", "input[type=range]", 0),
}
# The page's slider acts in the gate alone, and the page begins with its run's own rule.
CHOOSE_GATE = """
const knob = document.querySelector("#recording select");
knob.value = "gate";
knob.dispatchEvent(new Event("change"));
"""
WATCH = """
const root = document.querySelector(arguments[0]);
const seen = () => {
  const images = [...root.querySelectorAll("img")].filter(image => image.offsetParent !== null);
  if (images.length && !images.every(image => image.complete && image.naturalWidth)) return null;
  const drawn = [...root.querySelectorAll("svg, output")].map(part => part.innerHTML);
  return [...images.map(image => image.src), ...drawn].join();
};
const limit_ms = 1000 * arguments[1];
window.followed = [];
const begin = event => {
  const before = window.lastSeen, from = event.timeStamp;
  const look = () => {
    const now = seen();
    if (now !== null && now !== before) {
      window.lastSeen = now;
      requestAnimationFrame(() => window.followed.push(performance.now() - from));  // after it was painted
    }
    else if (performance.now() - from < limit_ms) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
};
if (window.unwatch) window.unwatch();
window.lastSeen = seen();
const kinds = ["pointermove", "keydown"];
for (const kind of kinds) document.addEventListener(kind, begin, true);
window.unwatch = () => { for (const kind of kinds) document.removeEventListener(kind, begin, true); };
"""


def chromium() -> tuple[str, str] | None:
    """The browser and its driver; None where either is missing."""
    found = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    return found if all(found) else None


@contextmanager
def browser(width_px: int = 1400, height_px: int = 1200) -> Iterator[Any]:
    """A headless Chromium under its driver.

    Raises
    ------
    InputError: the browser, its driver or Selenium is missing.
    """
    found = chromium()
    if found is None:
        raise InputError("no chromium with chromedriver on the path; on Debian: apt-get install chromium-driver")
    try:
        from selenium import webdriver
    except ImportError as error:
        raise InputError("selenium is not installed; pip install '.[test]'") from error
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width_px},{height_px}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(found[1]))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(what: str, done: Callable[[], Any], limit_s: float = START_S) -> Any:
    """What ``done`` gives once it gives something.

    Raises
    ------
    InputError: nothing within the limit.
    """
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := done():
            return found
        time.sleep(0.2)
    raise InputError(f"{what}: nothing after {limit_s:g} s")


@contextmanager
def lab(folder: Path, project: Path = PROJECT_ROOT) -> Iterator[str]:
    """The project's JupyterLab, as ``./run_all.sh lab`` starts it, serving a folder; its address.

    Raises
    ------
    InputError: it does not answer.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-P", "-m", "specsync_lib.door.lab", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True",
        "--ServerApp.disable_check_xsrf=True",
    ]  # fmt: skip
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as log,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own,
    ):
        # Where a person was last, and what they have set, is theirs: neither read nor written.
        environment = os.environ | {"PYTHONPATH": str(project), "JUPYTERLAB_WORKSPACES_DIR": own}
        environment |= {"JUPYTERLAB_SETTINGS_DIR": own}
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            wait_for("JupyterLab", lambda: server.poll() is not None or answers(f"http://127.0.0.1:{port}/api"))
            if server.poll() is not None:
                log.seek(0)
                raise InputError(f"JupyterLab ended with code {server.returncode}: {log.read().strip()[-300:]}")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(30)


def answers(address: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(address, timeout=START_S):
            return True
    except OSError:
        return False


@contextmanager
def page_server(folder: Path) -> Iterator[str]:
    """A folder over HTTP, for a page whose files a browser may not read as files; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


def follow(driver: Any, root: str, slider: str, index: int, rng: np.random.Generator) -> dict[str, list[float]]:
    """Milliseconds from input to picture, of pointer moves and of keys; a move that nothing followed is infinite."""
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    element = driver.find_elements(By.CSS_SELECTOR, f"{root} {slider}")[index]
    driver.execute_script("arguments[0].scrollIntoView({block: 'start'})", element)
    time.sleep(0.5)
    driver.execute_script(WATCH, root, FOLLOW_S)
    handles = element.find_elements(By.CSS_SELECTOR, ".noUi-handle")
    track = (element.find_elements(By.CSS_SELECTOR, ".noUi-base") or [element])[0]
    box = driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", track)

    def mouse(kind: str, place: float, buttons: int) -> None:
        """A mouse event through the browser's own input pipeline, so far along the track."""
        x, y = box["x"] + (0.04 + 0.92 * place) * box["width"], box["y"] + box["height"] / 2
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def one(act: Callable[[], None]) -> float:
        count = driver.execute_script("return window.followed.length")
        act()
        until = time.monotonic() + FOLLOW_S
        while time.monotonic() < until:
            times = driver.execute_script("return window.followed")
            if len(times) > count:
                return times[-1]
            time.sleep(0.02)
        return float("inf")

    found: dict[str, list[float]] = {"pointer": [], "key": []}
    grip = (
        "const box = arguments[0].getBoundingClientRect(); return (box.x + box.width / 2 - arguments[1]) / arguments[2]"
    )
    place = (driver.execute_script(grip, handles[0], box["x"], box["width"]) - 0.04) / 0.92 if handles else 0.5
    mouse("mouseMoved", place, 0)
    mouse("mousePressed", place, 1)
    time.sleep(1)
    for _ in range(INPUTS):
        place = (place + rng.uniform(0.25, 0.75)) % 1  # another place by a quarter of the track or more
        found["pointer"].append(one(functools.partial(mouse, "mouseMoved", place, 1)))
    mouse("mouseReleased", place, 0)
    target = handles[0] if handles else element
    driver.execute_script("arguments[0].focus()", target)
    ActionChains(driver).send_keys(Keys.HOME).perform()
    time.sleep(1)
    key = Keys.ARROW_RIGHT
    for step in range(INPUTS):
        key = Keys.ARROW_RIGHT if step % 10 < 5 else Keys.ARROW_LEFT
        found["key"].append(one(ActionChains(driver, duration=0).send_keys(key).perform))
    driver.execute_script("window.unwatch()")
    return found


def run_notebook(driver: Any, address: str, folder: Path) -> None:
    """Open the notebook in JupyterLab, run it and wait for every slider."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "sliders.ipynb")
    driver.get(f"{address}doc/tree/sliders.ipynb")
    ready = "return document.querySelectorAll('.jp-Notebook .jp-Cell').length >= arguments[0]"
    wait_for("JupyterLab", lambda: driver.execute_script(ready, len(CELLS)))
    idle = "return !!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')"
    wait_for("the kernel", lambda: driver.execute_script(idle))
    driver.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    shown = "return [...document.querySelectorAll('.latency img')].filter(image => image.complete).length >= 2"
    wait_for("the sliders", lambda: driver.execute_script(shown))


def row(name: str, times: dict[str, list[float]]) -> list[dict]:
    """p50, p95 and worst of a slider's moves, by kind of input."""
    rows = []
    for kind, values in times.items():
        p50, p95, worst = np.percentile(values, [50, 95, 100], method="higher")
        rows.append({"slider": name, "input": kind, "n": len(values), "p50_ms": round(float(p50), 1),
                     "p95_ms": round(float(p95), 1), "max_ms": round(float(worst), 1)})  # fmt: skip
    return rows


def measure(report: Path | None, rng: np.random.Generator, pictures: Path | None = None) -> dict:
    """The file's content: every slider's rows, the worst p95, label "measured", browser and machine."""
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as name, browser() as driver:
        folder = Path(name)
        with lab(folder) as address:
            run_notebook(driver, address, folder)
            for slider, where in IN_NOTEBOOK.items():
                rows += row(slider, follow(driver, *where, rng))
                print(*rows[-2:], sep="\n", flush=True)
                if pictures:
                    driver.save_screenshot(str(pictures / f"{slider.replace(' ', '_').replace(',', '')}.png"))
        if report is not None:
            with page_server(report.parent.parent) as address:
                driver.get(f"{address}report/{report.name}")
                driver.execute_script(CHOOSE_GATE)
                for slider, where in ON_PAGE.items():
                    rows += row(slider, follow(driver, *where, rng))
                    print(*rows[-2:], sep="\n", flush=True)
        version = f"{driver.capabilities['browserName']} {driver.capabilities['browserVersion']}, headless"
    return {
        "what": "sliders, from the input event to the first frame with the new picture",
        "label": "measured",
        "browser": version,
        "wanted_p95_ms": WANTED_MS,
        "p95_ms": max(one["p95_ms"] for one in rows),
        "moves": sum(one["n"] for one in rows),
        "sliders": rows,
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "machine": machine(),
    }


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUTPUT)
    parser.add_argument("--pictures", type=Path, help="a folder for screenshots")
    arguments = parser.parse_args()
    report = PLOTS_DIR / "report" / "index.html"
    result = measure(report if report.exists() else None, np.random.default_rng(0), arguments.pictures)
    write_json(arguments.out, result)
    print(json.dumps({name: result[name] for name in ("p95_ms", "moves", "browser")}))


if __name__ == "__main__":
    main()
