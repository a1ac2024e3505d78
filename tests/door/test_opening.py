"""The opening page: what comes first, eight claims with one verdict and one number, sliders that need no kernel."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from specsync_lib.claims import claims
from specsync_lib.door import opening, report
from specsync_lib.face.video import write_video
from specsync_lib.measures.claims import verdict_table
from specsync_lib.rules_in_words import RULE_WORDS
from specsync_lib.units import VISEMES
from tests.door.test_report import FETCHED, entry, write_input
from tests.toys.sweeps import sweep_of

H200 = "data/measurements/pipeline_h200x2.json"
# As much of a page as a script needs: an element for each selector, which keeps what is set on it.
NO_BROWSER = """
const parts = {}, nothing = () => {};
const element = name => parts[name] ??= {setAttribute: nothing, append: nothing, add: nothing, replaceChildren: nothing,
  appendChild: child => child, addEventListener: nothing, querySelector: element};
const document = {querySelector: element, createElementNS: () => element("made"), createElement: () => element("made")};
class Option {}
"""
TOLD = "console.log(JSON.stringify([select.value, input.value, input.disabled]));"


@pytest.fixture
def folders(tmp_path):
    run, plots = tmp_path / "run", tmp_path / "plots"
    for folder in (run / "summary", run / "executed", plots):
        folder.mkdir(parents=True)
    write_input(run)
    return run, plots


def write_sweep(run, **options):
    for name, table in zip(("recording_frames", "recording_sweep", "words"), sweep_of(36, **options), strict=True):
        table.to_csv(run / f"{name}.csv", index=False)


def write_verdicts(plots, **verdicts):
    rows = [
        {"claim": claim["what"], "number": "12 ms", "found": "of a chunk", "label": "measured", "source": H200}
        | {"verdict": verdicts.get(key, "holds")}
        for key, claim in claims().items()
    ]
    rows[5]["source"] = "data/run/video_checks.json"
    pd.DataFrame(rows).to_csv(plots / opening.VERDICTS_NAME, index=False)


def test_what_comes_first_comes_first_and_the_rest_is_folded(folders):
    run, plots = folders
    write_sweep(run)
    write_verdicts(plots)
    columns = {name: [0.9, 0.8] for name in report.ACCEPTANCE_COLUMNS}
    pd.DataFrame({"threshold": [0.0, 1.0]} | columns).to_csv(plots / report.ACCEPTANCE_TABLE_NAME, index=False)
    plan = {"time_s": np.arange(9) / 30, "draft": ["sil", "aa"] + 7 * ["sil"], "committed": 9 * ["sil"]}
    pd.DataFrame(plan | {"judge": ["", "sil", *6 * ["sil"], "PP"]}).to_csv(run / opening.PLAN_NAME, index=False)
    for name in ("draft", "committed", "judge"):
        frames = (np.full((64, 64, 3), 20 * k, np.uint8) for k in range(9))
        write_video(plots / f"lipsync_{name}.mp4", frames, np.zeros(4800, np.float32))
    html = report.build(run, plots).read_text(encoding="utf-8")
    for name, frame in {"draft": 1, "committed": 0, "judge": 8}.items():
        with Image.open(plots / "report" / f"lipsync_{name}.jpg") as poster:
            assert np.asarray(poster).mean() == pytest.approx(20 * frame, abs=4), name
        assert f'poster="lipsync_{name}.jpg" src="../lipsync_{name}.mp4"' in html
    places = [html.index(f'id="{name}"') for name in ("video", "verdicts", "recording", "corpus", "headline", "run")]
    assert places == sorted(places)
    for name in ("draft", "committed", "judge"):
        assert places[0] < html.index(f'src="../lipsync_{name}.mp4"') < places[1]
    folded = re.findall(r'<details class="fold" id="(\w+)"', html)
    assert folded == ["run", "claims", "figures", "notebooks", "numbers", "versions"]
    assert html.count("<details") == html.count("</details>") == len(folded)
    assert 'open=""' not in html
    assert not FETCHED.search(html)


def test_eight_claims_have_one_verdict_and_one_number_each_where_it_was_measured(folders):
    run, plots = folders
    write_verdicts(plots, serial_ms="exceeded", lip_sync="in part: not near-perfect", sm_120="missed")
    html = report.build(run, plots).read_text(encoding="utf-8")
    table = html[html.index('<table class="verdicts">') :]
    table = table[: table.index("</table>")]
    assert re.findall(r"<th>([^<]*)", table)[1:] == ["Verdict", "This run, this machine", "Measured elsewhere"]
    words = re.findall(r'<span class="verdict \w+">([^<]+)', table)
    assert words == ["exceeded", "holds", "holds", "holds", "holds", "holds", "in part", "not shown"]
    rows = table.split("<tr>")[2:]
    for index, row in enumerate(rows):
        here, elsewhere = (
            re.search(f'<td class="{column}">(.*?)</td>', row, re.DOTALL)[1] for column in ("here", "elsewhere")
        )
        assert ("12 ms" in here) == (index == 5)
        assert ("12 ms" in elsewhere) == (index != 5)
        assert ("on NVIDIA H200" in elsewhere) == (index != 5)


def test_a_claim_that_has_no_number_says_why(folders):
    run, plots = folders
    why = "no referee for this language (ja)"
    write_input(run, has_truth=False, why_no_truth=why, language="ja")
    verdict_table({}, no_truth=why).to_csv(plots / opening.VERDICTS_NAME, index=False)
    (lips,) = (one for one in opening.verdicts(plots) if why in one.found)
    assert (lips.claim, lips.verdict, lips.number) == (claims()["lip_sync"]["what"], opening.NOT_SHOWN, "")
    html = report.build(run, plots).read_text(encoding="utf-8")
    table = html[html.index('<table class="verdicts">') :]
    (row,) = (row for row in table[: table.index("</table>")].split("<tr>") if why in row)
    assert f'<td class="here"><span class="missing">{why}</span></td><td class="elsewhere"></td>' in row


def test_the_part_about_this_run_says_what_it_promises_and_what_went_wrong(folders):
    run, plots = folders

    def facts():
        html = report.build(run, plots).read_text(encoding="utf-8")
        part = html[html.index('<details class="fold" id="run"') :]
        return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", part[: part.index("</details>")], re.DOTALL))

    assert "guarantee" not in facts()
    promise = "the committed plan is the judge's own; 2 of 9 chunks went out unverified, as drafted"
    notes = ["chunk 3: pass raised RuntimeError: no", "the judge is lost"]
    made = {"rule": "exact", "models": {}, "guarantee": promise, "notes": notes}
    (run / "run.json").write_text(json.dumps(made))
    assert facts()["guarantee"].replace("&#39;", "'") == promise
    assert facts()["went wrong on the way"] == "; ".join(notes)
    (run / "run.json").write_text(json.dumps(made | {"notes": []}))
    assert "went wrong on the way" not in facts()


def test_without_files_nothing_is_shown_to_hold(folders):
    found = opening.verdicts(folders[1])
    assert [one.verdict for one in found] == [opening.NOT_SHOWN] * 8
    assert not any(one.number for one in found)


def test_the_headline_holds_what_is_claimed_and_ours_by_machine(folders):
    numbers = {
        "latency.h200x2.serial_p50_ms_384px": entry(570.0, "ms", "real-shape") | {"source": H200},
        "latency.h200x2.branched_p50_ms_384px": entry(114.0, "ms", "real-shape") | {"source": H200},
        "run.serial_p50_ms": entry(2000.0, "ms"),
        "run.speculative_p50_ms": entry(2200.0, "ms"),
    }
    claimed, elsewhere, here = opening.headline(numbers)
    assert (claimed.serial_ms, claimed.speculative_ms, claimed.saved, claimed.label) == (645, 507, "−21 %", "claimed")
    assert (elsewhere.saved, elsewhere.label) == ("−80 %", "real-shape")
    assert re.fullmatch(r"384px, on 20\d\d-\d\d-\d\d, on NVIDIA H200.*", elsewhere.place)
    assert (here.saved, here.place) == ("+10 %", "this run, this machine")
    assert [pair.who for pair in opening.headline({})] == ["source report"]
    for rule in RULE_WORDS:
        names = [pair.who for pair in opening.headline(numbers, rule)][2:]
        assert names == ([] if rule in ("draft", "judge") else [f"this recording, rule={rule}"])
    run, plots = folders
    (run / "summary" / "05.json").write_text(json.dumps(numbers))
    html = report.build(run, plots).read_text(encoding="utf-8")
    shares = [float(share) for share in re.findall(r"--share: ([\d.]+)", html)]
    assert shares == pytest.approx([1, 507 / 645, 1, 0.2, 2000 / 2200, 1], abs=1e-3)
    for rule, pairs in {"gate": 3, "draft": 2}.items():
        (run / "run.json").write_text(json.dumps({"rule": rule, "models": {}}))
        html = report.build(run, plots).read_text(encoding="utf-8")
        assert html.count('<div class="pair">') == pairs
        assert (f"<b>this recording, rule={rule}</b>" in html) == (rule == "gate")


def test_the_recordings_slider_holds_every_rule_and_threshold(folders):
    run, plots = folders
    assert opening.recording_points(run) is None
    write_sweep(run)
    points = opening.recording_points(run)
    assert [rule for rule, _ in points["rules"]] == list(RULE_WORDS)
    gates = points["by_rule"]["gate"]
    assert [one["threshold"] for one in gates] == sorted(one["threshold"] for one in gates)
    assert len(gates) == 11
    frames, sweep, _ = sweep_of(36)
    assert [VISEMES[code] for code in gates[7]["plan"]] == frames["gate_0.85"].tolist()
    assert gates[7]["agreement_with_judge"] == pytest.approx(
        sweep.loc[sweep["variant"] == "gate_0.85", "agreement_with_judge"].item(), abs=1e-4
    )
    assert set(points["strips"]) == {"draft", "judge", "truth"}
    html = report.build(run, plots).read_text(encoding="utf-8")
    held = json.loads(re.search(r"const data = (\{.*\});", html).group(1))
    assert held == json.loads(json.dumps(points))


RUN_AND_START = pytest.mark.parametrize(
    ("made", "start"),
    [
        (None, ("gate", 0.85)),
        ({"rule": "exact", "threshold": None}, ("exact", 0.85)),
        ({"rule": "lenient", "threshold": None}, ("lenient", 0.85)),
        ({"rule": "gate", "threshold": 0.0}, ("gate", 0.0)),
        ({"rule": "gate", "threshold": 0.6}, ("gate", 0.6)),
        ({"rule": "draft", "threshold": None}, ("draft", 0.85)),
    ],
)


def points_of(run, made):
    """A recording's, of a run that was made so."""
    write_sweep(run)
    if made is not None:
        (run / "run.json").write_text(json.dumps(made | {"models": {}}))
    return opening.recording_points(run)


@RUN_AND_START
def test_the_recordings_slider_starts_at_the_runs_own_rule_and_threshold(folders, made, start):
    points = points_of(folders[0], made)
    assert (points["start"]["rule"], points["start"]["threshold"]) == start


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on the path, which runs the page's script")
@RUN_AND_START
def test_the_pages_script_starts_there_too(folders, tmp_path, made, start):
    run, plots = folders
    points = points_of(run, made)
    html = report.build(run, plots).read_text(encoding="utf-8")
    (script,) = (text for text in re.findall(r"<script>(.*?)</script>", html, re.DOTALL) if "data.start" in text)
    page = tmp_path / "page.js"
    page.write_text(NO_BROWSER + script + "const {select, input} = parts;\n" + TOLD)
    shown = subprocess.run(["node", page], check=True, capture_output=True, text=True)
    rule, place, disabled = json.loads(shown.stdout)
    gates = points["by_rule"]["gate"]
    nearest = min(range(len(gates)), key=lambda k: abs(gates[k]["threshold"] - start[1]))
    assert (rule, place, disabled) == (start[0], nearest, start[0] != "gate")


def test_the_corpus_slider_takes_what_a_threshold_meets_and_what_the_headline_counts(folders):
    _, plots = folders
    values = {"threshold": [0.5]}
    for prefix, start in (("", 0.1), ("recalibrated_", 0.5)):
        for place, name in enumerate(("acceptance", "within_one_frame", "coverage")):
            values |= {f"{prefix}{name}{end}": [start + place / 10] for end in ("", "_low", "_high")}
    pd.DataFrame(values).to_csv(plots / report.ACCEPTANCE_TABLE_NAME, index=False)
    points, said = report.acceptance_points(plots)
    assert (points["acceptance"], points["coverage"]) == ([0.6], [0.7])
    assert said == "within one frame, over the recalibrated confidence"


def test_without_truth_the_slider_has_no_such_strip(folders):
    run, _ = folders
    write_sweep(run, truth=False)
    points = opening.recording_points(run)
    assert set(points["strips"]) == {"draft", "judge"}
    assert points["by_rule"]["exact"][0]["accuracy"] is None


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to parse JavaScript")
def test_the_pages_scripts_parse(folders, tmp_path):
    run, plots = folders
    write_sweep(run)
    html = report.build(run, plots).read_text(encoding="utf-8")
    for text in re.findall(r"<script>(.*?)</script>", html, re.DOTALL):
        script = tmp_path / "slider.js"
        script.write_text(text)
        assert subprocess.run(["node", "--check", script], check=False).returncode == 0
