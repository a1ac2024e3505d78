"""The door: run_all.sh, the installer behind it, and the files that name the same dependencies."""

import ast
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

from specsync_lib.door import install
from specsync_lib.door.parameters import RULES
from specsync_lib.errors import InputError
from specsync_lib.paths import PROJECT_ROOT
from tests.toys.checkout import committed_notebooks
from tests.toys.programs import may_be_run
from workbench.measure.trials.kills import HELD

DOOR = PROJECT_ROOT / "run_all.sh"


def knock(*arguments, cwd=None, **environment):
    """Call run_all.sh as a person would."""
    return subprocess.run(
        [DOOR, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_scripts_are_bash_that_parses_and_may_be_run():
    for script in (DOOR, PROJECT_ROOT / ".ci" / "run"):
        assert os.access(script, os.X_OK)
        lines = script.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "#!/usr/bin/env bash"
        assert "set -euo pipefail" in lines
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert (PROJECT_ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec ./run_all.sh test"


def test_help_names_every_mode_and_needs_no_environment(tmp_path):
    help_ = knock("--help", cwd=tmp_path)
    assert help_.returncode == 0
    for word in (
        "run_all.sh test",
        "run_all.sh lab",
        "run_all.sh live",
        "--profile",
        "-p name=value",
        "threshold",
        "SPECSYNC_TORCH_INDEX",
    ):
        assert word in help_.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "unknown mode 'bogus'"),
        ([""], "unrecognized arguments"),
        (["-p", "threshold=nan"], "parameter threshold: got 'nan'; allowed: a number from 0 to 1"),
        (["-p", "threshold=1.01"], "parameter threshold: got '1.01'"),
        (["-p", "treshold=0.5"], "did you mean threshold?"),
        (["-p", "seed=0.5"], "parameter seed: got '0.5'; allowed: a whole number"),
        (["-p", "audio="], "parameter audio: got ''"),
        (["-p", "$(touch x);audio=`id`"], "is unknown"),
        (["--profile", "huge"], "allowed: one of smoke, default, full"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["-p"], "expected one argument"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, says, tmp_path):
    answer = knock(*arguments, cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("specsync: ")
    assert says in line
    assert not list(tmp_path.iterdir())


def test_tests_run_a_worker_a_core_and_take_a_persons_own_arguments(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("""#!/bin/sh\n[ "$3" = pytest ] && printf '%s\\n' "$@"\nexit 0\n""")
    may_be_run(python)
    shutil.copy2(DOOR, tmp_path)
    answer = subprocess.run([tmp_path / DOOR.name, "test", "-k", "a word", "-n0"], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    words = answer.stdout.splitlines()
    assert words[:9] == ["-P", "-m", "pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile"]
    assert words[-3:] == ["-k", "a word", "-n0"]


def test_workers_share_the_cores_and_files_with_slow_tests_come_first(tmp_path):
    shutil.copy2(PROJECT_ROOT / "conftest.py", tmp_path)
    wanted = str(max(1, (os.cpu_count() or 1) // 2))
    for name, mark in (("a_quick", ""), ("b_mixed", "@pytest.mark.slow"), ("c_quick", "")):
        lines = ["import os, pytest", f"def test_one():\n    assert os.environ['OMP_NUM_THREADS'] == '{wanted}'"]
        (tmp_path / f"test_{name}.py").write_text("\n".join([*lines, f"{mark}\ndef test_two(): pass"]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OMP_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"]
    command += ["--no-loadscope-reorder", "-q"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "timeout": 120}
    answer = subprocess.run(command, env=environment, **options)
    assert answer.returncode == 0, answer.stdout
    order = subprocess.run([*command[:5], "-n0", "--collect-only", "-q"], env=environment, **options).stdout.split()
    files = [line.split("::")[0] for line in order if "::" in line]
    assert files[::2] == ["test_b_mixed.py", "test_a_quick.py", "test_c_quick.py"]


def test_a_python_that_is_none_is_named():
    answer = knock("--help", SPECSYNC_PYTHON="/bin/false")
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [
        "specsync: SPECSYNC_PYTHON=/bin/false is not a Python 3.11 to 3.13 with venv and ensurepip"
    ]


def test_no_python_at_all_is_one_line(tmp_path):
    for tool in ("bash", "readlink", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    door = tmp_path / "project" / "run_all.sh"
    door.parent.mkdir()
    shutil.copy2(DOOR, door)
    command = [tmp_path / "bash", door]
    answer = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith("specsync: no Python 3.11 to 3.13 with venv and ensurepip was found")
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("setting", [
    "INSPECT=1", "OPTIMIZE=2", "HASHSEED=abc", "IOENCODING=nonsense", "UTF8=abc", "PLATLIBDIR=nowhere", "MALLOC=none",
    "TRACEMALLOC=much", "INTMAXSTRDIGITS=few", "WARNINGS=error", "HOME=/nowhere", "STARTUP=/nowhere", "PATH=/nowhere",
])  # fmt: skip
def test_what_was_set_for_another_python_does_not_reach_this_one(tmp_path, setting):
    variable, _, value = setting.partition("=")
    answer = knock("-p", "nonsense", cwd=tmp_path, **{f"PYTHON{variable}": value})
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("specsync: parameter 'nonsense': write it as name=value")


def test_a_folder_that_is_gone_under_a_persons_feet_is_one_line(tmp_path):
    (tmp_path / "gone").mkdir()
    command = ["bash", "-c", 'rmdir "$PWD"; exec "$0" "$@" 2>&1', DOOR, "--row", "./x.toml"]
    answer = subprocess.run(command, cwd=tmp_path / "gone", capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    lines = [line for line in answer.stdout.splitlines() if not line.startswith("shell-init: ")]  # the shell's own
    assert lines == ["specsync: the folder where you stand is gone; cd to one that is there and run again"]


@pytest.mark.parametrize("name", ["a:b", "ends\n", "two\nlines"])
def test_a_checkout_that_pythons_path_cannot_hold_is_one_line(tmp_path, name):
    (tmp_path / name).mkdir()
    shutil.copy2(DOOR, tmp_path / name)
    answer = subprocess.run([may_be_run(tmp_path / name / DOOR.name)], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("specsync: the checkout's path has a colon or a line break in it")


@pytest.mark.parametrize("name", ["missing.wav", "a b'\";.wav", "http://example.com/a.wav", "."])
def test_a_recording_that_can_not_be_read_stops_before_anything_runs(name, tmp_path):
    command = [sys.executable, "-m", "specsync_lib.door.runner", "-p", f"audio={name}"]
    environment = os.environ | {
        "SPECSYNC_RUN_DIR": str(tmp_path / "run"),
        "SPECSYNC_PLOTS_DIR": str(tmp_path / "plots"),
    }
    answer = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("specsync: ")
    assert answer.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bare_project(tmp_path, monkeypatch):
    """A project with a dependency list and a pip that only notes how it was called."""
    shutil.copy2(PROJECT_ROOT / "pyproject.toml", tmp_path)
    calls = []
    monkeypatch.setattr(install, "run_pip", lambda command: calls.append(command[command.index("install") + 1 :]))
    monkeypatch.setattr(install, "probe", lambda python, *_: install.Probe("3.12.1" if python.exists() else None))

    def create(folder, **options):
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").write_text("")

    monkeypatch.setattr(install.venv, "create", create)
    return tmp_path, calls


def test_an_installation_happens_once_until_something_changes(bare_project):
    project, calls = bare_project
    assert install.ensure(project)
    assert calls == [["--disable-pip-version-check", "--editable", f"{project}[test]"]]
    assert not install.ensure(project)
    assert len(calls) == 1
    (project / "pyproject.toml").write_text((project / "pyproject.toml").read_text() + "\n# newer\n")
    assert install.ensure(project)
    (project / ".venv" / "bin" / "python").unlink()
    assert install.ensure(project)
    assert len(calls) == 3
    assert not install.ensure(project)


def test_an_interrupted_installation_is_taken_up_again(bare_project, monkeypatch):
    project, _calls = bare_project
    monkeypatch.setattr(install, "run_pip", lambda command: 1)
    with pytest.raises(InputError, match="pip ended with code 1"):
        install.ensure(project)
    assert (project / ".venv" / install.STAMP_NAME).read_text() == install.UNFINISHED
    monkeypatch.setattr(install, "run_pip", lambda command: 0)
    assert install.ensure(project)
    assert not install.ensure(project)


@pytest.mark.parametrize("stamp", [None, "of an earlier list", "being made"])
def test_only_an_environment_that_was_never_whole_is_removed(bare_project, monkeypatch, stamp):
    """A Python that does not answer in time is one line; what stands in .venv, the user's own too, stays."""
    project, _calls = bare_project
    folder = project / ".venv"
    install.venv.create(folder)
    (folder / "mine").write_text("")
    if stamp:
        (folder / install.STAMP_NAME).write_text(stamp)
    answers = itertools.chain([None, None], itertools.repeat("3.12.1" if stamp == "being made" else None))
    monkeypatch.setattr(install, "probe", lambda *_: install.Probe(next(answers), "timed out"))
    if stamp == "being made":
        assert install.ensure(project)
        assert not (folder / "mine").exists()
    else:
        with pytest.raises(InputError, match=r"does not start \(timed out\); run again, or remove .*\.venv") as refusal:
            install.ensure(project)
        assert "\n" not in str(refusal.value)
        assert (folder / "mine").exists()


@pytest.mark.parametrize("what", ["another system's", "its Python gone", "elsewhere", "to nowhere", "a file"])
def test_what_another_made_in_the_environments_place_stays(bare_project, what):
    project, calls = bare_project
    folder, elsewhere = project / ".venv", project / "elsewhere"
    mine = (elsewhere if what == "elsewhere" else folder) / "mine"
    match what:
        case "elsewhere":
            elsewhere.mkdir()
            (elsewhere / install.STAMP_NAME).write_text(install.UNFINISHED)
            folder.symlink_to(elsewhere)
        case "to nowhere":
            folder.symlink_to("nowhere")
        case "a file":
            folder.touch()
        case _:
            (folder / ("Scripts" if "system" in what else "bin")).mkdir(parents=True)
            if "Python" in what:
                (folder / "bin" / "python").symlink_to("/nowhere/python")
    if what not in ("to nowhere", "a file"):
        mine.write_text("")
    before = sorted(project.rglob("*"))
    with pytest.raises(InputError, match=r"\.venv.*; (move it away|something else lies there)"):
        install.ensure(project)
    assert {path for path in project.rglob("*") if "data" not in path.parts} == set(before)
    assert not calls


def test_one_of_ours_whose_python_went_with_the_systems_is_made_anew_and_may_be_stopped_at_that(
    bare_project, monkeypatch
):
    project, calls = bare_project
    assert install.ensure(project)
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    (project / ".venv" / "lib").mkdir()
    removed, whole = [], shutil.rmtree

    def stopped(path):
        removed.append(path)
        whole(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(install.shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt):
        install.ensure(project)
    assert len(removed) == 1 and len(calls) == 1
    monkeypatch.setattr(install.shutil, "rmtree", whole)
    assert install.ensure(project)
    assert not install.ensure(project)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 3", "exit code 3"),
        ("echo first >&2; echo no pip here >&2; exit 1", "no pip here"),
        ("kill -9 $$", "exit code -9"),
        ("printf '\\377' >&2; exit 1", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_python_that_fails_its_probe_says_why(tmp_path, script, why):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    may_be_run(python)
    assert install.probe(python) == (None, why)
    assert install.probe(tmp_path / "absent").version is None
    assert re.fullmatch(r"3\.\d+\.\d+", install.probe(Path(sys.executable)).version)


def test_what_pip_says_is_passed_on_and_a_reader_who_leaves_does_not_stop_it(tmp_path):
    talk = f"for k in range(20000): print('line', k)\nopen({str(tmp_path / 'done')!r}, 'w')"
    code = "import sys\nfrom specsync_lib import streams\nfrom specsync_lib.door import install\nstreams.settle()\n"
    code += f"sys.exit(install.run_pip([sys.executable, '-c', {talk!r}]))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT_ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"line 0\n"
        process.stdout.close()
        assert process.wait(60) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_installation_that_is_stopped_leaves_no_pip_behind(tmp_path, number):
    """As where the signal comes to this process alone, and not from a terminal to all."""
    talk = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    code = "import signal, sys\nfrom specsync_lib import streams\nfrom specsync_lib.door import install\n"
    code += "streams.settle()\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it may be ignored
    code += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # as nohup has it
    code += f"install.ensure = lambda **_: install.run_pip([sys.executable, '-c', {talk!r}])\nsys.exit(install.main())"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        pip = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
        assert process.wait(60) == 130
        assert process.stderr.read() == b"specsync: interrupted; run again to go on\n"
    assert not pip.is_running()


@pytest.mark.parametrize("variable", ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_USER"])
def test_what_sends_other_packages_elsewhere_does_not_reach_this_pip(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.com/mine")  # where a person fetches from counts here, too
    say = f"import os; open({str(tmp_path / 'pip')!r}, 'w').write(repr(dict(os.environ)))"
    assert install.run_pip([sys.executable, "-c", say]) == 0
    found = ast.literal_eval((tmp_path / "pip").read_text())
    assert (found.get(variable), found["PIP_INDEX_URL"]) == (
        "0" if variable == "PIP_USER" else None,
        "https://example.com/mine",
    )


def test_a_pip_that_installed_elsewhere_is_one_line_and_leaves_no_stamp(bare_project, monkeypatch):
    project, _calls = bare_project
    install.venv.create(project / ".venv")
    why = "ModuleNotFoundError: No module named 'specsync_lib'"
    answers = {"pip": install.Probe("3.12.1"), "specsync_lib": install.Probe(None, why)}
    monkeypatch.setattr(install, "probe", lambda python, module="pip": answers[module])
    for _ in range(2):
        with pytest.raises(InputError, match=r"pip ended well and .*No module named") as refusal:
            install.ensure(project)
        assert "\n" not in str(refusal.value)
    answers["specsync_lib"] = answers["pip"]
    assert install.ensure(project)
    assert not install.ensure(project)


def test_a_package_that_is_built_may_import_itself_and_the_users_folder_shadows_no_module_of_pips(
    tmp_path, monkeypatch
):
    """As setup.py of a source distribution does where pip is of Debian 12's age (docopt's imports docopt)."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    source = tmp_path / "source"
    source.mkdir()
    (source / "itself.py").write_text("")
    build = (
        f"import os, sys; os.chdir({str(source)!r}); os.execv(sys.executable, [sys.executable, '-c', 'import itself'])"
    )
    assert install.run_pip([sys.executable, "-P", "-c", build]) == 0
    for command in install.install_commands(PROJECT_ROOT, Path(sys.executable), "https://example.com/cpu"):
        assert command[1:4] == ["-P", "-m", "pip"]


def test_torch_may_come_from_another_index(bare_project):
    project, calls = bare_project
    install.ensure(project, torch_index="https://example.com/cpu")
    assert calls[0][1:] == ["--index-url", "https://example.com/cpu", "--no-deps", "torch==2.13.0"]
    assert calls[1][1:] == ["--editable", f"{project}[test]"]


def test_the_conda_front_installs_the_project_and_nothing_else():
    environment = yaml.safe_load((PROJECT_ROOT / "environment.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    *conda, pip = environment["dependencies"]
    assert conda == [f"python {project['requires-python']}", "pip"]
    assert pip == {"pip": ["-e .[test]"]}
    assert "test" in project["optional-dependencies"]


def test_the_door_takes_the_pythons_that_the_project_takes():
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in DOOR.read_text(encoding="utf-8")


def test_the_folder_named_kernels_does_not_break_transformers_and_diffusers():
    code = """
import sys
import time
sys.path.insert(0, sys.argv[1])
import kernels
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from diffusers import AutoencoderKLWan, WanTransformer3DModel
print(kernels.__file__)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, str(PROJECT_ROOT)], capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert Path(answer.stdout.strip().splitlines()[-1]) == PROJECT_ROOT / "kernels" / "__init__.py"


NOTEBOOKS = committed_notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_hold_no_outputs_and_few_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code)
    assert all(cell.execution_count is None for cell in code)
    assert len(cells) <= 30


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_checks_holds_under_python_o_too(path):
    """``python -O`` drops an assert, with whatever it calls: notebooks say ``require``, with words."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), cell.source


def linked(text: str) -> set[str]:
    """The files that a page of Markdown names: link targets, and paths in backticks under the project's folders."""
    named = set(re.findall(r"\]\((?!#|https?:)([^)#]+)\)", text))
    named |= set(re.findall(r"`((?:data|docs|notebooks|kernels|workbench|specsync_lib|tests)/[\w./*-]+)`", text))
    rooms = "speech|draft|judge|face|pipeline|measures|figures|jobs|door"
    return named | {f"specsync_lib/{path}" for path in re.findall(rf"`((?:{rooms})/[\w.]*)`", text)}


def test_every_file_that_the_readme_the_limits_and_the_cards_name_is_there():
    named = {
        page: linked(page.read_text(encoding="utf-8"))
        for pages in ("README.md", "docs/*.md", "data/models/*/*.md", "data/clips/*.md", "kernels/*/*.md")
        for page in PROJECT_ROOT.glob(pages)
    }
    assert len(named) > 10 and all(len(named[PROJECT_ROOT / page]) > 10 for page in ("README.md", "docs/limits.md"))
    for page, names in named.items():
        missing = [name for name in names if not name.startswith("data/run") and not list(PROJECT_ROOT.glob(name))]
        assert [name for name in missing if not page.parent.joinpath(name).exists()] == [], page


def test_the_readme_shows_how_to_run_ones_own_recording_on_its_first_screens():
    lines = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    first = "\n".join(lines[:80])
    for sign in ("./run_all.sh ", "./run_all.sh test", "docs/overview.png", "-p audio=my.wav", "rule=", "threshold="):
        assert sign in first
    for rule in RULES:
        assert f"`{rule}`" in first


def test_the_numbers_of_the_readme_are_those_of_its_files():
    text = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
    data = PROJECT_ROOT / "data"

    def read(name):
        return json.loads((data / name).read_text(encoding="utf-8"))

    fits = read("models/draft_front/metrics.json")["fits"]
    assert f"{100 * fits['draft']['trained_speaker']['accuracy']:.1f} % of frames" in text
    assert f"{100 * fits['draft']['real_speakers']['accuracy']:.1f} %" in text
    for never_heard_her in ("draft_unseen", "ears_unseen"):
        assert f"{100 * fits[never_heard_her]['trained_speaker']['accuracy']:.1f} %" in text
    claim = read("measurements/claim.json")["summary"]["latent.claim_r"]
    assert f"r = {claim['value']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]" in text


@pytest.mark.skipif(not HELD, reason="env has no --block-signal here: Ctrl-C while Python starts is not held back")
@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.4])
def test_ctrl_c_at_the_door_is_heeded_without_a_traceback(after_s):
    command = [str(DOOR), "-p", "threshold=x"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as door:
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.killpg(door.pid, signal.SIGINT)
        said = door.communicate(timeout=60)[1]
    assert door.returncode in (130, -signal.SIGINT, 2)
    assert "Traceback" not in said and len(said.splitlines()) <= 1
