"""Every rule and threshold over one recording, without a face: what each of them would commit, chunk by chunk.

    heard = hear(models, samples)                    # drafts and evidence: once
    plans = replay(models.reasoner, heard, VARIANTS) # {name: [ReplayedChunk, ...]}

What is heard does not depend on the rule (drafts come from the sound alone, the judge's evidence is frozen per chunk),
so it is computed once. What the judge says depends on the tokens before, so it is asked again wherever a rule has
committed others; rules and thresholds that have committed the same so far share one stream, and no pass is taken whose
rows are known: a row depends on what stands before it alone. The verdicts are those of `models.judged`, as in a run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from specsync_lib.judge.reasoner import Reasoner, ReasonerStream
from specsync_lib.judge.rules import EXACT, RunRule, Stream, VerifyOptions, gate
from specsync_lib.judge.script import ChunkEvidence
from specsync_lib.judge.verify import run_options
from specsync_lib.pipeline.models import Asked, Listener, Listeners, Models, SpeechDrafter, judged
from specsync_lib.pipeline.sound import ChunkAssembler, ChunkAudio, pieces
from specsync_lib.pipeline.stages import By, Draft, Tokens, plan_of
from specsync_lib.units import CHUNK, ChunkSize


@dataclass(frozen=True)
class HeardChunk:
    """A chunk's sound, its draft and the judge's evidence."""

    audio: ChunkAudio
    draft: Draft
    evidence: ChunkEvidence


@dataclass(frozen=True)
class ReplayedChunk:
    """What a rule commits for a chunk.

    tokens, openness, by: as a commit has them; best: the judge's best token by frame, () where no pass read it; passes:
    of the judge; known_after: passes after which what it tells is the final plan; unasked: the gate let the whole chunk
    go; taken: passes that had to be taken for this variant, because no other's answer was at hand; told: how open the
    judge's rows expect each frame to be.
    """

    tokens: Tokens
    openness: np.ndarray
    by: tuple[By, ...]
    best: Tokens
    passes: int
    known_after: int
    unasked: bool = False
    taken: int = 0
    told: np.ndarray | None = None


Variant = tuple[RunRule, float | None]


def hear(models: Listeners | Models, samples: np.ndarray, size: ChunkSize = CHUNK) -> list[HeardChunk]:
    """Draft and evidence of every chunk of a recording [n], 16 kHz, as a run hears them."""
    drafter, listener = SpeechDrafter(models.draft, policy=models.policy), Listener(models.ears)
    assembler = ChunkAssembler(size)
    chunks = [chunk for piece in pieces(samples, pace="fast", piece_ms=100) for chunk in assembler.push(piece, 0.0)]
    chunks += assembler.finish(0.0)
    return [HeardChunk(audio, drafter.draft(audio), listener.hear(audio)) for audio in chunks]


def replay(
    reasoner: Reasoner, heard: Sequence[HeardChunk], variants: Mapping[str, Variant]
) -> dict[str, list[ReplayedChunk]]:
    """What rules and thresholds commit, by the variant's name; ``judge`` is the plan of ``exact``, a pass a frame.

    Raises
    ------
    InputError: as `verify.run_options`.
    """
    options = {name: run_options(*variant) for name, variant in variants.items()}
    streams: dict[Tokens, ReasonerStream] = {(): reasoner.stream()}  # by what was committed so far
    history: dict[str, Tokens] = dict.fromkeys(variants, ())
    best_before: dict[str, int | None] = dict.fromkeys(variants)
    done: dict[str, list[ReplayedChunk]] = {name: [] for name in variants}
    for chunk in heard:
        draft = chunk.draft
        known: dict[tuple, tuple] = {}
        rows: dict[Tokens, dict[Tokens, np.ndarray]] = {}
        following: dict[Tokens, ReasonerStream] = {}
        for name, (rule, threshold) in variants.items():
            if rule == "draft":
                done[name].append(_unasked(draft))
                continue
            sure = np.zeros(chunk.audio.frames, bool) if rule != "gate" else gate(draft.recalibrated, threshold)
            kind = rule if rule in ("mouth", "lenient") else "exact"
            best = best_before[name] if kind == "lenient" else None
            key, taken = (history[name], kind, sure.tobytes(), best), 0
            if key not in known:
                stream = streams[history[name]].fork()
                stream.read(chunk.evidence)
                if sure.all():
                    stream.commit(np.array(draft.tokens))
                    known[key] = stream, _unasked(draft, unasked=True), None
                else:
                    asked = _Remembering(stream, rows.setdefault(history[name], {}))
                    known[key] = stream, *_asked(asked, chunk, options[name] or EXACT, best)
                    taken = asked.taken
            stream, replayed, best_before[name] = known[key]
            done[name].append(replace(_written(replayed, draft) if rule == "judge" else replayed, taken=taken))
            history[name] += replayed.tokens
            following.setdefault(history[name], stream)
        streams = following
    return done


class _Remembering:
    """A judge's stream over one chunk that takes no pass whose rows are known.

    rows: by the chunk's tokens before the frame, for streams that have the same past; ``taken`` counts passes.
    """

    def __init__(self, stream: ReasonerStream, rows: dict[Tokens, np.ndarray]) -> None:
        self._stream, self._rows, self._fixed, self.taken = stream, rows, (), 0

    def score(self, draft_tokens: np.ndarray) -> np.ndarray:
        before = [(*self._fixed, *map(int, draft_tokens[:place])) for place in range(len(draft_tokens))]
        if not all(tokens in self._rows for tokens in before):
            self.taken += 1
            scored = self._stream.score(draft_tokens)
            if len(scored) != len(before) or not np.isfinite(scored).all():
                return scored  # nothing to remember: the rules see to it
            self._rows |= {tokens: row for tokens, row in zip(before, scored, strict=True) if tokens not in self._rows}
        return np.stack([self._rows[tokens] for tokens in before])

    def commit(self, tokens: np.ndarray) -> None:
        self._stream.commit(tokens)
        self._fixed += tuple(map(int, tokens))


def _unasked(draft: Draft, unasked: bool = False) -> ReplayedChunk:
    return ReplayedChunk(*plan_of(draft, draft.tokens), ("draft",) * len(draft.tokens), (), 0, 0, unasked)


def _written(exact: ReplayedChunk, draft: Draft) -> ReplayedChunk:
    """The same tokens as the judge alone writes them: one a pass, every frame as open as its rows expect."""
    frames = len(exact.tokens)
    plan = plan_of(replace(draft, rest=True), exact.tokens, exact.told)
    return replace(exact, openness=plan.openness, by=("judge",) * frames, passes=frames, known_after=frames)


def _asked(
    stream: Stream, chunk: HeardChunk, options: VerifyOptions, best_before: int | None
) -> tuple[ReplayedChunk, int | None]:
    """A chunk's verdict, and the judge's best for its last frame. Where the judge fails the draft stands, as in a run
    whose policy is to go on."""
    draft = chunk.draft
    asked = Asked(draft, chunk.evidence, best_before=best_before)
    verdict, decided = judged(stream, chunk.audio.index, asked, options)
    if verdict.tokens:
        plan, by = plan_of(draft, tuple(verdict.tokens), verdict.openness), verdict.by
    else:
        plan, by = plan_of(draft, draft.tokens), ("policy",) * len(draft.tokens)
    known_after, told = decided.known_after, verdict.openness
    replayed = ReplayedChunk(*plan, by, tuple(verdict.judged), verdict.passes, known_after, told=told)
    return replayed, decided.best_of_last
