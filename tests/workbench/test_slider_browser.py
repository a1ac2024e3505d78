"""The report's page in a real browser: no error, usable by keyboard and on a phone, and the slider follows."""

import time

import numpy as np
import pandas as pd
import pytest

from specsync_lib.door import report
from tests.door.test_opening import write_sweep, write_verdicts
from tests.door.test_report import write_input
from workbench.measure import slider_browser

pytestmark = pytest.mark.skipif(slider_browser.chromium() is None, reason="no chromium with chromedriver on the path")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("selenium", reason="selenium is not installed (the extra 'browser')")
    folder = tmp_path_factory.mktemp("browser")
    run, plots = folder / "run", folder / "plots"
    for each in (run / "summary", run / "executed", plots):
        each.mkdir(parents=True)
    write_input(run)
    write_sweep(run)
    write_verdicts(plots)
    columns = {name: np.linspace(0.9, 0.5, 101) for name in report.ACCEPTANCE_COLUMNS}
    pd.DataFrame({"threshold": np.linspace(0, 1, 101)} | columns).to_csv(
        plots / report.ACCEPTANCE_TABLE_NAME, index=False
    )
    index = report.build(run, plots)
    with slider_browser.page_server(plots) as address, slider_browser.browser() as driver:
        driver.get(f"{address}report/{index.name}")
        yield driver


def text(driver) -> str:
    return driver.execute_script("return document.querySelector('#recording output').textContent")


def test_the_page_has_no_error_in_the_console(page):
    assert [line["message"] for line in page.get_log("browser") if "favicon" not in line["message"]] == []


def test_rule_and_threshold_move_by_keyboard(page):
    from selenium.webdriver import Keys

    before = text(page)
    knob = page.find_element("css selector", "#recording input")
    knob.send_keys(Keys.HOME)
    lowest = text(page)
    assert lowest != before
    assert "coverage 100.0 %" in lowest
    knob.send_keys(Keys.END)
    assert "coverage 0.0 %" in text(page)
    rule = page.find_element("css selector", "#recording select")
    rule.send_keys(Keys.HOME)  # exact
    assert "coverage" not in text(page)
    assert "as the judge alone 100.0 %" in text(page)
    assert not knob.is_enabled()
    rule.send_keys(Keys.ARROW_DOWN * 3)  # gate
    assert "coverage" in text(page)
    assert knob.is_enabled()
    summary = page.find_element("css selector", "#claims > summary")
    summary.send_keys(Keys.ENTER)
    assert page.execute_script("return document.querySelector('#claims').open")


def test_on_a_phone_nothing_sticks_out(page):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(0.2)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_slider_follows_pointer_and_keys(page, monkeypatch):
    monkeypatch.setattr(slider_browser, "INPUTS", 6)
    times = slider_browser.follow(page, "#recording", "input[type=range]", 0, np.random.default_rng(0))
    assert set(times) == {"pointer", "key"}
    assert all(len(each) == 6 and np.isfinite(each).all() for each in times.values())
