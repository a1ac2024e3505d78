"""The suite's models as stages of the pipeline: streaming draft, language model as judge, face generator.

The models are loaded once and shared; each run makes new stages of one stream: ``stages = Models(...).stages()``.

What the judge hears is only what has been said, some 50 ms past the chunk (``pipeline.sound``): the ears, a causal
front of more blocks and a longer past than the draft's, one call a chunk with a cache.
Whisper's *words* come a second or more after they sound, too late for a chunk that goes out after 120 ms, so a live
judge has none; ``words`` is for speech whose text and times are known beforehand (a script, or a synthetic voice).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from specsync_lib import units
from specsync_lib.draft.front import DRAFT, EARS, FrontDraft, FrontStream, front_path, load_draft_front
from specsync_lib.draft.front_weights import features_sha256
from specsync_lib.draft.latents import FrontLatents, LatentBasis, basis_folder, load_latent_basis
from specsync_lib.draft.plan import CausalNormaliser, DraftPlan
from specsync_lib.errors import InputError
from specsync_lib.face import generation, wan
from specsync_lib.face.decoders.rows import load_decoder
from specsync_lib.face.wan_mini import Size, new_transformer, new_vae
from specsync_lib.judge.policy import AcceptancePolicy, LiveConfidence, load_policy
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.rules import EXACT, Stream, VerifyOptions
from specsync_lib.judge.script import ChunkEvidence, HeardWord, loudness_digits, timed_words
from specsync_lib.judge.verify import ChunkContext, ChunkVerdict, ShiftGuard, verify_chunk
from specsync_lib.paths import MODELS_DIR
from specsync_lib.pipeline.sound import ChunkAudio, samples_for_chunk
from specsync_lib.pipeline.stages import Draft, Plan, Request, Stages, Station, Stopped, Verdict
from specsync_lib.rows import WAN_MINI_SHAPE, Row
from specsync_lib.speech.log_mel import StreamingLogMel
from specsync_lib.tensors import read_object
from specsync_lib.visemes import SyncPlan, expected_openness

if TYPE_CHECKING:
    from kernels.causal_front.reference import FrontWeights

WORD_AHEAD_FRAMES = 3  # words that begin so soon after a chunk are told with it
FRAMES_A_ROW_BEGINS = 3  # 100 ms: as often does a frame begin where a row of log-mel is centred
LOUDNESS_ROWS_KEPT = 4  # before a chunk's first centre: a recording may end between rows


def station_threads(cores: int) -> dict[Station, int]:
    """How stages share a CPU's cores: the judge has half of them while it works; the generator takes all, for it works
    alone for longer than beside the judge."""
    return {"draft": cores, "judge": max(1, cores // 2), "generator": cores}


def whole_chunk(plan: Plan, ahead: Plan | None = None, size: units.ChunkSize = units.CHUNK) -> SyncPlan:
    """A plan of a whole chunk: surplus frames are silent, and what is known of the next chunk follows."""
    pad = (0, size.frames - len(plan.tokens))
    visemes, openness = np.pad(np.array(plan.tokens, np.int8), pad), np.pad(plan.openness, pad)
    if ahead is not None:
        visemes, openness = np.append(visemes, ahead.tokens), np.append(openness, ahead.openness)
    return SyncPlan(visemes, openness)


class FrontEar:
    """Sound as a causal front hears it, chunk after chunk: streaming log-mel, the causal normaliser, one call a chunk.

    Parameters
    ----------
    weights
        From `front.load_draft_front`.
    name
        The stream's name.
    """

    def __init__(self, weights: "FrontWeights", name: str) -> None:
        self.stream = FrontStream(weights, name)
        self._mel, self._normaliser = StreamingLogMel(), CausalNormaliser()
        self._loudness = np.zeros(0, np.float32)  # of the last rows, before they were normalised
        self._first_row = 0  # absolute index of the first row kept

    def hear(self, samples: np.ndarray, frames: int, ended: bool) -> tuple[FrontDraft, np.ndarray]:
        """The next frames from the next samples, and how loud each frame is (`log_mel.frame_energy`)."""
        new = [self._mel.push(samples)]
        if ended:
            new.append(self._mel.flush())
        centres = np.array([units.centre_mel_frame(self.stream.next_frame + frame) for frame in range(frames)])
        first = max(0, centres[0] - LOUDNESS_ROWS_KEPT)
        loudness = np.concatenate([self._loudness, *(rows.mean(axis=1) for rows in new)])
        self._loudness, self._first_row = loudness[first - self._first_row :], first
        said = self.stream.draft(np.concatenate([self._normaliser.push(rows) for rows in new]), frames, ended=ended)
        return said, self._loudness[(centres - first).clip(max=len(self._loudness) - 1)]


class SpeechDrafter:
    """The draft of one stream.

    Parameters
    ----------
    weights
        The draft's front.
    latents
        Drafts latents from its features; None: a plan alone.
    policy
        Gives every frame its recalibrated confidence; None: it has none.
    """

    def __init__(
        self, weights: "FrontWeights", latents: FrontLatents | None = None, policy: AcceptancePolicy | None = None
    ) -> None:
        self._ear, self._latents = FrontEar(weights, DRAFT), latents
        self._confidence = None if policy is None else LiveConfidence(policy)

    def draft(self, audio: ChunkAudio) -> Draft:
        """The next chunk's draft: what `front.front_plan` says of the whole recording."""
        said, loudness = self._ear.hear(audio.samples, audio.frames, audio.ended)
        plan = said.plan
        return Draft(
            tuple(plan.probabilities.argmax(axis=1)),
            plan.confidence,
            plan.openness,
            plan.probabilities,
            None if self._latents is None else self._latents.draft(plan, said.hidden, audio.size.slots).latents,
            None if audio.ended else self._ahead(),
            None if self._confidence is None else self._confidence.of(plan, loudness),
        )

    def _ahead(self) -> Plan:
        """The first frames of a chunk that is yet to be heard, as if what is heard last went on."""
        plan = self._ear.stream.ahead(generation.PLAN_AHEAD_FRAMES)
        return Plan(tuple(plan.probabilities.argmax(axis=1)), plan.openness)


class RestDrafter:
    """Proposes nothing: silence, and the latents of a face at rest.

    Parameters
    ----------
    still
        [16, h, w] `generation.FaceGenerator.still`.
    """

    def __init__(self, still: torch.Tensor) -> None:
        self._still = still

    def draft(self, audio: ChunkAudio) -> Draft:
        """The same for every chunk."""
        nothing = np.zeros(audio.frames, np.float32)
        latents = self._still.unsqueeze(1).expand(-1, audio.size.slots, -1, -1)
        return Draft((0,) * audio.frames, nothing, nothing, latents=latents, rest=True)


class Listener:
    """What the judge is told of a chunk, from what has been heard of the recording so far.

    Parameters
    ----------
    ears
        The judge's front (`front.load_draft_front` of ``ears``).
    words
        Words with times that are known beforehand; none for live speech.
    """

    def __init__(self, ears: "FrontWeights", words: Sequence[HeardWord] = ()) -> None:
        self._ears = ears
        self._words = timed_words(words, 1 << 30)
        self._ear = FrontEar(ears, EARS)
        self._next_chunk = 0

    def hear(self, chunk: ChunkAudio) -> ChunkEvidence:
        """Evidence of the next chunk: what one hears when it is complete, whenever one is asked and of whatever else.

        A chunk that does not follow the last one begins anew, with nothing before it.
        """
        samples, before = chunk.samples, 0
        if chunk.index != self._next_chunk:
            # Its samples begin with what the chunk before listened ahead. A stream's frames lie on the rows of log-mel
            # as the recording's do, so it begins at a frame that begins with a row: up to two silent ones go before.
            self._ear, before = FrontEar(self._ears, EARS), chunk.first_frame % FRAMES_A_ROW_BEGINS
            begins = (chunk.first_frame - before) * units.SAMPLE_RATE_HZ // units.VIDEO_FPS
            samples = np.pad(samples, (samples_for_chunk(chunk.index - 1, chunk.size) - begins, 0))
        self._next_chunk = chunk.index + 1
        said, loudness = self._ear.hear(samples, before + chunk.frames, chunk.ended)
        loudness, probe = loudness[before:], said.plan.probabilities[before:]
        beyond = chunk.first_frame + chunk.frames + WORD_AHEAD_FRAMES
        near = tuple(w for w in self._words if w.first_frame < beyond and w.last_frame >= chunk.first_frame)
        return ChunkEvidence(chunk.first_frame, near, loudness_digits(loudness), probe)


@dataclass(frozen=True)
class Asked:
    """What is known of a chunk when its draft is verified.

    before, best_before, guard: as of `verify.ChunkContext`.
    """

    draft: Draft
    evidence: ChunkEvidence
    before: int | None = None
    best_before: int | None = None
    guard: ShiftGuard | None = None


def judged(
    stream: Stream,
    index: int,
    asked: Asked,
    options: VerifyOptions,
    deliver: Callable[[Verdict], None] | None = None,
) -> tuple[Verdict, ChunkVerdict]:
    """The final verdict on a chunk whose evidence a stream has read, and how it came about.

    The first pass of an exact rule verifies what the probe hears, which is known by then and was not when the draft
    was made. ``deliver`` is told what is thought before every pass; of the lenient rule's only one nothing is told. A
    chunk that could not be decided has a verdict without tokens.
    """
    draft, evidence = asked.draft, asked.evidence
    one_pass = options.rule == "lenient"

    def tell(tokens: np.ndarray, passes: int, rows: np.ndarray) -> None:
        rows = np.where(np.isnan(rows), evidence.probe, rows)
        deliver(Verdict(index, tokens.tolist(), passes, False, expected_openness(rows)))

    context = ChunkContext(
        guess=None if one_pass else evidence.probe,
        witness=evidence.probe,
        before=asked.before,
        recalibrated=draft.recalibrated,
        best_before=asked.best_before,
        guard=asked.guard,
    )
    plan = DraftPlan(draft.probabilities, draft.confidence, draft.openness)
    decided = verify_chunk(stream, plan, options, context, None if one_pass or deliver is None else tell)
    if decided.fallbacks:
        return Verdict(index, (), decided.passes), decided
    # sure frames that no pass read have no rows; they stand, and keep their own openness
    rows = np.where(np.isnan(decided.rows), draft.probabilities, decided.rows)
    openness, best = expected_openness(rows), rows.argmax(axis=1)
    let_stand = (decided.tokens == np.array(draft.tokens)) & (decided.tokens != best)
    by = tuple(np.where(decided.verified & ~let_stand, "judge", "draft").tolist())
    return Verdict(index, decided.tokens.tolist(), decided.passes, True, openness, by, best.tolist()), decided


class ReasonerJudge:
    """A language model that verifies drafts in one or two passes, or writes plans token by token.

    A chunk that it could not decide (broken rows, an error in a pass) has no verdict: the pipeline's policy decides.

    Parameters
    ----------
    options
        How chunks are decided. Only the exact rules give the judge's own plan. Branches save passes and read more in
        each: they pay where a pass waits for the weights (a GPU), and cost where it computes (a CPU).
    """

    def __init__(self, reasoner: Reasoner, listener: Listener, options: VerifyOptions = EXACT) -> None:
        self._reasoner, self._listener, self._options = reasoner, listener, options
        self._stream = reasoner.stream()
        self._best_of_last: int | None = None  # the judge's best viseme for the last frame that it read
        self._read = 0  # the next chunk to read
        self._failed: int | None = None  # the chunk that was read, and whose plan no pass could write
        self._guard = ShiftGuard()
        self.faults: list[str] = []

    def verify(self, request: Request, deliver: Callable[[Verdict], None]) -> None:
        """One pass, and one more after most rejections (`judged`); what it thinks before and in between is told at
        once.

        Raises
        ------
        Stopped: before a pass that nobody waits for any more.
        """

        def told(verdict: Verdict) -> None:
            if request.stop.is_set():
                raise Stopped
            deliver(verdict)

        evidence = self._read_up_to(request)
        before = request.settled[-1].tokens[-1] if request.settled else None
        guard = None
        if request.audio.size.slots < units.SLOTS_PER_CHUNK:
            guard = self._guard
            guard.next_chunk(request.audio.frames)
        index, asked = request.audio.index, Asked(request.draft, evidence, before, self._best_of_last, guard)
        verdict, decided = judged(self._stream, index, asked, self._options, told)
        self._best_of_last = decided.best_of_last
        self.faults += [f"chunk {index}: {fault}" for fault in decided.faults]
        deliver(verdict)

    def plan(self, request: Request, reasoning_tokens: int = 0) -> Verdict:
        """The chunk's tokens, one pass each, after so many tokens of reasoning.

        Raises
        ------
        Stopped: before a pass that nobody waits for any more.
        """
        self._read_up_to(request)
        index = request.audio.index
        frames, tokens, rows, begun = request.audio.frames, [], [], self._stream.fork()
        at_once = frames if reasoning_tokens else 1  # what it thought is in sight of the whole plan
        try:
            while len(tokens) < frames:
                if request.stop.is_set():
                    raise Stopped
                some, their_rows = self._stream.plan(at_once, reasoning_tokens)
                self._stream.commit(some)
                tokens += some.tolist()
                rows.append(their_rows)
        except Exception:
            self._stream, self._failed = begun, index  # what goes out for it instead is fixed with the next request
            raise
        return Verdict(request.audio.index, tokens, frames, openness=expected_openness(np.concatenate(rows)))

    def _read_up_to(self, request: Request) -> ChunkEvidence:
        """Take in the chunks that went by without a request, with what went out for them, and this one's evidence.

        What the stream holds of a chunk that it judged itself stays: its own tokens.
        """
        if self._failed is not None:
            out = next((settled.tokens for settled in request.settled if settled.audio.index == self._failed), None)
            self._failed = None
            if out is None:
                self._read = -1  # nobody knows any more what went out
            else:
                self._stream.commit(np.array(out))
        missed = [settled for settled in request.settled if settled.audio.index >= self._read]
        if (missed[0].audio.index if missed else request.audio.index) > self._read:
            self._stream = self._reasoner.stream()  # more went by than it could remember
            self._guard.forget()
        for settled in missed:
            self._best_of_last = None  # nobody judged it
            self._guard.forget()
            self._stream.read(self._listener.hear(settled.audio))
            self._stream.commit(np.array(settled.tokens))
        evidence = self._listener.hear(request.audio)
        self._stream.read(evidence)
        self._read = request.audio.index + 1
        return evidence


@dataclass
class FaceWork:
    """A chunk being generated, and its slots decoded so far."""

    chunk: generation.ChunkInProgress
    draft: Draft
    size: units.ChunkSize = units.CHUNK
    slots: int = 0
    decoded: generation.Decoded | None = None

    @property
    def steps_left(self) -> int:
        """Denoising steps still to do."""
        return self.chunk.steps_left


class FaceStage:
    """`generation.FaceGenerator` as a stage; the same chunk under the same plan takes the same noise.

    Parameters
    ----------
    noise_level
        How much of the drafted latents is drowned; chunks without drafted latents start from noise alone.
    idle
        [frames, IDLE_FEATURES] what the head does besides speaking (`generation.idle_rows`), its last row for ever
        after; None: it stands still.
    """

    def __init__(
        self,
        face: generation.FaceGenerator,
        *,
        steps: int = 2,
        noise_level: float = 0.6,
        seed: int = 0,
        idle: np.ndarray | None = None,
    ) -> None:
        self._face, self._steps, self._noise_level, self._seed, self._idle = face, steps, noise_level, seed, idle

    def begin(self, audio: ChunkAudio, draft: Draft, plan: Plan, steps: int | None = None) -> FaceWork:
        """Start a chunk from its drafted latents; steps: where it shall take fewer than usual."""
        noise = torch.Generator().manual_seed(self._seed + audio.index)
        level = 1.0 if draft.latents is None else self._noise_level
        whole = whole_chunk(plan, draft.ahead, audio.size)
        rows = None
        if self._idle is not None:
            frames = audio.first_frame + np.arange(len(whole))
            rows = self._idle[frames.clip(max=len(self._idle) - 1)]
        chunk = self._face.begin(whole, draft.latents, level, steps or self._steps, noise, rows)
        return FaceWork(chunk, draft, audio.size)

    def step(self, work: FaceWork, plan: Plan) -> None:
        """One denoising step, under what is known by now."""
        work.chunk.step(whole_chunk(plan, work.draft.ahead, work.size))

    def rewind(self, work: FaceWork) -> None:
        """Back before the last step."""
        work.chunk.undo()
        work.slots, work.decoded = 0, None

    def render(self, work: FaceWork) -> np.ndarray | None:
        """Decode one more slot; the frames with the last one."""
        work.decoded = self._face.decode(work.chunk, slice(work.slots, work.slots + 1), work.decoded)
        work.slots += 1
        return work.decoded.frames if work.slots == work.size.slots else None

    def commit(self, work: FaceWork) -> None:
        """The chunk becomes the past."""
        self._face.commit(work.chunk, work.decoded)


@dataclass(frozen=True)
class Models:
    """What every stream shares. label: "real-shape" where a model's weights are random; names: what each part is."""

    draft: "FrontWeights"
    ears: "FrontWeights"
    reasoner: Reasoner
    face: generation.FaceGenerator
    steps: int = 2
    noise_level: float = 0.6
    label: str = "measured"
    policy: AcceptancePolicy | None = None
    latents: FrontLatents | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def chunk(self) -> units.ChunkSize:
        """What every stream takes at a time."""
        return self.face.size

    def stages(
        self,
        *,
        options: VerifyOptions | None = EXACT,
        drafted: bool = True,
        seed: int = 0,
        idle: np.ndarray | None = None,
        stage: Callable[..., FaceStage] = FaceStage,
    ) -> Stages:
        """The stages of one stream.

        Parameters
        ----------
        options
            How the judge verifies; None: it is never asked to.
        drafted
            False: nothing is proposed, latents start from the resting face.
        idle
            As for `FaceStage`.
        stage
            Makes the face's stage, out of what `FaceStage` takes.
        """
        face = self.face.fresh()
        drafter = SpeechDrafter(self.draft, self.latents, self.policy) if drafted else RestDrafter(face.still)
        judge = ReasonerJudge(self.reasoner, Listener(self.ears), options or EXACT)
        face_stage = stage(face, steps=self.steps, noise_level=self.noise_level, seed=seed, idle=idle)
        return Stages(drafter, judge, face_stage, self.chunk)


# --- from a row ------------------------------------------------------------------------------------------------------

COEFFICIENTS = 64  # of the basis that stands in where weights are random


@dataclass(frozen=True)
class Listeners:
    """The models that hear and judge, without a face."""

    draft: "FrontWeights"
    ears: "FrontWeights"
    reasoner: Reasoner
    policy: AcceptancePolicy


def load_listeners(row: Row | None = None, device: str = "cpu") -> Listeners:
    """The draft, the judge's ears and the judge of a row (the default one's without), and the acceptance policy.

    Raises
    ------
    InputError: weights are absent or do not fit, or a server is none that can judge.
    """
    from specsync_lib.judge.loading import load_judge

    row = Row() if row is None else row
    return Listeners(
        load_draft_front(row.draft.front).to(device),
        load_draft_front(row.draft.ears).to(device),
        load_judge(row.judge, device),
        load_policy(),
    )


def load_models(
    row: Row | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    reference: np.ndarray | None = None,
    decoder: str | None = None,
    chunk: units.ChunkSize = units.CHUNK,
) -> Models:
    """Every model of a row, the default one's without.

    Parameters
    ----------
    seed
        Of random weights (``wan-mini-shape``: what its size costs, not what it shows).
    device
        The run's, for parts whose own is auto.
    reference
        [px, px, 3] uint8, the person at rest; None: the basis' own.
    decoder
        A row of :data:`decoders.rows.ROWS` in place of the row's; with random weights the label is "real-shape".
    chunk
        What every stream takes at a time.

    Raises
    ------
    InputError: weights are absent or do not fit each other.
    """
    row = Row() if row is None else row
    ears, video = load_listeners(row, device), row.video
    place = device if video.device == "auto" else video.device
    if video.source == WAN_MINI_SHAPE:
        basis = _random_basis(len(ears.draft.hidden_b), seed, video.pixels)
        vae, transformer = _random_wan_mini(seed, place)
        reference = np.full((video.pixels, video.pixels, 3), 128, np.uint8)
    else:
        basis = load_basis(row)
        vae, transformer = wan.load_video(video, place)
        if basis is not None:
            basis.check(vae, video.pixels)
        if reference is None:
            reference = _own_person(basis, vae, place)
    lean = wan.lean_decoder(vae)
    made = load_decoder(decoder or video.decoded_by, lean, **_file(video.decoder_file))
    generator = generation.FaceGenerator(lean, transformer, reference, made, chunk)
    latents = None if basis is None else FrontLatents(basis, z0=generator.still.cpu(), device=place)
    labels = {row.judge.label, video.label, generator.decoder.label}
    label = "measured" if labels == {"measured"} else "real-shape"
    names = {
        "row": row.name,
        "draft": row.draft.front,
        "judge": ears.reasoner.name,
        "engine": ears.reasoner.engine.about,
        "face": video.source,
    }
    return Models(
        ears.draft, ears.ears, ears.reasoner, generator, video.steps, video.noise_level, label, ears.policy, latents,
        names,
    )  # fmt: skip


def load_basis(row: Row) -> LatentBasis | None:
    """The basis of a row's drafted latents, None where it has none.

    Raises
    ------
    InputError: it is absent, or of another draft.
    """
    if row.draft.basis == "none":
        return None
    basis = load_latent_basis(basis_folder(row.draft.basis))
    basis.check_draft(features_sha256(front_path(row.draft.front)))
    return basis


def _file(given: str) -> dict[str, str]:
    return {} if given == "auto" else {"path": given}


def _own_person(basis: LatentBasis | None, vae, device: str) -> np.ndarray:
    """The resting face that the basis was fitted around, decoded."""
    if basis is None:
        raise InputError("face: a row without a basis has no person of its own; give a reference")
    still = basis.z0.to(device)[None, :, None].expand(-1, -1, units.SLOTS_PER_CHUNK, -1, -1)
    with torch.no_grad():
        signal = wan.decode_clip(vae, wan.denormalise_latents(still, vae))
    return wan.to_frames(signal)[0, -1].cpu().numpy()


def _random_wan_mini(seed: int, device: str) -> tuple:
    """wan-mini's VAE and transformer with random weights."""
    config = read_object(MODELS_DIR / "wan_mini" / "vae" / "config.json")
    vae = new_vae(config["base_dim"], seed, config["num_res_blocks"]).eval().requires_grad_(False).to(device)
    vae.register_to_config(latents_mean=[0.0] * units.LATENT_CHANNELS, latents_std=[1.0] * units.LATENT_CHANNELS)
    return vae, new_transformer(Size(), seed).eval().requires_grad_(False).to(device)


def _random_basis(hidden: int, seed: int, pixels: int) -> LatentBasis:
    """A basis of so many pixels' size for so many features."""
    generator = torch.Generator().manual_seed(seed)
    side = pixels // units.PIXELS_PER_LATENT
    size = units.LATENT_CHANNELS * side * side
    basis = torch.randn(COEFFICIENTS, size, generator=generator) / size**0.5
    w_coef = torch.randn(hidden + 1, COEFFICIENTS, generator=generator) / hidden**0.5
    z0 = torch.randn(units.LATENT_CHANNELS, side, side, generator=generator)
    return LatentBasis(basis, w_coef, z0, "", "")
