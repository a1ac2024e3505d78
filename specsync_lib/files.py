"""Outputs that are either whole or absent."""

import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specsync_lib.errors import InputError

# As json.dumps breaks it; no string can hold such a line break.
NUMBERS = re.compile(r"\[\n((?:\s+[-\d.e+]+,?\n)+)\s*\]")
ITEM = re.compile(r"^( +)\{\n([^{}]*)\n\1\}", re.MULTILINE)  # of a list; holds no object
# What `temporary_name` gives, and nobody else: a process that was killed leaves it behind.
LEFT_BEHIND = re.compile(r"\.specsync-[0-9a-f]{16}(\.[^.]*)?")
MADE_VARIABLE = "SPECSYNC_MADE"  # names the file in which `atomic_path` lists what it made


def require_place(folder: Path, option: str) -> None:
    """Check that files can be made in a folder that is there or will be, before what is to lie there is computed.

    Raises
    ------
    InputError: they can not; ``option`` names it.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not there.is_dir():
        raise InputError(f"{option}: {there} is no folder; give another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{option}: nothing can be written into {there}; give another")
    try:
        folder.lstat()
    except FileNotFoundError:
        return
    except OSError as error:  # a name that is too long
        raise InputError(f"{option}: can not be a folder ({error.strerror}); give another") from error


def temporary_name(suffix: str = "") -> str:
    """A new hidden name for what is not whole yet: no name of a person's looks like it, and none is too long."""
    return f".specsync-{secrets.token_hex(8)}{suffix}"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success fsync it and rename it to ``path``, on failure remove it.

    The temporary name keeps the suffix, because encoders choose their container by it. Who may read the file follows
    from the user's umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.suffix))
    temporary.touch(exist_ok=False)
    mode = stat.S_IMODE(temporary.stat().st_mode)  # as the umask has it; some writers make the file anew, for its owner
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if listing := os.environ.get(MADE_VARIABLE):
        # One write each: processes share it. It is gone for a process that outlives whoever waited for it.
        with suppress(FileNotFoundError), Path(listing).open("ab", buffering=0) as file:
            file.write(os.fsencode(os.path.normpath(path.absolute())) + b"\0")


@contextmanager
def made_meanwhile() -> Iterator[set[Path]]:
    """Yield a set that gets, when the block ends well, what `atomic_path` made in it, here and in processes that were
    started in it: nothing that anybody else put beside it."""
    made: set[Path] = set()
    before = os.environ.get(MADE_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="specsync-", ignore_cleanup_errors=True) as folder:
        listing = Path(folder, "made")
        listing.touch()
        os.environ[MADE_VARIABLE] = str(listing)
        try:
            yield made
        finally:
            os.environ.pop(MADE_VARIABLE)
            if before is not None:
                os.environ[MADE_VARIABLE] = before
        made.update(Path(os.fsdecode(name)) for name in listing.read_bytes().split(b"\0") if name)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write strict JSON (no NaN) whole or not at all; a list of numbers stands on one line, as does a table's row."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    text = NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text(path, ITEM.sub(lambda found: f"{found[1]}{{{' '.join(map(str.strip, found[2].splitlines()))}}}", text))
