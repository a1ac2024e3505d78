"""Where a number comes from: this run on this machine, or a committed file that another machine made."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from specsync_lib.paths import PROJECT_ROOT

COMMITTED = ("measurements", "models")  # folders of data/ that no run writes


@dataclass(frozen=True, order=True)
class Origin:
    """Machine and date of a measurement that was not this run, in words."""

    machine: str
    date: str

    def __str__(self) -> str:
        return f"on {self.date}, on {self.machine}"


@cache
def origin(source: str) -> Origin | None:
    """Machine and date of a number's source, as the file tells them; None: this run made it.

    ``source`` is a path relative to the project, as the summary holds it; in a folder of data/measurements lies what
    was measured of a row of that name.
    """
    parts = PurePosixPath(source).parts
    if len(parts) < 3 or parts[0] != "data" or parts[1] not in COMMITTED:
        return None
    facts = _facts(source)
    gpus = [facts["gpu"]] if "gpu" in facts else facts.get("gpus", [])
    count = facts.get("cores")
    cores = f" ({count} core{'s' * (count != 1)})" if count else ""
    processor = f"{facts['cpu']}{cores}" if "cpu" in facts else "a machine that the file does not name"
    day = facts["date"][: len("2026-01-31")] if "date" in facts else "a day that the file does not name"
    own = ", of this row" if parts[1] == "measurements" and len(parts) > len(("data", "measurements", "file")) else ""
    return Origin((", ".join(gpus) or processor) + own, day)


def _facts(source: str) -> dict[str, Any]:
    """What a committed file says of the machine that made it; nothing where it is no JSON."""
    path = PROJECT_ROOT / source
    if path.suffix != ".json" or not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content.get("provenance") or content.get("machine") or {}
