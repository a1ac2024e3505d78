"""What conductor and stages say to each other: protocols of drafter, judge and generator, policy, verdict, commit."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from specsync_lib import units
from specsync_lib.errors import InputError
from specsync_lib.pipeline.sound import ChunkAudio
from specsync_lib.visemes import VISEME_INDEX, ends_repeated, openness_of

Tokens = tuple[int, ...]  # a viseme a frame, index into units.VISEMES
Station = Literal["draft", "judge", "generator"]
STATIONS: tuple[Station, ...] = ("draft", "judge", "generator")
# Who decided a frame. judge: its token is the judge's word on it (the draft's too, where the two agree under an exact
# rule); draft: the drafted token stands by its own confidence, or because a rule that is not exact lets it; policy:
# nobody answered in time, or too late.
By = Literal["draft", "judge", "policy"]


class Stopped(Exception):
    """Nobody wants it any more: raised by a stage between two calls, and by a run that was stopped."""


@dataclass(frozen=True)
class Draft:
    """What the kernel proposes for a chunk.

    Its arrays are read-only. tokens: the most probable viseme of each frame; confidence, openness: [frames] in [0, 1];
    probabilities: [frames, 15]; latents: the drafted latents in whatever form the generator takes, or None; ahead:
    some frames after the chunk, drafted from what was heard by now, which nothing commits; recalibrated: [frames]
    the probability that the judge lets a frame stand; rest: nothing is proposed (silence, latents at rest).
    """

    tokens: Tokens
    confidence: Float[np.ndarray, " frames"]
    openness: Float[np.ndarray, " frames"]
    probabilities: Float[np.ndarray, "frames 15"] | None = None
    latents: object = None
    ahead: "Plan | None" = None
    recalibrated: Float[np.ndarray, " frames"] | None = None
    rest: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(int(token) for token in self.tokens))
        for name in ("confidence", "openness", "probabilities", "recalibrated"):
            if isinstance(values := getattr(self, name), np.ndarray):
                values = values.view()  # who drafted may use its buffer again; who reads it cannot spoil what goes out
                values.flags.writeable = False
                object.__setattr__(self, name, values)


class Plan(NamedTuple):
    """What a chunk is generated under: a viseme a frame and how far it opens; [frames] each."""

    tokens: Tokens
    openness: Float[np.ndarray, " frames"]


def plan_of(draft: Draft, tokens: Tokens, told: Float[np.ndarray, " frames"] | None = None) -> Plan:
    """The plan of a chunk: a frame that stands keeps its drafted openness, another takes what the judge ``told``.

    ``told``: the openness expected under the judge's distribution (`visemes.expected_openness`); None: under its tokens
    alone. Where nothing was drafted all of it is the judge's. Silence between silence is shut, whoever named it: in
    sound without speech the draft's openness means nothing.
    """
    visemes = np.array(tokens)
    openness = openness_of(visemes) if told is None else np.asarray(told, np.float32)
    if not draft.rest:
        openness = np.where(visemes == np.array(draft.tokens), draft.openness, openness)
    near = ends_repeated(visemes == VISEME_INDEX["sil"])
    return Plan(tokens, np.where(near[:-2] & near[1:-1] & near[2:], 0.0, openness).clip(0, 1))


class Settled(NamedTuple):
    """A chunk whose tokens are the context of later ones."""

    audio: ChunkAudio
    draft: Draft
    tokens: Tokens


@dataclass(frozen=True)
class Request:
    """A chunk for the judge.

    settled: every chunk since the judge's last request, oldest first, with the tokens that now are its context: the
    judge must take these in first, whatever it answered then. stop: set when nobody waits any more.
    """

    audio: ChunkAudio
    draft: Draft
    settled: tuple[Settled, ...]
    stop: threading.Event


@dataclass(frozen=True)
class Verdict:
    """The judge's tokens for a chunk, one a frame.

    passes: forward passes so far; 0 for what is guessed before the first. Not final: what the judge thinks now, of
    which nothing is decided; an unfinished chunk is generated under it, because it is a better guess than the draft.
    Final and without tokens: the judge cannot say, and the policy for silence applies at once. openness: [frames]
    expected under the judge's distribution; None: of the tokens. by: who decided each frame; (): the judge all of them.
    judged: the judge's own best token of each frame, where the rule lets others stand; (): ``tokens``.
    """

    chunk: int
    tokens: Sequence[int]
    passes: int = 1
    final: bool = True
    openness: Float[np.ndarray, " frames"] | None = None
    by: tuple[By, ...] = ()
    judged: Sequence[int] = ()


class Drafter(Protocol):
    """Audio alone to a draft, chunk after chunk."""

    def draft(self, audio: ChunkAudio) -> Draft:
        """The next chunk's draft."""
        ...


class Judge(Protocol):
    """Verifies drafts. One request at a time; each chunk is asked at most once, in order; chunks may be left out."""

    def verify(self, request: Request, deliver: Callable[[Verdict], None]) -> None:
        """Judge a draft and call ``deliver``, now or later and from any thread; returning asks for the next chunk.

        Any number of verdicts that are not final may come before the final one.
        """
        ...

    def plan(self, request: Request, reasoning_tokens: int = 0) -> Verdict:
        """Write the chunk's tokens one by one, after ``reasoning_tokens`` tokens of reasoning."""
        ...


class Work(Protocol):
    """A chunk that is being generated."""

    @property
    def steps_left(self) -> int:
        """Denoising steps still to do."""
        ...


class Generator(Protocol):
    """Generates frames; a call returns when its result is there (a GPU's stream is synchronised by the stage).

    Nothing but ``commit`` may change what later chunks see, so that work can be dropped at any time.
    """

    def begin(self, audio: ChunkAudio, draft: Draft, plan: Plan) -> Work:
        """Start a chunk under a plan; the same arguments after the same commits give the same frames."""
        ...

    def step(self, work: Work, plan: Plan) -> None:
        """One denoising step under a plan, which may differ from the step before."""
        ...

    def rewind(self, work: Work) -> None:
        """Undo the last denoising step and all decoding behind it; never asked for twice without a step between."""
        ...

    def render(self, work: Work) -> UInt8[np.ndarray, "frames height width 3"] | None:
        """Decode the finished latents, or some more of them: None asks to be called again, for a rejection may come."""
        ...

    def commit(self, work: Work) -> None:
        """Make the chunk the past of the next one."""
        ...


@dataclass(frozen=True)
class Stages:
    """The three models of a run. Each holds the state of one stream: a new run takes new ones. chunk: what they take
    at a time."""

    drafter: Drafter
    judge: Judge
    generator: Generator
    chunk: units.ChunkSize = units.CHUNK


@dataclass(frozen=True)
class Policy:
    """What happens when the judge disagrees late, or says nothing.

    late
        A rejection that comes when the chunk is already being generated. ``midflight``: the next denoising step takes
        the judge's plan; where none is left the last one is undone and taken again, and where ``min_steps_left`` asks
        for more steps than that the chunk is generated again. ``rollback``: it is always generated again. ``overrule``:
        the draft it was begun on stands, and only the context of the next chunk takes the correction; the chunk never
        waits for its verdict.
    on_silence
        No verdict by ``deadline_s`` after the chunk's last sample (or a judge that is lost). ``stop``: the stream ends
        there with one line. ``draft``: the draft is committed, marked unverified.
    deadline_s
        Until when a verdict decides; frames follow as soon as they are generated.
    start_confidence
        Chunks whose mean confidence is lower are not begun before their verdict.
    hold_before
        Where a chunk waits for the judge's first pass (a verdict on it, final or not), because what follows would be
        lost with a rejection: ``last step`` (then a correction costs no more than the wait), ``decode`` or ``nothing``.
    generator_retries
        How often a chunk whose generation raised is begun again before the stream ends with one line.
    judge_backlog
        The judge counts as lost when it falls this many chunks behind.
    gate
        A chunk all of whose frames have this recalibrated confidence or more (the draft's own where it has none) is
        committed unasked and is the judge's context; None: every chunk is asked, 0: none.

    Raises
    ------
    InputError: a value outside its range.
    """

    late: Literal["midflight", "rollback", "overrule"] = "midflight"
    on_silence: Literal["stop", "draft"] = "stop"
    deadline_s: float = 30.0
    min_steps_left: int = 1
    start_confidence: float = 0.0
    hold_before: Literal["nothing", "decode", "last step"] = "nothing"
    generator_retries: int = 1
    judge_backlog: int = 64
    gate: float | None = None

    def __post_init__(self) -> None:
        if self.late not in ("midflight", "rollback", "overrule"):
            raise InputError(f"policy: late is {self.late!r}: expected midflight, rollback or overrule")
        if self.on_silence not in ("stop", "draft"):
            raise InputError(f"policy: on_silence is {self.on_silence!r}: expected stop or draft")
        if self.hold_before not in ("nothing", "decode", "last step"):
            raise InputError(f"policy: hold_before is {self.hold_before!r}: expected nothing, decode or last step")
        if not self.deadline_s > 0:
            raise InputError(f"policy: deadline_s is {self.deadline_s}: expected a positive time")
        if not 0 <= self.start_confidence <= 1:
            raise InputError(f"policy: start_confidence is {self.start_confidence}: expected 0 to 1")
        if self.gate is not None and not 0 <= self.gate <= 1:
            raise InputError(f"policy: gate is {self.gate}: expected 0 to 1, or None")
        for name, least in (("min_steps_left", 1), ("generator_retries", 0), ("judge_backlog", 1)):
            if getattr(self, name) < least:
                raise InputError(f"policy: {name} is {getattr(self, name)}: expected at least {least}")

    @property
    def exact(self) -> bool:
        """Whether every committed plan is the judge's own."""
        return self.late != "overrule" and self.on_silence == "stop" and self.gate is None

    @property
    def guarantee(self) -> str:
        """What a committed chunk is, in words."""
        if self.gate == 0:
            return "the committed plan is the draft's own; no judge was asked"
        if self.late == "overrule":
            return (
                "committed as drafted unless the verdict came before generation began; rejections are marked overruled"
            )
        frames = {
            "rollback": "frames are those of a generation under that plan from the start",
            "midflight": "frames took that plan at the latest in their last step",
        }[self.late]
        plan = "the committed plan is what the judge decided"
        if self.gate is not None:
            plan += f", but for chunks that went out unasked (every frame's confidence at least {self.gate:g})"
        if self.on_silence == "draft":
            plan += f", but for chunks marked unverified (no verdict within {self.deadline_s:g} s)"
        return f"{plan}; {frames}"


How = Literal["accepted", "corrected", "unverified", "overruled", "unasked", "written"]


@dataclass(frozen=True)
class Commit:
    """A chunk that went out; nothing about it changes any more.

    how: accepted (the judge let the draft stand), corrected (it did not in every frame), unverified (no verdict in
    time), overruled (the draft went out although the judge's verdict came, too late, and differs), unasked (the draft
    was sure enough), written (the judge wrote it, nothing was drafted). first_frame: its place in the recording;
    frames: uint8 [frames, height, width, 3].
    Times are the clock's; heard_s is the arrival of the chunk's last sample; decided_s when the tokens were fixed;
    judged_s NaN without a verdict by then. steps: denoising steps run, dropped ones included; attempts: generations
    begun or rewound; by: who decided each frame; openness: [frames], what they took in their last step; confidence,
    recalibrated: [frames], the draft's (None: nobody asked); judged: the judge's own best tokens, () without a word
    of it; accepted_frames: drafted tokens that stand.
    """

    index: int
    first_frame: int
    tokens: Tokens
    drafted: Tokens
    how: How
    frames: np.ndarray
    heard_s: float
    drafted_s: float
    judged_s: float
    decided_s: float
    begun_s: float
    rendered_s: float
    committed_s: float
    attempts: int = 1
    steps: int = 0
    passes: int = 0
    by: tuple[By, ...] = ()
    openness: np.ndarray | None = None
    confidence: np.ndarray | None = None
    recalibrated: np.ndarray | None = None
    judged: Tokens = ()

    @property
    def accepted_frames(self) -> int:
        """Frames whose drafted token went out."""
        return sum(old == new for old, new in zip(self.drafted, self.tokens, strict=True))

    @property
    def latency_s(self) -> float:
        """From the chunk's last sample to its frames."""
        return self.committed_s - self.heard_s
