"""Runs with a name: folders of their own, nothing made twice, and a stop at any moment leaves whole files."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsync_lib.door import compare, runner, stamps
from specsync_lib.door.execution import NotebookError
from specsync_lib.door.inputs import Inputs
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.door.project import Project
from specsync_lib.door.runner import run_notebooks
from specsync_lib.door.stamps import read_stamp, still_valid
from specsync_lib.errors import InputError
from specsync_lib.files import LEFT_BEHIND, atomic_path, temporary_name
from specsync_lib.paths import PROJECT_ROOT
from tests.toys.notebooks import INPUTS, run, write_notebook


def test_a_named_run_keeps_its_files_and_leaves_the_others_alone(project, executions):
    run(project)
    run(project, "name=bold", "threshold=0.3")
    assert (project.plots / "02_second.png").exists()
    assert (project.plots / "runs" / "bold" / "02_second.png").exists()
    assert json.loads((project.run / "02_second.txt").read_text()) == {"threshold": 0.85}
    assert json.loads((project.run / "runs" / "bold" / "02_second.txt").read_text()) == {"threshold": 0.3}
    # nothing of a named run counts as an output of the one without a name
    stamps = [read_stamp(project, name) for name in ("01_first", "02_second")]
    assert not any("runs/" in output for stamp in stamps for output in stamp.outputs)
    executions.clear()
    run(project)
    run(project, "name=bold", "threshold=0.3")
    assert executions == []
    assert [one.name for one in project.runs()] == ["", "bold"]
    assert project.named("bold").nameless() == project


def test_what_another_run_finished_with_the_same_key_is_copied(project, executions):
    run(project, "name=bold", "threshold=0.3")
    run(project, "name=careful", "threshold=0.95")
    assert executions == ["bold/01_first", "bold/02_second", "careful/02_second"]
    careful = project.named("careful")
    stamp = read_stamp(careful, "01_first")
    assert still_valid(stamp, stamp.key, careful)
    assert all(output.startswith(("data/run/runs/careful/", "plots/runs/careful/")) for output in stamp.outputs)
    assert (careful.plots / "01_first.png").read_text() == "01_first"
    (entry,) = json.loads(careful.summary("01_first").read_text()).values()
    assert entry["source"] == "plots/runs/careful/01_first.png"
    executions.clear()
    run(project, "name=again", "threshold=0.95")
    assert executions == []
    (project.named("bold").plots / "01_first.png").write_text("edited")
    run(project, "name=careful", "threshold=0.95")  # a copy does not hang on its origin
    assert executions == []


def test_a_run_outside_the_project_is_copied_too(project, executions, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    moved = dataclasses.replace(project, run=outside / "run", plots=outside / "plots")
    run(moved, "name=bold")
    run(moved, "name=careful")
    assert executions == ["bold/01_first", "bold/02_second"]
    assert (outside / "plots" / "runs" / "careful" / "01_first.png").read_text() == "01_first"
    stamp = read_stamp(moved.named("careful"), "02_second")
    assert still_valid(stamp, stamp.key, moved.named("careful"))


@pytest.mark.parametrize(
    "content",
    ["[]", "null", *(json.dumps({"key": "KEY", "outputs": {}, "wall_s": 1.0, "peak_rss_gib": 1.0} | changed) for changed
     in ({"outputs": []}, {"outputs": None}, {"wall_s": None}, {"peak_rss_gib": "1"}, {"wall_s": float("nan")}))],
)  # fmt: skip
def test_a_stamp_that_holds_anything_else_counts_as_absent(project, executions, content):
    run(project)
    key = read_stamp(project, "01_first").key
    executions.clear()
    project.stamp("01_first").write_text(content.replace("KEY", key))
    assert read_stamp(project, "01_first") is None
    run(project)
    assert executions == ["01_first"]


def test_a_run_knows_by_its_keys_whether_it_is_what_it_was_when_it_finished(project, executions, monkeypatch):
    def ended(*arguments):
        options = parse_arguments([word for argument in arguments for word in ("-p", argument)])
        runner.record_cost(project.named("two"), run(project, *arguments), options, "recording")

    two = project.named("two")
    ended("name=two", "threshold=0.3")
    compare.check_whole(two)
    whole = runner.execute

    def stopped(notebook, *rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "execute", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(project, "name=two", "threshold=0.9")
    with pytest.raises(InputError, match="begun anew and has not finished"):
        compare.check_whole(two)
    monkeypatch.setattr(runner, "execute", whole)
    ended("name=two", "threshold=0.9")
    compare.check_whole(two)


def test_fresh_copies_nothing(project, executions):
    run(project, "name=bold")
    options = parse_arguments(["-p", "name=careful", "--fresh"])
    dict(run_notebooks(project.named("careful"), options, INPUTS))
    assert executions[2:] == ["careful/01_first", "careful/02_second"]


def test_a_cells_time_grows_with_the_recording(project, monkeypatch):
    times = {}

    def execute(notebook, parameters, project, timeout_s, title):
        times[seconds] = timeout_s
        project.executed(notebook.stem).parent.mkdir(exist_ok=True)
        project.executed(notebook.stem).write_text("")
        return 0.0

    monkeypatch.setattr(runner, "execute", execute)
    (project.notebooks / "02_second.ipynb").unlink()
    for seconds in (0, 10, 600, 3600):
        inputs = Inputs(f"recording of {seconds} s", "", Fraction(seconds))
        write_notebook(project, "01_first", "", "audio = ''")
        dict(run_notebooks(project, parse_arguments([]), inputs))
    assert times[0] == 1800
    # Judge and generator take about 5 s a second on two cores; a machine of a tenth of that must finish too.
    assert all(times[seconds] >= 50 * seconds for seconds in times)


@settings(max_examples=50)
@given(stem=st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True), suffix=st.sampled_from([".mp4", ".csv", ".json"]))
def test_what_a_killed_run_left_is_swept_and_nothing_else(tmp_path_factory, stem, suffix):
    folder = tmp_path_factory.mktemp("swept")
    project = Project(folder, folder, folder / "run", folder / "plots")
    # A person's: a file, hidden ones, and another checkout's run below the folder, at work.
    theirs = [f"run/{stem}{suffix}", "run/.env.template", "plots/.gitkeep", "plots/.bashrc.original"]
    theirs += ["plots/.eslintrc.override.json", f"plots/.{stem}.a1b2c3d4{suffix}", "plots/report/.htaccess"]
    theirs += [f"plots/thesis/{temporary_name(suffix)}"]
    for kept in theirs:
        (folder / kept).parent.mkdir(parents=True, exist_ok=True)
        (folder / kept).write_text("")
    (folder / "run" / "runs" / "a").mkdir(parents=True)
    left = atomic_path(folder / "plots" / "runs" / "a" / f"{stem}{suffix}")
    left.__enter__()
    with runner.at_work(project.named("a")):
        runner.sweep(project)
        (at_work,) = (folder / "plots" / "runs" / "a").iterdir()
        assert LEFT_BEHIND.fullmatch(at_work.name)
    runner.sweep(project)
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    assert sorted(str(path.relative_to(folder)) for path in files) == sorted(theirs)


SLOW = """
import time
from pathlib import Path
from specsync_lib.files import atomic_path
for k in range(40):
    with atomic_path(Path('../data/run') / f'part_{k}.txt') as path:
        with path.open('w') as file:
            for line in range(20):
                file.write('x' * 1000)
                file.flush()
                time.sleep(0.0015)
while not Path('../go').exists():  # however late it is stopped, it is not at its end
    time.sleep(0.02)
"""
DRIVER = """
import sys
from pathlib import Path
from specsync_lib.door import runner
from specsync_lib.door.inputs import Inputs
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.door.project import Project
root = Path(sys.argv[1])
project = Project(root, root / 'notebooks', root / 'data' / 'run', root / 'plots')
def run(options, nameless):
    own = project.named(options.values['name'])
    with runner.at_work(own):
        runner.sweep(own)
        for name, finished in runner.run_notebooks(own, options, Inputs('', '')):
            print(name, 'kept' if finished.resumed else 'ran', flush=True)
runner.run = run
sys.exit(runner.main(sys.argv[2:]))
"""


def kernels_of(folder):
    """Processes that a run in this folder started and that are still there."""
    found = []
    for process in psutil.process_iter():
        try:
            if "ipykernel" in " ".join(process.cmdline()) and process.cwd() == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


STOPS = [(signal.SIGINT, 0.0), (signal.SIGTERM, 0.4), (signal.SIGKILL, 0.0), (signal.SIGKILL, 1.0)]
if os.environ.get("SPECSYNC_LONG_TESTS"):
    STOPS = list(itertools.product([signal.SIGINT, signal.SIGTERM, signal.SIGKILL], [0.0, 0.4, 1.0]))


@pytest.mark.parametrize(("how", "after_s"), STOPS, ids=lambda one: getattr(one, "name", None))
def test_a_run_stopped_at_any_moment_leaves_whole_files_and_goes_on(project, how, after_s):
    write_notebook(project, "01_first", "open('../data/run/first.txt', 'w').write('first')")
    write_notebook(project, "02_second", SLOW, "threshold = 0.85")
    command = [sys.executable, "-c", DRIVER, str(project.root)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        # A shell that starts its jobs in the background has them ignore Ctrl-C: what is started here must not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout.readline() == "01_first ran\n"
    deadline = time.monotonic() + 60
    while not (project.run / "part_0.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(after_s)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (-how if how == signal.SIGKILL else 130)
    deadline = time.monotonic() + 30
    while kernels_of(project.notebooks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not kernels_of(project.notebooks)
    parts = list(project.run.glob("part_*.txt"))
    assert parts
    assert {path.stat().st_size for path in parts} == {20_000}
    assert not project.stamp("02_second").exists()
    (project.root / "go").touch()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert again.stdout.splitlines()[-2:] == ["01_first kept", "02_second ran"], again.stderr
    files = [path for path in project.run.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith(".")]
    assert len(list(project.run.glob("part_*.txt"))) == 40


OWN = """
import time
from pathlib import Path
from specsync_lib import paths
paths.PLOTS_DIR.mkdir(parents=True, exist_ok=True)
going = False
while not going:  # once more after it may go, however late it began
    going = Path('../go').exists()
    (paths.RUN_DIR / 'threshold.txt').write_text(str(threshold))
    time.sleep(0.02)
    assert (paths.RUN_DIR / 'threshold.txt').read_text() == str(threshold)
(paths.PLOTS_DIR / 'threshold.png').write_text(str(threshold))
"""


def test_eight_runs_side_by_side_keep_to_their_own_folders_and_a_second_of_a_name_is_one_line(project):
    (project.notebooks / "01_first.ipynb").unlink()
    write_notebook(project, "02_second", OWN, "threshold = 0.85")

    def start(k, name):
        command = [sys.executable, "-c", DRIVER, str(project.root), "-p", f"threshold=0.{k}", "-p", f"name={name}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, **pipes)

    eight = [start(k, f"run-{k}") for k in range(1, 9)]
    deadline = time.monotonic() + 60
    while not (project.run / "runs" / "run-8" / "run.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    second = start(9, "run-8")
    _, line = second.communicate(timeout=120)
    assert second.returncode == 2
    assert line == (
        f"specsync: a run named run-8 is already under way here (process {eight[-1].pid}); wait for it or stop it\n"
    )
    (project.root / "go").touch()
    for k, process in enumerate(eight, start=1):
        out, error = process.communicate(timeout=240)
        assert (process.returncode, out) == (0, "02_second ran\n"), error
        own = project.named(f"run-{k}")
        assert {(own.run / "threshold.txt").read_text(), (own.plots / "threshold.png").read_text()} == {f"0.{k}"}
        assert still_valid(read_stamp(own, "02_second"), read_stamp(own, "02_second").key, own)


@pytest.mark.parametrize(("run_folder", "plots"), [("out/run", "out"), ("out", "out/plots")])
def test_a_run_of_which_one_folder_lies_in_the_other_is_copied_too(project, executions, run_folder, plots):
    nested = dataclasses.replace(project, run=project.root / run_folder, plots=project.root / plots)
    run(nested)
    finished = run(nested, "name=bold")
    bold = nested.named("bold")
    assert executions == ["01_first", "02_second"] and all(one.resumed for one in finished.values())
    made = [bold.run / "01_first.txt", bold.plots / "01_first.png", bold.executed("01_first"), bold.summary("01_first")]
    assert set(read_stamp(bold, "01_first").outputs) == {os.path.relpath(path, project.root) for path in made}
    assert all(path.is_file() for path in made)
    source = json.loads(bold.summary("01_first").read_text())["draft.of_01_first"]["source"]
    assert source == os.path.relpath(bold.plots / "01_first.png", project.root)


def test_what_another_run_takes_back_while_it_is_copied_is_not_taken(project, executions, monkeypatch):
    run(project, "name=bold")
    executions.clear()
    copy = stamps.shutil.copyfile

    def changed(path, target):
        copy(path, target)
        if path.suffix == ".png":
            path.write_text("the other run is at work")
            copy(path, target)

    monkeypatch.setattr(stamps.shutil, "copyfile", changed)
    finished = run(project, "name=careful")
    assert executions == ["careful/01_first", "careful/02_second"]
    careful = project.named("careful")
    assert (careful.plots / "01_first.png").read_text() == "01_first"
    assert not any(one.resumed for one in finished.values())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), NotebookError("04: died"), InputError("no")])
def test_the_part_of_a_video_that_a_stopped_run_leaves_is_named(tmp_path, capsys, error):
    (tmp_path / "lipsync_720p30.part.mp4").write_bytes(b"")
    (tmp_path / "other.mp4").write_bytes(b"")
    with pytest.raises(type(error)), runner.parts_named(tmp_path):
        raise error
    lines = capsys.readouterr().err.split("\n")
    named = [line for line in lines if "lipsync_720p30.part.mp4 plays up to its last committed frame" in line]
    assert len(named) == (not isinstance(error, InputError))
    assert not [line for line in lines if "other.mp4" in line]
