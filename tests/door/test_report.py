"""The report's pages: honest about what is missing, readable without a network, safe with any file name."""

import json
import re
import shutil
import subprocess

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from specsync_lib import rows
from specsync_lib.door import compare, report, runner, stamps, words
from specsync_lib.door.origins import origin
from specsync_lib.door.parameters import check
from specsync_lib.door.project import Project
from specsync_lib.face.video import write_video
from specsync_lib.measures import face
from specsync_lib.paths import NOTEBOOKS_DIR, PROJECT_ROOT

FETCHED = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?https?:|import\(\s*["']https?:""")


def write_input(run, **changed):
    facts = {
        "name": "conf-usermenu",
        "source": "asterisk-core-sounds-en 1.6.1",
        "transcript": "please hold",
        "transcript_source": "corpus",
        "human": True,
        "is_default": True,
        "is_excerpt": False,
        "start_s": 0.0,
        "duration_s": 7.5,
        "has_speech": True,
        "language": "en",
        "probability": 0.99,
        "language_given": False,
        "has_truth": True,
        "why_no_truth": "",
    }
    (run / "input.json").write_text(json.dumps(facts | changed))


def entry(value, unit="fraction", label="measured", low=None, high=None, n=None):
    return {"value": value, "unit": unit, "label": label, "low": low, "high": high, "n": n, "source": "plots/a.csv"}


@pytest.fixture
def folders(tmp_path):
    run, plots = tmp_path / "run", tmp_path / "plots"
    for folder in (run / "summary", run / "executed", plots):
        folder.mkdir(parents=True)
    return run, plots


def test_with_nothing_built_every_claim_says_so(folders):
    run, plots = folders
    html = report.build(run, plots).read_text(encoding="utf-8")
    assert html.count('class="missing">not built yet:') == len(words.CLAIMS)
    for claim in ("645 → 507 ms", "88 %", "under 15 ms", "sm_120", "720p30"):
        assert claim in html
    assert "The video is not built yet" in html
    assert json.loads((plots / "report" / "summary.json").read_text()) == {}
    assert 'id="slider"' not in html


def test_numbers_stand_in_their_rows_with_label_and_interval(folders):
    run, plots = folders
    numbers = {"draft.accuracy": entry(0.8514, low=0.84, high=0.86, n=4000)}
    (run / "summary" / "03_acceptance_sweep.json").write_text(json.dumps(numbers))
    (run / "summary" / "02.json").write_text(json.dumps({"kernel.graph_p99_ms": entry(0.0234, "ms", "real-shape")}))
    html = report.build(run, plots).read_text(encoding="utf-8")
    rows = {row["claim"].question: row for row in report.claim_rows(report.summary.merged(run / "summary"))}
    drafted = rows["The mouth can be drafted from audio alone"]
    assert [key for key, _, _ in drafted["here"]] == ["draft.accuracy"]
    assert drafted["missing"] == ""
    kernel = rows["The kernel costs next to nothing"]
    assert [key for key, _, _ in kernel["here"]] == ["kernel.graph_p99_ms"]
    assert kernel["missing"] == "not built yet: the compiled kernel on a GPU"
    assert "85.1 %" in html
    assert "[84.0 to 86.0]" in html
    assert "0.0234 ms" in html
    assert 'class="badge real-shape"' in html
    assert json.loads((plots / "report" / "summary.json").read_text())["draft.accuracy"] == numbers["draft.accuracy"]


def test_a_row_of_other_models_names_itself_and_shows_no_number_of_the_default_ones(folders):
    run, plots = folders
    row = rows.read("embedded", {"judge.temperature": "2", "judge.adapter": "none"})
    (run / "row.json").write_text(json.dumps({"row": row.text(), "digests": {"judge.source": "ab" * 32}}))
    (run / "run.json").write_text(json.dumps({"models": {"engine": "SGLang 0.5 at http://gpu"}, "rule": "exact"}))
    committed = entry(0.9876) | {"source": "data/measurements/referee.json"}
    numbers = {"draft.accuracy": entry(0.8514), "reasoner.accuracy": committed}
    (run / "summary" / "03_acceptance_sweep.json").write_text(json.dumps(numbers))
    html = report.build(run, plots).read_text(encoding="utf-8")
    first = html[html.index("<h1>") : html.index("The claim under test")]
    for words_of_it in ("row: embedded", "judge.temperature=2.0", "SGLang 0.5 at http://gpu", "judge.source: ababab"):
        assert words_of_it in first
    assert "85.1 %" in html and "98.8 %" not in html
    assert json.loads((plots / "report" / "summary.json").read_text()).keys() == {"draft.accuracy"}
    assert 'class="missing">not measured for this row' in html and 'missing">not built yet:' not in html


def test_what_the_workbench_measured_of_a_row_is_shown_as_its_own(folders, monkeypatch):
    run, plots = folders
    row = rows.Row("mine", judge=rows.Judge(temperature=2.0))
    (run / "row.json").write_text(json.dumps({"row": row.text(), "digests": {}}))
    numbers = {
        "reasoner.accuracy": entry(0.8772) | {"source": "data/measurements/mine/referee.json"},
        "latency.own.serial_p50_ms": entry(1543, "ms") | {"source": "data/measurements/mine/pipeline_cpu.json"},
        "latency.own.speculative_p50_ms": entry(561, "ms") | {"source": "data/measurements/mine/pipeline_cpu.json"},
        "acceptance.at_085": entry(0.4321) | {"source": "data/measurements/yours/referee.json"},
    }
    (run / "summary" / "03_acceptance_sweep.json").write_text(json.dumps(numbers))
    html = report.build(run, plots).read_text(encoding="utf-8")
    assert "87.7 %" in html and "this row, serial, median" in html and "43.2 %" not in html
    assert ", of this row" in str(origin("data/measurements/mine/referee.json"))
    assert ", of this row" not in str(origin("data/models/draft/metrics.json"))


def test_every_number_and_figure_of_the_notebooks_has_words():
    """Literal keys and stems in the notebooks and in the library that records for them."""
    sources = [path.read_text(encoding="utf-8").replace('\\"', '"') for path in NOTEBOOKS_DIR.glob("0*.ipynb")]
    library = PROJECT_ROOT / "specsync_lib"
    recorders = ("measures/referee.py", "measures/latent_claim.py", "door/runner.py")
    sources += [(library / name).read_text(encoding="utf-8") for name in recorders]
    families = "acceptance|draft|features|kernel|latent|reasoner|report|run|simulate|slider|sync|video"
    key = re.compile(rf'"((?:{families})\.(?!json"|lock"|py"|safetensors")[a-z0-9_]+)"')
    keys = {found for text in sources for found in key.findall(text)}
    keys |= {f"sync.{name}" for name in face.HEADLINES}
    assert {"latent.claim_r", "reasoner.accuracy", "sync.jitter_ratio", "kernel.speedup_vs_eager"} <= keys
    assert {one for one in keys if report.reading(one) == one} == set()
    stems = {stem for text in sources for stem in re.findall(r'save_figure\([^"]*"([a-z_]+)"', text)}
    assert {"step_counts", "acceptance_efficiency"} <= stems
    assert stems - set(words.CAPTIONS) == set()
    assert set(words.CAPTIONS) - stems == set()  # no caption outlives its figure


def test_no_cell_ends_with_a_number_that_it_records():
    """Its page would show what `record` returns, a dictionary."""
    for path in NOTEBOOKS_DIR.glob("0*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        ends = [cell.source.splitlines()[-1] for cell in cells if cell.cell_type == "code" and cell.source]
        assert not [line for line in ends if line.startswith("record(")], path.name


@pytest.mark.parametrize("row", words.DECODERS)
def test_the_first_lines_name_the_decoder(folders, row):
    run, plots = folders
    (run / "run.json").write_text(json.dumps({"rule": "exact", "models": {"decoder": row}}))
    first = report.build(run, plots).read_text(encoding="utf-8").split("</header>")[0]
    assert f"(decoder={row})" in first
    (run / "run.json").write_text(json.dumps({"rule": "exact", "models": {}}))  # a run of before
    assert "decoder=" not in report.build(run, plots).read_text(encoding="utf-8").split("</header>")[0]


def test_a_word_of_the_summary_is_shown_as_it_is(folders):
    run, plots = folders
    words_of_run = {"run.rule": "gate", "run.language": "de"}
    rows = {key: entry(value, "word") | {"source": "data/run/run.json"} for key, value in words_of_run.items()}
    (run / "summary" / "04.json").write_text(json.dumps(rows))
    html = report.build(run, plots).read_text(encoding="utf-8")
    for key, value in words_of_run.items():
        assert re.search(rf"<code>{key}</code></td><td>[^w]*\b{value}\b[^w]*</td>", html), key


H200_KERNEL = "data/measurements/kernel_project_latents_h200.json"
CLAIM, DRAFT = "data/measurements/claim.json", "data/models/draft/metrics.json"


def day(source, *parts):
    """The one that a committed file tells in this part."""
    content = json.loads((PROJECT_ROOT / source).read_text(encoding="utf-8"))
    for part in parts:
        content = content[part]
    return content["date"][: len("2026-01-31")]


def test_a_committed_number_is_never_this_runs(folders):
    run, plots = folders
    numbers = {
        "kernel.graph_p99_ms": entry(0.0234, "ms") | {"source": H200_KERNEL},
        "kernel.sm120_max_shared_kib": entry(96, "KiB") | {"source": "data/run/kernel_aot.csv"},
        "reasoner.accuracy": entry(0.856) | {"source": "data/measurements/referee.json"},
    }
    (run / "summary" / "02.json").write_text(json.dumps(numbers))
    rows = {row["claim"].question: row for row in report.claim_rows(report.summary.merged(run / "summary"))}
    kernel = rows["The kernel costs next to nothing"]
    ((made, readings),) = kernel["elsewhere"]
    assert [key for key, _, _ in readings] == ["kernel.graph_p99_ms"]
    assert str(made) == f"on {day(H200_KERNEL, 'provenance')}, on NVIDIA H200"
    assert kernel["here"] == []
    tuned = rows["The kernel is tuned for sm_120 by Triton"]
    assert [key for key, _, _ in tuned["here"]] == ["kernel.sm120_max_shared_kib"]
    html = report.build(run, plots).read_text(encoding="utf-8")
    heads = re.findall(r"<th>([^<]*)", html[html.index('<table class="claims">') :])[:4]
    assert heads[2:] == ["This run, this machine", "Measured elsewhere"]
    assert str(origin("data/measurements/referee.json")) in html
    here = "".join(re.findall(r'<td class="here">(.*?)</td>', html, re.DOTALL))
    assert "0.0234" not in here
    assert "85.6" not in here


def test_every_committed_measurement_tells_its_machine_and_day():
    """Named by path alone, so that a file that says neither shows up here, once and for all."""
    silent = {"stages_h200_reference.json"}
    for path in sorted((PROJECT_ROOT / "data" / "measurements").glob("*.json")):
        made = origin(path.relative_to(PROJECT_ROOT).as_posix())
        assert made is not None
        if path.name not in silent:
            assert re.fullmatch(r"20\d\d-\d\d-\d\d", made.date), path.name
            assert made.machine, path.name
    for source, says in {
        "data/measurements/stages_h200_reference.json": "measured earlier, on NVIDIA H200",
        CLAIM: f"on {day(CLAIM, 'provenance')}, on NVIDIA H200",
        "data/models/wan_mini/metrics.json": "measured earlier, on a CPU",
        DRAFT: f"on {day(DRAFT)}",
        "data/measurements/claim_lips.csv": "measured earlier",
    }.items():
        assert str(origin(source)) == says
    for source in ("plots/a.csv", "data/run/a.json", "data/run/measurements/a.json", "/elsewhere/a.json"):
        assert origin(source) is None


@pytest.mark.parametrize(
    ("language", "why", "says"),
    [
        (
            "de",
            "no referee for this language (de)",
            "de, Whisper&#39;s probability 0.93; draft and judge learnt English",
        ),
        (None, "nobody gave the words, and Whisper hears no speech", "no speech is heard"),
    ],
)
def test_without_a_truth_what_needs_it_is_withheld(folders, language, why, says):
    run, plots = folders
    spoken = {"language": language, "probability": language and 0.93, "has_speech": language is not None}
    write_input(run, has_truth=False, why_no_truth=why, transcript="", is_default=False, **spoken)
    html = report.build(run, plots).read_text(encoding="utf-8")
    assert f"withheld: {why}" in html
    assert says in html
    assert "“”" not in html
    still_to_come = [claim for claim in words.CLAIMS if not claim.needs_truth]
    assert html.count('class="missing">not built yet:') == len(still_to_come) < len(words.CLAIMS)


def make_run(project, committed, rule, threshold=0.85, recording="hash", **more):
    """What a finished run leaves, as far as the comparison reads it."""
    for folder in (project.run / "summary", project.run / "executed", project.plots / "report"):
        folder.mkdir(parents=True)
    write_input(project.run)
    parameters = {"rule": rule, "threshold": threshold, "track": 0, "start_s": 0.0, "duration_s": 0.0} | more
    cost = {"profile": "smoke", "wall_s": 1.0, "peak_rss_gib": 1.0, "parameters": parameters, "recording": recording}
    (project.run / "benchmark.json").write_text(json.dumps(cost))
    plan = pd.DataFrame({"frame": range(len(committed)), "committed": committed, "openness": 0.5, "by": "judge"})
    plan.loc[: len(committed) // 2, "by"] = "draft"
    plan.to_csv(project.run / "committed_plan.csv", index=False)
    numbers = {"run.acceptance": entry(0.5 + threshold / 10)}
    (project.run / "summary" / "04.json").write_text(json.dumps(numbers))
    finish(project)


def finish(project):
    """Stamp what a run has by now, and let the run know by which key."""
    there = (path for folder in (project.run, project.plots) for path in folder.rglob("*") if path.is_file())
    of_the_door = ("benchmark.json", "row.json")
    made = [path for path in there if runner.is_output(path, project) and path.name not in of_the_door]
    made += list((project.run / "executed").iterdir())
    outputs = {stamps.stored_name(path, project): stamps.file_hash(path) for path in made}
    stamps.write_stamp(project, "04", stamps.Finished("key", outputs, 1.0, 1.0))
    cost = json.loads((project.run / "benchmark.json").read_text())
    (project.run / "benchmark.json").write_text(json.dumps(cost | {"keys": {"04": "key"}}))


def test_runs_side_by_side_name_whatever_differs_between_them():
    def asked(*given):
        return check(given)[0]

    usual = asked("rule=gate", "name=a", "audio=one.wav")
    assert compare.what_differs([usual, asked("rule=exact", "chunk_slots=1", "name=b", "audio=two.wav")]) == [[], []]
    assert compare.what_differs([usual, usual]) == [[], []]
    other = asked("decoder=wan", "language=de", "seed=3", "profile=smoke", "max_seconds=60", "transcript=guten Tag")
    assert compare.what_differs([usual, other, usual])[::2] == 2 * [
        ["language auto", "no transcript", "decoder tiny", "seed 0", "profile default"]
    ]
    assert compare.what_differs([usual, other])[1] == [
        "language de", "transcript 'guten Tag'", "decoder wan", "seed 3", "profile smoke",
    ]  # fmt: skip
    served = ("judge.kind=sglang", "judge.url=http://gpu:30000")
    two, three = asked(*served), asked(*served, "judge.retries=0")
    assert compare.what_differs([two, three]) == [["row embedded"], ["row embedded (judge.retries=0)"]]
    assert compare.what_differs([usual, two]) == [["row embedded"], [f"row embedded ({', '.join(served)})"]]
    older = {name: value for name, value in usual.items() if name != "decoder"}  # of before there was such a choice
    assert compare.what_differs([usual, older]) == [[], []]


def test_runs_of_one_recording_stand_side_by_side_on_each_of_their_pages(tmp_path):
    nameless = Project(tmp_path, tmp_path / "notebooks", tmp_path / "run", tmp_path / "plots")
    bold, careful, other = (nameless.named(name) for name in ("bold", "careful", "other"))
    make_run(bold, ["sil"] * 60, "gate", 0.3, decoder="wan")
    make_run(careful, ["sil"] * 45 + ["aa"] * 15, "gate", 0.95)
    make_run(other, ["sil"] * 60, "exact", recording="another recording")
    first = report.build_all(bold).read_text(encoding="utf-8")
    frames = (np.full((720, 1280, 3), 20 * k, np.uint8) for k in range(9))
    write_video(careful.plots / "lipsync_720p30.mp4", frames, np.zeros(4800, np.float32))
    finish(careful)
    second = report.build_all(careful).read_text(encoding="utf-8")
    assert "bold" in first
    again = (bold.plots / "report" / "index.html").read_text(encoding="utf-8")
    for page, here, there in ((again, "bold", "careful"), (second, "careful", "bold")):
        table = page[page.index('<table class="runs">') :]
        table = table[: table.index("</table>")]
        assert table.index(f">{here}</a>") < table.index(f">{there}</a>")
        assert "<br>rule gate, threshold 0.3, decoder wan</th>" in table
        assert "<br>rule gate, threshold 0.95, decoder tiny</th>" in table
        assert "15 of 60 (25.0 %)" in table
        assert "53.0 %" in table
        assert "59.5 %" in table
        assert table.count("<polygon") == 2
        assert {'<rect class="draft"', '<rect class="judge"'} <= set(re.findall(r'<rect class="\w+"', table))
        assert "other" not in table
    assert 'src="../../careful/lipsync_720p30.mp4"' in again
    assert 'href="../../careful/report/index.html"' in again
    alone = report.build_all(other).read_text(encoding="utf-8")
    assert 'class="runs"' not in alone


@pytest.fixture
def three(tmp_path):
    """The runs without a name, two and three: of one recording, finished."""
    nameless = Project(tmp_path, tmp_path / "notebooks", tmp_path / "run", tmp_path / "plots")
    runs = nameless, nameless.named("two"), nameless.named("three")
    for run, rule in zip(reversed(runs), ("gate", "exact", "draft"), strict=True):
        make_run(run, ["sil"] * 60, rule, row=rows.DEFAULT)
        nbformat.write(executed_notebook(), run.executed("04"))
        (run.run / "row.json").write_text(json.dumps({"row": rows.DEFAULT, "digests": {}}))
        columns = {name: [0.9, 0.8] for name in ("threshold", *report.ACCEPTANCE_COLUMNS)}
        pd.DataFrame(columns).to_csv(run.plots / report.ACCEPTANCE_TABLE_NAME, index=False)
        frames = (np.full((720, 1280, 3), 20 * k, np.uint8) for k in range(9))
        write_video(run.plots / report.VIDEO_NAME, frames, np.zeros(4800, np.float32))
        finish(run)
        report.build_all(run)
    return runs


def left_out(page, titles, title):
    """Whether these and no others stand side by side, and a line says that one is left out."""
    table = page[page.index('id="runs"') : page.index('id="claims"')]
    shown = re.findall(r'index.html">([^<]*)</a>', table)
    return shown == titles and f"{title} is left out of the comparison: " in table


UNREADABLE = {  # what an older suite, or somebody, may leave of a run whose stamps are in order
    "a plan without a column": ("run/committed_plan.csv", "frame,committed,by\n0,E,judge\n"),
    "a plan of its header": ("run/committed_plan.csv", "frame,committed,openness,by\n"),
    "an empty plan": ("run/committed_plan.csv", ""),
    "a plan that breaks off": ("run/committed_plan.csv", "frame,committed,openness,by\n0,sil,0.5,judge\n1,si"),
    "an input without a key": ("run/input.json", '{"name": "a"}'),
    "a run that is a list": ("run/run.json", "[1]"),
    "a summary that is a list": ("run/summary/04.json", "[1]"),
    "a number without a label": ("run/summary/04.json", '{"run.acceptance": {"value": 1, "unit": "s", "source": "a"}}'),
    "an empty notebook": ("run/executed/04.ipynb", ""),
    "an empty video": ("plots/lipsync_720p30.mp4", ""),
    "a row with a key that is gone": ("run/row.json", '{"row": "embedded", "digests": []}'),
    "half a row": ("run/row.json", '{"row": "embedded"}'),
    "half a benchmark": ("run/benchmark.json", '{"recording"'),
    "a benchmark that is a list": ("run/benchmark.json", "[]"),
    "no parameters": ("run/benchmark.json", '{"recording": "hash", "parameters": null}'),
    "an older benchmark": ("run/benchmark.json", '{"recording": "hash", "parameters": {"track": 0, "start_s": 0.0, '
                           '"duration_s": 0.0, "rule": "gate"}}'),
}  # fmt: skip


@pytest.mark.parametrize("how", UNREADABLE)
def test_a_run_that_can_not_be_read_is_left_out_and_costs_the_others_nothing(three, capsys, how):
    nameless, two, last = three
    name, text = UNREADABLE[how]
    folder, _, name = name.partition("/")
    (getattr(two, folder) / name).write_text(text)
    if "benchmark" not in name:
        finish(two)
    before = (two.plots / "report" / "index.html").read_bytes()
    titles = [nameless.title, "three"]
    capsys.readouterr()
    assert left_out(report.build_all(nameless).read_text(encoding="utf-8"), titles, "two")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("specsync: two is left out of the comparison: ") and line.endswith("; run it again")
    assert left_out((last.plots / "report" / "index.html").read_text(encoding="utf-8"), titles[::-1], "two")
    assert (two.plots / "report" / "index.html").read_bytes() == before


def test_a_run_of_a_row_that_is_no_longer_accepted_does_not_stop_the_report(three, capsys):
    nameless, two, _ = three
    older = json.dumps({"judge": {"gone": 1}})
    for name, key in (("benchmark.json", "parameters"), ("row.json", "")):
        content = json.loads((two.run / name).read_text())
        (content[key] if key else content)["row"] = older
        (two.run / name).write_text(json.dumps(content))
    assert left_out(report.build_all(nameless).read_text(encoding="utf-8"), [nameless.title, "three"], "two")
    assert "'judge.gone' is unknown" in capsys.readouterr().err


def test_a_run_that_was_begun_anew_and_stopped_is_left_out_until_it_has_finished(three, capsys):
    nameless, two, _ = three
    (two.run / "committed_plan.csv").write_text("frame,committed,openness,by\n" + 60 * "0,aa,0.5,draft\n")
    before = (two.plots / "report" / "index.html").read_bytes()
    for stop, says in (
        (lambda: None, "what 04 made is not as it left it"),
        (lambda: stamps.write_stamp(two, "04", stamps.Finished("another", {}, 1, 1)), "has not finished (04)"),
        (lambda: two.stamp("04").unlink(), "has not finished (04)"),
        (lambda: two.stamp("04").write_text("[]"), "has not finished (04)"),
    ):
        stop()
        assert left_out(report.build_all(nameless).read_text(encoding="utf-8"), [nameless.title, "three"], "two")
        assert says in capsys.readouterr().err
    assert (two.plots / "report" / "index.html").read_bytes() == before
    finish(two)
    (two.run / "row.json").write_text('{"row": "remote-judge", "digests": {}}')  # stopped at its very beginning
    assert left_out(report.build_all(nameless).read_text(encoding="utf-8"), [nameless.title, "three"], "two")
    (two.run / "row.json").unlink()
    page = report.build_all(nameless).read_text(encoding="utf-8")
    assert "left out" not in page and "60 of 60 (100.0 %)" in page


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("fraction", 0.123456, "12.3 %"),
        ("ms", 645, "645 ms"),
        ("ms", 0.00123456, "0.00123 ms"),
        ("s", 234.5678, "235 s"),
        ("frames", 0, "0 frames"),
        ("ratio", 12.5, "12.5"),
        ("samples", 123456.7, "123,457 samples"),
        ("ms", -3.25, "-3.25 ms"),
    ],
)
def test_numbers_read_well(unit, value, text):
    assert report.display_value(entry(value, unit)) == text


@pytest.mark.parametrize(("unit", "text"), [("fraction", "25.0 to 1234.5"), ("grey levels", "0.25 to 12.3")])
def test_an_interval_leaves_the_unit_to_its_number(unit, text):
    assert report.display_interval(entry(1, unit) | {"low": 0.25, "high": 12.345}) == text


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({}, "a real human recording from the held-out part of the corpus"),
        ({"human": False, "name": "clip-1"}, "the shipped synthetic clip clip-1 REPLACED the human recording"),
        ({"is_default": False, "human": False, "name": "my voice.wav"}, "your recording my voice.wav"),
    ],
)
def test_the_first_lines_say_whose_voice_it_is(folders, facts, says):
    run, plots = folders
    write_input(run, **facts)
    html = report.build(run, plots).read_text(encoding="utf-8")
    body = re.sub(r"<[^>]+>", " ", html[html.index("<body>") :])
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    assert says in " ".join(lines[:3])


def test_a_smoke_run_says_that_it_measures_nothing(folders):
    run, plots = folders
    write_input(run)
    cost = {"profile": "smoke", "wall_s": 130.1, "peak_rss_gib": 1.796}
    (run / "benchmark.json").write_text(json.dumps(cost))
    html = report.build(run, plots).read_text(encoding="utf-8")
    assert "a check that everything runs and no measurement" in html
    assert "2 min 10 s, at most 1.8 GiB of memory" in html


def test_names_and_words_can_not_become_markup(folders):
    run, plots = folders
    write_input(run, name="<script>alert(1)</script>.wav", transcript='</p><img src=x onerror="x">', is_default=False)
    (plots / "odd name & <b>.png").write_bytes(b"")
    html = report.build(run, plots).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert "../odd%20name%20%26%20%3Cb%3E.png" in html


def test_figures_stand_beside_their_tables_and_the_slider_gets_its_numbers(folders):
    run, plots = folders
    columns = {name: [0.9, float("nan")] for name in report.ACCEPTANCE_COLUMNS}
    pd.DataFrame({"threshold": [0.8, 1.0]} | columns).to_csv(plots / report.ACCEPTANCE_TABLE_NAME, index=False)
    (plots / "acceptance_efficiency.png").write_bytes(b"")
    (run / "stamps").mkdir()
    stamp = {"outputs": {"plots/acceptance_efficiency.png": "hash"}}
    (run / "stamps" / "03_acceptance_sweep.json").write_text(json.dumps(stamp))
    frames = (np.full((720, 1280, 3), 20 * k, np.uint8) for k in range(9))
    write_video(plots / "lipsync_720p30.mp4", frames, np.zeros(4800, np.float32))
    html = report.build(run, plots).read_text(encoding="utf-8")
    assert 'src="../acceptance_efficiency.png"' in html
    assert 'href="../acceptance_efficiency.csv"' in html
    assert 'href="03_acceptance_sweep.html">notebook 03</a>' in html
    assert 'src="../lipsync_720p30.mp4"' in html
    with Image.open(plots / "report" / "poster.jpg") as poster:
        assert poster.size == (1280, 720)
    table = json.loads(re.search(r"const table = (\{.*?\});", html).group(1))
    assert table["threshold"] == [0.8, 1.0]
    assert table["acceptance_low"] == [0.9, None]


def executed_notebook():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2, "version_minor": 0}}
    cells = [
        new_markdown_cell("# 01 Features\n\nWhat does the **kernel** hear, $h = \\tanh(e W_1)$?\n\n$$c = h W_c$$"),
        new_markdown_cell("$$\n\\begin{aligned} a &= b \\\\ c &= d \\end{aligned}\n$$\n\nA price of \\$5 and `$x$`."),
        new_code_cell("slider", outputs=[new_output("display_data", data=view | {"text/plain": "IntSlider()"})]),
        new_code_cell(
            "Video", outputs=[new_output("display_data", data={"text/html": '<video src="../plots/a.mp4">'})]
        ),
    ]
    bar = {"text/plain": "frames:   0%|          | 0/30 [00:00<?, ?it/s]"}
    cells[2].outputs.append(new_output("display_data", data=view | bar))
    state = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2, "version_minor": 0}}
    metadata = {"widgets": state, "language_info": {"name": "python"}}
    return new_notebook(cells=cells, metadata=metadata)


def test_notebook_pages_need_no_network(folders):
    run, plots = folders
    for name in ("00_departed", "01_features"):
        nbformat.write(executed_notebook(), run / "executed" / f"{name}.ipynb")
    report.build(run, plots)
    (run / "executed" / "00_departed.ipynb").unlink()
    departed = plots / "report" / "00_departed.html"
    foreign = {plots / "report" / name: text for name, text in (
        ("mine.html", "<p>notes</p>"), ("00_mine.html", ""), ("copy.html", departed.read_text(encoding="utf-8")),
    )}  # fmt: skip
    for path, text in foreign.items():
        path.write_text(text, encoding="utf-8")
    (plots / "report" / "folder.html").mkdir()
    index = report.build(run, plots).read_text(encoding="utf-8")
    page = (plots / "report" / "01_features.html").read_text(encoding="utf-8")
    assert not FETCHED.search(index)
    assert not FETCHED.search(page)
    assert "<script" not in page
    assert page.count("<math") == 3
    assert "\\tanh" not in page
    assert "$x$" in page
    assert page.count("A control lives here in JupyterLab") == 1
    assert "frames:" not in page
    assert 'src="../a.mp4"' in page
    assert "01 Features" in index
    assert "What does the kernel hear" in index
    assert not departed.exists()
    assert {path: path.read_text(encoding="utf-8") for path in foreign} == foreign, "what others laid there stays"


def test_the_pages_come_from_this_environments_templates_alone(folders, tmp_path, monkeypatch):
    run, plots = folders
    nbformat.write(executed_notebook(), run / "executed" / "01_features.ipynb")
    report.build(run, plots)
    page = (plots / "report" / "01_features.html").read_text(encoding="utf-8")
    for name in ("offline", "lab", "base"):  # a person's own, as for another nbconvert
        theirs = tmp_path / "theirs" / "nbconvert" / "templates" / name
        theirs.mkdir(parents=True)
        (theirs / "conf.json").write_text("{ no JSON")
        (theirs / "index.html.j2").write_text("<p>theirs</p>")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "theirs"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "theirs"))
    monkeypatch.chdir(tmp_path / "theirs" / "nbconvert" / "templates" / "lab")
    report.build(run, plots)
    assert (plots / "report" / "01_features.html").read_text(encoding="utf-8") == page


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to parse JavaScript")
def test_the_slider_is_javascript_that_parses(folders, tmp_path):
    run, plots = folders
    columns = {name: [0.9] for name in ("threshold", *report.ACCEPTANCE_COLUMNS)}
    pd.DataFrame(columns).to_csv(plots / report.ACCEPTANCE_TABLE_NAME, index=False)
    html = report.build(run, plots).read_text(encoding="utf-8")
    script = tmp_path / "slider.js"
    script.write_text(re.search(r"<script>(.*?)</script>", html, re.DOTALL).group(1))
    assert subprocess.run(["node", "--check", script], check=False).returncode == 0
