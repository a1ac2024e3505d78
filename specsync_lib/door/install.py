"""Make or mend ``.venv`` and install the project into it; nothing is done when its stamp says that nothing changed.

Needs the standard library alone: it runs on the bare Python that a machine has.
"""

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from specsync_lib import streams
from specsync_lib.errors import INTERRUPTED_EXIT_CODE, InputError, advice
from specsync_lib.locks import exclusive
from specsync_lib.paths import PROJECT_ROOT

STAMP_NAME = "specsync-install"
UNFINISHED = "being made"
PROBE_TIMEOUT_S = 60
TORCH_INDEX_VARIABLE = "SPECSYNC_TORCH_INDEX"
# What a person may have set for pip elsewhere, and what would keep its packages out of .venv.
OTHER_PLACES = frozenset({"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN", "PIP_PYTHON"})
ELSEWHERE = "another place: a checkout in a folder of your own"


def stamp(project: Path, python_version: str) -> str:
    """What an installation depends on, as one hash: the dependency list, the Python and where the project lies."""
    facts = (project / "pyproject.toml").read_bytes() + f"\n{python_version}\n{project}".encode()
    return hashlib.sha256(facts).hexdigest()


class Probe(NamedTuple):
    """What an environment's Python said: its version, else None and why."""

    version: str | None
    why: str = ""


def probe(python: Path, module: str = "pip") -> Probe:
    """Ask an environment's Python, and its pip or another module, whether they start."""
    command = [str(python), "-I", "-c", f"import {module}, platform; print(platform.python_version())"]
    try:
        answer = subprocess.run(command, capture_output=True, check=False, timeout=PROBE_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return Probe(None, str(error))
    if answer.returncode:
        lines = answer.stderr.decode(errors="replace").strip().splitlines()
        return Probe(None, lines[-1] if lines else f"exit code {answer.returncode}")
    return Probe(answer.stdout.decode(errors="replace").strip())


def torch_requirement(project: Path) -> str:
    """The project's own pin of torch."""
    dependencies = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return next(line for line in dependencies if line.partition("=")[0].strip() == "torch")


def install_commands(project: Path, python: Path, torch_index: str | None) -> list[list[str]]:
    """The pip calls that fill a new environment."""
    pip = [str(python), "-P", "-m", "pip", "install", "--disable-pip-version-check"]
    commands = []
    if torch_index:
        # torch alone, without what it needs: an index of torch builds seldom has the rest.
        commands.append([*pip, "--index-url", torch_index, "--no-deps", torch_requirement(project)])
    commands.append([*pip, "--editable", f"{project}[test]"])
    return commands


def make(folder: Path) -> None:
    """A new environment. Of what is there only one of ours is ever removed: it is half made, as its stamp says, or its
    Python is gone.

    Raises
    ------
    InputError: there is something there that is not such a one, or no environment can be made.
    """
    python, stamp_path = folder / "bin" / "python", folder / STAMP_NAME
    if python.exists() and not (stamp_path.is_file() and stamp_path.read_text(encoding="utf-8") == UNFINISHED):
        raise InputError(
            f"{python} does not start ({probe(python).why}); run again, or remove {folder} to have it made anew"
        )
    if folder.is_symlink() or (folder.is_dir() and any(folder.iterdir()) and not stamp_path.is_file()):
        raise InputError(f"{folder} holds no environment that ./run_all.sh made; move it away and run again")
    print(f"specsync: making {folder} with Python {platform.python_version()}", flush=True)
    try:
        folder.mkdir(exist_ok=True)
        stamp_path.write_text(UNFINISHED, encoding="utf-8")  # who is stopped from here on finds it there
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != stamp_path:
                path.unlink()
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.SubprocessError) as error:
        what = (
            advice(error, ELSEWHERE) if isinstance(error, OSError) else "see that the disk has room and ensurepip works"
        )
        raise InputError(f"{folder}: no virtual environment could be made ({error}); {what}") from error


def run_pip(command: Sequence[str]) -> int:
    """Call pip and pass on what it says; returns its exit code. A reader who leaves does not stop it."""
    # A package that is built here may import itself from where it lies: the safe path is pip's own (-P), not theirs.
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONSAFEPATH", *OTHER_PLACES}}
    environment = kept | {"PIP_USER": "0"}  # in a configuration file it may be set, too
    if sys.stdout.isatty():
        return subprocess.run(command, env=environment, check=False).returncode
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as pip:
        try:
            for line in pip.stdout:
                print(line.decode(errors="replace"), end="", flush=True)
        except KeyboardInterrupt:  # perhaps this process alone was asked to stop
            pip.terminate()
            raise
    return pip.returncode


def ensure(project: Path = PROJECT_ROOT, torch_index: str | None = None) -> bool:
    """Bring ``.venv`` up to date; returns whether anything had to be done.

    Raises
    ------
    InputError: the environment could not be made, or pip failed or installed elsewhere.
    """
    folder = project / ".venv"
    python, stamp_path = folder / "bin" / "python", folder / STAMP_NAME
    if up_to_date(project, probe(python).version):
        return False
    with exclusive(project / "data" / "run" / "install.lock", "an installation into .venv"):
        version = probe(python).version
        if up_to_date(project, version):  # another process did it in the meantime
            return False
        if version is None:
            make(folder)
            version = probe(python).version
        if stamp_path.is_file() and stamp_path.read_text(encoding="utf-8") != UNFINISHED:
            stamp_path.unlink()
        print("specsync: installing the dependencies (minutes, the first time)", flush=True)
        for command in install_commands(project, python, torch_index):
            if code := run_pip(command):
                raise InputError(f"pip ended with code {code}; its last lines above say why; run again to go on")
        if (found := probe(python, "specsync_lib")).version is None:
            raise InputError(
                f"pip ended well and {folder} does not hold the project ({found.why}); take target, prefix and root "
                "out of pip's configuration (pip config list) and run again"
            )
        stamp_path.write_text(stamp(project, version), encoding="utf-8")
    return True


def up_to_date(project: Path, version: str | None) -> bool:
    """Whether the environment's stamp is that of this project and this Python."""
    path = project / ".venv" / STAMP_NAME
    return bool(version) and path.is_file() and path.read_text(encoding="utf-8") == stamp(project, version)


def main() -> int:
    """Install, with one line where it can not."""
    try:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # run_all.sh held it back until here
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
        ensure(torch_index=os.environ.get(TORCH_INDEX_VARIABLE))
    except InputError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    except OSError as error:
        print(f"specsync: {error}; {advice(error, ELSEWHERE)}", file=sys.stderr)
        return InputError.EXIT_CODE
    except KeyboardInterrupt:
        print("specsync: interrupted; run again to go on", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    return 0


if __name__ == "__main__":
    streams.settle()
    sys.exit(main())
