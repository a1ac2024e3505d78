"""Where a run writes to, and what is said where the system refuses."""

import errno
import os
from pathlib import Path

import pytest

from specsync_lib import paths
from specsync_lib.errors import advice
from specsync_lib.paths import PROJECT_ROOT


@pytest.mark.parametrize(
    ("named", "folder"),
    [
        (None, PROJECT_ROOT / "plots"),
        ("", PROJECT_ROOT / "plots"),
        ("elsewhere", PROJECT_ROOT / "elsewhere"),
        ("a/../b", PROJECT_ROOT / "b"),
        ("/data/../plots", Path("/plots")),
        ("~", Path("/home/me")),
        ("~/thesis", Path("/home/me/thesis")),
        ("~nobody-of-that-name/x", PROJECT_ROOT / "~nobody-of-that-name" / "x"),
    ],
)
def test_a_variable_names_a_folder_as_a_person_writes_it(monkeypatch, named, folder):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("SPECSYNC_PLOTS_DIR", raising=False)
    if named is not None:
        monkeypatch.setenv("SPECSYNC_PLOTS_DIR", named)
    assert paths._folder("SPECSYNC_PLOTS_DIR", "plots") == folder


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "name a folder"),
        (errno.ENOSPC, "free some space"),
        (errno.EMFILE, "more open files"),
        (errno.EEXIST, "something else lies there"),
        (errno.ELOOP, "leads to itself"),
        (errno.ENAMETOOLONG, "too long"),
        (errno.ENOENT, "TMPDIR"),
        (errno.EIO, "check the disk"),
    ],
)
def test_advice_fits_what_the_system_said(number, words):
    line = advice(OSError(number, os.strerror(number)), "a folder of your own")
    assert words in line
    assert ("disk" in line) == (number == errno.EIO)
    if number == errno.ENOENT:
        assert "leads nowhere" in advice(FileNotFoundError(number, os.strerror(number), "a"), "a folder of your own")
    assert ("space" in line) == (number == errno.ENOSPC)
