"""A recording's result: heard, drafted and judged with a row's models, without video; and whether it is there."""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from specsync_lib import rows, units
from specsync_lib.errors import InputError
from specsync_lib.pipeline.models import Listeners
from specsync_lib.pipeline.replay import hear, replay
from specsync_lib.speech import alignment
from specsync_lib.speech.alignment import plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.level import at_level
from specsync_lib.speech.manifest import Utterance
from specsync_lib.speech.truth import REFEREE_LANGUAGES

FORMAT = 2  # of a result; a new one makes all again
RULE = "exact"
RESULTS = "results"
NO_VERDICT = "the judge gave no verdict"
ANY_LANGUAGE = "auto"  # nobody said which: the alignment tells whether the words are said


class NoVerdict(RuntimeError):
    """The judge failed on a recording."""


def result_path(out: Path, name: str) -> Path:
    """Where the result of a recording of that id lies: a name that any id gives, whatever letters it has."""
    return out / RESULTS / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


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
        "label": models.reasoner.label, "engine": models.reasoner.engine.about, "error": None,
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


def attempt(one: Utterance, models: Listeners) -> dict | NoVerdict:
    """`judge_one`, or what it raises where the judge is silent."""
    try:
        return judge_one(one, models)
    except NoVerdict as silence:
        return silence


def _drafts(heard: Sequence) -> list:
    return [chunk.draft for chunk in heard]


def _equal(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [int(a == b) for a, b in zip(one, other, strict=True)]


def _truth(one: Utterance, samples: np.ndarray) -> tuple[list[int] | None, str]:
    """Visemes by forced alignment of the given text, or why there are none."""
    if not one.text:
        return None, "nobody gave the words"
    if one.language not in (*REFEREE_LANGUAGES, ANY_LANGUAGE):
        return None, f"no referee for this language ({one.language})"
    try:
        aligned = alignment.truth(samples, one.text, given=True)
    except InputError as error:
        return None, str(error)
    if not aligned.phones or aligned.reason:
        return None, aligned.reason or "no phones"
    return plan_from_phones(aligned.phones, units.frame_count(len(samples))).visemes.tolist(), ""
