"""What a plan that is not the judge's costs on the face: the measured rows."""

import json
from pathlib import Path

import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.paths import MEASUREMENTS_DIR

PATH = MEASUREMENTS_DIR / "late_lips.json"


def table(path: Path = PATH) -> pd.DataFrame:
    """The measured rows.

    Raises
    ------
    InputError: the file is absent or damaged.
    """
    try:
        return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["rows"]).set_index("what")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: no lip errors ({error}); restore it or run workbench.measure.late_lips") from error
