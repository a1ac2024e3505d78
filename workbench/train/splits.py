"""The corpus' splits: near duplicates stay together, shares by aligned frames.

``python -m workbench.train.splits --write-splits`` aligns the whole corpus and writes ``data/splits.json`` again.
``--corpus corpus.jsonl --out split.jsonl`` gives the recordings of a manifest their sides, whole speakers to each
(without speakers whole groups of near duplicates), and leaves out of training what nearly says what is held out.

Not every pair is compared: candidates share a run of SHARED_WORDS words, or their letters agree in MinHash (Broder
1997; datasketch's LSH), and `near_duplicates` decides.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import lru_cache
from pathlib import Path

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet
from tqdm.auto import tqdm

from specsync_lib.assets import asset
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.paths import SPLITS_FILE
from specsync_lib.speech.corpus import CORPUS_ASSET, SPLITS, Prompt, Split, aligned, read_splits, transcripts
from specsync_lib.speech.manifest import Utterance, read_manifest
from specsync_lib.speech.words import normalise_text
from specsync_lib.units import VIDEO_FPS

SPLIT_SHARES: dict[Split, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}  # of the aligned frames
# Isolated words and letter names: whole families, all for training, so that held-out frames are connected speech.
ISOLATED_WORD_FAMILIES = ("digits", "letters", "phonetic")
SIMILAR_CHARACTERS = 0.75  # edit similarity of two transcripts from which they count as near-duplicates
SIMILAR_WORDS = 0.6  # the same over words, for transcripts of at least SHARED_WORDS
SHARED_WORDS = 4  # a run of words that makes two transcripts near-duplicates when it is half of the shorter one
RUN_OF_LETTERS = 2
BANDS = (64, 2)  # bands and rows of the LSH: at a Jaccard similarity of 0.3 of letters' runs, 99.8 % are candidates


def near_duplicates(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two transcripts, as spoken words, say nearly the same.

    They do when they are equal, when their letters or (from ``SHARED_WORDS`` words on) their words match to the
    thresholds above, or when a run of ``SHARED_WORDS`` words or more, at least half of the shorter one, is in both.
    """
    if list(one) == list(other):
        return True
    letters = SequenceMatcher(None, " ".join(one), " ".join(other), autojunk=False)
    if letters.real_quick_ratio() >= SIMILAR_CHARACTERS and letters.ratio() >= SIMILAR_CHARACTERS:
        return True
    shorter = min(len(one), len(other))
    if shorter < SHARED_WORDS:
        return False
    words = SequenceMatcher(None, one, other, autojunk=False)
    shared = words.find_longest_match().size
    return words.ratio() >= SIMILAR_WORDS or (shared >= SHARED_WORDS and 2 * shared >= shorter)


class Spoken:
    """Texts, as spoken words, that can be asked for near duplicates without looking at each."""

    def __init__(self, texts: Iterable[Sequence[str]] = ()) -> None:
        from datasketch import MinHashLSH

        self._texts: list[tuple[str, ...]] = []
        self._exact: dict[tuple[str, ...], int] = {}
        self._runs: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._letters = MinHashLSH(params=BANDS, num_perm=BANDS[0] * BANDS[1])
        for text in texts:
            self.add(text)

    def add(self, text: Sequence[str]) -> None:
        """Another text; one that is there already is not kept twice."""
        text = tuple(text)
        if text in self._exact:
            return
        number = self._exact[text] = len(self._texts)
        self._texts.append(text)
        for run in _runs(text):
            self._runs[run].append(number)
        self._letters.insert(number, _minhash(text))

    def near(self, text: Sequence[str]) -> list[tuple[str, ...]]:
        """Those that say nearly the same, in the order in which they came."""
        text = tuple(text)
        found = {number for run in _runs(text) for number in self._runs.get(run, ())}
        found |= set(self._letters.query(_minhash(text)))
        return [self._texts[number] for number in sorted(found) if near_duplicates(text, self._texts[number])]


def _runs(text: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {text[first : first + SHARED_WORDS] for first in range(len(text) - SHARED_WORDS + 1)}


@lru_cache(maxsize=2**16)
def _minhash(text: tuple[str, ...]):
    """Of the runs of letters: what an edit similarity of letters or words leaves alike."""
    from datasketch import MinHash

    letters = f" {' '.join(text)} "
    sketch = MinHash(num_perm=BANDS[0] * BANDS[1])
    sketch.update_batch({letters[first : first + RUN_OF_LETTERS].encode() for first in range(len(letters) - 1)})
    return sketch


def near_duplicate_groups(transcripts: dict[str, str]) -> list[list[str]]:
    """Prompt names in groups that must stay on one side: near-duplicates, and families of isolated words, chained."""
    spoken = {name: _spoken(text) for name, text in sorted(transcripts.items())}
    chain, told = DisjointSet(spoken), Spoken()
    first = {}  # of each text, and of each family of isolated words
    for name, words in spoken.items():
        for other in told.near(words):
            chain.merge(name, first[other])
        told.add(words)
        for key in (words, _family(name)):
            if key:
                chain.merge(name, first.setdefault(key, name))
    return sorted(sorted(members) for members in chain.subsets())


def _spoken(text: str) -> tuple[str, ...]:
    """A text's words as they are spoken, in English; in another language as they are written."""
    try:
        return tuple(normalise_text(text))
    except InputError:
        return tuple(text.casefold().split())


def _family(name: str) -> str:
    family = name.partition("/")[0]
    return family if family in ISOLATED_WORD_FAMILIES and family != name else ""


def assign_splits(
    groups: Iterable[Sequence[str]], frames: dict[str, int], families: Sequence[str] = ISOLATED_WORD_FAMILIES
) -> dict[str, Split]:
    """A side for every prompt: groups in the order of their first name's sha256, each to the side that lacks most.

    The lack of a side is measured against its share of all frames, so that sides fill evenly. A group that holds a
    family of isolated words, or more frames than the whole test side should, goes to training.
    """
    total = sum(frames.values())
    filled: Counter[Split] = Counter()
    sides: dict[str, Split] = {}
    for members in sorted(groups, key=lambda names: hashlib.sha256(names[0].encode()).digest()):
        size = sum(frames[name] for name in members)
        isolated = any(name.partition("/")[0] in families for name in members)
        if isolated or size > SPLIT_SHARES["test"] * total:
            side = "train"
        else:
            side = min(SPLIT_SHARES, key=lambda side: (filled[side] + size) / (SPLIT_SHARES[side] * total))
        filled[side] += size
        sides.update(dict.fromkeys(members, side))
    return sides


def write_splits(path: Path = SPLITS_FILE) -> dict:
    """Align the whole corpus, split what aligns, and write names, sides and frame counts; returns what was written."""
    folder = asset(CORPUS_ASSET)
    said = transcripts(folder)
    frames: dict[str, int] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for name, transcript in tqdm(sorted(said.items()), desc="aligning", unit="prompt"):
        if not normalise_text(transcript):
            left_out["no speech"].append(name)
            continue
        try:
            frames[name] = len(aligned(Prompt(name, transcript, folder / f"{name}.g722", "train")))
        except InputError:
            left_out["transcript does not align"].append(name)
    sides = assign_splits(near_duplicate_groups({name: said[name] for name in frames}), frames)
    table = {
        "corpus": CORPUS_ASSET,
        "rule": "workbench/train/splits.py: near_duplicates, assign_splits",
        "left_out": dict(left_out),
        "prompts": {name: {"split": sides[name], "frames": frames[name]} for name in sorted(frames)},
    }
    write_text(path, json.dumps(table, indent=1) + "\n")
    return table


def split_manifest(path: Path, out: Path, keep_near: bool = False) -> pd.DataFrame:
    """A manifest with a side for every recording: whole speakers, else whole groups of near duplicates, shares by bytes
    of sound; returns what it holds, a row a recording.

    Parameters
    ----------
    keep_near : keep what says in training nearly what a held-out recording says, where speakers are split.

    Raises
    ------
    InputError : the manifest is broken, names speakers of some recordings alone, has fewer than three groups, or would
        lose most of its training.
    """
    recordings = read_manifest(path)
    size = {one.id: one.audio.stat().st_size for one in recordings}
    named = [one for one in recordings if one.speaker]
    if named and len(named) != len(recordings):
        raise InputError(
            f"corpus {path.name}: {len(recordings) - len(named)} recordings have no speaker; name all or none"
        )
    if named:
        people = defaultdict(list)
        for one in recordings:
            people[one.speaker].append(one.id)
        groups = list(people.values())
    else:
        groups = near_duplicate_groups({one.id: one.text for one in recordings if one.text})
        groups += [[one.id] for one in recordings if not one.text]
    if len(groups) < len(SPLITS):
        what = "speakers" if named else "groups of unlike texts"
        raise InputError(f"corpus {path.name}: {len(groups)} {what}; three sides need three at least")
    # The two smallest groups are held out: where there are few, no side stays empty.
    first, second, *others = sorted(groups, key=lambda members: (sum(size[name] for name in members), members))
    held = dict.fromkeys(first, "validation") | dict.fromkeys(second, "test")
    sides = assign_splits(others, size, families=()) | held
    spoken = {one.id: _spoken(one.text) for one in recordings if one.text}
    held_out = Spoken(spoken[name] for name, side in sides.items() if side != "train" and name in spoken)
    near = {name for name, side in sides.items() if side == "train" and name in spoken and held_out.near(spoken[name])}
    trained = [name for name, side in sides.items() if side == "train"]
    if not keep_near and 2 * len(near) > len(trained):
        raise InputError(
            f"corpus {path.name}: {len(near)} of {len(trained)} training recordings say nearly what held-out ones say; "
            "--keep-near keeps them"
        )
    kept = [one for one in recordings if keep_near or one.id not in near]
    write_text(out, "".join(_line(replace(one, split=sides[one.id]), out.absolute().parent) for one in kept))
    return pd.DataFrame([{"split": sides[one.id], "speaker": one.speaker, "near": one.id in near, "bytes": size[one.id]}
                         for one in recordings])  # fmt: skip


def _line(one: Utterance, folder: Path) -> str:
    facts = {name: value for name, value in vars(one).items() if value}
    for key in facts.keys() & {"audio", "video"}:
        facts[key] = os.path.relpath(facts[key], folder)
    return json.dumps(facts, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the splits' sizes; with ``--write-splits`` or ``--corpus`` make them first."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.splits", description=main.__doc__)
    parser.add_argument("--write-splits", action="store_true", help="align the corpus and write data/splits.json")
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="give the recordings of this manifest their sides")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the manifest to write")
    parser.add_argument("--keep-near", action="store_true", help="keep in training what nearly says what is held out")
    options = parser.parse_args(arguments)
    try:
        if options.corpus:
            if options.out is None:
                raise InputError("--corpus: give --out, the manifest to write")
            found = split_manifest(options.corpus, options.out, options.keep_near)
            sizes = found.groupby("split").agg(recordings=("near", "size"), speakers=("speaker", "nunique"),
                                               near_held_out=("near", "sum"), mib=("bytes", "sum"))  # fmt: skip
            print(sizes.assign(mib=(sizes["mib"] / 2**20).round(1)).to_string())
            return 0
        table = write_splits() if options.write_splits else read_splits()
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    rows = pd.DataFrame(table["prompts"].values())
    sizes = rows.groupby("split")["frames"].agg(prompts="count", frames="sum")
    print(sizes.assign(minutes=(sizes["frames"] / VIDEO_FPS / 60).round(1)).to_string())
    print({reason: len(names) for reason, names in table["left_out"].items()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
