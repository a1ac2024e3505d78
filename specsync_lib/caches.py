"""Where everything lies that can be fetched or made again, on any account. Standard library alone.

Libraries keep caches in the user's home, and some of them fail where there is none. ``settle`` gives each its folder
before it is imported: beside the assets, or, where the account has no home that can be written (none at all, ``/``, a
read-only one, a user whom the system does not know), in a folder of this user's below the temporary one. What the
user has set stays.
"""

# os.path answers where pathlib raises: an unknown user's home, a folder that may not be looked into.

import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path

CACHE_VARIABLE = "SPECSYNC_CACHE"
# What a library keeps there can be made again, and nobody else's program misses it.
LIBRARIES = {
    "MPLCONFIGDIR": "matplotlib",  # the font list; and the user's matplotlibrc stays out of our figures
    "NUMBA_CACHE_DIR": "numba",
    "TRITON_HOME": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "CUDA_CACHE_PATH": "cuda",
    "ANNY_CACHE_DIR": "anny",
    "WARP_CACHE_PATH": "warp",
    "IPYTHONDIR": "ipython",  # of ./run_all.sh lab; a run's kernels have one each, which goes with them
}
# What other programs of the user's share; moved only where there is no home to share it in.
SHARED = {
    "XDG_CACHE_HOME": "xdg",  # fontconfig, whisper, pip
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
}
# Folders of the user's that other programs share. One that is not absolute is ignored, says their specification.
DESKTOP = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR")


def writable(folder: str | Path) -> bool:
    """Whether a folder is there and files can be made in it."""
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def home() -> Path | None:
    """The user's home if it is a folder that can be written; ``/`` is nobody's home."""
    folder = os.path.expanduser("~")
    return Path(folder) if os.path.isabs(folder) and folder != "/" and writable(folder) else None


def cache_dir() -> Path:
    """The folder of the assets: ``SPECSYNC_CACHE``, else ``specsync`` in the user's cache, else a temporary one."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    folder = user_cache() / "specsync"
    return folder if home() or _absolute("XDG_CACHE_HOME") or os.path.isdir(folder) else temporary_dir()


def user_cache() -> Path:
    """The user's cache folder, whether or not it is there."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/AppData/Local"))
    if sys.platform == "darwin":
        return Path(os.path.expanduser("~/Library/Caches"))
    return Path(_absolute("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _absolute(variable: str) -> str:
    """A variable's folder; empty where it names none or not a whole path."""
    folder = os.environ.get(variable, "")
    return folder if os.path.isabs(folder) else ""


def made_dir() -> Path:
    """A folder that can be written, for what is made from assets: theirs, else a temporary one."""
    folder = cache_dir()
    nearest = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    return folder if writable(nearest) else temporary_dir()


@cache
def temporary_dir() -> Path:
    """This user's own folder below the temporary one; another's of that name is not taken."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir(), f"specsync-{user}")
    except FileNotFoundError:  # nothing can be written on this machine: who has to is told
        return Path("/tmp", f"specsync-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="specsync-"))
    mine = stat.S_ISDIR(facts.st_mode) and facts.st_uid in (user, 0) and not facts.st_mode & 0o022
    return folder if mine and writable(folder) else Path(tempfile.mkdtemp(prefix="specsync-"))


def settle() -> None:
    """Give every library's cache its folder, for this process and all that it starts. Nothing is made by it."""
    for variable in DESKTOP:
        if not _absolute(variable):
            os.environ.pop(variable, None)
    libraries = made_dir() / "libraries"
    moved = dict(LIBRARIES)
    if os.environ.get(CACHE_VARIABLE):
        os.environ[CACHE_VARIABLE] = str(cache_dir())  # a relative one means this folder, in a kernel too
    if home() is None:
        os.environ[CACHE_VARIABLE] = str(cache_dir())  # before the user's cache folder becomes one of ours
        moved |= SHARED
    for variable, name in moved.items():
        if not os.environ.get(variable):  # an empty one is none
            os.environ[variable] = str(libraries / name)
    if not os.path.isabs(os.path.expanduser("~")):
        os.environ["HOME"] = str(libraries / "home")
