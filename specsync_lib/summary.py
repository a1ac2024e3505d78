"""The machine-readable list of headline numbers.

Each notebook records its numbers into ``data/run/summary/<notebook>.json``; the report merges them into
``plots/report/summary.json`` as ``{key: {value, unit, label, low, high, n, source}}``. A notebook's file is removed
when it runs again, so that a number never outlives the run that measured it.
"""

import json
import math
import os
import re
from numbers import Integral, Real
from pathlib import Path

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.paths import RUN_DIR, display_path
from specsync_lib.rules_in_words import RULE_WORDS

LABELS = ("measured", "real-shape", "simulated", "claimed")
SUMMARY_DIR = RUN_DIR / "summary"
KEY_PATTERN = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
WORD_UNIT = "word"
# The keys whose value is a word, and what it may be: a rule of the pipeline; Whisper's code of a language, or none.
WORDS = {"run.rule": re.compile("|".join(RULE_WORDS)), "run.language": re.compile("[a-z]{2,3}|none")}
# The runner sets the first for each notebook it executes; Jupyter sets the second for a notebook opened by hand.
NOTEBOOK_VARIABLES = ("SPECSYNC_NOTEBOOK", "JPY_SESSION_NAME")


def current_notebook() -> str:
    """The running notebook's stem, or "interactive"."""
    for variable in NOTEBOOK_VARIABLES:
        if os.environ.get(variable):
            return Path(os.environ[variable]).stem
    return "interactive"


def _number(key: str, what: str, value: Real) -> int | float:
    """The value as a JSON number; arrays of one element and numpy scalars included."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"summary {key}: {what} must be one finite number, got {value!r}")
    return int(value) if isinstance(value, Integral) else float(value)


def _word(key: str, value: object, unit: str) -> str:
    """The value of a key that holds a word, if it is one of those that may stand there."""
    if not isinstance(value, str) or not WORDS[key].fullmatch(value) or unit != WORD_UNIT:
        raise InputError(f"summary {key}: expected a {WORD_UNIT} of {WORDS[key].pattern}, got {value!r} ({unit})")
    return value


def record(
    key: str,
    value: Real | str,
    unit: str,
    label: str,
    source: str | Path,
    low: Real | None = None,
    high: Real | None = None,
    n: int | None = None,
    *,
    notebook: str | None = None,
    directory: Path | None = None,
) -> dict[str, object]:
    """Add a headline number of the running notebook, or one of the WORDS; the same key again replaces it.

    Parameters
    ----------
    key: dotted lower-case name, e.g. ``draft.accuracy``.
    value: finite number in ``unit``; a word where WORDS has the key.
    unit: e.g. "ms", "fraction", "frames"; "ratio" for a pure number, "word" for a word.
    label: measured, real-shape, simulated or claimed.
    source: the file that holds the raw data; paths inside the project are stored relative to it.
    low, high: interval around the value, both or neither.
    n: number of observations behind the value.
    notebook: whose number it is; the running notebook by default.
    directory: where the run keeps its numbers; this run's by default.

    Raises
    ------
    InputError: a malformed key, an unknown label, an empty unit or source, a number that is not finite, another word.
    """
    if not KEY_PATTERN.fullmatch(key):
        raise InputError(f"summary key {key!r}: use dotted lower-case names such as draft.accuracy")
    if label not in LABELS:
        raise InputError(f"summary {key}: label {label!r} is not one of {', '.join(LABELS)}")
    if not unit.strip():
        raise InputError(f'summary {key}: the unit is empty; write "ratio" for a pure number')
    if not str(source).strip():
        raise InputError(f"summary {key}: name the file that holds the raw data as source")
    if (low is None) != (high is None):
        raise InputError(f"summary {key}: give both ends of the interval or neither")
    if low is not None and key in WORDS:
        raise InputError(f"summary {key}: a word has no interval")
    entry: dict[str, object] = {
        "value": _word(key, value, unit) if key in WORDS else _number(key, "the value", value),
        "unit": unit,
        "label": label,
        "low": None if low is None else _number(key, "low", low),
        "high": None if high is None else _number(key, "high", high),
        "n": None if n is None else _number(key, "n", n),
        "source": display_path(source),
    }
    if low is not None and entry["low"] > entry["high"]:
        raise InputError(f"summary {key}: low {entry['low']} is above high {entry['high']}")
    path = (directory or SUMMARY_DIR) / f"{notebook or current_notebook()}.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, entries | {key: entry})
    return entry


def merged(directory: Path | None = None) -> dict[str, dict[str, object]]:
    """All recorded numbers by key, sorted.

    Raises
    ------
    InputError: two notebooks recorded the same key.
    """
    entries: dict[str, dict[str, object]] = {}
    owners: dict[str, str] = {}
    for path in sorted((directory or SUMMARY_DIR).glob("*.json")):
        for key, entry in json.loads(path.read_text(encoding="utf-8")).items():
            if key in owners:
                raise InputError(f"summary {key}: recorded by {owners[key]} and by {path.stem}; one key has one owner")
            owners[key], entries[key] = path.stem, entry
    return dict(sorted(entries.items()))
