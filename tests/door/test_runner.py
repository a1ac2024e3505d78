"""Resumption and interruption of a run, on small notebooks in a folder of their own."""

import json
import os
import signal
import subprocess
import sys

import nbformat
import pytest

from specsync_lib.door import runner, stamps
from specsync_lib.door.inputs import Inputs
from specsync_lib.errors import InputError
from specsync_lib.locks import exclusive
from specsync_lib.paths import PROJECT_ROOT
from tests.toys.interruptions import interrupted_at_its_start
from tests.toys.notebooks import INPUTS, run, write_notebook


def test_a_second_run_keeps_what_is_finished(project, executions):
    assert not any(finished.resumed for finished in run(project).values())
    assert executions == ["01_first", "02_second"]
    again = run(project)
    assert executions == ["01_first", "02_second"]
    assert all(finished.resumed for finished in again.values())
    for name, finished in again.items():
        kept = [f"data/run/{name}.txt", f"data/run/executed/{name}.ipynb", f"data/run/summary/{name}.json"]
        assert sorted(finished.outputs) == [*kept, f"plots/{name}.png"]
    assert again["01_first"].peak_rss_gib == 0.5


BOTH, SECOND = ["01_first", "02_second"], ["02_second"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: (p.root / "specsync_lib" / "units.py").write_text("FPS = 25"), BOTH),
        (lambda p: (p.root / "kernels" / "new.py").write_text(""), BOTH),
        (lambda p: (p.root / "data" / "splits.json").write_text("[]"), BOTH),
        (lambda p: (p.root / "pyproject.toml").write_text("[project] # torch"), BOTH),
        (lambda p: write_notebook(p, "01_first", "print(1)"), BOTH),
        (lambda p: write_notebook(p, "02_second", "print(1)", "threshold = 0.85"), SECOND),
        (lambda p: (p.plots / "02_second.png").unlink(), SECOND),
        (lambda p: (p.plots / "02_second.png").write_text("edited"), SECOND),
        (lambda p: p.executed("02_second").unlink(), SECOND),
        (lambda p: (p.run / "01_first.txt").unlink(), ["01_first"]),
        (lambda p: p.stamp("02_second").write_text("{half"), SECOND),
        (lambda p: (p.root / "specsync_lib" / "door" / "report.py").write_text("# the door's own"), []),
        (lambda p: (p.root / "specsync_lib" / "test_units.py").write_text(""), []),
        (lambda p: (p.run / "notes.txt").write_text("not an output"), []),
    ],
)
def test_only_what_a_change_reaches_runs_again(project, executions, change, expected):
    run(project)
    executions.clear()
    change(project)
    run(project)
    assert executions == expected
    executions.clear()
    run(project)
    assert executions == []


def test_outputs_and_counts_in_a_notebook_are_not_a_change(project, executions):
    run(project)
    path = project.notebooks / "01_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].execution_count = 7
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nbformat.write(notebook, path)
    executions.clear()
    run(project)
    assert executions == []


def test_a_parameter_reaches_only_the_notebooks_that_declare_it(project, executions):
    run(project)
    executions.clear()
    run(project, "threshold=0.9")
    assert executions == ["02_second"]
    assert json.loads((project.run / "02_second.txt").read_text()) == {"threshold": 0.9}
    executions.clear()
    run(project, "threshold=0.9", "seed=3")
    assert executions == ["01_first", "02_second"]


def test_another_recording_matters_only_to_notebooks_that_take_one(project, executions):
    write_notebook(project, "02_second", "", "audio = ''")
    run(project)
    executions.clear()
    run(project, inputs=Inputs(recording="another", assets=INPUTS.assets))
    assert executions == ["02_second"]
    executions.clear()
    run(project, inputs=Inputs(recording="another", assets="human speech False"))
    assert executions == ["01_first", "02_second"]


def test_fresh_repeats_everything(project, executions):
    run(project)
    executions.clear()
    run(project, "--fresh")
    assert executions == ["01_first", "02_second"]


def test_what_a_notebook_made_is_removed_before_it_runs_again(project, executions, monkeypatch):
    run(project)
    project.summary("02_second").write_text("{}")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(project, "threshold=0.5")
    assert not (project.plots / "02_second.png").exists()
    assert not project.summary("02_second").exists()
    assert not project.stamp("02_second").exists()
    assert project.stamp("01_first").exists()


def test_what_others_put_there_while_a_notebook_works_is_not_its_output(project, executions, monkeypatch):
    execute = runner.execute

    def beside(notebook, *arguments):
        (project.plots / "my-notes").mkdir(exist_ok=True)
        (project.plots / "my-notes" / "thoughts.txt").write_text(notebook.stem)
        write = "from specsync_lib.files import write_text; import sys; write_text(sys.argv[1], 'by another program')"
        other = {name: value for name, value in os.environ.items() if name != "SPECSYNC_MADE"}
        live = project.plots / "live.mp4"
        subprocess.run([sys.executable, "-c", write, str(live)], cwd=PROJECT_ROOT, env=other, check=True)
        return execute(notebook, *arguments)

    monkeypatch.setattr(runner, "execute", beside)
    stamped = {output for one in run(project).values() for output in one.outputs}
    assert not stamped & {"plots/live.mp4", "plots/my-notes/thoughts.txt"}
    monkeypatch.setattr(runner, "execute", execute)
    run(project, "seed=3", "threshold=0.5")
    assert (project.plots / "live.mp4").read_text() == "by another program"
    assert (project.plots / "my-notes" / "thoughts.txt").read_text() == "02_second"


def test_a_notebook_that_left_takes_its_numbers_with_it(project, executions):
    run(project)
    project.summary("02_second").write_text("{}")
    (project.notebooks / "02_second.ipynb").unlink()
    stamps.drop_departed(project)
    assert not project.summary("02_second").exists()
    assert not (project.plots / "02_second.png").exists()
    assert (project.run / "01_first.txt").exists()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_ctrl_c_while_python_starts_is_heeded_and_says_nothing():
    """As run_all.sh starts it: the signal waits until the runner listens."""
    answer = interrupted_at_its_start("specsync_lib.door.runner", "--help")
    assert (answer.returncode, answer.stdout, answer.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(("code", "seen"), [(0, -signal.SIGABRT), (runner.INTERRUPTED_EXIT_CODE, 130)])
def test_what_aborts_on_the_way_out_of_an_interrupted_run_is_not_met(code, seen):
    """A notebook's thread at work while Python goes down did that once in a hundred kills, after the last line."""
    script = f"""
import atexit, os
from specsync_lib.door import runner
atexit.register(os.abort)
print("said", end="", flush=True)
runner.leave({code})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (seen, b"said")


def test_only_one_run_at_a_time(tmp_path):
    lock = tmp_path / "run.lock"
    with exclusive(lock, "a run"):
        command = f"from specsync_lib.locks import exclusive\nwith exclusive({str(lock)!r}, 'a run'): pass"
        command = command.replace(f"{str(lock)!r}", f"__import__('pathlib').Path({str(lock)!r})")
        second = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert f"a run is already under way here (process {os.getpid()})" in second.stderr
    with exclusive(lock, "a run"):
        pass


@pytest.mark.parametrize("source", ["seed = 0\nseed += 1", "import os", "seed = print()", "a, b = 1, 2"])
def test_a_parameters_cell_holds_literals_alone(project, source):
    write_notebook(project, "01_first", "", source)
    with pytest.raises(InputError, match="is not name = literal"):
        run(project)


def test_an_undeclared_parameter_name_is_refused_before_anything_runs(project, executions):
    write_notebook(project, "02_second", "", "treshold = 0.85")
    with pytest.raises(InputError, match=r"02_second\.ipynb: declares treshold"):
        run(project)
    assert executions == []
