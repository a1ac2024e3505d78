"""A recording with all that drafts and judges make of it before they meet, and every way in which it can be judged."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from specsync_lib.draft import front
from specsync_lib.draft.plan import DraftPlan
from specsync_lib.files import atomic_path
from specsync_lib.judge.branches import ROOMS, USUAL_ROOM
from specsync_lib.judge.loading import load_reasoner
from specsync_lib.judge.reasoner import Reasoner, ReasonerStream
from specsync_lib.judge.rules import EXACT, VerifyOptions
from specsync_lib.judge.script import ChunkEvidence, TimedWord, chunk_evidence, gather_evidence
from specsync_lib.judge.verify import ChunkContext, ChunkVerdict, row_fault, run_options, verify_chunk
from specsync_lib.paths import MEASUREMENTS_DIR
from specsync_lib.rows import Hearing
from specsync_lib.speech import log_mel
from specsync_lib.speech.audio import load_audio
from specsync_lib.speech.corpus import Prompt, aligned
from specsync_lib.speech.whisper_base import Word, load_whisper, transcribe
from specsync_lib.units import FRAMES_PER_CHUNK, VISEMES

# The runs whose passes verify several plans, by the room for those; which ones follows from validation speech.
BRANCHED = {f"branched_{name}": room for name, room in ROOMS.items()}
USUALLY_BRANCHED = f"branched_{USUAL_ROOM}"
# The runs of the gate, by its threshold; the confidence that it asks follows from validation speech too.
GATED = {f"gate_{round(100 * threshold):03d}": threshold for threshold in (0.3, 0.6, 0.85, 0.95)}
# All runs whose plans are not the judge's own.
RULED = ("lenient", "mouth", *GATED)


WORDS_FILE = MEASUREMENTS_DIR / "heard_words.csv"


LONGEST_PLAIN = 50  # characters of a recording's name in its file's: letters of four bytes fit


ADAPTER = "adapter"  # that heard the corpus' speaker


@dataclass(frozen=True)
class Recording:
    """An utterance with all that drafts and judges make of it before they meet.

    truth: viseme indices; energy: loudness by frame; probe: the distributions that the judge's ears hear; evidence:
    what the reasoner reads, chunk by chunk.
    """

    name: str
    truth: Int[np.ndarray, " t"]
    draft: DraftPlan
    energy: Float[np.ndarray, " t"]
    probe: Float[np.ndarray, "t 15"]
    evidence: Sequence[ChunkEvidence]

    @property
    def chunks(self) -> list[slice]:
        """The frames of each chunk; the last may be short."""
        return [slice(first, first + FRAMES_PER_CHUNK) for first in range(0, len(self.truth), FRAMES_PER_CHUNK)]

    def save(self, path: Path) -> None:
        """Write as npz; tables inside, nothing that runs when it is read."""
        words = {(w.text, w.first_frame, w.last_frame): None for chunk in self.evidence for w in chunk.words}
        with atomic_path(path) as temporary:
            np.savez_compressed(
                temporary,
                **{f"draft_{name}": values for name, values in vars(self.draft).items()},
                truth=self.truth, energy=self.energy, probe=self.probe, words=np.array(json.dumps(list(words))),
                loudness=np.concatenate([chunk.energy for chunk in self.evidence]),
            )  # fmt: skip

    @classmethod
    def load(cls, name: str, path: Path) -> "Recording":
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        draft = DraftPlan(*(arrays[f"draft_{part.name}"] for part in fields(DraftPlan)))
        words = [TimedWord(*word) for word in json.loads(str(arrays["words"]))]
        evidence = chunk_evidence(words, arrays["loudness"], arrays["probe"])
        return cls(name, arrays["truth"], draft, arrays["energy"], arrays["probe"], evidence)


class Listening:
    """A judge's stream that keeps the rows of each chunk's first pass by frame of the recording; NaN without one."""

    def __init__(self, stream: ReasonerStream, frames: int) -> None:
        self._stream, self._at = stream, 0
        self.first = np.full((frames, len(VISEMES)), np.nan, np.float32)

    def read(self, evidence: ChunkEvidence) -> None:
        """The next chunk's context."""
        self._stream.read(evidence)

    def score(self, draft_tokens: np.ndarray) -> np.ndarray:
        """One pass."""
        rows = self._stream.score(draft_tokens)
        self._keep(rows, len(draft_tokens))
        return rows

    def score_branches(self, branches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One pass over several drafts; the rows of the one of which most stands are kept."""
        scored = self._stream.score_branches(branches)
        stands = [(rows.argmax(axis=1) == draft).cumprod() for rows, draft in zip(scored, branches, strict=True)]
        self._keep(scored[int(np.sum(stands, axis=1).argmax())], len(branches[0]))
        return scored

    def _keep(self, rows: np.ndarray, frames: int) -> None:
        here = slice(self._at, self._at + frames)
        if row_fault(rows, frames, len(VISEMES)) is None:
            self.first[here] = np.where(np.isnan(self.first[here]), rows, self.first[here])

    def commit(self, tokens: np.ndarray) -> None:
        """Fix the next tokens."""
        self._stream.commit(tokens)
        self._at += len(tokens)


@dataclass(frozen=True)
class Judged:
    """What a judge made of a recording.

    tokens: the plan; verdicts: chunk by chunk, empty where it wrote alone; first_rows: of each chunk's first pass, NaN
    without one; seconds: of processor time, passes and rule.
    """

    tokens: Int[np.ndarray, " t"]
    seconds: float
    verdicts: Sequence[ChunkVerdict] = ()
    first_rows: Float[np.ndarray, "t 15"] | None = None

    @property
    def last_rows(self) -> Float[np.ndarray, "t 15"]:
        """The rows that decided each frame; NaN where no pass read it."""
        return np.concatenate([verdict.rows for verdict in self.verdicts])

    def save(self, path: Path) -> None:
        """Write as npz; tables inside, nothing that runs when it is read."""
        arrays = {"tokens": self.tokens, "seconds": np.array(self.seconds)}
        if self.verdicts:
            arrays |= {name: np.concatenate([getattr(v, name) for v in self.verdicts]) for name in PER_FRAME}
            arrays |= {name: np.array([getattr(v, name) for v in self.verdicts]) for name in PER_CHUNK}
            # both may be empty or uneven: as texts
            arrays["rejected_at"] = np.array([" ".join(map(str, v.rejected_at)) for v in self.verdicts])
            arrays["faults"] = np.array(["\n".join(v.faults) for v in self.verdicts])
            arrays["first_rows"] = self.first_rows
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Judged":
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        tokens, seconds = arrays["tokens"], float(arrays["seconds"])
        if "passes" not in arrays:
            return cls(tokens, seconds)
        edges = range(FRAMES_PER_CHUNK, len(tokens), FRAMES_PER_CHUNK)
        by_frame = [np.split(arrays[name], edges) for name in ("tokens", *PER_FRAME)]
        by_chunk = [arrays[name].tolist() for name in PER_CHUNK]
        rejected_at = [tuple(map(int, text.split())) for text in arrays["rejected_at"].tolist()]
        faults = [tuple(text.splitlines()) for text in arrays["faults"].tolist()]
        verdicts = [ChunkVerdict(*values) for values in zip(*by_frame, *by_chunk, rejected_at, faults, strict=True)]
        return cls(tokens, seconds, verdicts, arrays["first_rows"])


PER_FRAME, PER_CHUNK = ("accepted", "verified", "sure", "rows"), ("first_accepted", "passes", "known_after")


def judge(
    model: Reasoner,
    recording: Recording,
    options: VerifyOptions = EXACT,
    *,
    watch: bool = True,
    guess_from_probe: bool = False,
    recalibrated: Float[np.ndarray, " t"] | None = None,
) -> Judged:
    """Verify a recording's draft chunk by chunk, as a pipeline does.

    ``watch``: the probe is the judge's witness. ``guess_from_probe``: pass 1 verifies the probe's tokens.
    ``recalibrated``: the confidence that the gate asks.
    """
    stream = Listening(model.stream(), len(recording.truth))
    verdicts, began = [], time.process_time()
    for evidence, frames in zip(recording.evidence, recording.chunks, strict=True):
        stream.read(evidence)
        context = ChunkContext(
            guess=recording.probe[frames] if guess_from_probe else None,
            witness=recording.probe[frames] if watch else None,
            recalibrated=None if recalibrated is None else recalibrated[frames],
            before=int(verdicts[-1].tokens[-1]) if verdicts else None,
            best_before=verdicts[-1].best_of_last if verdicts else None,
        )
        draft = DraftPlan(*(values[frames] for values in vars(recording.draft).values()))
        verdicts.append(verify_chunk(stream, draft, options, context))
    tokens = np.concatenate([verdict.tokens for verdict in verdicts])
    return Judged(tokens, time.process_time() - began, verdicts, stream.first)


def write_alone(model: Reasoner, recording: Recording) -> Judged:
    """The reasoner's own greedy plan, one token a pass, no draft seen."""
    stream, tokens, began = model.stream(), [], time.process_time()
    for evidence, frames in zip(recording.evidence, recording.chunks, strict=True):
        stream.read(evidence)
        tokens.append(stream.plan(len(recording.truth[frames]))[0])
        stream.commit(tokens[-1])
    return Judged(np.concatenate(tokens), time.process_time() - began)


# How a recording can be judged: by name of the run.
RUNS: dict[str, Callable[[Reasoner, Recording], Judged]] = {
    "exact": judge,
    "guessed": lambda model, recording: judge(model, recording, guess_from_probe=True),
    "lenient": lambda model, recording: judge(model, recording, run_options("lenient")),
    "mouth": lambda model, recording: judge(model, recording, run_options("mouth"), guess_from_probe=True),
    "without_probe": lambda model, recording: judge(
        model, replace(recording, evidence=[chunk.without_probe() for chunk in recording.evidence]), watch=False
    ),
    # As a pipeline hears: Whisper's words come too late for a chunk, so there are none.
    "live": lambda model, recording: judge(
        model,
        replace(recording, evidence=[chunk.without_words() for chunk in recording.evidence]),
        guess_from_probe=True,
    ),
    "alone": write_alone,
}


def heard_words(prompts: Sequence[Prompt], path: Path = WORDS_FILE, hearing: Hearing | None = None) -> pd.DataFrame:
    """Whisper's words of every prompt: columns utterance, text, start_s, end_s, probability; kept in a file.

    Prompts that the file lacks are transcribed, by a row's Whisper, and added to it.
    """
    columns = ["utterance", "text", "start_s", "end_s", "probability"]
    known = pd.read_csv(path, keep_default_na=False) if path.is_file() else pd.DataFrame(columns=columns)
    missing = [prompt for prompt in prompts if prompt.name not in set(known["utterance"])]
    whisper = load_whisper(hearing) if missing else None
    for prompt in tqdm(missing, desc="hearing words", unit="utterance", disable=not missing):
        # an utterance in which nothing was heard keeps a blank row, so that it is not heard again
        heard = transcribe(whisper, load_audio(prompt.path).samples) or [Word("", 0.0, 0.0, 0.0)]
        rows = [(prompt.name, w.text, round(w.start_s, 3), round(w.end_s, 3), round(w.probability, 4)) for w in heard]
        known = pd.concat([known, pd.DataFrame(rows, columns=columns)], ignore_index=True)
        known = known.sort_values("utterance", kind="stable", ignore_index=True)
        with atomic_path(path) as temporary:
            known.to_csv(temporary, index=False)
    names = {prompt.name for prompt in prompts}
    return known[known["utterance"].isin(names) & (known["text"] != "")]


def drafter(name: str) -> Callable[[np.ndarray], DraftPlan]:
    """What hears a recording: the causal front of a name or a path."""
    return partial(front.front_plan, weights=front.load_draft_front(name))


def kept_as(folder: Path, name: str) -> Path:
    """The file of a recording, or of what was judged of it, in a folder."""
    plain = name.replace("/", "--")
    if "--" in name or len(plain) > LONGEST_PLAIN:  # another's could look the same, or no file system takes it
        plain = f"{plain[:LONGEST_PLAIN]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return folder / f"{plain}.npz"


def gather(
    prompts: Iterable[Prompt], draft_name: str, ears_name: str, words: pd.DataFrame, kept: Path | None = None
) -> list[Recording]:
    """Draft, ears and evidence of prompts, with their truth, by the names or paths of two fronts.

    ``kept``: the folder of those that were gathered before; the others are added to it.
    """
    draft, ears, recordings = drafter(draft_name), drafter(ears_name), []
    heard = {name: [Word(*row) for row in rows.to_numpy()[:, 1:]] for name, rows in words.groupby("utterance")}
    for prompt in tqdm(list(prompts), desc="gathering", unit="utterance"):
        if kept is not None and kept_as(kept, prompt.name).is_file():
            recordings.append(Recording.load(prompt.name, kept_as(kept, prompt.name)))
            continue
        samples, truth = load_audio(prompt.path).samples, aligned(prompt).visemes.astype(int)
        heard_by_judge = ears(samples)
        probabilities = heard_by_judge.probabilities.astype(np.float32)
        recordings.append(
            Recording(
                prompt.name,
                truth,
                draft(samples),
                log_mel.frame_energy(samples, len(truth)),
                probabilities,
                gather_evidence(samples, heard.get(prompt.name, []), probabilities),
            )
        )
        if kept is not None:
            recordings[-1].save(kept_as(kept, prompt.name))
    return recordings


def judge_again(prompts: Sequence[Prompt]) -> dict[str, list[str]]:
    """The plans that the reasoner commits now for some prompts: what the committed table must hold for them."""
    model = load_reasoner(adapter=ADAPTER)
    recordings = gather(prompts, front.DRAFT, front.EARS, heard_words(prompts))
    return {each.name: [VISEMES[token] for token in judge(model, each).tokens] for each in recordings}
