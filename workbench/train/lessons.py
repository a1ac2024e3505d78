"""What the reasoner learns from: utterances as it will meet them, with probes that never heard the utterance.

``python -m workbench.train.lessons OUT.npz`` gathers them (training extra; programs flite and espeak-ng).

A probe is better on speech that it was fitted on, and a model that learned from such rows would trust it too much. So
every training utterance is heard by a probe fitted without it: for the human prompts one of five folds, where prompts
that nearly say the same share a fold; for a synthetic voice a probe fitted on the other voices, or on its other
sentences, in turn. Validation prompts are heard by the committed teacher, as every later recording is.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from tqdm.auto import tqdm
from whisper.model import AudioEncoder

from specsync_lib import units
from specsync_lib.draft import probe as teacher
from specsync_lib.draft.plan import MODEL_DIR as DRAFT_DIR
from specsync_lib.draft.probe import Probe, load_probe
from specsync_lib.errors import InputError
from specsync_lib.judge.script import energy_digits, timed_words
from specsync_lib.measures.bounds import fit_temperature
from specsync_lib.speech.alignment import Phone, plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import aligned_phones, human_prompts
from specsync_lib.speech.whisper_base import Word
from specsync_lib.speech.words import normalise_text
from workbench.train.probe import fit_probe
from workbench.train.reasoner import Lesson, save_lessons
from workbench.train.splits import ISOLATED_WORD_FAMILIES, near_duplicate_groups, near_duplicates

HUMAN = "speech-en"
FOLDS = 5
PROBE_STEPS, PROBE_BATCH = 600, 512
# Minutes of synthetic speech. Only Piper's phone times are exact; the others are aligned as the human prompts are.
SYNTHETIC_MINUTES = {
    "piper": 8.0, "kal16": 1.5, "awb": 2.0, "rms": 2.0, "slt": 2.0, "en-us": 0.75, "en-us+f4": 0.75, "en-gb": 0.75,
}  # fmt: skip
WORDS_PER_SENTENCE = (4, 11)
LENGTH_SCALES = (0.85, 1.25)


def words_of(phones: Sequence[Phone]) -> list[Word]:
    """The words behind aligned phones, with their exact times; the same word twice in a row may count as one."""
    words = []
    for text, group in groupby(phones, key=lambda phone: phone.word):
        spoken = list(group)
        if text:
            words.append(Word(text, spoken[0].start_s, spoken[-1].end_s, 1.0))
    return words


@torch.inference_mode()
def frame_features(encoder: AudioEncoder, samples: Float[np.ndarray, " n"]) -> Float[Tensor, "frames 2560"]:
    """The probe's input at every frame: `teacher_logits` is linear in it."""
    centre = torch.eye(teacher.FEATURES)
    blank = torch.zeros(teacher.FEATURES)
    reader = Probe(blank, blank + 1, centre, blank, torch.ones(()))
    return torch.from_numpy(teacher.teacher_logits(encoder, reader, samples))


def fit_on(features: Float[Tensor, "n 2560"], labels: Int[Tensor, " n"], generator: Generator) -> Probe:
    """A probe on frames; the whole set gives the standardisation."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield features, labels
        while True:
            drawn = torch.randint(0, len(features), (PROBE_BATCH,), generator=generator)
            yield features[drawn], labels[drawn]

    return fit_probe(batches(), PROBE_STEPS)


def cross_fitted(
    features: dict[str, Tensor], labels: dict[str, Tensor], folds: dict[str, int], generator: Generator
) -> dict[str, np.ndarray]:
    """For every utterance the calibrated probabilities of a probe that was fitted on the other folds."""
    heard = {}
    for fold in sorted(set(folds.values())):
        inside = [name for name in features if folds[name] == fold]
        outside = [name for name in features if folds[name] != fold]
        probe = fit_on(
            torch.cat([features[name] for name in outside]), torch.cat([labels[name] for name in outside]), generator
        )
        logits = {name: probe.logits(features[name]) for name in inside}
        temperature = fit_temperature(
            torch.cat(list(logits.values())).numpy(), torch.cat([labels[name] for name in inside]).numpy()
        )
        heard |= {name: (rows / temperature).softmax(dim=1).numpy() for name, rows in logits.items()}
    return heard


def prompt_folds(transcripts: dict[str, str], frames: dict[str, int]) -> dict[str, int]:
    """A fold for every prompt: near-duplicates share one, the largest groups go first, each to the emptiest fold.

    Isolated words are spread, so that no fold's probe is asked for a kind of speech that it never heard.
    """
    isolated = {name for name in transcripts if name.partition("/")[0] in ISOLATED_WORD_FAMILIES}
    groups = near_duplicate_groups({name: text for name, text in transcripts.items() if name not in isolated})
    same_text = defaultdict(list)
    for name in sorted(isolated):
        same_text[" ".join(normalise_text(transcripts[name]))].append(name)
    filled = [0] * FOLDS
    folds = {}
    for members in sorted([*groups, *same_text.values()], key=lambda names: (-sum(map(frames.get, names)), names)):
        fold = int(np.argmin(filled))
        filled[fold] += sum(map(frames.get, members))
        folds |= dict.fromkeys(members, fold)
    return folds


def human_lessons(encoder: AudioEncoder, generator: Generator, count: int | None = None) -> list[Lesson]:
    """The training prompts with cross-fitted probes, and the validation prompts with the committed teacher's.

    ``count``: of the first prompts of each split, to see it run; by default all.
    """
    prompts = [prompt for split in ("train", "validation") for prompt in human_prompts(split)[:count]]
    features, labels, loudness, words = {}, {}, {}, {}
    for prompt in tqdm(prompts, desc=HUMAN, unit="prompt"):
        samples, phones = load_audio(prompt.path).samples, aligned_phones(prompt)
        features[prompt.name] = frame_features(encoder, samples)
        frames = len(features[prompt.name])
        labels[prompt.name] = torch.from_numpy(plan_from_phones(phones, frames).visemes).long()
        loudness[prompt.name] = energy_digits(samples, frames)
        words[prompt.name] = tuple(timed_words(words_of(phones), frames))
    trained = [prompt for prompt in prompts if prompt.split == "train"]
    folds = prompt_folds(
        {prompt.name: prompt.transcript for prompt in trained}, {name: len(rows) for name, rows in labels.items()}
    )
    heard = cross_fitted({p.name: features[p.name] for p in trained}, labels, folds, generator)
    committed = load_probe(DRAFT_DIR / "teacher.safetensors")
    for prompt in prompts:
        if prompt.split == "validation":
            heard[prompt.name] = committed.logits(features[prompt.name]).softmax(dim=1).numpy()
    return [
        Lesson(p.name, HUMAN, p.split, words[p.name], loudness[p.name], heard[p.name],
               labels[p.name].numpy().astype(np.int8))
        for p in prompts
    ]  # fmt: skip


def synthetic_lessons(
    encoder: AudioEncoder, generator: Generator, rng: np.random.Generator, minutes_scale: float = 1.0
) -> list[Lesson]:
    """Random common words in synthetic voices, none of it near to what a held-out prompt says."""
    held_out = [normalise_text(p.transcript) for split in ("validation", "test") for p in human_prompts(split)]
    features, labels, loudness, words, sources = {}, {}, {}, {}, {}
    for source, minutes in SYNTHETIC_MINUTES.items():
        speaker = piper_sentences(minutes * minutes_scale, rng) if source == "piper" else aligned_sentences(
            source, minutes * minutes_scale, rng
        )  # fmt: skip
        for index, (samples, phones) in enumerate(speaker):
            said = words_of(phones)
            if any(near_duplicates([word.text for word in said], other) for other in held_out):
                continue
            name = f"{source}/{index:03d}"
            features[name] = frame_features(encoder, samples)
            frames = len(features[name])
            labels[name] = torch.from_numpy(plan_from_phones(phones, frames).visemes).long()
            loudness[name] = energy_digits(samples, frames)
            words[name], sources[name] = tuple(timed_words(said, frames)), source
    order = {source: index for index, source in enumerate(SYNTHETIC_MINUTES)}
    strange = cross_fitted(features, labels, {name: order[source] for name, source in sources.items()}, generator)
    known = cross_fitted(features, labels, {name: index % FOLDS for index, name in enumerate(features)}, generator)
    return [
        Lesson(name, sources[name], "train", words[name], loudness[name], (strange if index % 2 else known)[name],
               labels[name].numpy().astype(np.int8))
        for index, name in enumerate(features)
    ]  # fmt: skip


def aligned_sentences(source: str, minutes: float, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, list]]:
    """Random sentences in a voice of flite or espeak-ng, aligned as the human prompts are."""
    from workbench.train.speech import speak

    yield from speak(source, minutes, rng)


def piper_sentences(minutes: float, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, list[Phone]]]:
    """Random sentences in Piper's voice, with its own exact phone times."""
    from workbench.train.clips import load_voice, piper_speech
    from workbench.train.speech import common_words

    vocabulary, voice = common_words(), load_voice()
    left_s = 60 * minutes
    while left_s > 0:
        # Half of the words from the few hundred commonest, as speech has it.
        ranks = np.where(rng.random(rng.integers(*WORDS_PER_SENTENCE)) < 0.5, 400, len(vocabulary))
        text = " ".join(vocabulary[int(rank * rng.random())] for rank in ranks)
        try:
            samples, phones = piper_speech(f"{text}.", length_scale=rng.uniform(*LENGTH_SCALES), voice=voice)
        except InputError:  # a foreign sound that has no viseme
            continue
        left_s -= len(samples) / units.SAMPLE_RATE_HZ
        yield samples, phones


def probe_accuracy(lessons: Sequence[Lesson], keep: Callable[[Lesson], bool]) -> float:
    """Share of frames whose likeliest viseme in the probe is the truth."""
    chosen = [lesson for lesson in lessons if keep(lesson)]
    right = np.concatenate([lesson.probe.argmax(axis=1) == lesson.truth for lesson in chosen])
    return float(right.mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather the lessons into a file."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.lessons", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="share of the synthetic speech")
    parser.add_argument(
        "--synthetic-only", action="store_true", help="no human prompts: for a judge of unseen speakers"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        encoder = teacher.load_encoder()
        generator = Generator().manual_seed(options.seed)
        torch.manual_seed(options.seed)  # the probe's own start and dropout
        lessons = [] if options.synthetic_only else human_lessons(encoder, generator)
        rng = np.random.default_rng(options.seed)
        lessons += synthetic_lessons(encoder, generator, rng, options.minutes_scale)
        save_lessons(lessons, options.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    for source in dict.fromkeys((lesson.source, lesson.split) for lesson in lessons):
        chosen = [lesson for lesson in lessons if (lesson.source, lesson.split) == source]
        minutes = sum(len(lesson.truth) for lesson in chosen) / units.VIDEO_FPS / 60
        right = probe_accuracy(chosen, lambda lesson: True)
        print(f"{' '.join(source):22s} {len(chosen):4d} utterances {minutes:6.1f} min, probe right {right:.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
