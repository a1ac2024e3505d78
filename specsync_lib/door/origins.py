"""Where a number comes from: this run on this machine, or a committed file that another machine made."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from specsync_lib.paths import PROJECT_ROOT

DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}  # torch's words, which name no machine
COMMITTED = ("measurements", "models")  # folders of data/ that no run writes


@dataclass(frozen=True, order=True)
class Origin:
    """Machine and date of a measurement that was not this run, in words; empty where its file does not tell.

    ``own``: it was measured of a row of one's own.
    """

    machine: str
    date: str
    own: bool = False

    def __str__(self) -> str:
        day = f"on {self.date}" if self.date else "measured earlier"
        return day + (f", on {self.machine}" if self.machine else "") + (", of this row" if self.own else "")


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
    processor = (
        f"{facts['cpu']}{cores}" if "cpu" in facts else DEVICES.get(facts.get("device"), facts.get("device", ""))
    )
    own = parts[1] == "measurements" and len(parts) > len(("data", "measurements", "file"))
    return Origin(", ".join(gpus) or processor, facts.get("date", "")[: len("2026-01-31")], own)


def _facts(source: str) -> dict[str, Any]:
    """What a committed file says of the day and the machine that made it, wherever in it; nothing where it is no JSON.

    Measurements say it under ``provenance`` or ``machine``, models' metrics also at their top and under ``device``,
    ``claim.json``, which was made in two steps, under ``provenance.read``.
    """
    path = PROJECT_ROOT / source
    if path.suffix != ".json" or not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    made = content.get("provenance") or {}
    found = {key: content[key] for key in ("date", "device", "gpu") if isinstance(content.get(key), str)}
    for part in (content.get("device"), made.get("read"), content.get("machine"), made):
        found |= part if isinstance(part, dict) else {}
    return found
