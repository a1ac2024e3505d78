"""Signals that come while a program has hardly begun."""

import subprocess
import sys


def interrupted_at_its_start(*module: str) -> subprocess.CompletedProcess:
    """``python -P -m`` module with its arguments, with a Ctrl-C held back since before it began, as run_all.sh does."""
    first = "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT});"
    first += "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT);"
    first += f"os.execv({sys.executable!r}, {[sys.executable, '-P', '-m', *module]!r})"
    return subprocess.run([sys.executable, "-c", first], capture_output=True, text=True, check=False, timeout=60)
