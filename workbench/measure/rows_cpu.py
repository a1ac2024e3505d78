"""What rows cost on this machine: reading one at the start, the local path before and after them, a served judge.

    python -m workbench.measure.rows_cpu          writes data/measurements/rows_cpu.json (about four minutes when idle)
    python -m workbench.measure.rows_cpu --quick --out try.json      a dry run

*start*: a fresh Python that has what the door needed before imports the row layer and reads a row. *local*: this tree
and the one of ``--before``, each in a process of its own, run the same recording through the judge and through the
pipeline in turn. *served*: a verify of 12 frames by the tiny model in this process and behind each stub server
(`tests.toys.servers`, a process of its own), in turn; ``added_ms`` is what a served verify takes beyond the stub's own
model (``server_ms``: without a prefix cache, and vLLM's and OpenAI's ask for more of it).
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.measures.intervals import bootstrap_by_group
from specsync_lib.paths import CLIPS_DIR, MEASUREMENTS_DIR, PROJECT_ROOT, ROWS_DIR
from specsync_lib.provenance import commit, machine, usable_cores

PATH = MEASUREMENTS_DIR / "rows_cpu.json"
BEFORE = "5088759cdf"  # the last commit without rows
MOST_START_MS, MOST_ADDED_MS = 50.0, 10.0  # what was asked for
STARTS, ROUNDS, VERIFIES = 20, 8, 40
KINDS = ("sglang", "vllm", "openai")

START = """
import argparse, dataclasses, json, pathlib, sys, textwrap, time
import specsync_lib
began = time.perf_counter()
from specsync_lib import rows
imported = time.perf_counter()
rows.read(sys.argv[1])
print(1e3 * (imported - began), 1e3 * (time.perf_counter() - imported))
"""
# Both trees know these calls: one line is read, one recording runs, and its times are told.
LOCAL = """
import json, sys, time
import numpy as np, torch
from specsync_lib.judge.rules import VerifyOptions
from specsync_lib.judge.script import chunk_evidence
from specsync_lib.pipeline.models import load_models
from specsync_lib.pipeline.run import run_speculative
from specsync_lib.pipeline.sound import pieces
from specsync_lib.pipeline.stages import Policy
from specsync_lib.speech.audio import load_audio
torch.set_num_threads(int(sys.argv[1]))
models, chunks = load_models(decoder="wan"), int(sys.argv[3])
samples = load_audio(sys.argv[2]).samples[: 6400 * chunks]
rng = np.random.default_rng(0)
rows = rng.dirichlet(np.full(15, 0.1), 60).astype(np.float32)
evidence = chunk_evidence([], rng.integers(0, 10, 60).astype(np.int8), rows)
def verify():
    stream, took = models.reasoner.stream(), []
    for each in evidence:
        draft, began = np.zeros(12, int), time.perf_counter()
        stream.read(each)
        stream.score(draft)
        took.append(1e3 * (time.perf_counter() - began))
        stream.commit(draft)
    return took
def pipeline():
    stages = models.stages(options=VerifyOptions("exact-greedy"))
    policy = Policy(deadline_s=600.0, hold_before="last step")
    began = time.perf_counter()
    heard = pieces(samples, pace="fast", piece_ms=100)
    report = run_speculative(heard, stages, policy=policy, ahead=1, keep_commits=False)
    assert report.ended == "complete", report.error
    return 1e3 * (time.perf_counter() - began) / chunks
verify(), pipeline()
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps({"verify_ms": verify(), "chunk_ms": [pipeline()]}), flush=True)
"""
STUB = """
import sys, time
from tests.toys.servers import ToyServer, serving
class Timed(ToyServer):
    spent = 0.0
    def answer(self, path, body):
        if path == "/spent":
            return self.spent
        began = time.perf_counter()
        try:
            return super().answer(path, body)
        finally:
            self.spent += time.perf_counter() - began
with serving(Timed()) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def environment(root: Path) -> dict[str, str]:
    """Of a process that takes a tree's own code; stages that wait for each other do not spin."""
    return os.environ | {"PYTHONPATH": str(root), "GOMP_SPINCOUNT": "1000"}


def spread(seen: Sequence[float]) -> dict[str, float]:
    """Median, p95 and how many."""
    return {"median_ms": round(float(np.median(seen)), 3), "p95_ms": round(float(np.percentile(seen, 95)), 3),
            "n": len(seen)}  # fmt: skip


def start(count: int) -> dict:
    """Import and reading of a row, each time in a fresh Python that needs nothing installed."""
    found = {}
    for row in ("embedded", str(ROWS_DIR / "remote-judge.toml")):
        command = [sys.executable, "-P", "-S", "-c", START, row]
        runs = [subprocess.run(command, env=environment(PROJECT_ROOT), capture_output=True, text=True, check=True)
                for _ in range(count + 1)][1:]  # fmt: skip
        times = np.array([[float(word) for word in run.stdout.split()] for run in runs])
        found[Path(row).stem] = {"import": spread(times[:, 0]), "read": spread(times[:, 1]),
                                 "together": spread(times.sum(axis=1))}  # fmt: skip
    return found


class Fed:
    """A process that answers a line with a line; its last words where it does not."""

    def __init__(self, code: str, root: Path, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-P", "-c", code, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=root,
            env=environment(root),
        )  # fmt: skip

    def read(self) -> str:
        """The next line.

        Raises
        ------
        InputError : it has ended.
        """
        if line := self.process.stdout.readline():
            return line.strip()
        self.process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        raise InputError(f"a measured process ended: {words[-1] if words else self.process.returncode}")

    def ask(self) -> dict:
        """Its answer to a line."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.read())

    def __enter__(self) -> "Fed":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def tree_of(name: str, folder: Path) -> Path:
    """A commit's files in a folder.

    Raises
    ------
    InputError : git does not know it.
    """
    try:
        made = subprocess.run(["git", "-C", str(PROJECT_ROOT), "archive", name], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:  # no git at all, or no such commit
        raise InputError(
            f"--before {name}: git has no such commit here; give one without rows, or --before none"
        ) from error
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def local(before: str, tree: Path, rounds: int, chunks: int) -> dict:
    """This tree and the one before in turn; ``ratio`` is after over before with its interval by round."""
    arguments = (str(max(1, usable_cores())), str(CLIPS_DIR / "narrative.flac"), str(chunks))
    with ExitStack() as open_:
        trees = {"before": tree, "after": PROJECT_ROOT}
        fed = {name: open_.enter_context(Fed(LOCAL, tree, *arguments)) for name, tree in trees.items()}
        for one in fed.values():
            one.read()
        seen: dict[str, list[dict]] = {name: [] for name in fed}
        for number in tqdm(range(rounds), desc="before and after", unit="round"):
            for name in list(fed)[:: 1 if number % 2 else -1]:
                seen[name].append(fed[name].ask())
    found: dict = {"before": before, "after": commit(), "chunks": chunks}
    for what in ("verify_ms", "chunk_ms"):
        mean = {name: np.array([np.mean(one[what]) for one in answers]) for name, answers in seen.items()}
        pairs = np.column_stack([mean["after"], mean["before"]])
        ratio = bootstrap_by_group(pairs, np.arange(rounds), lambda sums, _: sums[..., 0] / sums[..., 1])
        found[what] = {name: spread(np.concatenate([one[what] for one in answers])) for name, answers in seen.items()}
        found[what]["ratio"] = [round(float(value), 4) for value in (ratio.value, ratio.low, ratio.high)]
    return found


def served(count: int) -> dict:
    """Verifies of the tiny model, here and behind each stub, in turn."""
    import httpx
    import torch

    from specsync_lib.judge.loading import load_judge
    from specsync_lib.rows import Judge
    from tests.toys.reasoner import byte_tokenizer, recording, tiny_reasoner

    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder, Fed(STUB, PROJECT_ROOT) as stub:
        byte_tokenizer().save_pretrained(folder)
        url = stub.read()
        for kind in KINDS:
            judge = load_judge(
                Judge(kind=kind, url=url, source=folder, adapter="none", weights="random", timeout_s=60.0)
            )
            streams = {"local": tiny_reasoner().stream(), "served": judge.stream()}
            times: dict[str, list[float]] = {name: [] for name in (*streams, "server")}
            for evidence in tqdm(recording(12 * (count + 2)), desc=kind, unit="verify"):
                for name, stream in streams.items():
                    spent = httpx.get(f"{url}/spent").json()
                    times[name].append(_took(lambda stream=stream, evidence=evidence: _verify(stream, evidence)))
                    if name == "served":
                        times["server"].append(1e3 * (httpx.get(f"{url}/spent").json() - spent))
            kept = {name: np.array(seen[2:]) for name, seen in times.items()}
            found[kind] = {f"{name}_ms": spread(seen) for name, seen in kept.items()}
            found[kind]["added_ms"] = spread(kept["served"] - kept["server"])
    return found


def _verify(stream, evidence) -> None:
    draft = np.zeros(len(evidence), int)
    stream.read(evidence)
    stream.score(draft)
    stream.commit(draft)


def _took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the file; exit code 1 where a bound is missed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = ["python", "-m", "workbench.measure.rows_cpu"]
    parser = argparse.ArgumentParser(prog=shlex.join(program), description=__doc__.split("\n")[0])
    parser.add_argument("--before", default=BEFORE, help="a commit to set the local path beside; none: leave it out")
    parser.add_argument("--quick", action="store_true", help="a few of each, to see it run")
    parser.add_argument("--out", type=Path, default=PATH, help="the JSON to write")
    options = parser.parse_args(arguments)
    starts, rounds, verifies, chunks = (2, 1, 4, 1) if options.quick else (STARTS, ROUNDS, VERIFIES, 3)
    try:
        with tempfile.TemporaryDirectory() as folder:
            tree = None if options.before == "none" else tree_of(options.before, Path(folder))
            content = {
                "label": "measured",
                "what": "a row at the start of a run; the local path before and after rows; a served judge",
                "command": shlex.join([*program, *arguments]),
                "start": start(starts),
                "served": {"label": "real-shape", "model": "two layers of width 32, random"} | served(verifies),
            }
            if tree is not None:
                content["local"] = local(options.before, tree, rounds, chunks)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    slowest = max(one["together"]["median_ms"] for one in content["start"].values())
    added = max(content["served"][kind]["added_ms"]["median_ms"] for kind in KINDS)
    content["bounds"] = {"start_ms": [slowest, MOST_START_MS], "added_ms": [added, MOST_ADDED_MS]}
    write_json(options.out, content | {"provenance": machine()})
    print(json.dumps(content["bounds"]), json.dumps(content.get("local", {})))
    return int(slowest > MOST_START_MS or added > MOST_ADDED_MS)


if __name__ == "__main__":
    sys.exit(main())
