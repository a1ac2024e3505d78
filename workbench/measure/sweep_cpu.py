"""A sweep over a thousand short recordings on this machine's cores: how many a second, and how long in all.

    python -m workbench.measure.sweep_cpu --out data/measurements/sweep_cpu.json     about 13 minutes on two idle cores
    python -m workbench.measure.sweep_cpu --out try.json -p judge.dtype=int8         about half of that

The pinned prompts that align, and as many of them a second time as are lacking. ``--over shards``: a process a
core, each with its shard of one thread (what `sweep.slurm` does with a task); ``ray``: one sweep over Ray's workers
(the extra sweep). ``--killed N``: when N results are there all of it is killed and started again, and the time goes on.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.jobs.collect import collect, read_results, recordings_table
from specsync_lib.jobs.result import RESULTS
from specsync_lib.provenance import machine, usable_cores
from specsync_lib.speech.corpus import human_prompts

RECORDINGS, TOLD_EVERY_S = 1_000, 30.0
SWEEP = ("-P", "-m", "specsync_lib.jobs", "sweep")


def write_corpus(path: Path, count: int) -> None:
    """A manifest of so many prompts, each with its words; again from the first one where they do not suffice."""
    prompts = human_prompts()
    lines = [
        {"id": f"{number // len(prompts)}/{one.name}", "audio": str(one.path), "text": one.transcript, "language": "en"}
        for number, one in ((number, prompts[number % len(prompts)]) for number in range(count))
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def started(given: list[str], over: str, stack: ExitStack) -> list[subprocess.Popen]:
    """The processes of one sweep: a shard a core, or one that asks Ray."""
    shards = [["--ray", "local"]] if over == "ray" else [
        ["--shard", f"{number}/{usable_cores()}"] for number in range(1, usable_cores() + 1)
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [
        stack.enter_context(
            subprocess.Popen([sys.executable, *SWEEP, *given, *shard], env=environment, stdout=subprocess.DEVNULL)
        )
        for shard in shards
    ]


def run(given: list[str], out: Path, over: str, killed: int) -> tuple[float, int | None]:
    """The sweep to its end; how long that took in seconds, loading included, and how many results a kill found there.

    Raises
    ------
    InputError : it did not end well.
    """
    began = told = time.monotonic()
    killed_at = None
    with ExitStack() as stack:
        processes = started(given, over, stack)
        while any(process.poll() is None for process in processes):
            time.sleep(0.2)
            made = len(list((out / RESULTS).glob("[!.]*.json")))
            if killed and killed_at is None and made >= killed:
                for process in processes:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                processes, killed_at = started(given, over, stack), made
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                print(f"{made} results after {told - began:.0f} s", flush=True)
    if any(process.returncode for process in processes):
        raise InputError(f"the sweep ended with exit codes {[process.returncode for process in processes]}")
    return time.monotonic() - began, killed_at


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = ["python", "-m", "workbench.measure.sweep_cpu"]
    parser = argparse.ArgumentParser(prog=shlex.join(program), description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--recordings", type=int, default=RECORDINGS)
    parser.add_argument("--over", choices=("shards", "ray"), default="shards")
    parser.add_argument("--killed", type=int, default=0, help="kill it once, when so many results are there")
    parser.add_argument("-p", dest="single", metavar="part.key=value", action="append", default=[],
                        help="a single value of the row")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            corpus, out = Path(folder, "corpus.jsonl"), Path(folder, "out")
            write_corpus(corpus, options.recordings)
            given = ["--corpus", str(corpus), "--out", str(out)]
            given += [part for one in options.single for part in ("-p", one)]
            wall_s, killed_at = run(given, out, options.over, options.killed)
            _, found = read_results(out)
            collect(out)
            groups = pd.read_csv(out / "groups.csv").iloc[0]
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.EXIT_CODE
    table = recordings_table(found)
    content = {
        "label": "measured",
        "what": "recordings heard, drafted and judged without video, one result each",
        "command": shlex.join([*program, *arguments]),
        "row": ["embedded", *options.single],
        "over": f"{usable_cores()} processes of one thread" if options.over == "shards" else "Ray, a worker a core",
        "recordings": len(table),
        "unread": int((table["frames"] == 0).sum()),
        "sound_s": round(float(table["seconds"].sum()), 1),
        "chunks": int(table["chunks"].sum()),
        "passes": int(table["passes"].sum()),
        "stands": round(float(groups["stands"]), 4),
        "killed_at": killed_at,
        "wall_s": round(wall_s, 3),
        "recordings_a_second": round(len(table) / wall_s, 3),
        "sound_s_a_second": round(float(table["seconds"].sum()) / wall_s, 3),
        "recording_s": {f"p{share}": round(float(table["wall_s"].quantile(share / 100)), 3) for share in (50, 99)},
        "load_average": [round(one, 1) for one in os.getloadavg()],
        "machine": machine(),
    }
    write_json(options.out, content)
    print(f"{len(table)} results in {wall_s:.0f} s, loading included: {content['recordings_a_second']} a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
