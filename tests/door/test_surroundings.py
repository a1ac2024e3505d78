"""What surrounds a run and changes between two of them: inputs, clock, locale, terminal, and where its output goes."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from specsync_lib.door import runner
from specsync_lib.door.inputs import Inputs, heard, seen_and_heard, seen_of
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.door.stamps import data_files, still_valid
from specsync_lib.errors import InputError
from specsync_lib.paths import CLIPS_DIR, PROJECT_ROOT
from tests.toys.notebooks import run

DOOR = PROJECT_ROOT / "run_all.sh"
SURROUNDINGS = {
    "C": {"LC_ALL": "C", "LANG": "C"},
    "POSIX": {"LC_ALL": "POSIX"},
    "no such locale": {"LANG": "xx_YY.ISO-8859-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "dumb": {"TERM": "dumb", "NO_COLOR": "1"},
    "no terminal": {"TERM": ""},
    "no columns": {"COLUMNS": "0", "LINES": "0"},
    "one column": {"COLUMNS": "1"},
    "odd columns": {"COLUMNS": "wide"},
    "nothing set": None,
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_help_and_refusals_are_the_same_anywhere(tmp_path, name):
    given = SURROUNDINGS[name]
    variables = {"PATH": os.environ["PATH"]} if given is None else os.environ | given

    def knock(*arguments):
        done = subprocess.run([DOOR, *arguments], cwd=tmp_path, env=variables, capture_output=True, check=False)
        return done.returncode, done.stdout.decode(errors="strict"), done.stderr.decode(errors="strict")

    code, out, error = knock("--help")
    assert (code, error) == (0, "")
    assert "./run_all.sh lab" in out
    code, out, error = knock("-p", "größe=🎤")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("specsync: parameter '")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["| head -1", "| true", ">&-", "> /dev/full", ">&- 2>&-"])
def test_output_that_nobody_reads_is_no_error(tmp_path, where):
    command = ["bash", "-c", f'set -o pipefail; "$0" --help {where}', DOOR]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout in ("", "usage: ./run_all.sh [-h] [-p name=value] [--profile PROFILE] [--fresh]\n")


@pytest.mark.parametrize("change", ["deleted", "moved", "emptied", "a folder now", "a dangling link"])
def test_a_recording_that_went_between_two_runs_is_one_line(tmp_path, change):
    path = tmp_path / "mine.flac"
    shutil.copyfile(CLIPS_DIR / "closures.flac", path)
    options = parse_arguments(["-p", f"audio={path}"])
    digest, _ = heard(options)
    path.rename(tmp_path / "elsewhere.flac")
    if change == "emptied":
        path.write_bytes(b"")
    if change == "a folder now":
        path.mkdir()
    if change == "a dangling link":
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError) as refusal:
        heard(options)
    assert "\n" not in str(refusal.value)
    assert "mine.flac" in str(refusal.value)
    moved, _ = heard(parse_arguments(["-p", f"audio={tmp_path / 'elsewhere.flac'}"]))
    assert moved == digest


@pytest.mark.parametrize("change", ["replaced", "written to", "removed", "touched", "replaced by itself"])
def test_a_recording_that_changes_under_a_run_ends_it(project, executions, monkeypatch, tmp_path, change):
    path = tmp_path / "mine.flac"
    shutil.copyfile(CLIPS_DIR / "closures.flac", path)
    sound, _ = seen_and_heard(parse_arguments(["-p", f"audio={path}"]))
    execute = runner.execute

    def meanwhile(*arguments):
        if change == "touched":
            os.utime(path, (0, 0))
        elif change == "written to":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            content = path.read_bytes()
            path.rename(tmp_path / "before.flac")
            if change != "removed":
                path.write_bytes(content if change == "replaced by itself" else content[::-1])
        monkeypatch.setattr(runner, "execute", execute)
        return execute(*arguments)

    monkeypatch.setattr(runner, "execute", meanwhile)
    inputs = Inputs(sound.digest, "", seen=(sound,))
    if change in ("touched", "replaced by itself"):
        assert len(run(project, inputs=inputs)) == 2
        return
    with pytest.raises(InputError, match=r"mine\.flac changed while the run worked on it"):
        run(project, inputs=inputs)
    assert executions == ["01_first"]
    assert not list((project.run / "stamps").glob("*"))


def test_what_a_row_names_is_watched_too(tmp_path):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"a")
    row = parse_arguments(["-p", f"judge.source={weights}", "-p", "judge.weights=random"]).row
    (seen,) = seen_of(row)
    assert seen.digest == row.digests()["judge.source"]
    (weights / "a.bin").touch()
    seen.require_unchanged()
    (weights / "a.bin").write_bytes(b"b")
    with pytest.raises(InputError, match="weights changed while the run worked on it"):
        seen.require_unchanged()


def test_what_runs_make_below_data_is_no_input_of_theirs(project, executions):
    data = project.root / "data"
    mine = replace(project, run=data / "myrun", plots=data / "my" / "plots")
    for folder in (mine.run, mine.plots):
        folder.mkdir(parents=True)
    run(mine)
    executions.clear()
    run(mine)
    assert executions == []
    assert data_files(mine) == [data / "splits.json"]


@pytest.mark.parametrize("which", ["run", "plots"])
@pytest.mark.parametrize(
    "what", ["a file", "a device", "a dangling link", "a link to itself", "a long name", "in a file"]
)
def test_what_is_no_folder_is_told_before_anything_runs(project, which, what):
    folder = project.root / "odd"
    match what:
        case "a file":
            folder.touch()
        case "a device":
            folder.symlink_to(os.devnull)
        case "a dangling link":
            folder.symlink_to("nowhere")
        case "a link to itself":
            folder.symlink_to("odd")
        case "a long name":
            folder = project.root / ("x" * 300)
        case "in a file":
            folder.touch()
            folder = folder / "run"
    with pytest.raises(InputError, match=f"is no folder for a run .*name another in SPECSYNC_{which.upper()}_DIR"):
        runner.make_folders(replace(project, **{which: folder}))


@pytest.mark.parametrize("where", [".", "data"])
def test_the_checkouts_own_folders_are_not_a_runs(project, where):
    with pytest.raises(InputError, match="holds the checkout's own files"):
        runner.make_folders(replace(project, run=project.root / where))


@pytest.mark.parametrize("lost", ["run", "plots", "both"])
def test_folders_that_went_are_made_again(project, executions, lost):
    run(project)
    executions.clear()
    for folder in (project.run, project.plots) if lost == "both" else (getattr(project, lost),):
        shutil.rmtree(folder)
        folder.mkdir()
    finished = run(project)
    assert executions == ["01_first", "02_second"]
    assert all(still_valid(one, one.key, project) for one in finished.values())


def test_a_clock_that_jumps_back_loses_and_repeats_nothing(project, executions, monkeypatch):
    execute, years = runner.execute, iter([2030, 1990, 1971])

    def at_another_time(notebook, parameters, project, timeout_s, title):
        made = execute(notebook, parameters, project, timeout_s, title)
        seconds = (next(years) - 1970) * 365 * 86_400
        for path in (*project.run.rglob("*.*"), *project.plots.glob("*")):
            os.utime(path, (seconds, seconds))
        return made

    monkeypatch.setattr(runner, "execute", at_another_time)
    clock = iter(range(2**31, 0, -1_000_000))
    monkeypatch.setattr("time.time", lambda: float(next(clock)))
    first = run(project)
    assert sorted(first["02_second"].outputs)[-1] == "plots/02_second.png"
    assert all(one.wall_s >= 0 for one in first.values())
    executions.clear()
    assert all(one.resumed for one in run(project).values())
    assert executions == []


def test_a_notebook_that_is_not_text_any_more_is_told(project):
    (project.notebooks / "02_second.ipynb").write_bytes(b"\xff\xfe half a notebook")
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(project.root)], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert "02_second.ipynb" in line


BROKEN = """
import sys
from pathlib import Path
from specsync_lib.door import runner
from specsync_lib.door.inputs import Inputs
from specsync_lib.door.project import Project
root = Path(sys.argv[1])
project = Project(root, root / 'notebooks', root / 'data' / 'run', root / 'plots')
runner.run = lambda options, nameless: list(runner.run_notebooks(project, options, Inputs('', '')))
sys.exit(runner.main([]))
"""
