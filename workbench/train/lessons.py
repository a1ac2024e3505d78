"""What the reasoner learns from: utterances as it will meet them, heard chunk by chunk by the ears that it has in use.

``python -m workbench.train.lessons OUT.npz`` gathers them (training extra; programs flite and espeak-ng).

The ears learned from the human training prompts, and a model that learned from what they make of those would trust them
too much. So each of these prompts is heard in other voices, in rooms and through noise, and the trainer shakes what was
heard (`reasoner.as_unheard`) until it errs as on validation prompts; the synthetic voices here they never heard. Chunks
are of 4, 8 or 12 frames. Validation prompts are heard as they are. ``--synthetic --ears ears_unseen.safetensors`` makes
the lessons of an adapter that never hears a human, as ears heard them that never heard the corpus' speaker.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator
from tqdm.auto import tqdm

from kernels.causal_front.reference import FrontWeights, front_offline, new_rows
from specsync_lib import units
from specsync_lib.draft.front import EARS, in_full, load_draft_front, whisper_range
from specsync_lib.draft.plan import CausalNormaliser
from specsync_lib.errors import InputError
from specsync_lib.judge.script import energy_digits, timed_words
from specsync_lib.rows import PROMPTS
from specsync_lib.speech.alignment import Phone, plan_from_phones
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Prompt, aligned_phones, prompts_of
from specsync_lib.speech.log_mel import log_mel
from specsync_lib.speech.whisper_base import Word
from specsync_lib.speech.words import normalise_text
from workbench.asked import add_corpus
from workbench.train import augment
from workbench.train.front_speech import NOISE_KINDS, make_noise
from workbench.train.reasoner import Lesson, Settings, as_unheard, save_lessons
from workbench.train.speech import speak
from workbench.train.splits import Spoken

HUMAN, OWN = "speech-en", "own"  # the pinned prompts, which the ears have heard; a manifest's, which they have not
READINGS = ((12,), (4, 8))  # frames a chunk of each reading of a training prompt, drawn
CHUNKS = (4, 8, 12)
CHANNEL_CHANCE = 0.4
NOISE_DB = (4.0, 16.0)
EVEN_SAMPLES = 8000  # transforms of other lengths take several times as long
# Minutes of synthetic speech, aligned as the human prompts are.
SYNTHETIC_MINUTES = {
    "piper": 5.0, "kal16": 1.0, "awb": 1.5, "rms": 1.5, "slt": 1.5, "en-us": 0.5, "en-us+f4": 0.5, "en-gb": 0.5,
}  # fmt: skip


def words_of(phones: Sequence[Phone]) -> list[Word]:
    """The words behind aligned phones, with their exact times; the same word twice in a row may count as one."""
    words = []
    for text, group in groupby(phones, key=lambda phone: phone.word):
        spoken = list(group)
        if text:
            words.append(Word(text, spoken[0].start_s, spoken[-1].end_s, 1.0))
    return words


@torch.inference_mode()
def hear(ears: FrontWeights, samples: Float[np.ndarray, " n"], chunk: int) -> Float[np.ndarray, "frames 15"]:
    """What a front's stream hears of a recording in chunks of so many frames: calibrated probabilities."""
    mel = torch.from_numpy(CausalNormaliser().push(log_mel(samples)))
    frames = units.frame_count(len(samples))
    lengths = [min(chunk, frames - first) for first in range(0, frames, chunk)]
    rows = in_full(mel, len(new_rows(0, frames)), mel[-1:])
    said = front_offline(whisper_range(rows)[None], ears, lengths)
    return said.logits[0].float().softmax(dim=1).numpy()


def lesson_of(
    ears: FrontWeights, name: str, source: str, split: str, samples: np.ndarray, phones: Sequence[Phone], chunk: int
) -> Lesson:
    """A recording with its phones as a lesson."""
    probe = hear(ears, samples, chunk)
    truth = plan_from_phones(phones, len(probe)).visemes.astype(np.int8)
    words = tuple(timed_words(words_of(phones), len(probe)))
    return Lesson(name, source, split, words, energy_digits(samples, len(probe)), probe, truth)


def elsewhere(
    samples: Float[np.ndarray, " n"], phones: Sequence[Phone], others: Float[np.ndarray, " m"], generator: Generator
) -> tuple[Float[np.ndarray, " k"], list[Phone]]:
    """A recording in another voice, room and noise, with its phones; ``others``: voices to babble behind it."""
    longest = int(len(samples) / augment.SPEED_RATIO[0])
    longest += -longest % EVEN_SAMPLES
    source = F.pad(torch.from_numpy(samples), (0, longest - len(samples)))[None]
    moved, ratio = augment.voice(source, longest, torch.ones(1), generator)
    ratio = float(ratio[0])
    moved = augment.channel(moved, torch.tensor([CHANNEL_CHANCE]), generator)
    kind = torch.randint(len(NOISE_KINDS), (1,), generator=generator)
    first = torch.randint(len(others), (4,), generator=generator)
    crowd = [torch.from_numpy(np.resize(np.roll(others, -int(at)), moved.shape[1])) for at in first]
    noise = make_noise(torch.cat([moved, torch.stack(crowd)]), kind.expand(5), generator)[:1]
    decibels = augment.uniform(1, NOISE_DB, generator)
    length = int(len(samples) / ratio)
    rms = moved[:, :length].square().mean().sqrt() * 10 ** (-decibels / 20)
    placed = [Phone(phone.label, phone.start_s / ratio, phone.end_s / ratio, phone.word) for phone in phones]
    return (moved + rms * noise)[0, :length].numpy(), placed


def human_lessons(
    ears: FrontWeights, generator: Generator, rng: np.random.Generator, count: int | None = None,
    corpus: str = PROMPTS,
) -> list[Lesson]:  # fmt: skip
    """The training prompts, each in some readings elsewhere, and the validation prompts as they are.

    ``count``: of the first prompts of each split, to see it run; by default all.
    """

    def sound(prompt: Prompt) -> np.ndarray:
        return load_audio(prompt.path).samples.astype(np.float32)

    trained, source = prompts_of(corpus, "train")[:count], HUMAN if corpus == PROMPTS else OWN
    lessons = [
        lesson_of(ears, p.name, source, p.split, sound(p), aligned_phones(p), units.FRAMES_PER_CHUNK)
        for p in prompts_of(corpus, "validation")[:count]
    ]
    others = np.concatenate([sound(prompt) for prompt in trained[::5]])
    for prompt in tqdm(trained, desc=source, unit="prompt"):
        for chunks in READINGS:
            moved, phones = elsewhere(sound(prompt), aligned_phones(prompt), others, generator)
            lessons.append(lesson_of(ears, prompt.name, source, prompt.split, moved, phones, int(rng.choice(chunks))))
    return lessons


def synthetic_lessons(
    ears: FrontWeights, rng: np.random.Generator, minutes_scale: float = 1.0, corpus: str = PROMPTS
) -> Iterator[Lesson]:
    """Random common words in synthetic voices, none of it near to what a held-out prompt says."""
    held_out = Spoken([normalise_text(p.transcript) for p in prompts_of(corpus) if p.split != "train"])
    for source, minutes in SYNTHETIC_MINUTES.items():
        for index, (samples, phones) in enumerate(speak(source, minutes * minutes_scale, rng)):
            said = [word.text for word in words_of(phones)]
            if not held_out.near(said):
                chunk = int(rng.choice(CHUNKS))
                yield lesson_of(ears, f"{source}/{index:03d}", source, "train", samples, phones, chunk)


def heard_well(lessons: Sequence[Lesson], seed: int = 0) -> dict[str, float]:
    """How well lessons are heard, as the trainer will tell it: the share of right frames, of sure ones (0.95), and of
    right ones among the sure and among the others."""
    rng, settings = np.random.default_rng(seed), Settings()
    told = [
        as_unheard(one.probe, settings, rng) if (one.source, one.split) == (HUMAN, "train") else one.probe
        for one in lessons
    ]
    best, rows = np.concatenate([one.truth for one in lessons]), np.concatenate(told)
    right, sure = rows.argmax(axis=1) == best, rows.max(axis=1) >= 0.95
    shares = {"right": right, "sure": sure, "right_if_sure": right[sure], "right_if_not": right[~sure]}
    return {name: round(float(share.mean()), 4) for name, share in shares.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Gather the lessons into a file."""
    parser = argparse.ArgumentParser(prog="python -m workbench.train.lessons", description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="share of the synthetic speech")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ears", default=EARS, metavar="FRONT", help="what hears them: a name, or a .safetensors file")
    parser.add_argument("--synthetic", action="store_true", help="synthetic voices alone")
    add_corpus(parser)
    options = parser.parse_args(arguments)
    try:
        ears = load_draft_front(options.ears)
        rng = np.random.default_rng(options.seed)
        lessons = []
        if not options.synthetic:
            lessons += human_lessons(ears, Generator().manual_seed(options.seed), rng, corpus=options.corpus)
            save_lessons(lessons, options.out)
        lessons += synthetic_lessons(ears, rng, options.minutes_scale, options.corpus)
        if not lessons:
            raise InputError("--synthetic: no speech at this --minutes-scale; give a larger one")
        save_lessons(lessons, options.out)
    except InputError as error:
        print(error, file=sys.stderr)
        return error.EXIT_CODE
    for source in dict.fromkeys((lesson.source, lesson.split) for lesson in lessons):
        chosen = [lesson for lesson in lessons if (lesson.source, lesson.split) == source]
        minutes = sum(len(lesson.truth) for lesson in chosen) / units.VIDEO_FPS / 60
        print(f"{' '.join(source):22s} {len(chosen):4d} utterances {minutes:6.1f} min, {heard_well(chosen)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
