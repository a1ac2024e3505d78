"""Check everything on a GPU, then measure: ``python -m kernels.bench_all --out DIR [--quick] [--commit SHA]``.

Writes kernel_project_latents_<gpu>.json, kernel_verify_prefix_<gpu>.json, checks.json and the tests' log to DIR. The
tests, compute-sanitizer's memcheck and its racecheck run at the same time; nothing is timed before the tests are green.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch

from kernels import timing
from kernels.project_latents import bench_project_latents
from kernels.verify_prefix import bench_verify_prefix

STARTED = time.monotonic()


def log(line: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {line}", flush=True)


def start(command: list[str], logfile: Path) -> subprocess.Popen:
    with logfile.open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def check_all(out: Path, seconds: float) -> dict[str, dict]:
    """All tests that use the GPU, compiled, and a small run under the memory and race checkers."""
    # The ahead-of-time proof needs no GPU, and it speaks of the compiler that the project locks, not of this machine's.
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "kernels", "--ignore", "kernels/test_aot.py"]
    workers = ["-n", "10"] if find_spec("xdist") else []
    commands = {"tests": [*pytest, *workers]}
    sanitizer = which("compute-sanitizer")
    for tool in ("memcheck", "racecheck") if sanitizer else ():
        commands[tool] = [sanitizer, "--tool", tool, "--error-exitcode", "9", *pytest, "-k", "small_run"]
    logs = Path(tempfile.mkdtemp())
    running = {name: start(command, logs / f"{name}.log") for name, command in commands.items()}
    outcome: dict[str, dict] = {}
    if not sanitizer:
        outcome["sanitizer"] = {"green": None, "last_line": "compute-sanitizer is not installed"}
    for name, process in running.items():
        try:
            code = process.wait(timeout=max(1.0, seconds - (time.monotonic() - STARTED)))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too: what hangs must not be timed beside
            process.wait()
            code = None
        lines = [line for line in (logs / f"{name}.log").read_text(errors="replace").splitlines() if line.strip()]
        outcome[name] = {
            "green": code == 0,
            "exit_code": code,
            "last_line": lines[-1] if lines else "",
            "command": commands[name],
        }
        log(f"{name}: {'green' if code == 0 else f'RED ({code})'}: {outcome[name]['last_line']}")
        if code != 0:
            print("\n".join(lines[-40:]), flush=True)
        with (out / "checks.log").open("a") as everything:
            everything.write("\n".join([f"== {name}", *lines[-400:], ""]))
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files and logs")
    parser.add_argument("--quick", action="store_true", help="the headline shape only")
    parser.add_argument("--commit", default="unknown", help="commit of the measured tree, where git is missing")
    parser.add_argument("--compile-seconds", type=float, default=90, help="budget for torch.compile's autotuning")
    parser.add_argument("--check-seconds", type=float, default=200, help="budget for the checks")
    parser.add_argument("--seconds", type=float, default=400, help="no new shape is begun after this")
    parser.add_argument("--kernel", choices=("verify_prefix", "project_latents"), help="measure this one only")
    parser.add_argument("--skip-checks", action="store_true", help="measure only; the JSON says so")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():
        parser.error("no CUDA device: the measurements need one")
    checks = {} if options.skip_checks else check_all(options.out, options.check_seconds)
    (options.out / "checks.json").write_text(json.dumps(checks, indent=1))
    if checks and not checks["tests"]["green"]:
        log("the tests are red: nothing is measured")
        return 1
    log("all match, starting benchmarks" if checks else "unchecked, starting benchmarks")
    gpu = torch.cuda.get_device_name().split()[-1].lower()
    provenance = timing.provenance(options.commit)
    seconds_left = lambda: options.seconds - (time.monotonic() - STARTED)  # noqa: E731
    failed = False
    for name, job, share in (
        ("verify_prefix", bench_verify_prefix, 0.2),
        ("project_latents", bench_project_latents, 0.8),
    ):
        if options.kernel not in (None, name):
            continue
        result: dict = {"provenance": provenance | {"label": job.LABEL}, "checks": checks}
        path = options.out / f"kernel_{name}_{gpu}.json"
        save = lambda path=path, result=result: path.write_text(json.dumps(result, indent=1))  # noqa: E731
        try:
            job.run(
                result,
                quick=options.quick,
                compile_budget_s=share * options.compile_seconds,
                seconds_left=seconds_left,
                log=log,
                save=save,
            )
        except Exception as error:  # what was measured before it is kept, and says that it is not all
            failed = True
            result["failed"] = repr(error)
            traceback.print_exc()
        save()
        log(f"wrote {path.name}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
