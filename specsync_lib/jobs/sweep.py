"""A row over a whole corpus: every recording is heard, drafted and judged, without video; one result a recording.

    ./run_all.sh sweep --corpus corpus.jsonl --row my.toml --out results [--shard 2/8]

A result is written whole under its recording's id, with a key of all that it follows from: what is there with its key
is not made again, so that a sweep which was stopped, at whatever moment, goes on when it is started again, and shards
on many machines may share a folder. Models are loaded once; with a judge behind a server, as many recordings are under
way as the row allows requests. A recording that can not be read has a result that says so; one for which the judge
gave no verdict has none, and the next start tries it again.
"""

import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from specsync_lib import rows, streams, units
from specsync_lib.devices import resolve
from specsync_lib.errors import InputError
from specsync_lib.files import write_json
from specsync_lib.jobs.arguments import Asked, parse
from specsync_lib.pipeline.models import Listeners, load_listeners
from specsync_lib.pipeline.replay import hear, replay
from specsync_lib.speech import alignment
from specsync_lib.speech.alignment import plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.level import at_level
from specsync_lib.speech.manifest import Utterance
from specsync_lib.speech.truth import REFEREE_LANGUAGES

FORMAT = 1  # of a result; a new one makes all again
RULE = "exact"
SWEEP_FILE, RESULTS = "sweep.json", "results"
SILENT_IN_A_ROW = 5  # recordings without a verdict: then the judge is gone
NO_VERDICT = "the judge gave no verdict"


class NoVerdict(RuntimeError):
    """The judge failed on a recording."""


def result_path(out: Path, one: Utterance) -> Path:
    """Where a recording's result lies: a name that any id gives, whatever letters it has."""
    return out / RESULTS / f"{hashlib.sha256(one.id.encode()).hexdigest()[:32]}.json"


def result_key(one: Utterance, row: rows.Row, digests: dict[str, str]) -> str:
    """A digest of all that a result follows from: the recording and its line, the row with its files, the format."""
    with one.audio.open("rb") as handle:
        audio = hashlib.file_digest(handle, "sha256").hexdigest()
    facts = {**vars(one), "audio": audio, "video": None}
    content = [FORMAT, RULE, facts, row.text(), digests]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def finished(path: Path, key: str) -> bool:
    """Whether a result is there and of this key."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False


def judge_one(one: Utterance, models: Listeners) -> dict:
    """A recording's result but for its key: frames by frame, draft, judge and, where there is one, truth.

    Raises
    ------
    NoVerdict : the judge failed on some chunk.
    """
    began = time.perf_counter()
    facts = {
        "id": one.id, "speaker": one.speaker, "language": one.language, "split": one.split, "audio": str(one.audio),
        "label": models.reasoner.label, "error": None,
    }  # fmt: skip
    try:
        samples = at_level(load_audio(one.audio).samples)
        if not units.frame_count(len(samples)):
            raise InputError(f"{one.audio.name}: shorter than half a video frame")
    except InputError as error:
        return facts | {"error": str(error), "frames": 0}
    heard = hear(models, samples)
    judged = replay(models.reasoner, heard, {RULE: (RULE, None)})[RULE]
    if silent := sum("policy" in chunk.by for chunk in judged):
        raise NoVerdict(f"{one.id}: {NO_VERDICT} on {silent} of {len(judged)} chunks")
    drafted, committed = ([token for chunk in chunks for token in chunk.tokens] for chunks in (_drafts(heard), judged))
    truth, absent = _truth(one, samples)
    confidence = np.concatenate([chunk.draft.confidence for chunk in heard])
    return facts | {
        "seconds": round(len(samples) / units.SAMPLE_RATE_HZ, 3),
        "frames": len(committed),
        "chunks": len(judged),
        "passes": sum(chunk.passes for chunk in judged),
        "confidence": [round(float(value), 4) for value in confidence],
        "stands": _equal(drafted, committed),
        "draft_right": None if truth is None else _equal(drafted, truth),
        "judge_right": None if truth is None else _equal(committed, truth),
        "why_no_truth": absent,
        "wall_s": round(time.perf_counter() - began, 3),
    }


def _drafts(heard: Sequence) -> list:
    return [chunk.draft for chunk in heard]


def _equal(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [int(a == b) for a, b in zip(one, other, strict=True)]


def _truth(one: Utterance, samples: np.ndarray) -> tuple[list[int] | None, str]:
    """Visemes by forced alignment of the given text, or why there are none."""
    if not one.text:
        return None, "nobody gave the words"
    if one.language not in REFEREE_LANGUAGES:
        return None, f"no referee for this language ({one.language})"
    try:
        aligned = alignment.truth(samples, one.text, given=True)
    except InputError as error:
        return None, str(error)
    if not aligned.phones or aligned.reason:
        return None, aligned.reason or "no phones"
    return plan_from_phones(aligned.phones, units.frame_count(len(samples))).visemes.tolist(), ""


def sweep(asked: Asked, device: str) -> tuple[int, int]:
    """Make the results that are missing; how many there are now, and how many recordings have none.

    Raises
    ------
    InputError : the folder holds another row's sweep; the judge gave several recordings in a row no verdict.
    """
    out, row = Path(asked.options.out), asked.row
    digests = {key: digest for key, digest in row.digests().items() if key != "corpus"}  # a line's own is in its key
    about = {"row": row.text(), "digests": digests, "rule": RULE}
    _claim(out, about)
    keys = {one.id: result_key(one, row, digests) for one in asked.recordings}
    missing = [one for one in asked.recordings if not finished(result_path(out, one), keys[one.id])]
    done = len(asked.recordings) - len(missing)
    if not missing:
        return done, 0
    models = load_listeners(row, device)
    workers = 1 if row.judge.kind == rows.LOCAL else row.judge.in_flight
    silent, in_a_row, began = 0, 0, time.monotonic()
    with tqdm(total=len(asked.recordings), initial=done, desc="sweep", unit="recording") as bar:
        for one, result in _results(missing, models, workers):
            bar.update()
            if isinstance(result, NoVerdict):
                silent, in_a_row = silent + 1, in_a_row + 1
                tqdm.write(f"specsync: {result}", file=sys.stderr)
                if in_a_row == SILENT_IN_A_ROW:
                    raise InputError(f"{NO_VERDICT} on {in_a_row} recordings in a row; is it still there?")
            else:
                in_a_row = 0
                write_json(result_path(out, one), {"key": keys[one.id]} | result)
    made = len(missing) - silent
    print(f"{made} results in {time.monotonic() - began:.0f} s")
    return done + made, silent


def _results(
    missing: Sequence[Utterance], models: Listeners, workers: int
) -> Iterator[tuple[Utterance, dict | NoVerdict]]:
    """Results as they are ready, so many recordings at a time; what is under way when the reader ends is let go."""
    waiting, under_way = list(reversed(missing)), {}

    def attempt(one: Utterance) -> dict | NoVerdict:
        try:
            return judge_one(one, models)
        except NoVerdict as silence:
            return silence

    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < workers:
                    one = waiting.pop()
                    under_way[pool.submit(attempt, one)] = one
                ready: set[Future] = wait(under_way, return_when=FIRST_COMPLETED).done
                yield from ((under_way.pop(future), future.result()) for future in ready)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _claim(out: Path, about: dict) -> None:
    """Write what the folder is a sweep of; refuse one of something else."""
    path = out / SWEEP_FILE
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else about
    except (OSError, ValueError) as error:
        raise InputError(f"--out: {path} can not be read ({error}); give another folder") from error
    if before != about:
        raise InputError(f"--out: {out} holds a sweep of another row or corpus; give another folder")
    write_json(path, about)


def main(arguments: Sequence[str]) -> int:
    """Sweep, and end with 0 where every recording has a result."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asked = parse("sweep", arguments)
        done, without = sweep(asked, resolve("auto"))
    except InputError as error:
        print(f"specsync: {error}", file=sys.stderr)
        return InputError.EXIT_CODE
    except OSError as error:
        print(f"specsync: {error}; is the disk full or the folder read-only?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nspecsync: interrupted; run it again to go on", file=sys.stderr)
        return 130
    left = f"; {without} without a verdict: run it again" if without else ""
    print(f"{done} of {len(asked.recordings)} recordings have their result in {asked.options.out}{left}")
    return 1 if without else 0


if __name__ == "__main__":
    streams.settle()
    sys.exit(main(sys.argv[1:]))
