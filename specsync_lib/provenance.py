"""What a run ran on: the facts that every measurement carries."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from specsync_lib.paths import PROJECT_ROOT

if TYPE_CHECKING:
    import pandas as pd
    import torch

REPORTED_PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "openai-whisper",
    "transformers",
    "diffusers",
    "av",
    "soxr",
    "pocketsphinx",
    "anny",
    "papermill",
    "ipywidgets",
)


def package_version(name: str) -> str:
    """Installed version of a distribution, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The project's short commit, "+changes" when tracked files differ from it, "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT_ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Processor cores this process may use (a container's share, not the host's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_models() -> list[str]:
    """Names of the visible CUDA devices; empty without one."""
    import torch  # seconds to import: only measurements ask for it

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def machine() -> dict[str, object]:
    """Machine, versions, commit and date, as every JSON under ``data/measurements`` carries them."""
    import psutil

    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpu_models(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in REPORTED_PACKAGES},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> "pd.DataFrame":
    """Columns ``what``, ``version``: the last table of every notebook and of the report."""
    import pandas as pd

    rows = [("python", platform.python_version())]
    rows += [(name, package_version(name)) for name in REPORTED_PACKAGES]
    rows += [("cpu", f"{cpu_model()} ({usable_cores()} cores usable)"), ("commit", commit())]
    return pd.DataFrame(rows, columns=["what", "version"])


def device_facts(device: "torch.device") -> dict[str, str]:
    """What a training ran on, in few words; :func:`machine` says more and needs more packages."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__, "python": sys.version.split()[0]}
