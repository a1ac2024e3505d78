"""The report's page in a real browser: no error, usable by keyboard and on a phone, and the slider follows."""

import nbformat
import numpy as np
import pandas as pd
import pytest

from specsync_lib.door import report
from tests.door.test_opening import write_sweep, write_verdicts
from tests.door.test_report import executed_notebook, write_input
from workbench.measure import slider_browser

pytestmark = pytest.mark.skipif(slider_browser.chromium() is None, reason="no chromium with chromedriver on the path")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A browser and the page's address."""
    pytest.importorskip("selenium", reason="selenium is not installed (the extra 'test')")
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
    notebook = executed_notebook()
    notebook.cells.append(nbformat.v4.new_code_cell("# a comment\nfor x in range(12):\n    print(f'{x + 0.85}', None)"))
    nbformat.write(notebook, run / "executed" / "01_features.ipynb")
    index = report.build(run, plots)
    with slider_browser.page_server(plots) as address, slider_browser.browser() as driver:
        yield driver, f"{address}report/{index.name}"


@pytest.fixture
def page(opened):
    """The browser with the page as it opens, whatever another test did to it."""
    driver, address = opened
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.get("about:blank")
    driver.get_log("browser")  # what another page said
    driver.get(address)
    return driver


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
    narrow = "return document.documentElement.clientWidth === 390"
    slider_browser.wait_for("the phone's width", lambda: page.execute_script(narrow))
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390


# Every text that is seen, with its own colour and what lies under it, blended where something is translucent.
CONTRASTS = """
const numbers = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
const under = element => {
  if (!element) return [255, 255, 255, 1];
  const own = numbers(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, under(element.parentElement));
};
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
for (const fold of document.querySelectorAll('details')) fold.open = true;
const found = [];
for (const element of document.body.querySelectorAll('*')) {
  const words = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.textContent.trim());
  const said = words.join('');
  const style = getComputedStyle(element);
  if (!said || element.closest('svg, script, style, option, video') || !element.getClientRects().length) continue;
  if (element.matches(':disabled') || style.visibility !== 'visible') continue;  // WCAG 1.4.3 leaves these out
  const back = under(element), [one, two] = [light(over(numbers(style.color), back)), light(back)];
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  const px = parseFloat(style.fontSize), large = px >= 24 || (px >= 18.66 && Number(style.fontWeight) >= 700);
  found.push([said.slice(0, 40), Math.round(100 * ratio) / 100, large ? 3 : 4.5]);
}
return found;
"""


@pytest.mark.parametrize("width_px", [1400, 390])
@pytest.mark.parametrize("name", ["index.html", "01_features.html"])
def test_every_text_has_the_contrast_of_wcag_aa(page, name, width_px):
    size = {"width": width_px, "height": 800, "deviceScaleFactor": 1, "mobile": width_px < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.get(page.current_url.replace("index.html", name))
    found = page.execute_script(CONTRASTS)
    wide = page.execute_script("return document.documentElement.scrollWidth")
    assert len(found) > 20
    assert [one for one in found if one[1] < one[2]] == []
    assert wide <= width_px


def test_a_tab_reaches_every_control_and_shows_where_it_is(page):
    from selenium.webdriver import ActionChains, Keys

    wanted = page.execute_script(
        "for (const fold of document.querySelectorAll('details')) fold.open = true;"
        "window.controls = [...document.querySelectorAll('a[href], input:enabled, select, summary, button, video')]"
        ".filter(one => one.getClientRects().length); return controls.length"
    )
    page.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached, shown = set(), True
    for _ in range(2 * wanted + 10):
        ActionChains(page, duration=0).send_keys(Keys.TAB).perform()
        place, outline = page.execute_script(
            "const at = document.activeElement, style = getComputedStyle(at);"
            "return [controls.indexOf(at), style.outlineStyle !== 'none' || style.boxShadow !== 'none']"
        )
        if place in reached and len(reached) == wanted:
            break
        if place >= 0:
            reached.add(place)
            shown = shown and outline
    assert len(reached) == wanted
    assert shown


def test_the_slider_follows_pointer_and_keys(page, monkeypatch):
    monkeypatch.setattr(slider_browser, "INPUTS", 6)
    times = slider_browser.follow(page, "#recording", "input[type=range]", 0, np.random.default_rng(0))
    assert set(times) == {"pointer", "key"}
    assert all(len(each) == 6 and np.isfinite(each).all() for each in times.values())
