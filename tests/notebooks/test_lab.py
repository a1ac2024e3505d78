"""JupyterLab as a person uses it, in Chromium: the first notebook and a toy one; all five where it is asked for."""

import json
import os

import nbformat
import numpy as np
import pytest

from specsync_lib import assets
from specsync_lib.face.video import GrowingVideo
from specsync_lib.paths import MEASUREMENTS_DIR
from workbench.measure import lab_browser, slider_browser

pytestmark = pytest.mark.slow
needs_browser = pytest.mark.skipif(
    slider_browser.chromium() is None, reason="no chromium with chromedriver on the path (Debian: chromium-driver)"
)
TOY = (
    """import io
import ipywidgets
from IPython.display import HTML, display
from PIL import Image
from specsync_lib.figures import sliders
def page(grey):
    png = io.BytesIO()
    Image.new("L", (64, 48), grey).save(png, "png")
    return png.getvalue()
knob = sliders.threshold_slider(sliders.THRESHOLDS, 0.5)
stack = sliders.linked(knob, sliders.page_stack([page(6 * k) for k in range(len(sliders.THRESHOLDS))]))
ipywidgets.VBox([knob, stack])""",
    """display(HTML("<video src='../../plots/bright.mp4'></video>"))""",
    """display(HTML("<video src='../../plots/dark.mp4'></video><video src='../../plots/absent.mp4'></video>"))""",
    "import sys\nprint('a line that nobody wants', file=sys.stderr)",
)


def write_toy(folder):
    """A notebook with a slider, videos of which one is dark and one is absent, and a line on standard error."""
    for path in (folder / "data" / "run", folder / "plots"):
        path.mkdir(parents=True, exist_ok=True)
    for name, grey in (("bright", 180), ("dark", 0)):
        video = GrowingVideo(folder / "plots" / f"{name}.mp4")
        for _ in range(30):
            video.push(np.full((72, 128, 3), grey, np.uint8))
        video.finish(np.zeros(16_000, np.float32))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in TOY])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "data" / "run" / "toy.ipynb")


@needs_browser
def test_the_lab_greets_nobody_runs_a_notebook_and_leaves_git_clean(tmp_path):
    pytest.importorskip("selenium", reason="selenium is not installed (the extra 'test')")
    assets.fetch()
    rng = np.random.default_rng(0)
    with lab_browser.served() as (folder, address), slider_browser.browser() as driver:
        driver.set_script_timeout(60)
        assert lab_browser.greetings(driver, address, waits_s=2) == []
        first = lab_browser.session(driver, address, "notebooks/01_feature_extraction.ipynb", rng)
        write_toy(folder)
        toy = lab_browser.session(driver, address, "data/run/toy.ipynb", rng)
        assert lab_browser.git(folder, "status", "--porcelain") == ""
    assert lab_browser.faults(first) == []
    assert first["videos"] == first["drags"] == []
    # What is wrong in the toy notebook is found, and nothing else.
    assert [line for line in toy["blocks"] if "a line that nobody wants" not in line] == []
    bright, dark, absent = toy["videos"]
    assert bright["width"] == 128 and bright["ready"] >= 2 and bright["grey"] > 100
    assert dark["grey"] < lab_browser.DARK and absent["width"] == 0
    assert [drag["when"] for drag in toy["drags"]] == ["as run", "after a restart of the kernel"]
    assert all(drag["right"] for drag in toy["drags"])
    assert len(lab_browser.faults(toy)) == len(toy["blocks"]) + len(toy["console"]) + 2


@needs_browser
@pytest.mark.skipif(
    not os.environ.get("SPECSYNC_LONG_TESTS"), reason="all five notebooks again, minutes; SPECSYNC_LONG_TESTS=1 runs it"
)
def test_all_five_notebooks_run_play_and_follow(tmp_path):
    pytest.importorskip("selenium", reason="selenium is not installed (the extra 'test')")
    assets.fetch()
    found = lab_browser.measure()
    assert found["faults"] == found["changed_files"] == []
    assert found["videos"] >= 5 and found["drags"] >= 8


def test_the_committed_session_is_of_all_five_and_clean():
    found = json.loads((MEASUREMENTS_DIR / lab_browser.OUTPUT.name).read_text(encoding="utf-8"))
    assert [one["notebook"] for one in found["notebooks"]] == [f"notebooks/{name}.ipynb" for name in lab_browser.NAMES]
    assert found["faults"] == found["changed_files"] == []
    assert found["videos"] >= 5 and found["drags"] >= 8
