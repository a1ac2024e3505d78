"""The checkout that is tested."""

import subprocess
from pathlib import Path

from specsync_lib.paths import NOTEBOOKS_DIR


def committed_notebooks() -> list[Path]:
    """Those that git knows, and not a person's own beside them; of a checkout without git all that are there."""
    command = ["git", "-C", str(NOTEBOOKS_DIR), "ls-files", "-z", "*.ipynb"]
    try:
        known = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split("\0")[:-1]
    except OSError:
        known = []
    found = [NOTEBOOKS_DIR / name for name in known] or NOTEBOOKS_DIR.rglob("*.ipynb")
    return sorted(path for path in found if path.is_file() and ".ipynb_checkpoints" not in path.parts)
