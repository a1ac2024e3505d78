"""JupyterLab on this checkout: it opens at the notebooks, finds their videos, and leaves no trace in git.

The whole project is served, because a notebook's video lies beside its folder, in ``plots``. What a notebook shows is
left out when it is saved, as it is committed: looking and running change no tracked file, editing does. The executed
copies with their outputs are those of ``./run_all.sh``.
"""

import errno
import glob
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_config_dir, jupyter_runtime_dir

from specsync_lib.caches import temporary_dir
from specsync_lib.errors import InputError, advice
from specsync_lib.paths import NOTEBOOKS_DIR, PROJECT_ROOT

SETTINGS = Path(__file__).with_name("lab_settings")  # no news, no look for updates: nothing asks the network
# What JupyterLab and its kernels write into a notebook's and a cell's metadata by themselves.
OWN_KEYS = frozenset({"collapsed", "execution", "heading_collapsed", "jupyter", "scrolled", "trusted"})
LANGUAGE = "python"


def tidy(model: dict[str, Any], path: str, **_: object) -> None:
    """Leave out of a notebook, before it is saved, what running it put there; its form is then that of git's copy.

    Parameters
    ----------
    model : what JupyterLab's server saves (``pre_save_hook``); changed in place.
    path : from the served root; notebooks outside ``notebooks/`` keep what they show.
    """
    if model["type"] != "notebook" or Path(path.strip("/")).parts[:1] != (NOTEBOOKS_DIR.name,):
        return
    notebook = model["content"]
    for cell in notebook["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key not in OWN_KEYS}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    notebook["metadata"] = {key: value for key, value in notebook["metadata"].items() if key not in {"widgets"}} | {
        "kernelspec": {"display_name": "Python 3", "language": LANGUAGE, "name": "python3"},
        "language_info": {"name": LANGUAGE},
    }


def command(arguments: Sequence[str], root: Path = PROJECT_ROOT) -> list[str]:
    """JupyterLab's command line; what a person sets takes the place of ours."""
    own = {
        "--ServerApp.root_dir": root,
        "--LabApp.default_url": f"/lab/tree/{NOTEBOOKS_DIR.name}",
        "--LabApp.app_settings_dir": SETTINGS,
        "--LabApp.news_url": None,
        "--LabApp.extension_manager": "readonly",
        "--LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "--ContentsManager.pre_save_hook": f"specsync_lib.door.lab.{tidy.__name__}",
    }
    prefix, python = plain_prefix(), Path(sys.executable)
    if prefix != Path(sys.prefix):
        python = prefix / python.relative_to(sys.prefix)
        own["--LabApp.schemas_dir"] = prefix / "share" / "jupyter" / "lab" / "schemas"  # which it resolves otherwise
    given = {argument.partition("=")[0] for argument in arguments}
    ours = [f"{name}={value}" for name, value in own.items() if name not in given]
    return [str(python), "-P", "-m", "jupyterlab", *ours, *arguments]


def plain_prefix() -> Path:
    """This environment's folder; a link without brackets where Jupyter would take its path for a pattern.

    Raises
    ------
    OSError : the link can not be made.
    """
    if glob.escape(sys.prefix) == sys.prefix:
        return Path(sys.prefix)
    link = temporary_dir() / f"venv-{hashlib.sha256(os.fsencode(sys.prefix)).hexdigest()[:16]}"
    with suppress(FileExistsError):
        link.symlink_to(sys.prefix)
    return link


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of the server and its kernels."""
    kept = {name: value for name, value in given.items() if name != "JUPYTER_PATH"}  # it counts before what follows
    return kept | {
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, whatever the user's own folder holds
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
    }


def main(arguments: Sequence[str]) -> None:
    """Become JupyterLab."""
    read, write = os.R_OK | os.X_OK, os.W_OK | os.X_OK
    folders = {
        "JUPYTER_CONFIG_DIR": (Path(jupyter_config_dir()), read),
        "JUPYTER_RUNTIME_DIR": (Path(jupyter_runtime_dir()), write),
    }
    if folder := os.environ.get("IPYTHONDIR"):  # IPython makes the folder, not those above it
        folders["IPYTHONDIR"] = Path(folder).parent, read
    for variable, (path, needed) in folders.items():
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(path, needed):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        except OSError as error:
            print(f"specsync: {error}; {advice(error, f'another folder in {variable}')}", file=sys.stderr)
            sys.exit(InputError.EXIT_CODE)
    try:
        line = command(arguments)
    except OSError as error:
        print(f"specsync: {error}; {advice(error, 'another folder in TMPDIR')}", file=sys.stderr)
        sys.exit(InputError.EXIT_CODE)
    os.execve(line[0], line, environment(os.environ))


if __name__ == "__main__":
    main(sys.argv[1:])
