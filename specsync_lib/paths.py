"""Where everything lies: the checkout's folders, and the two that a run writes to. Standard library alone."""

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS_DIR = PROJECT_ROOT / "notebooks"
DATA_DIR = PROJECT_ROOT / "data"
ASSETS_FILE = DATA_DIR / "assets.toml"
CLAIMS_FILE = DATA_DIR / "claims.json"  # the source report's numbers
SPLITS_FILE = DATA_DIR / "splits.json"
CLIPS_DIR = DATA_DIR / "clips"
ROWS_DIR = DATA_DIR / "rows"
MODELS_DIR = DATA_DIR / "models"
MEASUREMENTS_DIR = DATA_DIR / "measurements"
TINY_DECODER = MODELS_DIR / "decoder" / "decoder.safetensors"


def expanded(path: str | Path) -> Path:
    """A path as a person writes it, ``~`` and ``~name`` their homes; that of nobody stays, and is not there."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for an unknown user


def _folder(variable: str, usual: str) -> Path:
    """What a variable names, below the checkout unless it is absolute; the usual folder where it names nothing."""
    return Path(os.path.normpath(PROJECT_ROOT / expanded(os.environ.get(variable) or usual)))


# The two folders a run writes to; the variables let a test or a second checkout of the data redirect a whole run.
RUN_DIR = _folder("SPECSYNC_RUN_DIR", "data/run")
PLOTS_DIR = _folder("SPECSYNC_PLOTS_DIR", "plots")


def display_path(path: str | Path) -> str:
    """A path as reports show it: relative to the project with forward slashes, else as it is."""
    path = Path(path)
    return path.relative_to(PROJECT_ROOT).as_posix() if path.is_relative_to(PROJECT_ROOT) else path.as_posix()
