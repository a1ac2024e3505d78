"""One notebook in a real kernel: where it runs, what it says, how it fails, and how it is stopped."""

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

from specsync_lib.door import execution, runner
from specsync_lib.door.cells import read_cells
from specsync_lib.door.execution import NotebookError
from specsync_lib.errors import InputError
from specsync_lib.paths import NOTEBOOKS_DIR, PROJECT_ROOT
from specsync_lib.progress import say, tenths
from tests.toys.notebooks import run, write_notebook


def test_real_kernels_run_in_the_notebook_folder_with_this_python(project):
    (project.notebooks / "numpy.py").write_text("raise SystemExit('a file of the user')")
    (project.notebooks / "json.py").write_text("raise SystemExit('a file of the user')")
    source = "import json, os, sys\nimport numpy\nnumpy.zeros(1)"
    source += "\nfacts = [sys.executable, os.getcwd(), os.environ['SPECSYNC_NOTEBOOK'], text]"
    source += "\nfrom specsync_lib.files import write_json\nwrite_json('../data/run/facts.json', facts)"
    (project.notebooks / "02_second.ipynb").unlink()
    write_notebook(project, "01_first", source.replace("text]", "transcript]"), "transcript = ''")
    transcript = """say "it's" \\n {x} %d é 'three'"""
    finished = run(project, f"transcript={transcript}")
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


@pytest.mark.parametrize("taken", [execution.KERNEL_STARTS - 1, execution.KERNEL_STARTS])
def test_a_kernel_whose_port_another_one_took_is_started_again(project, monkeypatch, tmp_path, taken):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "ipykernel_launcher.py").write_text(LATE)
    (project.notebooks / "02_second.ipynb").unlink()
    monkeypatch.setenv("TAKEN", str(taken))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "modules"), str(PROJECT_ROOT)]))
    if taken < execution.KERNEL_STARTS:
        run(project)
    else:
        with pytest.raises(NotebookError, match=r"does not come up .*Address already in use"):
            run(project)
    assert (tmp_path / "modules" / "started").read_text() == execution.KERNEL_STARTS * "|"
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


def test_an_interruption_ends_what_was_started(request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    started = []

    def work():
        started.append(subprocess.Popen(["sleep", "60"]))
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        started[0].wait()

    with pytest.raises(KeyboardInterrupt):
        execution.watched(work)
    # psutil, subprocess or the thread may be the one that reaps it, so its exit code is not always here to read
    assert not psutil.pid_exists(started[0].pid)


def test_a_stop_that_python_swallowed_is_heeded(request, monkeypatch, capsys):
    """What is raised while an object is tidied up goes no further: Ctrl-C then was lost, and the run went on."""
    before = signal.signal(signal.SIGINT, runner.terminated)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    request.addfinalizer(execution.asked_to_stop.clear)
    monkeypatch.setattr(sys, "unraisablehook", runner.tell_unraisable)

    class Tidied:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    Tidied()
    with pytest.raises(KeyboardInterrupt):
        execution.watched(lambda: time.sleep(60))
    assert capsys.readouterr() == ("", "")


def test_watched_passes_on_what_was_raised_and_measures():
    def work():
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        execution.watched(work)
    assert 0.01 < execution.watched(lambda: time.sleep(0.1)) < 16


def test_a_kernel_writes_into_its_own_runs_folders(project):
    source = "from specsync_lib import paths\nopen(paths.RUN_DIR / 'here.txt', 'w').write(str(paths.PLOTS_DIR))"
    write_notebook(project, "01_first", source)
    (project.notebooks / "02_second.ipynb").unlink()
    run(project, "name=bold")
    bold = project.named("bold")
    assert (bold.run / "here.txt").read_text() == str(bold.plots)
    assert nbformat.read(bold.executed("01_first"), as_version=4).cells


def test_progress_lines_reach_the_terminal_and_nothing_else_does(project, capfd):
    source = "from specsync_lib.progress import say\nprint('not for you')\nsay('about 3 min')\nprint('» half', end='')"
    write_notebook(project, "01_first", source)
    (project.notebooks / "02_second.ipynb").unlink()
    run(project)
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    assert [line for line in lines if line.startswith("[1/1] 01_first: about")] == ["[1/1] 01_first: about 3 min"]
    assert not [line for line in lines if "not for you" in line]


def test_every_tenth_of_a_video_is_one_line(capsys):
    tell = tenths(250, "frames")
    for _ in range(20):
        tell(12)
    tell(10)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[0] == "» 36 of 250 frames (14%)" and lines[-1] == "» 250 of 250 frames (100%)"
    tell = tenths(8, "frames")
    tell(8)
    assert capsys.readouterr().out == "» 8 of 8 frames (100%)\n"
    say("two\nlines of a fault")
    assert capsys.readouterr().out == "» two lines of a fault\n"


TOLD = """
import threading
from types import SimpleNamespace as Made
import pandas as pd
from specsync_lib.progress import say, tenths

def run(samples, rule, threshold, heard, video, watch):
    def commits():
        for _ in range(5):
            watch(Made(tokens=4 * (0,)))
    thread = threading.Thread(target=commits)
    thread.start()
    thread.join()
    report = Made(wall_s=3.0, notes=("chunk 2:\\ngave NaN",))
    guarantee = "the judge's own; 1 of 5 chunks went out unverified"
    return Made(report=report, guarantee=guarantee, video=None, idle=None, facts=lambda: {"counts": {"unverified": 1}})

system = Made(device="cpu", expected_s=lambda *_: 7.0, run=run)
samples = heard = video_path = threshold = None
rule, frames = "exact", 20
"""


def test_the_terminal_is_told_how_long_a_video_takes_how_far_it_is_and_what_it_promises(project, capfd):
    """Notebook 04's own cell, with a system whose judge failed."""
    (cell,) = (cell for cell in read_cells(NOTEBOOKS_DIR / "04_video_rendering.ipynb") if "expected_s" in cell.source)
    write_notebook(project, "04_video", TOLD + cell.source)
    for name in ("01_first", "02_second"):
        (project.notebooks / f"{name}.ipynb").unlink()
    run(project)
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    told = [line.removeprefix("[1/1] 04_video: ") for line in lines if line.startswith("[1/1] 04_video: ")]
    told = [line for line in told if "%|" not in line]  # papermill's bar
    assert told[0] == "about 7 s expected on this machine (cpu), by its first chunk"
    assert told[1:-2] == [f"{count} of 20 frames of the video ({count / 20:.0%})" for count in (4, 8, 12, 16, 20)]
    assert told[-2:] == ["3 s. Guarantee: the judge's own; 1 of 5 chunks went out unverified", "chunk 2: gave NaN"]


def test_a_long_silence_says_that_it_is_alive(capsys):
    relay = execution.Relay("[4/5] 04")
    for seconds in (0, 30, 59, 61, 100, 121, 150):
        relay.beat(seconds)
    assert len(capsys.readouterr().err.splitlines()) == 2
