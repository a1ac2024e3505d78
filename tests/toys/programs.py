"""Programs that a test writes and starts."""

import os
from pathlib import Path

import pytest


def may_be_run(path: Path) -> Path:
    """The file, executable; the test is skipped where nothing may be started from its file system."""
    path.chmod(0o755)
    if not os.access(path, os.X_OK):
        pytest.skip("no program may be started from the temporary folder (noexec); set TMPDIR to where one may")
    return path
