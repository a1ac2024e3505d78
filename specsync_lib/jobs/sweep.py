"""A row over a whole corpus: every recording is heard, drafted and judged, without video; one result a recording.

    ./run_all.sh sweep --corpus corpus.jsonl --row my.toml --out results [--shard 2/8] [--ray local]

A result is written whole under its recording's id, with a key of all that it follows from: what is there with its key
is not made again, so that a sweep which was stopped, at whatever moment, goes on when it is started again, and shards
on many machines may share a folder (``sweep.slurm`` beside this file is such an array job). Models are loaded once a
worker; with a judge behind a server, as many recordings are under way as the row allows requests. A recording that can
not be read has a result that says so; one for which the judge gave no verdict has none, and the next start tries it
again.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from specsync_lib import rows
from specsync_lib.devices import resolve
from specsync_lib.errors import InputError
from specsync_lib.files import require_place, write_json
from specsync_lib.jobs.arguments import Asked, parse
from specsync_lib.jobs.ending import ended
from specsync_lib.jobs.result import NO_VERDICT, RESULTS, RULE, NoVerdict, finished, result_key, result_path
from specsync_lib.jobs.spread import Results, in_threads, over_ray
from specsync_lib.pipeline.models import load_listeners
from specsync_lib.speech.manifest import Utterance

SWEEP_FILE = "sweep.json"
SILENT_IN_A_ROW = 5  # recordings without a verdict: then the judge is gone


def sweep(asked: Asked, device: str) -> tuple[int, int]:
    """Make the results that are missing; how many there are now, and how many recordings have none.

    Raises
    ------
    InputError : the folder can not be one, or holds another row's sweep; the judge gave several recordings in a row no
        verdict.
    """
    out, row = asked.options.out, asked.row
    digests = {key: digest for key, digest in row.digests().items() if key != "corpus"}  # a line's own is in its key
    about = {"row": row.text(), "digests": digests, "rule": RULE}
    _check_claim(out, about)
    recordings = [replace(one, language=row.language) if one.language == "auto" else one for one in asked.recordings]
    keys = {one.id: result_key(one, row, digests) for one in recordings}
    missing = [one for one in recordings if not finished(result_path(out, one.id), keys[one.id])]
    done = len(recordings) - len(missing)
    if not missing:
        if done and not (out / SWEEP_FILE).exists():
            write_json(out / SWEEP_FILE, about)  # it was lost, and collect reads it
        return done, 0
    for folder in (out / RESULTS, out):
        require_place(folder, "--out")
    made, silent, in_a_row, sound_s, began = 0, 0, 0, 0.0, time.monotonic()
    with tqdm(total=len(recordings), initial=done, desc="sweep", unit="recording") as bar:
        for one, result in _results(missing, asked, device):
            bar.update()
            if isinstance(result, NoVerdict):
                silent, in_a_row = silent + 1, in_a_row + 1
                tqdm.write(f"specsync: {result}", file=sys.stderr)
                if in_a_row == SILENT_IN_A_ROW:
                    raise InputError(f"{NO_VERDICT} on {in_a_row} recordings in a row; is it still there?")
            else:
                if not made:
                    write_json(out / SWEEP_FILE, about)  # a row whose models do not load claims no folder
                made, in_a_row, sound_s = made + 1, 0, sound_s + result.get("seconds", 0.0)
                write_json(result_path(out, one.id), {"key": keys[one.id]} | result)
    wall_s = time.monotonic() - began
    rates = f"{made / wall_s:.2f} recordings, {sound_s / wall_s:.2f} s of sound a second"
    print(f"{made} results in {wall_s:.0f} s, loading included: {rates}")
    return done + made, silent


def _results(missing: Sequence[Utterance], asked: Asked, device: str) -> Results:
    options, judge = asked.options, asked.row.judge
    if options.ray:
        return over_ray(missing, asked.row, options.ray, options.cpus_each, options.gpus_each)
    models = load_listeners(asked.row, device)
    return in_threads(missing, models, 1 if judge.kind == rows.LOCAL else judge.in_flight)


def _check_claim(out: Path, about: dict) -> None:
    """Refuse a folder that is a sweep of something else, and what can not become one."""
    path = out / SWEEP_FILE
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else about
    except (OSError, ValueError) as error:
        raise InputError(f"--out: {path} can not be read ({error}); give another folder") from error
    if before != about:
        raise InputError(f"--out: {out} holds a sweep of another row or corpus; give another folder")


def main(arguments: Sequence[str]) -> int:
    """Sweep, and end with 0 where every recording has a result."""

    def work() -> int:
        asked = parse("sweep", arguments)
        done, without = sweep(asked, resolve("auto"))
        left = f"; {without} without a verdict: run it again" if without else ""
        print(f"{done} of {len(asked.recordings)} recordings have their result in {asked.options.out}{left}")
        return 1 if without else 0

    return ended(work, "run it again to go on")
