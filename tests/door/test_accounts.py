"""Any account, any folder: no home, an unknown user, read-only places, files that are named like modules."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest

from specsync_lib import caches
from specsync_lib.door import install
from specsync_lib.door.project import Project
from specsync_lib.paths import PROJECT_ROOT
from tests.toys.notebooks import write_notebook
from tests.toys.programs import may_be_run

STRANGER = 54_321  # no user of that number
BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT_ROOT)}


def as_stranger(*command):
    """The command as a user whom the system does not know, who may read everything and writes only what is theirs."""
    capability = "-all,+dac_read_search"
    who = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    return [*who, f"--inh-caps={capability}", f"--ambient-caps={capability}", *map(str, command)]


def refused():
    """Why nothing can be run as another user here; empty where it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "only root may become another user"
    try:
        done = subprocess.run(as_stranger(sys.executable, "-c", ""), capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


needs_stranger = pytest.mark.skipif(bool(why := refused()), reason=why or "can be run")


@pytest.fixture
def place():
    """A folder of the stranger's."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, STRANGER, STRANGER)
        yield Path(name).resolve()


@pytest.fixture
def account(tmp_path, monkeypatch):
    """An account as it is before anything has settled: give it a home, the variables, and what may be written."""
    caches.temporary_dir.cache_clear()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def settle(home, read_only=(), **variables):
        for name in (*caches.LIBRARIES, *caches.SHARED, caches.CACHE_VARIABLE, "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        if home is None:  # no variable, and no such user
            monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        else:
            monkeypatch.setattr(os.path, "expanduser", lambda path: path.replace("~", home))
        real = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in read_only and real(path, mode))
        caches.settle()
        return Path(os.environ["MPLCONFIGDIR"]).parent

    with patch.dict(os.environ):  # settle() sets variables that were not there, too
        yield settle
    caches.temporary_dir.cache_clear()


def all_under(folder, names):
    return {name for name in names if not Path(os.environ[name]).is_relative_to(folder)}


@pytest.mark.parametrize("home", [None, "/", "/nonexistent", "", "relative"])
def test_without_a_home_every_cache_lies_in_a_temporary_folder_of_ones_own(account, tmp_path, home):
    base = tmp_path / "temporary" / f"specsync-{os.getuid()}"
    assert account(home) == base / "libraries"
    assert all_under(base, (*caches.LIBRARIES, *caches.SHARED, caches.CACHE_VARIABLE)) == set()
    assert caches.cache_dir() == caches.made_dir() == base
    assert base.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("relative", ["relx", "", "./x"])
def test_a_folder_that_is_no_whole_path_is_none(account, tmp_path, relative):
    home = tmp_path / "home"
    home.mkdir()
    folders = dict.fromkeys((*caches.DESKTOP, "MPLCONFIGDIR"), relative)
    if relative:
        del folders["MPLCONFIGDIR"]
    assert account(str(home), **folders) == home / ".cache" / "specsync" / "libraries"
    assert not set(caches.DESKTOP) & set(os.environ)


def test_a_home_is_used_and_what_other_programs_share_stays_in_it(account, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert account(str(home)) == home / ".cache" / "specsync" / "libraries"
    assert not set(caches.SHARED) & set(os.environ)
    assert caches.CACHE_VARIABLE not in os.environ
    assert list(home.iterdir()) == []


def test_a_read_only_home_keeps_its_assets_and_nothing_is_written_there(account, tmp_path):
    home = tmp_path / "home"
    assets = home / ".cache" / "specsync"
    assets.mkdir(parents=True)
    base = tmp_path / "temporary" / f"specsync-{os.getuid()}"
    assert account(str(home), read_only=[str(home), str(assets)]) == base / "libraries"
    assert caches.cache_dir() == assets
    assert caches.made_dir() == base


def test_a_chosen_cache_holds_everything_and_what_the_user_set_stays(account, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert account(None, SPECSYNC_CACHE="mine", NUMBA_CACHE_DIR="/elsewhere") == tmp_path / "mine" / "libraries"
    assert all_under(tmp_path / "mine", {*caches.LIBRARIES, *caches.SHARED}) == {"NUMBA_CACHE_DIR"}
    assert os.environ[caches.CACHE_VARIABLE] == str(tmp_path / "mine")


def test_a_temporary_folder_that_another_may_write_is_not_taken(account, tmp_path):
    taken = tmp_path / "temporary" / f"specsync-{os.getuid()}"
    taken.mkdir()
    taken.chmod(0o777)
    base = account(None).parent
    assert base != taken
    assert base.stat().st_mode & 0o777 == 0o700


def test_where_nothing_can_be_written_at_all_only_who_writes_is_told(tmp_path):
    """As in a container whose whole file system is read-only."""
    nowhere = "import tempfile, sys\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']\n"
    code = nowhere + "from specsync_lib.door import parameters\nsys.exit(parameters.main(['-p', 'seed=x']))"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=BARE | {"HOME": "/"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    clip = PROJECT_ROOT / "data" / "clips" / "closures.flac"
    arguments = ["-p", f"audio={clip}", "-p", "device=cpu"]
    code = nowhere + "from specsync_lib import assets\nassets.fetch = lambda: None\n"
    code += f"from specsync_lib.door import runner\nsys.exit(runner.main({arguments}))"
    folders = {"SPECSYNC_RUN_DIR": str(tmp_path / "run"), "SPECSYNC_PLOTS_DIR": str(tmp_path / "plots")}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=BARE | folders | {"HOME": "/"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("; name a folder that can be written in TMPDIR")
    assert "Traceback" not in done.stderr


USES = """
import getpass, json, os, sys, tempfile
from pathlib import Path
import numpy as np
import specsync_lib
from specsync_lib import caches, paths
from specsync_lib.figures import style
import numba, torch, triton, anny
from huggingface_hub import constants
from torch._inductor.runtime.cache_dir_utils import cache_dir
from triton.knobs import cache as triton_cache
import matplotlib, matplotlib.pyplot as plt
import pandas as pd
style.use_style()
figure, axes = plt.subplots()
style.save_figure(figure, "figure", pd.DataFrame({"x": [1]}))
base = Path(os.environ["SPECSYNC_CACHE"])
folders = [matplotlib.get_cachedir(), cache_dir(), triton_cache.dir, constants.HF_HOME]
assert all(Path(folder).is_relative_to(base) for folder in folders), folders
assert os.getuid() == 54321
facts = {"cache": str(base), "home": os.path.expanduser("~"), "uid": os.getuid(), "path": sys.path}
(paths.RUN_DIR / "facts.json").write_text(json.dumps(facts))
"""
DRIVER = """
import sys
from pathlib import Path
from specsync_lib.door import runner
from specsync_lib.door.inputs import Inputs
from specsync_lib.door.project import Project
root, own = Path(sys.argv[1]), Path(sys.argv[2])
project = Project(root, root / 'notebooks', own / 'run', own / 'plots')
def run(options, nameless):
    with runner.at_work(project):
        for name, finished in runner.run_notebooks(project, options, Inputs('', '')):
            print(name, flush=True)
runner.run = run
sys.exit(runner.main([]))
"""


@needs_stranger
def test_a_user_whom_the_system_does_not_know_runs_from_a_read_only_checkout(tmp_path, place):
    """Real kernels and libraries, without HOME; nothing is written but in their folders."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]")
    write_notebook(Project(tmp_path, tmp_path / "notebooks", place / "run", place / "plots"), "01_first", USES)
    before = {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    command = as_stranger(sys.executable, "-P", "-c", DRIVER, tmp_path, place)
    variables = BARE | {"SPECSYNC_CACHE": str(place / "cache"), "TMPDIR": str(place)}
    done = subprocess.run(command, env=variables, cwd="/", capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads((place / "run" / "facts.json").read_text())
    assert facts["uid"] == STRANGER
    assert facts["home"].startswith(str(place))
    assert {path.name for path in place.iterdir()} >= {"run", "plots", "cache"}
    for name in {path.name for path in Path(tempfile.gettempdir()).iterdir()} - before:
        with contextlib.suppress(FileNotFoundError):  # another test's, gone by now
            assert Path(tempfile.gettempdir(), name).lstat().st_uid != STRANGER, name
    assert {path.name for path in tmp_path.rglob("*")} == {"notebooks", "01_first.ipynb", "pyproject.toml"}


@needs_stranger
def test_a_checkout_that_cannot_be_written_is_one_line_that_says_what_to_set(tmp_path, place):
    code = "import sys\nfrom specsync_lib.door import runner\nsys.exit(runner.main(['-p', 'audio=' + sys.argv[1]]))"
    speech = PROJECT_ROOT / "data" / "clips" / "closures.flac"
    variables = BARE | {"SPECSYNC_RUN_DIR": str(tmp_path / "run"), "SPECSYNC_PLOTS_DIR": str(tmp_path / "plots")}
    command = as_stranger(sys.executable, "-P", "-c", code, speech)
    done = subprocess.run(
        command, env=variables | {"TMPDIR": str(place)}, cwd="/", capture_output=True, text=True, check=False
    )
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert "Permission denied" in line
    assert line.endswith("name folders of your own in SPECSYNC_RUN_DIR and SPECSYNC_PLOTS_DIR")


SHADOWS = (
    "numpy", "torch", "argparse", "platform", "tomllib", "venv", "subprocess", "pip", "encodings", "json", "typing",
    "sitecustomize", "usercustomize", "jupyterlab", "pytest", "papermill", "specsync_lib", "matplotlib",
)  # fmt: skip


@pytest.fixture
def hostile(tmp_path):
    """A folder with files named like modules, each of which leaves a mark when it is imported."""
    folder = tmp_path / "a folder; with 'quotes' & größe"
    folder.mkdir()
    mark = f"open({str(tmp_path / 'imported')!r}, 'a').write(__name__ + ' ')\nraise SystemExit('a file of the user')\n"
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(mark, encoding="utf-8")
    (folder / "matplotlibrc").write_text("text.usetex: True\nfont.size: 40\n")
    yield folder
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose .venv is this environment, its stamp that of a finished installation."""
    root = tmp_path / "checkout"
    (root / ".venv" / "bin").mkdir(parents=True)
    for name in ("run_all.sh", "simulate_research.py", "pyproject.toml"):
        shutil.copy2(PROJECT_ROOT / name, root)
    shutil.copytree(PROJECT_ROOT / "specsync_lib", root / "specsync_lib")
    for name in ("kernels", "data", "notebooks"):
        (root / name).symlink_to(PROJECT_ROOT / name)
    python = root / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(root))} exec {shlex.quote(sys.executable)} "$@"\n')
    may_be_run(python)
    version = install.probe(python).version
    (root / ".venv" / install.STAMP_NAME).write_text(install.stamp(root, version))
    return root


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "run_all.sh lab"),
        (["-p", "seed=x"], 2, "parameter seed: got 'x'"),
        (["-p", "audio=none.wav"], 2, "'none.wav'"),
        (["lab", "--version"], 0, "4."),
    ],
)
def test_nothing_in_the_users_folder_shadows_a_module(hostile, checkout, arguments, code, says):
    variables = os.environ | {"PYTHONPATH": ".:/nowhere:", "PYTHONSTARTUP": str(hostile / "numpy.py")}
    answer = subprocess.run(
        [checkout / "run_all.sh", *arguments],
        cwd=hostile, env=variables, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert answer.returncode == code, answer.stderr[-2000:]
    assert says in (answer.stderr if code else answer.stdout)
    assert len(answer.stderr.splitlines()) == (code == 2)


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"]], ids=" ".join)
def test_nor_does_a_file_beside_the_library(hostile, checkout, arguments):
    """The bare Python that reads arguments and installs has the checkout on its path, behind its own library."""
    shutil.rmtree(checkout / ".venv")
    for path in hostile.glob("*.py"):
        shutil.copy2(path, checkout)
    command, variables = [checkout / "run_all.sh", *arguments], os.environ | {"SPECSYNC_PYTHON": sys.executable}
    answer = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("usage: ./run_all.sh")


def other_pythons():
    """Other Pythons that this machine has: of each major version the oldest and the newest."""
    names = ("python2", "python3", *(f"python3.{minor}" for minor in range(6, 16)))
    found = {Path(path).resolve() for name in names if (path := shutil.which(name))}
    found |= {path.resolve() for path in Path(os.environ.get("HOME", "/")).glob(".pyenv/versions/*/bin/python")}
    versions = {}
    for path in found:
        code = "import sys; print('%d.%02d' % sys.version_info[:2])"
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # one that does not run or answer is none
            answer = subprocess.run([path, "-c", code], check=True, capture_output=True, text=True, timeout=60)
            versions[answer.stdout.strip()] = path
    chosen = {choose(group) for major in "23" if (group := [one for one in versions if one[0] == major])
              for choose in (min, max)}  # fmt: skip
    return [versions[version] for version in sorted(chosen)]


@pytest.mark.parametrize("python", other_pythons(), ids=str)
def test_the_source_reports_command_runs_with_any_python(hostile, checkout, python):
    def call(*arguments):
        command = [python, checkout / "simulate_research.py", *arguments]
        return subprocess.run(command, cwd=hostile, capture_output=True, text=True, check=False, timeout=120)

    found = call("--chunks", "0")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "simulate_research: --chunks 0: expected 1 to 5000\n"  # said by .venv's
    shutil.rmtree(checkout / ".venv")
    alone = call("--chunks", "0")
    (line,) = alone.stderr.splitlines()
    assert alone.returncode == 2
    assert line.startswith("simulate_research: ")
    assert "--chunks 0" in line or line.endswith("; run ./run_all.sh once, which makes .venv")
