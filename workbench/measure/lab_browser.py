"""The notebooks as a person uses them: all five run in JupyterLab in a real browser, videos played, sliders dragged.

    python -m workbench.measure.lab_browser          # needs git, chromium, chromedriver and the extra "test"

A copy of this checkout, its parameters at the smallest profile, is committed into a repository of its own and served
as ``./run_all.sh lab`` serves it. Every notebook is opened and run to its end. Then its outputs are looked through for
errors and for anything on standard error, its videos are played, every slider is dragged by 60 moves, before and after
a restart of the kernel, and the notebook is saved. In the end git says what has changed in the copy.
"""

import argparse
import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.paths import MEASUREMENTS_DIR, NOTEBOOKS_DIR, PROJECT_ROOT
from specsync_lib.provenance import machine
from workbench.measure.slider_browser import browser, lab, wait_for

OUTPUT = MEASUREMENTS_DIR / "lab_browser.json"
NAMES = tuple(path.stem for path in sorted(NOTEBOOKS_DIR.glob("0*.ipynb")))
MOVES, MOVE_S = 60, 1 / 60  # of one drag
WANTED_MS = 100.0
SETTLES_S = 1.5  # after a drag: what comes later than this is late
RUN_S = 1800  # a notebook's cells, on a busy machine
PLAYED_S = 0.3
DARK = 8.0  # mean grey level of 255: a black frame

HERE = "const panel = jupyterapp.shell.currentWidget, cells = [...panel.content.model.cells];"
READY = HERE + "return cells.length > 0 && panel.sessionContext.isReady && panel.sessionContext.session?.kernel?.status"
# Cells with code that have not ended; -1 where one failed (the rest are not run then).
WAITING = """
const code = cells.filter(cell => cell.type === "code" && cell.sharedModel.getSource().trim());
if (code.some(cell => cell.outputs.toJSON().some(output => output.output_type === "error"))) return -1;
const busy = panel.sessionContext.session.kernel.status !== "idle";
return code.filter(cell => cell.executionCount === null).length + busy;
"""
# What a person would call a fault: errors, standard error, warnings, widgets that could not be drawn.
BLOCKS = """
const found = [];
cells.forEach((cell, index) => {
  if (cell.type !== "code") return;
  for (const output of cell.outputs.toJSON()) {
    const text = [output.text ?? output.evalue ?? output.data?.["text/plain"] ?? ""].flat().join("");
    const bad = output.output_type === "error" || output.name === "stderr" || /\\bWarning\\b|Traceback/.test(text);
    if (bad) found.push(`cell ${index}, ${output.name ?? output.output_type}: ${text.slice(0, 300)}`);
  }
});
for (const part of panel.node.querySelectorAll(".jp-OutputArea-output"))
  if (/Error displaying widget|Error creating widget|Loading widget/.test(part.textContent))
    found.push(part.textContent.slice(0, 200));
return found;
"""
PLAYED = """
const [video, seconds, done] = arguments;
const source = video.currentSrc.replace(/[?].*/, "").replace(/^.*[/]files[/]/, "").slice(0, 200);
const tell = more => done({source, ready: video.readyState,
  width: video.videoWidth, height: video.videoHeight, error: video.error?.message ?? null, ...more});
const grey = () => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 36});
  const brush = canvas.getContext("2d");
  brush.drawImage(video, 0, 0, 64, 36);
  const {data} = brush.getImageData(0, 0, 64, 36);
  let sum = 0;
  for (let k = 0; k < data.length; k += 4) sum += data[k] + data[k + 1] + data[k + 2];
  return sum / (3 * 64 * 36);
};
const until = performance.now() + 20000;
const look = () => {
  if (video.readyState >= 3 && video.currentTime >= seconds)
    { const mean = grey(), at = video.currentTime; video.pause(); tell({grey: mean, played_s: at}); }
  else if (performance.now() > until || video.error) tell({grey: 0, played_s: video.currentTime});
  else requestAnimationFrame(look);
};
video.muted = true;
video.play().catch(() => {});
look();
"""
# Everything that follows a knob: pictures that are seen, and the number beside it. Looked at in every animation frame.
WATCH = """
const [root] = arguments, watch = window.watch = {moved: 0, changed: 0, changes: 0, on: true};
const seen = () => [...root.querySelectorAll("img")].filter(one => one.offsetParent !== null)
  .map(one => one.complete && one.naturalWidth ? one.src : "").concat(
    [...root.querySelectorAll(".widget-readout")].map(one => one.textContent)).join();
let last = seen();
document.addEventListener("pointermove", watch.move = event => { watch.moved = event.timeStamp; }, true);
const look = () => {
  const now = seen();
  if (now !== last) {
    [last, watch.changes] = [now, watch.changes + 1];
    requestAnimationFrame(() => { watch.changed = performance.now(); });  // after it was painted
  }
  if (watch.on) requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
WATCHED = """
const watch = window.watch; watch.on = false;
document.removeEventListener("pointermove", watch.move, true);
return [watch.moved, watch.changed, watch.changes];
"""
SHOWN = """
const [root, done] = arguments;
const pictures = [...root.querySelectorAll("img")].filter(one => one.offsetParent !== null);
const numbers = [...root.querySelectorAll(".widget-readout")].map(one => one.textContent);
Promise.all(pictures.map(one => fetch(one.src).then(answer => answer.arrayBuffer())
  .then(bytes => crypto.subtle.digest("SHA-1", bytes)).then(hash => [...new Uint8Array(hash)].join(" "))))
  .then(hashes => done([...hashes, ...numbers].join()));
"""
NEWS = "return [...document.querySelectorAll('.jp-Dialog, .Toastify__toast')].map(one => one.textContent)"


def git(folder: Path, *arguments: str) -> str:
    """What git says in a folder, whoever's it is, without the user's own settings."""
    settings = ("safe.directory=*", "user.name=lab", "user.email=lab@localhost", "commit.gpgsign=false")
    command = ["git", *(word for one in settings for word in ("-c", one)), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def copied_checkout(folder: Path, profile: str = "smoke") -> None:
    """This checkout's files, as they are now, committed in a repository of their own; the notebooks at a profile.

    Raises
    ------
    InputError: this is no checkout, or git is not here.
    """
    try:
        listed = git(PROJECT_ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"{PROJECT_ROOT} is no git checkout, or git is not installed") from error
    for name in filter(None, listed.split("\0")):
        source, target = PROJECT_ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    for name in NAMES:
        path = folder / "notebooks" / f"{name}.ipynb"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(r"profile = \"default\"", rf"profile = \"{profile}\""), encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is")


@contextmanager
def served(profile: str = "smoke") -> Iterator[tuple[Path, str]]:
    """A copy of the checkout, and the address of the JupyterLab that serves it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "specsync"
        copied_checkout(folder, profile)
        with lab(folder, folder) as address:
            yield folder, address


def greetings(driver: Any, address: str, waits_s: float = 4) -> list[str]:
    """What pops up in the first seconds of the page that a person gets."""
    driver.get(address)
    wait_for("JupyterLab", lambda: driver.execute_script("return !!document.querySelector('.jp-DirListing-item')"))
    time.sleep(waits_s)
    return driver.execute_script(NEWS)


def run_notebook(driver: Any, address: str, path: str) -> float:
    """Open a notebook, run all its cells and wait for their end; seconds it took."""
    driver.get(f"{address}doc/tree/{path}")
    loaded = "return !!window.jupyterapp?.shell?.currentWidget?.content?.model"
    wait_for(f"{path} in JupyterLab", lambda: driver.execute_script(loaded))
    wait_for(f"the kernel of {path}", lambda: driver.execute_script(READY) == "idle")
    began = time.monotonic()
    driver.execute_script("jupyterapp.commands.execute('notebook:run-all-cells')")
    wait_for(path, lambda: driver.execute_script(HERE + WAITING) <= 0, RUN_S)
    return time.monotonic() - began


def pages_of(driver: Any) -> Iterator[int]:
    """Turn the notebook page by page, so that everything in it is drawn; the page's number."""
    pane = "const pane = document.querySelector('.jp-WindowedPanel-outer');"
    driver.execute_script(pane + "pane.scrollTop = 0")
    for page in range(200):
        time.sleep(0.4)
        yield page
        move = "const from = pane.scrollTop; pane.scrollTop += 0.85 * pane.clientHeight; return pane.scrollTop - from"
        if driver.execute_script(pane + move) < 1:
            break


def played(driver: Any) -> list[dict]:
    """Every video that has a source, played for a moment: its size, its state and how bright its picture is."""
    found = []
    for video in driver.find_elements("css selector", "video"):
        if driver.execute_script("return !arguments[0].currentSrc && !arguments[0].src", video):
            continue  # the preview's, before its button is pressed
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", video)
        found.append(driver.execute_async_script(PLAYED, video, PLAYED_S))
    return found


def drag(driver: Any, element: Any, root: Any, rng: np.random.Generator) -> dict:
    """Drag a knob by 60 moves at the pace of a screen.

    Returns
    -------
    late_ms: from the last move's event until what is seen did no longer change, painted; changes: how often it changed;
    right: whether what is seen then is what this place of the knob shows after the keys have been away and back.
    """
    from selenium.webdriver import ActionChains, Keys

    driver.execute_script("arguments[0].scrollIntoView({block: 'start'})", element)
    time.sleep(0.5)
    box = "return arguments[0].getBoundingClientRect().toJSON()"
    track, handle = (element.find_element("css selector", f".noUi-{part}") for part in ("base", "handle"))
    track_box, grip = (driver.execute_script(box, one) for one in (track, handle))
    start = (grip["x"] + grip["width"] / 2 - track_box["x"]) / track_box["width"]

    def mouse(kind: str, place: float, buttons: int) -> None:
        event = {"type": kind, "x": track_box["x"] + place * track_box["width"], "button": "left", "clickCount": 1}
        event |= {"y": track_box["y"] + track_box["height"] / 2, "buttons": buttons}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    mouse("mouseMoved", start, 0)
    mouse("mousePressed", start, 1)
    time.sleep(0.2)
    driver.execute_script(WATCH, root)
    turns, phase = rng.uniform(1.5, 2.5), rng.uniform(0, 1)
    places = 0.5 + 0.45 * np.cos(2 * np.pi * (turns * np.arange(1, MOVES + 1) / MOVES + phase))
    places[-1] = 0.05 + (places[-2] + 0.4) % 0.9  # far from the one before, so that the last move has to be followed
    due = time.monotonic()
    for place in places:
        mouse("mouseMoved", float(place), 1)
        due += MOVE_S
        time.sleep(max(0.0, due - time.monotonic()))
    time.sleep(SETTLES_S)
    moved, changed, changes = driver.execute_script(WATCHED)
    mouse("mouseReleased", float(places[-1]), 0)
    seen = driver.execute_async_script(SHOWN, root)
    driver.execute_script("arguments[0].focus()", handle)
    away, back = Keys.ARROW_LEFT, Keys.ARROW_RIGHT
    if handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemin"):
        away, back = back, away
    for key in (away, back):
        ActionChains(driver, duration=0).send_keys(key).perform()
        time.sleep(SETTLES_S)
    right = seen == driver.execute_async_script(SHOWN, root)
    return {"late_ms": round(max(0.0, changed - moved), 1), "changes": changes, "right": right}


def dragged(driver: Any, rng: np.random.Generator, when: str) -> list[dict]:
    """Every slider of the notebook that has somewhere to go, dragged."""
    found = []
    for element in driver.find_elements("css selector", ".jp-OutputArea-output .widget-hslider"):
        root = driver.execute_script("return arguments[0].closest('.jp-OutputArea-output')", element)
        name = element.find_element("css selector", ".widget-label").text
        handle = element.find_element("css selector", ".noUi-handle")
        ends = [handle.get_attribute(f"aria-value{end}") for end in ("min", "max")]
        if float(ends[0]) < float(ends[1]):
            found.append({"slider": name, "when": when} | drag(driver, element, root, rng))
    return found


def restart(driver: Any) -> None:
    """Restart the kernel, as the menu does after its question."""
    session = "jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    driver.execute_async_script(f"const done = arguments[0]; {session}.restart().then(() => done(true))")
    wait_for("the restarted kernel", lambda: driver.execute_script(f"return {session}.status") == "idle")


def save(driver: Any) -> None:
    """Save the notebook, as autosave does."""
    script = "const done = arguments[0]; jupyterapp.commands.execute('docmanager:save').then(() => done(true))"
    driver.execute_async_script(script)


def picture(driver: Any, path: Path) -> None:
    """A screenshot."""
    path.write_bytes(base64.b64decode(driver.get_screenshot_as_base64()))


def session(driver: Any, address: str, path: str, rng: np.random.Generator, pictures: Path | None = None) -> dict:
    """One notebook, opened, run, looked at, played with, and saved.

    Returns
    -------
    notebook, seconds; blocks (what is no clean output), console (errors there), videos and drags (see above).
    """
    seconds = run_notebook(driver, address, path)
    for page in pages_of(driver):
        if pictures:
            picture(driver, pictures / f"{Path(path).stem}_{page:02d}.png")
    blocks = driver.execute_script(HERE + BLOCKS)
    videos, drags = played(driver), dragged(driver, rng, "as run")
    if drags:
        restart(driver)
        drags += dragged(driver, rng, "after a restart of the kernel")
    save(driver)
    console = [line["message"][:300] for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    news = driver.execute_script(NEWS)
    facts = {"notebook": path, "seconds": round(seconds, 1), "blocks": blocks, "console": console, "pop_ups": news}
    return facts | {"videos": videos, "drags": drags}


def faults(one: dict) -> list[str]:
    """What is wrong with a session, in lines; how late drags end is judged apart, as it is the machine's too."""
    said = [f"{one['notebook']}: {line}" for key in ("blocks", "console", "pop_ups") for line in one[key]]
    for video in one["videos"]:
        if video["ready"] < 2 or not video["width"] or video["grey"] < DARK or video["played_s"] < PLAYED_S:
            said.append(f"{one['notebook']}: a video does not play: {video}")
    return said + [f"{one['notebook']}: {drag}" for drag in one["drags"] if not drag["right"] or not drag["changes"]]


def measure(names: Sequence[str] = NAMES, pictures: Path | None = None) -> dict:
    """The file's content: every notebook's session, the latest end of a drag, what git says, browser and machine."""
    rng, sessions = np.random.default_rng(0), []
    with served() as (folder, address), browser() as driver:
        driver.set_script_timeout(120)
        pop_ups = greetings(driver, address)
        if pictures:
            picture(driver, pictures / "lab.png")
        for name in names:
            sessions.append(session(driver, address, f"notebooks/{name}.ipynb", rng, pictures))
            print(json.dumps(sessions[-1]), flush=True)
        changed = git(folder, "status", "--porcelain").splitlines()
        version = f"{driver.capabilities['browserName']} {driver.capabilities['browserVersion']}, headless"
    drags = [drag for one in sessions for drag in one["drags"]]
    return {
        "what": "the notebooks in JupyterLab: their outputs, videos and sliders, and what git says afterwards",
        "label": "measured",
        "command": "python -m workbench.measure.lab_browser",
        "profile": "smoke",
        "browser": version,
        "faults": [line for one in sessions for line in faults(one)] + [f"at the start: {line}" for line in pop_ups],
        "changed_files": changed,
        "videos": sum(len(one["videos"]) for one in sessions),
        "drags": len(drags),
        "moves_of_a_drag": MOVES,
        "wanted_late_ms": WANTED_MS,
        "latest_ms": max((drag["late_ms"] for drag in drags), default=None),
        "notebooks": sessions,
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "machine": machine(),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the file; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m workbench.measure.lab_browser", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUTPUT)
    parser.add_argument("--pictures", type=Path, help="a folder for screenshots, page by page")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    result = measure(options.only, options.pictures)
    write_json(options.out, result)
    shown = ("faults", "changed_files", "videos", "drags", "latest_ms")
    print(json.dumps({name: result[name] for name in shown}, indent=1))
    return 1 if result["faults"] or result["changed_files"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
