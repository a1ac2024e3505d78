"""A corpus of one's own: ``corpus.jsonl``, one recording a line, checked whole before anything runs.

    {"id": "anna/001", "audio": "wav/anna/001.flac", "speaker": "anna", "text": "please hold", "language": "en"}

``id`` and ``audio`` must be there; ``speaker``, ``language`` ("auto"), ``split`` ("test"), ``text`` and ``video`` may.
Paths are relative to the file's folder. A speaker is on one side of the split, so that a held-out speaker is unheard.
Standard library alone: the door reads it before anything is installed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from specsync_lib.errors import InputError
from specsync_lib.paths import expanded
from specsync_lib.values import LANGUAGES, did_you_mean, is_line, shown

SPLITS = ("train", "validation", "test")
LONGEST_ID = 200


@dataclass(frozen=True)
class Utterance:
    """One recording: audio (and video, where there is one) are there; text is empty where nobody gave it."""

    id: str
    audio: Path
    speaker: str = ""
    language: str = "auto"
    split: str = "test"
    text: str = ""
    video: Path | None = None


KEYS = tuple(one.name for one in fields(Utterance))


def read_manifest(path: str | Path) -> list[Utterance]:
    """The recordings of a manifest, ordered by id.

    Raises
    ------
    InputError : one line with the file and the line in it: no such file, no JSON, an unknown key, a key that is
        missing, empty or of another type, an id given twice, a file that is not there, a speaker on two sides of the
        split.
    """
    path = expanded(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"corpus {path.name}: is not text in UTF-8; save it as such") from error
    except (OSError, ValueError) as error:
        raise InputError(f"corpus {shown(str(path))}: cannot be read; give a corpus.jsonl") from error
    found = list(_utterances(path, text))
    if not found:
        raise InputError(f"corpus {path.name}: holds no recording; write one a line")
    sides: dict[str, str] = {}
    for one in found:
        if one.speaker and sides.setdefault(one.speaker, one.split) != one.split:
            raise InputError(
                f"corpus {path.name}: speaker {shown(one.speaker)} is in {sides[one.speaker]} and in {one.split}; "
                "split by speaker"
            )
    return sorted(found, key=lambda one: one.id)


def _utterances(path: Path, text: str) -> Iterator[Utterance]:
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            where = f"corpus {path.name}, line {number}"
            one = _utterance(where, path.absolute().parent, line)
            if one.id in seen:
                raise InputError(f"{where}: id {shown(one.id)} is already in line {seen[one.id]}")
            seen[one.id] = number
            yield one


def _utterance(where: str, folder: Path, line: str) -> Utterance:
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is no JSON ({shown(str(error))})") from error
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected an object with id and audio")
    for key, value in given.items():
        if key not in KEYS:
            raise InputError(f"{where}: key {shown(key)} is unknown; {did_you_mean(key, KEYS)}known: {', '.join(KEYS)}")
        if not isinstance(value, str) or not is_line(value):
            raise InputError(f"{where}: {key}: got {shown(value)}; expected text on one line")
    for key in ("id", "audio"):
        if key not in given:
            raise InputError(f"{where}: has no {key}")
    if len(given["id"]) > LONGEST_ID:
        raise InputError(f"{where}: an id of {len(given['id'])} characters; give one of up to {LONGEST_ID}")
    for key, allowed in (("language", LANGUAGES), ("split", SPLITS)):
        if given.get(key, allowed[0]) not in allowed:
            near = did_you_mean(given[key], allowed)
            raise InputError(f"{where}: {key}: got {shown(given[key])}; {near}allowed: {', '.join(allowed[:5])} ...")
    for key in {"audio", "video"} & given.keys():
        given[key] = folder / given[key]
        if not given[key].is_file():
            raise InputError(f"{where}: {key}: {given[key]} is not there")
    return Utterance(**given)
