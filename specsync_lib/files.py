"""Outputs that are either whole or absent."""

import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# As json.dumps breaks it; no string can hold such a line break.
NUMBERS = re.compile(r"\[\n((?:\s+[-\d.e+]+,?\n)+)\s*\]")
ITEM = re.compile(r"^( +)\{\n([^{}]*)\n\1\}", re.MULTILINE)  # of a list; holds no object


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success fsync it and rename it to ``path``, on failure remove it.

    The temporary name keeps the suffix, because encoders choose their container by it. Who may read the file follows
    from the user's umask.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
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


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write strict JSON (no NaN) whole or not at all; a list of numbers stands on one line, as does a table's row."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    text = NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    write_text(path, ITEM.sub(lambda found: f"{found[1]}{{{' '.join(map(str.strip, found[2].splitlines()))}}}", text))
