"""Chunks of a talking face through Wan's latents: 1 to 3 slots at a time, from drafted latents, under a sync plan.

    generator = FaceGenerator(vae, transformer, reference_frame)
    chunk = generator.begin(plan, drafted, noise_level=0.6, steps=2, noise=torch.Generator().manual_seed(0))
    chunk.step()
    chunk.step(plan=corrected)             # the plan may change between two steps
    frames = generator.commit(chunk)       # uint8 [frames, px, px, 3]; final

**Flow.** Time t runs from 1 (noise) to 0 (clean): x_t = (1 - t) z + t eps. A chunk begins at t = noise_level from its
*draft* d instead of z, x = (1 - t) d + t eps (SDEdit), and goes to 0 in equal steps. The model predicts the clean
latents z' (as its difference from the resting face's latents, which is small), hence the velocity (x - z') / t, and a
step to t' < t is x' = z' + (t'/t)(x - z'). The last step ends on the prediction itself, so every step, also the last
one, can still repair a wrong draft; ``measures/pictures.py`` measures how much.

**Conditions**, all that wan-mini's ``WanTransformer3DModel`` sees of a chunk beside x and t:

- as input channels (:data:`INPUT_CHANNELS`), aligned in space: the latents of the identity's *still* slot (the
  reference frame, standing still), those of the last committed slot, which slot of the chunk a plane is, and whether
  anything was committed before;
- as the cross-attention sequence (:data:`TOKENS` tokens of :data:`TOKEN_FEATURES`): per frame the viseme, the openness
  and the idle motion (pose, lids, gaze, brows), for the chunk and a few frames before and after it.

Generation is causal: only :meth:`FaceGenerator.commit` advances the decoder's cache and the past slots.

**Short chunks.** A model that was trained on three slots denoises a chunk of one or two as the end of a window of
three, whose first slots are committed: they stand there as clean as the step's time makes them, (1 - t) z + t eps, and
what the model says of them is dropped (RePaint's known part). Before the first chunk the person has rested. A model
trained on shorter chunks (:func:`window_slots`) sees the chunk alone, at a third of the cost.

Sources
-------
Lipman et al., "Flow matching for generative modeling", 2023; Meng et al., "SDEdit", 2022; Li and He, "Back to basics:
let denoising generative models denoise", 2025 (predict the clean data); Lugmayr et al., "RePaint", 2022; Wan Team,
2025.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from specsync_lib.errors import InputError
from specsync_lib.face import wan
from specsync_lib.face.adapter import AdaptedTransformer
from specsync_lib.face.compositing import IDLE_COLUMNS
from specsync_lib.face.decoders.streams import WanDecoder
from specsync_lib.units import (
    CHUNK,
    FRAMES_PER_CHUNK,
    FRAMES_PER_SLOT,
    LATENT_CHANNELS,
    PIXELS_PER_LATENT,
    SLOTS_PER_CHUNK,
    VISEMES,
    ChunkSize,
)
from specsync_lib.visemes import SyncPlan

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    from specsync_lib.face.decoders.streams import Decoder
    from specsync_lib.face.head.motion import FaceTracks

PLAN_BACK_FRAMES, PLAN_AHEAD_FRAMES = 4, 4  # co-articulation reaches about this far
TOKENS = PLAN_BACK_FRAMES + FRAMES_PER_CHUNK + PLAN_AHEAD_FRAMES
IDLE_FEATURES = 3 + len(IDLE_COLUMNS)
FRAME_FEATURES = len(VISEMES) + 1 + IDLE_FEATURES + 1  # viseme, openness, idle, known
TOKEN_FEATURES = FRAME_FEATURES + TOKENS  # and its place
POSE_SCALE = 10.0  # a sway of 0.1 rad weighs as much as a whole unit
INPUT_CHANNELS = 3 * LATENT_CHANNELS + SLOTS_PER_CHUNK + 1
TIME_SCALE = 1000.0  # Wan's timesteps
STILL_FRAMES = 1 + 2 * FRAMES_PER_SLOT  # the last of its 3 slots is the still one


# --- the model's inputs -----------------------------------------------------------------------------------------------


def idle_rows(tracks: "FaceTracks") -> np.ndarray:
    """Idle motion [frames, IDLE_FEATURES] float32 of a head's tracks: yaw, pitch, roll, then brows, cheeks, eyes, nose.

    The units are in the order of :data:`compositing.IDLE_COLUMNS`; the mouth's are left out.
    """
    return idle_columns(tracks.units, tracks.pose)


def idle_columns(units: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """As :func:`idle_rows`, from units [frames, 52] and pose [frames, 3]."""
    return np.concatenate([POSE_SCALE * pose, units[:, IDLE_COLUMNS]], axis=1).astype(np.float32)


def one_hot(visemes: Int[Tensor, "..."]) -> Float[Tensor, "... 15"]:
    """Visemes as unit vectors; unlike F.one_hot it never asks the device for a value, so a CUDA graph can hold it."""
    return torch.eye(len(VISEMES), device=visemes.device)[visemes.long()]


def plan_tokens(
    visemes: Int[Tensor, "batch tokens"],
    openness: Float[Tensor, "batch tokens"],
    idle: Float[Tensor, "batch tokens idle"],
    known: Bool[Tensor, "batch tokens"],
) -> Float[Tensor, "batch tokens features"]:
    """The cross-attention sequence of a chunk; what is not known is zero (cross-attention knows no places, so each
    token carries its own)."""
    told = torch.cat([one_hot(visemes).to(openness), openness.unsqueeze(-1), idle], dim=-1)
    place = torch.eye(TOKENS, device=openness.device, dtype=openness.dtype).expand(len(visemes), -1, -1)
    return torch.cat([told * known.unsqueeze(-1), known.unsqueeze(-1).to(openness), place], dim=-1)


def model_input(
    noisy: Float[Tensor, "batch 16 slots h w"],
    still: Float[Tensor, "batch 16 h w"],
    last: Float[Tensor, "batch 16 h w"],
    first: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch channels slots h w"]:
    """The noisy chunk with its conditions along the channels."""
    batch, _, slots, h, w = noisy.shape
    held = torch.cat([still, last], dim=1).unsqueeze(2).expand(-1, -1, slots, -1, -1)
    which = torch.eye(SLOTS_PER_CHUNK, slots, device=noisy.device, dtype=noisy.dtype)[None, :, :, None, None]
    which = which.expand(batch, -1, -1, h, w)
    begins = first.to(noisy)[:, None, None, None, None].expand(-1, 1, slots, h, w)
    return torch.cat([noisy, held, which, begins], dim=1)


def takes_plan(transformer: "WanTransformer3DModel") -> bool:
    """Whether a transformer is of wan-mini's kind, with the conditions of this module; Wan's own has none of them."""
    return transformer.config.in_channels == INPUT_CHANNELS


def window_slots(transformer: "WanTransformer3DModel", size: ChunkSize) -> int:
    """How many slots a chunk is denoised among: its own, where the model knows chunks of that size, and under Wan's own
    without an adapter, which knows of no past; else three."""
    if isinstance(transformer, AdaptedTransformer):
        known = transformer.adapter.chunk_slots
    else:
        known = transformer.config.get(wan.KNOWN_SLOTS, (SLOTS_PER_CHUNK,))
    told = takes_plan(transformer) or isinstance(transformer, AdaptedTransformer)
    return SLOTS_PER_CHUNK if told and size.slots not in known else size.slots


def predict_clean(
    transformer: "WanTransformer3DModel",
    noisy: Float[Tensor, "batch 16 slots h w"],
    t: Float[Tensor, " batch"],
    tokens: Float[Tensor, "batch tokens features"],
    still: Float[Tensor, "batch 16 h w"],
    last: Float[Tensor, "batch 16 h w"],
    first: Bool[Tensor, " batch"],
) -> Float[Tensor, "batch 16 slots h w"]:
    """The model's estimate of a chunk's clean latents (normalised), whatever of noise or of a draft is in ``noisy``.

    A model of wan-mini's kind says how they differ from the resting face. Wan's own (:func:`takes_plan` is false) says
    the velocity eps - z of the straight line, so that z = x - t v; of the plan it knows what its adapter tells it,
    without one (:mod:`adapter`) only what the draft carries, and in the place of a text it reads none.
    """
    dtype = transformer.patch_embedding.weight.dtype
    if not takes_plan(transformer):
        if isinstance(transformer, AdaptedTransformer):
            velocity = transformer(noisy, TIME_SCALE * t, tokens, still, last, first)
        else:
            no_text = noisy.new_zeros(len(noisy), 1, transformer.config.text_dim, dtype=dtype)
            velocity = transformer(noisy.to(dtype), TIME_SCALE * t, no_text, return_dict=False)[0]
        return noisy - t[:, None, None, None, None] * velocity.to(noisy.dtype)
    out = transformer(
        model_input(noisy, still, last, first).to(dtype), TIME_SCALE * t, tokens.to(dtype), return_dict=False
    )[0]
    return still.unsqueeze(2) + out.to(noisy.dtype)


def step_times(noise_level: float, steps: int) -> list[float]:
    """Times of the states of a chunk: from the noise level down to 0, ``steps + 1`` of them."""
    return [noise_level * (1 - k / steps) for k in range(steps + 1)] if steps else [0.0]


def toward_clean(
    noisy: Float[Tensor, "... 16 slots h w"], clean: Float[Tensor, "... 16 slots h w"], t: float, t_next: float
) -> Float[Tensor, "... 16 slots h w"]:
    """One step along the straight line from ``noisy`` at t to the predicted clean latents: the state at ``t_next``."""
    return clean + (t_next / t) * (noisy - clean)


# --- the generator ----------------------------------------------------------------------------------------------------


@dataclass
class ChunkInProgress:
    """A chunk between its draft and its commit.

    Attributes
    ----------
    number : int
        Which chunk of the recording it is.
    latents : Tensor [16, slots, h, w]
        Its state, normalised; the finished latents once ``steps_left`` is 0.
    plan : SyncPlan
        What the next step follows: the chunk's frames, and up to :data:`PLAN_AHEAD_FRAMES` after them.
    past_noise : Tensor [16, past, h, w]
        What the committed slots in its window are drowned in.
    steps_left : int
    """

    number: int
    latents: Float[Tensor, "16 slots h w"]
    plan: SyncPlan
    idle: np.ndarray
    times: list[float]
    past_noise: Float[Tensor, "16 past h w"]
    generator: "FaceGenerator" = field(repr=False)
    _before: tuple[Tensor, list[float]] | None = field(default=None, repr=False)  # the last step

    @property
    def steps_left(self) -> int:
        return len(self.times) - 1

    def step(self, plan: SyncPlan | None = None) -> None:
        """One denoising step; a plan given here replaces the chunk's own from this step on.

        Raises
        ------
        InputError: no step is left, or the plan does not fit.
        """
        if not self.steps_left:
            raise InputError(f"face generator: chunk {self.number} has no denoising step left; commit it")
        if plan is not None:
            self.plan = self.generator.check_plan(plan)
        t, t_next = self.times[:2]
        self._before = self.latents, self.times
        self.latents = toward_clean(self.latents, self.generator.predict(self, t), t, t_next)
        self.times = self.times[1:]

    def undo(self) -> None:
        """Take the last step back, once.

        Raises
        ------
        InputError: there was none, or it has been taken back.
        """
        if self._before is None:
            raise InputError(f"face generator: chunk {self.number} has no denoising step to take back")
        (self.latents, self.times), self._before = self._before, None


@dataclass(frozen=True)
class Decoded:
    """Frames [n, px, px, 3] uint8 of a chunk that is not committed yet, and the decoder's place behind them."""

    frames: np.ndarray
    place: tuple


class FaceGenerator:
    """One person speaking, chunk by chunk.

    Parameters
    ----------
    vae, transformer
        wan-mini's or Wan's own, also with an adapter, on one device. Computation runs in their own precisions; states
        are float32.
    reference : ndarray [px, px, 3] uint8
        The person with the mouth at rest. It fills slot 0 of the clip, which is not part of the output.
    decoder : Decoder, optional
        What makes frames of the VAE's latents (:mod:`decoders.rows`); None: the VAE's own.
    size : ChunkSize
        Of every chunk.

    Raises
    ------
    InputError: the transformer is neither of wan-mini's kind nor Wan's own, the frame does not fit the latent grid, or
        the GPU's memory does not hold them.
    """

    def __init__(
        self,
        vae: "AutoencoderKLWan",
        transformer: "WanTransformer3DModel",
        reference: np.ndarray,
        decoder: "Decoder | None" = None,
        size: ChunkSize = CHUNK,
    ) -> None:
        given = (transformer.config.in_channels, transformer.config.out_channels, transformer.config.text_dim)
        wans_own = given[:2] == (LATENT_CHANNELS, LATENT_CHANNELS)
        if given != (INPUT_CHANNELS, LATENT_CHANNELS, TOKEN_FEATURES) and not wans_own:
            raise InputError(
                f"face generator: a transformer with {given} channels in, out and per token; wan-mini's has "
                f"{(INPUT_CHANNELS, LATENT_CHANNELS, TOKEN_FEATURES)}, Wan's own {LATENT_CHANNELS} in and out"
            )
        if isinstance(transformer, AdaptedTransformer) and transformer.adapter.frame_features != FRAME_FEATURES:
            raise InputError(
                f"face generator: an adapter for {transformer.adapter.frame_features} numbers a frame, a plan has "
                f"{FRAME_FEATURES}; train one with workbench.train.adapter"
            )
        if reference.ndim != 3 or reference.shape[0] != reference.shape[1] or reference.shape[2] != 3:
            raise InputError(f"face generator: a reference {reference.shape}, expected a square picture [px, px, 3]")
        self.px = reference.shape[0]
        patch = PIXELS_PER_LATENT * transformer.config.patch_size[1]
        if self.px % patch or reference.dtype != np.uint8:
            raise InputError(f"face generator: a reference of {self.px} px, {reference.dtype}; give uint8, {patch}k px")
        self.vae, self.transformer, self.size = vae, transformer, size
        self.decoder = WanDecoder(vae) if decoder is None else decoder
        self.device = vae.post_quant_conv.weight.device
        self.reference = reference
        with self._memory():
            self.still, self._first = still_latents(vae, reference, self.device)
        self.reset()

    def fresh(self, size: ChunkSize | None = None) -> "FaceGenerator":
        """Another clip of the same person by the same models, in chunks of the same size or of a given one."""
        other = copy.copy(self)
        other.size = self.size if size is None else size
        other.reset()
        return other

    def reset(self) -> None:
        """Back to before the first chunk."""
        with self._memory(), torch.no_grad():
            self.decoder = self.decoder.fresh()
            self.decoder.start(self._first, self.reference)
        known = window_slots(self.transformer, self.size) - self.size.slots
        self.past = self.still.unsqueeze(1).expand(-1, 1 + known, -1, -1)
        self.chunks = 0
        self._said = SyncPlan(np.zeros(0, np.int8), np.zeros(0, np.float32)), np.zeros((0, IDLE_FEATURES), np.float32)

    @property
    def last(self) -> Float[Tensor, "16 h w"]:
        """The last committed slot; the resting face's before the first chunk."""
        return self.past[:, -1]

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """[16, slots, h, w] of a chunk."""
        side = self.px // PIXELS_PER_LATENT
        return LATENT_CHANNELS, self.size.slots, side, side

    def begin(
        self,
        plan: SyncPlan,
        drafted: Float[Tensor, "16 slots h w"] | None,
        noise_level: float,
        steps: int,
        noise: torch.Generator,
        idle: np.ndarray | None = None,
    ) -> ChunkInProgress:
        """Start the chunk after the last committed one.

        Parameters
        ----------
        plan : SyncPlan
            A whole chunk's frames, and up to :data:`PLAN_AHEAD_FRAMES` after them if they are known already.
        drafted : Tensor [16, slots, h, w], optional
            Draft in normalised latents (:func:`wan.normalise_latents`); None: from noise alone (noise level 1).
        noise_level : float
            In (0, 1]: how much of the draft is drowned before denoising. 1 ignores the draft.
        steps : int
            0 decodes the draft as it is.
        noise : torch.Generator
            On the CPU; its draw is all that is random here.
        idle : ndarray [frames, IDLE_FEATURES], optional
            :func:`idle_rows` of the frames of ``plan``; None: the head stands still.

        Raises
        ------
        InputError: lengths, shapes or ranges do not fit.
        """
        plan = self.check_plan(plan)
        idle = np.zeros((len(plan), IDLE_FEATURES), np.float32) if idle is None else np.asarray(idle, np.float32)
        if idle.shape != (len(plan), IDLE_FEATURES) or not np.isfinite(idle).all():
            raise InputError(
                f"face generator: idle rows {idle.shape}, expected {(len(plan), IDLE_FEATURES)} finite ones"
            )
        if steps < 0 or not 0 < noise_level <= 1:
            raise InputError(
                f"face generator: {steps} steps from noise level {noise_level}; give 0 or more, from (0, 1]"
            )
        if drafted is None and (steps == 0 or noise_level != 1):
            raise InputError("face generator: without drafted latents, start from noise level 1 with at least one step")
        if drafted is not None and (tuple(drafted.shape) != self.latent_shape or not torch.isfinite(drafted).all()):
            raise InputError(
                f"face generator: drafted latents {tuple(drafted.shape)}, expected finite {self.latent_shape}"
            )
        times = step_times(noise_level, steps)
        state = torch.randn(self.latent_shape, generator=noise).to(self.device)
        if drafted is not None:
            state = (1 - times[0]) * drafted.to(self.device, torch.float32) + times[0] * state
        past_noise = torch.randn(self.past[:, 1:].shape, generator=noise).to(self.device)
        return ChunkInProgress(self.chunks, state, plan, idle, times, past_noise, self)

    def check_plan(self, plan: SyncPlan) -> SyncPlan:
        """The plan of a chunk, if it has its frames or up to :data:`PLAN_AHEAD_FRAMES` more.

        Raises
        ------
        InputError: it has fewer or more.
        """
        if not 0 <= len(plan) - self.size.frames <= PLAN_AHEAD_FRAMES:
            raise InputError(
                f"face generator: a plan of {len(plan)} frames for a chunk; give {self.size.frames}, padded with "
                f"silence at the end of a recording, and at most {PLAN_AHEAD_FRAMES} of the next chunk's"
            )
        return plan

    def predict(self, chunk: ChunkInProgress, t: float) -> Float[Tensor, "16 slots h w"]:
        """Clean latents of a chunk as the model sees them now."""
        known = (1 - t) * self.past[:, 1:] + t * chunk.past_noise
        with self._memory(), torch.no_grad():
            clean = predict_clean(
                self.transformer,
                torch.cat([known, chunk.latents], dim=1)[None],
                torch.tensor([t], device=self.device),
                self.tokens(chunk)[None].to(self.device),
                self.still[None],
                self.past[None, :, 0],
                torch.tensor([self.chunks == 0 and not known.shape[1]], device=self.device),
            )
        return clean[0, :, known.shape[1] :]

    def tokens(self, chunk: ChunkInProgress) -> Float[Tensor, "tokens features"]:
        """The chunk's cross-attention sequence, with what was committed before it."""
        said, said_idle = self._said
        known = np.zeros(TOKENS, bool)
        visemes, openness = np.zeros(TOKENS, np.int64), np.zeros(TOKENS, np.float32)
        idle = np.zeros((TOKENS, IDLE_FEATURES), np.float32)
        begins, frames = self._told_frames, min(len(chunk.plan), len(chunk.idle))
        for target, source, rows in (
            (slice(begins - len(said), begins), said, said_idle),
            (slice(begins, begins + frames), chunk.plan, chunk.idle),
        ):
            count = target.stop - target.start
            visemes[target], openness[target] = source.visemes[:count], source.openness[:count]
            idle[target], known[target] = rows[:count], True
        arrays = (torch.from_numpy(values)[None] for values in (visemes, openness, idle, known))
        return plan_tokens(*arrays)[0]

    def decode(self, chunk: ChunkInProgress, slots: slice = slice(None), after: Decoded | None = None) -> Decoded:
        """Frames of a finished chunk, or of some of its slots, before it is known whether it will be committed.

        Parameters
        ----------
        slots : slice
            Which of the chunk's slots.
        after : Decoded, optional
            What the slots before gave; None: they are the chunk's first.

        Raises
        ------
        InputError: steps are left, or it is not the chunk that follows the last committed one.
        """
        self._check_turn(chunk)
        start = self.decoder.state()
        try:
            if after is not None:
                self.decoder.restore(after.place)
            with self._memory():
                frames = self.decoder.push(chunk.latents[:, slots]).cpu().numpy()
            return Decoded(frames if after is None else np.concatenate([after.frames, frames]), self.decoder.state())
        finally:
            self.decoder.restore(start)

    def commit(self, chunk: ChunkInProgress, decoded: Decoded | None = None) -> np.ndarray:
        """The chunk's frames [frames, px, px, 3] uint8, for good: the next chunk starts from them.

        ``decoded``: what :meth:`decode` gave for the whole chunk, if it is decoded already.

        Raises
        ------
        InputError: steps are left, it is not the chunk that follows the last committed one, or it is decoded in part.
        """
        self._check_turn(chunk)
        decoded = self.decode(chunk) if decoded is None else decoded
        frames = self.size.frames
        if len(decoded.frames) != frames:
            raise InputError(
                f"face generator: chunk {chunk.number} is decoded to {len(decoded.frames)} of {frames} frames"
            )
        self.decoder.restore(decoded.place)
        self.past = torch.cat([self.past, chunk.latents], dim=1)[:, -self.past.shape[1] :]
        (said, said_idle), plan, told = self._said, chunk.plan, slice(-self._told_frames, None)
        self._said = (
            SyncPlan(
                np.append(said.visemes, plan.visemes[:frames])[told],
                np.append(said.openness, plan.openness[:frames])[told],
            ),
            np.concatenate([said_idle, chunk.idle[:frames]])[told],
        )
        self.chunks += 1
        return decoded.frames

    @property
    def _told_frames(self) -> int:
        """Committed frames that the model is told the plan of: those in the chunk's window, and a few before it."""
        return PLAN_BACK_FRAMES + FRAMES_PER_SLOT * (self.past.shape[1] - 1)

    def _check_turn(self, chunk: ChunkInProgress) -> None:
        if chunk.generator is not self or chunk.number != self.chunks:
            raise InputError(
                f"face generator: chunk {chunk.number} is not the next one ({self.chunks}); begin it again"
            )
        if chunk.steps_left:
            raise InputError(f"face generator: chunk {chunk.number} has {chunk.steps_left} denoising steps left")

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """A GPU out of memory as one line with the sizes asked."""
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            counts = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (self.vae, self.transformer)]
            raise InputError(
                f"face generator: the GPU's memory does not hold a VAE of {counts[0]:.1f} M and a transformer of "
                f"{counts[1]:.1f} M parameters in {self.transformer.dtype} on {self.size.slots} slots of {self.px} px "
                f"(latents {list(self.latent_shape)}); lower region_px, or load the models with dtype=torch.bfloat16"
            ) from error


@torch.no_grad()
def still_latents(
    vae: "AutoencoderKLWan", reference: np.ndarray, device: torch.device
) -> tuple[Float[Tensor, "16 h w"], Float[Tensor, "16 h w"]]:
    """Of a picture [px, px, 3] uint8 that stands still: its later slot and its slot 0, normalised."""
    clip = torch.tensor(reference, device=device).expand(1, STILL_FRAMES, -1, -1, -1)
    latents = wan.encode_clip(vae, wan.to_signal(clip).to(vae.quant_conv.weight.dtype)).chunk(2, dim=1)[0].float()
    normalised = wan.normalise_latents(latents, vae)[0]
    return normalised[:, -1], normalised[:, 0]


# --- a whole recording ------------------------------------------------------------------------------------------------


def chunk_plans(
    plan: SyncPlan, idle: np.ndarray | None = None, size: ChunkSize = CHUNK
) -> Iterator[tuple[SyncPlan, np.ndarray]]:
    """Plan and idle rows of every chunk of a recording, the last one padded: silence, and the last frame's idle motion.

    :data:`PLAN_AHEAD_FRAMES` frames of the next chunk come along where there are some.
    """
    frames = len(plan)
    idle = np.zeros((frames, IDLE_FEATURES), np.float32) if idle is None else idle
    pad = -frames % size.frames
    whole = SyncPlan(np.pad(plan.visemes, (0, pad)), np.pad(plan.openness, (0, pad)))
    rows = np.pad(idle[:frames], ((0, pad), (0, 0)), mode="edge")
    for start in range(0, frames, size.frames):
        part = slice(start, start + size.frames + PLAN_AHEAD_FRAMES)
        yield SyncPlan(whole.visemes[part], whole.openness[part]), rows[part]
