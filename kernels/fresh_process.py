"""A table from a module run in a process of its own: Triton decides at import whether it interprets or compiles."""

import json
import os
import subprocess
import sys

import pandas as pd


def table_from(module: str, what: str, *, interpret: bool) -> pd.DataFrame:
    """The JSON rows that ``python -m module`` prints, with Triton's interpreter on or off.

    Raises
    ------
    RuntimeError
        The process failed; names ``what`` and ends with its error output.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what} failed: {done.stderr.strip()[-2000:]}")
    return pd.DataFrame(json.loads(done.stdout))
