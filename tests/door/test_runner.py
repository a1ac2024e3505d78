"""Resumption, failure and interruption of a run, on small notebooks in a folder of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import nbformat
import psutil
import pytest

from specsync_lib.door import runner
from specsync_lib.door.parameters import parse_arguments
from specsync_lib.door.runner import Inputs, NotebookError, Project, run_notebooks
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.locks import exclusive
from specsync_lib.paths import PROJECT_ROOT
from tests.toys.interruptions import interrupted_at_its_start

INPUTS = Inputs(recording="recording hash", assets="human speech True")


def write_notebook(project, name, source, parameters="seed = 0"):
    cells = [
        nbformat.v4.new_markdown_cell(f"# {name}"),
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    for position, cell in enumerate(cells):
        cell.id = f"cell-{position}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project.notebooks / f"{name}.ipynb")


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path, tmp_path / "notebooks", tmp_path / "data" / "run", tmp_path / "plots")
    door = tmp_path / "specsync_lib" / "door"
    for folder in (project.notebooks, project.run, project.plots, door, tmp_path / "kernels"):
        folder.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "specsync_lib" / "units.py").write_text("FPS = 30")
    (tmp_path / "data" / "splits.json").write_text("{}")
    write_notebook(project, "01_first", "open('../data/run/first.txt', 'w').write(str(seed))")
    write_notebook(project, "02_second", "open('../plots/second.txt', 'w').write(str(threshold))", "threshold = 0.85")
    return project


@pytest.fixture
def executions(project, monkeypatch):
    """Replace the kernel by a function that writes each notebook's file; returns the names executed so far."""
    names = []

    def execute(notebook, parameters, project, timeout_s, title):
        name = notebook.stem
        names.append(name)
        target = project.run / "first.txt" if name == "01_first" else project.plots / "second.txt"
        write_text(target, json.dumps(dict(parameters)))
        project.executed(name).parent.mkdir(exist_ok=True)
        project.executed(name).write_text("executed")
        return 0.5

    monkeypatch.setattr(runner, "execute", execute)
    return names


def run(project, *arguments, inputs=INPUTS):
    return dict(run_notebooks(project, parse_arguments(arguments), inputs))


def test_a_second_run_keeps_what_is_finished(project, executions):
    assert not any(finished.resumed for finished in run(project).values())
    assert executions == ["01_first", "02_second"]
    again = run(project)
    assert executions == ["01_first", "02_second"]
    assert all(finished.resumed for finished in again.values())
    outputs = [sorted(finished.outputs) for finished in again.values()]
    assert outputs == [["data/run/executed/01_first.ipynb", "data/run/first.txt"],
                       ["data/run/executed/02_second.ipynb", "plots/second.txt"]]  # fmt: skip
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
        (lambda p: (p.plots / "second.txt").unlink(), SECOND),
        (lambda p: (p.plots / "second.txt").write_text("edited"), SECOND),
        (lambda p: p.executed("02_second").unlink(), SECOND),
        (lambda p: (p.run / "first.txt").unlink(), ["01_first"]),
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
    run(project, "-p", "threshold=0.9")
    assert executions == ["02_second"]
    assert json.loads((project.plots / "second.txt").read_text()) == {"threshold": 0.9}
    executions.clear()
    run(project, "-p", "threshold=0.9", "-p", "seed=3")
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
    project.summary("02_second").parent.mkdir()
    project.summary("02_second").write_text("{}")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(project, "-p", "threshold=0.5")
    assert not (project.plots / "second.txt").exists()
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
    run(project, "-p", "seed=3", "-p", "threshold=0.5")
    assert (project.plots / "live.mp4").read_text() == "by another program"
    assert (project.plots / "my-notes" / "thoughts.txt").read_text() == "02_second"


def test_a_notebook_that_left_takes_its_numbers_with_it(project, executions):
    run(project)
    project.summary("02_second").parent.mkdir()
    project.summary("02_second").write_text("{}")
    (project.notebooks / "02_second.ipynb").unlink()
    runner.drop_departed(project)
    assert not project.summary("02_second").exists()
    assert not (project.plots / "second.txt").exists()
    assert (project.run / "first.txt").exists()


def test_real_kernels_run_in_the_notebook_folder_with_this_python(project):
    (project.notebooks / "numpy.py").write_text("raise SystemExit('a file of the user')")
    (project.notebooks / "json.py").write_text("raise SystemExit('a file of the user')")
    source = "import json, os, sys\nimport numpy\nnumpy.zeros(1)"
    source += "\nfacts = [sys.executable, os.getcwd(), os.environ['SPECSYNC_NOTEBOOK'], text]"
    source += "\nfrom specsync_lib.files import write_json\nwrite_json('../data/run/facts.json', facts)"
    (project.notebooks / "02_second.ipynb").unlink()
    write_notebook(project, "01_first", source.replace("text]", "transcript]"), "transcript = ''")
    transcript = """say "it's" \\n {x} %d é 'three'"""
    finished = run(project, "-p", f"transcript={transcript}")
    facts = json.loads((project.run / "facts.json").read_text())
    assert facts == [sys.executable, str(project.notebooks), "01_first", transcript]
    assert "data/run/facts.json" in finished["01_first"].outputs
    assert 0.02 < finished["01_first"].peak_rss_gib < 8
    assert not list((project.run / "unfinished").iterdir())


@pytest.mark.parametrize("error", ["ValueError('the reason\\nin two lines')", "InputError('speech.wav: is silent')"])
def test_a_failure_is_one_line_and_leaves_the_finished_part(project, error, monkeypatch, capsys):
    write_notebook(
        project, "02_second", f"from specsync_lib.errors import InputError\nraise {error}", "threshold = 0.85"
    )
    kind = InputError if error.startswith("InputError") else NotebookError
    with pytest.raises(kind) as failure:
        run(project)
    message = str(failure.value)
    assert "\n" not in message
    if kind is InputError:
        assert message == "speech.wav: is silent"
    else:
        assert message == (
            "02_second.ipynb, cell In [3]: ValueError: the reason in two lines; "
            "the executed copy with the traceback is data/run/unfinished/02_second.ipynb"
        )
        assert "Traceback" in (project.run / "unfinished" / "02_second.ipynb").read_text()
    assert project.stamp("01_first").exists()
    assert not project.stamp("02_second").exists()
    assert not project.executed("02_second").exists()
    write_notebook(project, "02_second", "print(threshold)", "threshold = 0.85")
    finished = run(project)
    assert [finished[name].resumed for name in sorted(finished)] == [True, False]
    assert project.executed("02_second").exists()


def kernels_left():
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ends just now
            found += [child] if "ipykernel" in " ".join(child.cmdline()) else []
    return found


def test_a_cell_that_never_ends_is_stopped(project, monkeypatch):
    write_notebook(project, "01_first", "import time\ntime.sleep(600)")
    monkeypatch.setitem(runner.CELL_TIMEOUT_S, "default", 3)
    with pytest.raises(NotebookError, match=r"01_first\.ipynb: a cell ran longer than 3 s"):
        run(project)
    assert not kernels_left()


def test_a_process_that_dies_is_named(project):
    write_notebook(project, "01_first", "import os\nos._exit(1)")
    with pytest.raises(NotebookError, match=r"01_first\.ipynb: its process died"):
        run(project)


def test_a_kernel_that_does_not_come_up_is_named(project, monkeypatch, tmp_path, capfd):
    (tmp_path / "modules" / "ipykernel_launcher").mkdir(parents=True)
    (tmp_path / "modules" / "ipykernel_launcher" / "__init__.py").touch()  # a package that cannot be run
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), str(PROJECT_ROOT)]))
    with pytest.raises(
        NotebookError, match=r"01_first\.ipynb: its kernel does not come up \(.* is a package and cannot"
    ):
        run(project)
    assert not kernels_left()
    said = capfd.readouterr().err.replace("\r", "\n").split("\n")
    assert not [line for line in said if line.strip() and "cell/s" not in line]


LATE = """
import os, pathlib, sys
started = pathlib.Path(__file__).with_name("started")
started.write_text(f"{started.read_text() if started.exists() else ''}|")
if len(started.read_text()) <= int(os.environ["TAKEN"]):
    sys.exit("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:1')")
from ipykernel import kernelapp
kernelapp.launch_new_instance()
"""


@pytest.mark.parametrize("taken", [runner.KERNEL_STARTS - 1, runner.KERNEL_STARTS])
def test_a_kernel_whose_port_another_one_took_is_started_again(project, monkeypatch, tmp_path, taken):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "ipykernel_launcher.py").write_text(LATE)
    (project.notebooks / "02_second.ipynb").unlink()
    monkeypatch.setenv("TAKEN", str(taken))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), str(PROJECT_ROOT)]))
    if taken < runner.KERNEL_STARTS:
        run(project)
    else:
        with pytest.raises(NotebookError, match=r"does not come up .*Address already in use"):
            run(project)
    assert (tmp_path / "modules" / "started").read_text() == runner.KERNEL_STARTS * "|"
    assert not kernels_left()


def test_a_kernel_is_quiet_takes_nothing_of_the_users_and_leaves_nothing(project, monkeypatch, tmp_path, capfd):
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (startup.parent / "ipython_config.py").write_text("raise SystemExit(3)")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    run(project)
    assert not (tmp_path / "ran").exists()
    assert list(temporary.iterdir()) == []
    assert os.environ["IPYTHONDIR"] == str(tmp_path / "ipython")
    assert "SPECSYNC_NOTEBOOK" not in os.environ
    said = capfd.readouterr().err
    assert "IPython parent" not in said
    assert "IPKernelApp" not in said


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back here")
def test_ctrl_c_while_python_starts_is_heeded_and_says_nothing():
    """As run_all.sh starts it: the signal waits until the runner listens."""
    answer = interrupted_at_its_start("specsync_lib.door.runner", "--help")
    assert (answer.returncode, answer.stdout, answer.stderr) == (-signal.SIGINT, "", "")


def test_an_interruption_ends_what_was_started(request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    started = []

    def work():
        started.append(subprocess.Popen(["sleep", "60"]))
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        started[0].wait()

    with pytest.raises(KeyboardInterrupt):
        runner.watched(work)
    # psutil, subprocess or the thread may be the one that reaps it, so its exit code is not always here to read
    assert not psutil.pid_exists(started[0].pid)


def test_a_stop_that_python_swallowed_is_heeded(request, monkeypatch, capsys):
    """What is raised while an object is tidied up goes no further: Ctrl-C then was lost, and the run went on."""
    before = signal.signal(signal.SIGINT, runner.terminated)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    request.addfinalizer(runner.asked_to_stop.clear)
    monkeypatch.setattr(sys, "unraisablehook", runner.tell_unraisable)

    class Tidied:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    Tidied()
    with pytest.raises(KeyboardInterrupt):
        runner.watched(lambda: time.sleep(60))
    assert capsys.readouterr() == ("", "")


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


def test_watched_passes_on_what_was_raised_and_measures():
    def work():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        runner.watched(work)
    assert 0.01 < runner.watched(lambda: time.sleep(0.1)) < 16


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
