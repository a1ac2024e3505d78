"""Make or mend ``.venv`` and install the project into it; nothing is done when its stamp says that nothing changed.

Needs the standard library alone: it runs on the bare Python that a machine has.
"""

import hashlib
import os
import platform
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from specsync_lib.door.locks import exclusive
from specsync_lib.errors import InputError
from specsync_lib.paths import PROJECT_ROOT

STAMP_NAME = "specsync-install"
TORCH_INDEX_VARIABLE = "SPECSYNC_TORCH_INDEX"


def stamp(project: Path, python_version: str) -> str:
    """What an installation depends on, as one hash: the dependency list, the Python and where the project lies."""
    facts = (project / "pyproject.toml").read_bytes() + f"\n{python_version}\n{project}".encode()
    return hashlib.sha256(facts).hexdigest()


def python_version(python: Path) -> str | None:
    """Version of the environment's Python; None when it or its pip does not start (a half-made environment)."""
    command = [str(python), "-c", "import pip, platform; print(platform.python_version())"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def torch_requirement(project: Path) -> str:
    """The project's own pin of torch."""
    dependencies = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return next(line for line in dependencies if line.partition("=")[0].strip() == "torch")


def install_commands(project: Path, python: Path, torch_index: str | None) -> list[list[str]]:
    """The pip calls that fill a new environment."""
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    commands = []
    if torch_index:
        # torch alone, without what it needs: an index of torch builds seldom has the rest.
        commands.append([*pip, "--index-url", torch_index, "--no-deps", torch_requirement(project)])
    commands.append([*pip, "--editable", f"{project}[test]"])
    return commands


def ensure(project: Path = PROJECT_ROOT, torch_index: str | None = None) -> bool:
    """Bring ``.venv`` up to date; returns whether anything had to be done.

    Raises
    ------
    InputError: the environment could not be made, or pip failed.
    """
    folder = project / ".venv"
    python = folder / "bin" / "python"
    stamp_path = folder / STAMP_NAME
    version = python_version(python)
    if version and stamp_path.exists() and stamp_path.read_text(encoding="utf-8") == stamp(project, version):
        return False
    with exclusive(project / "data" / "run" / "install.lock", "an installation into .venv"):
        if version is None:
            print(f"specsync: making {folder} with Python {platform.python_version()}", flush=True)
            try:
                venv.create(folder, clear=True, with_pip=True)
            except (OSError, subprocess.SubprocessError) as error:
                raise InputError(
                    f"{folder}: no virtual environment could be made ({error}); is the disk full?"
                ) from error
            version = python_version(python)
        stamp_path.unlink(missing_ok=True)
        print("specsync: installing the dependencies (minutes, the first time)", flush=True)
        for command in install_commands(project, python, torch_index):
            code = subprocess.run(command, check=False).returncode
            if code:
                raise InputError(f"pip ended with code {code}; its last lines above say why; run again to go on")
        stamp_path.write_text(stamp(project, version), encoding="utf-8")
    return True


def main() -> int:
    """Install, with one line where it can not."""
    try:
        ensure(torch_index=os.environ.get(TORCH_INDEX_VARIABLE))
    except InputError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    except KeyboardInterrupt:
        print("specsync: interrupted; run again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
