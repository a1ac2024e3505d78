"""Human prompts as shards beside the synthetic ones: the English corpus' training split, and other languages' prompts.

``python -m workbench.train.human_speech FOLDER`` writes ``human_en.npz`` (labelled; held-out prompts never enter) and
``human_fr.npz``, ``human_it.npz``, ``human_ru.npz`` (without labels: only a teacher speaks there). Needs those assets.
With ``--corpus`` it writes a manifest's training split in their place: ``human_own.npz``, and where its words give no
truth ``human_own_unlabelled.npz``.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from specsync_lib.assets import asset
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path
from specsync_lib.rows import PROMPTS
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import aligned_phones, prompts_of
from specsync_lib.speech.manifest import read_manifest
from workbench.asked import add_corpus
from workbench.train.voices import label_track

LANGUAGES = ("fr", "it", "ru")  # not es: the English corpus' own speaker speaks it
SHORTEST_SAMPLES = 8000


def write_shard(path: Path, utterances: Iterable[tuple[np.ndarray, Sequence, str]]) -> None:
    """Utterances (samples, phones, name) in a shard of ``kokoro.load_shard``'s form; without phones no labels."""
    samples, labels, table = [], [], []
    for speech, phones, name in utterances:
        if len(speech) < SHORTEST_SAMPLES:
            continue
        samples.append((speech.clip(-1, 1) * np.iinfo(np.int16).max).round().astype(np.int16))
        labels.append(label_track(phones, len(speech)))
        table.append({"text": name, "kind": "human" if phones else "unlabelled", "length": len(speech)})
    with atomic_path(path) as temporary, temporary.open("wb") as out:
        text = np.frombuffer(json.dumps(table).encode(), np.uint8)
        np.savez(out, samples=np.concatenate(samples), labels=np.concatenate(labels), table=text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the shards that are not there yet."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.human_speech", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    add_corpus(parser)
    options = parser.parse_args(arguments)
    folder, own = options.folder, options.corpus != PROMPTS
    folder.mkdir(parents=True, exist_ok=True)
    try:
        path = folder / f"human_{'own' if own else 'en'}.npz"
        said = prompts_of(options.corpus, "train")
        if not path.is_file():
            prompts = tqdm(said, desc="with words", unit="recording")
            write_shard(path, ((load_audio(p.path).samples, aligned_phones(p), p.name) for p in prompts))
        path = folder / "human_own_unlabelled.npz"
        if own and not path.is_file():
            labelled = {prompt.name for prompt in said}
            rest = [one for one in read_manifest(options.corpus) if one.split == "train" and one.id not in labelled]
            if rest:
                bar = tqdm(rest, desc="without words", unit="recording")
                write_shard(path, ((load_audio(one.audio).samples, [], one.id) for one in bar))
        for language in () if own else LANGUAGES:
            if not (folder / f"human_{language}.npz").is_file():
                paths = [path for path in sorted(asset(f"speech-{language}").rglob("*.g722")) if path.stat().st_size]
                prompts = tqdm(paths, desc=f"speech-{language}", unit="prompt")
                write_shard(
                    folder / f"human_{language}.npz", ((load_audio(path).samples, [], path.stem) for path in prompts)
                )
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
