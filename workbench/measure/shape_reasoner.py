"""The full-scale models as shapes: real architectures from their configs, random weights, for latency alone.

Whisper large-v3's encoder, DeepSeek-R1-Distill-Llama-70B in bf16 or FP8, Wan 2.1's 1.3B transformer and its VAE are
built from transformers' and diffusers' own classes, first without storage, then tensor by tensor on the device: no
weights are downloaded and nothing passes through the CPU. What they compute is noise; how long they take is not. Every
number measured on them carries the label real-shape.

A call is either eager or one CUDA graph (:func:`captured`); on a CPU, where the tests run it with tiny configs, a
captured call is the plain call.

Source
------
The models' own config.json: openai/whisper-large-v3, deepseek-ai/DeepSeek-R1-Distill-Llama-70B,
Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from kernels.project_latents import ProjectionWeights, project_latents
from specsync_lib.errors import InputError
from specsync_lib.judge.branches import ROOMS, TOKENS_A_FRAME, USUAL_ROOM, Room
from specsync_lib.judge.token_tree import TokenTree
from specsync_lib.units import (
    CHUNK,
    HOP_SAMPLES,
    LATENT_CHANNELS,
    MEL_BANDS,
    PIXELS_PER_LATENT,
    SAMPLE_RATE_HZ,
    STFT_SAMPLES,
    VISEMES,
    ChunkSize,
)
from workbench.measure.shapes import Shapes, captured, fill

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

Precision = Literal["bf16", "fp8"]
Fp8Method = Literal["rowwise", "per-tensor", "dequantise"]

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
PASS_TILE = 16  # tokens: a pass over several plans is a whole number of them
FP8_LEAST_ROWS = 16  # cuBLAS' FP8 product is slower on fewer rows than on these
DRAFT_HIDDEN, DRAFT_COEFFICIENTS = 1024, 64
FIRST_TOKEN = 32  # the visemes are any 15 tokens of the vocabulary
EVIDENCE_A_FRAME = TOKENS_A_FRAME - 1  # of the reasoner's script


# --- building without weights -----------------------------------------------------------------------------------------


def build_reasoner(
    shapes: Shapes,
    device: torch.device,
    *,
    precision: Precision = "bf16",
    fp8_method: Fp8Method = "per-tensor",
    dtype: torch.dtype = torch.bfloat16,
) -> "LlamaForCausalLM":
    """The reasoner; with "fp8" the layers' matrices have a scale per output channel, embedding and head stay bf16."""
    from accelerate import init_empty_weights
    from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

    AttentionInterface.register("grouped", grouped_attention)
    config = LlamaConfig(**shapes.reasoner, attn_implementation="grouped")
    with init_empty_weights(include_buffers=False):
        model = LlamaForCausalLM(config)
        for module in list(model.model.modules()):
            for name, child in module.named_children():
                if type(child).__name__ == "LlamaRMSNorm":
                    # torch's own is one kernel where the model's code is six
                    setattr(module, name, nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps))
    if precision == "fp8":
        for layer in model.model.layers:
            for module in (layer.self_attn, layer.mlp):
                for name, child in list(module.named_children()):
                    if isinstance(child, nn.Linear):
                        shape = (child.out_features, child.in_features)
                        setattr(module, name, Fp8Linear.random(*shape, device, dtype, fp8_method))
    fill(model, device, dtype)
    return model


# --- sound ------------------------------------------------------------------------------------------------------------


class Listener:
    """Log-mel of the last window of sound for the encoder and for the draft, and the encoder itself, if any."""

    def __init__(
        self, shapes: Shapes, device: torch.device, encoder: nn.Module | None = None, *, graphs: bool = True
    ) -> None:
        self.device = device
        samples = round(shapes.window_s * SAMPLE_RATE_HZ)
        bands = shapes.encoder["num_mel_bins"]
        self.samples = torch.zeros(samples, device=device)
        self._window = torch.hann_window(STFT_SAMPLES, device=device)
        # Any non-negative matrix costs what a mel filter bank costs.
        self._filters = torch.rand(bands + MEL_BANDS, STFT_SAMPLES // 2 + 1, device=device)
        self._bands = bands
        self._encoder = encoder
        self._dtype = torch.float32 if encoder is None else next(encoder.parameters()).dtype
        self.hear = captured(self._hear, device) if graphs else self._hear
        self._mel, _ = self.hear()
        if encoder is not None:
            self.encode = captured(self._encode, device) if graphs else self._encode

    def push(self, samples: Float[np.ndarray, " n"]) -> None:
        """The window moves on by some samples."""
        new = torch.from_numpy(np.ascontiguousarray(samples[-len(self.samples) :])).to(self.device)
        self.samples.copy_(torch.cat([self.samples[len(new) :], new]))

    @torch.no_grad()
    def _hear(self) -> tuple[Tensor, Tensor]:
        """Log-mel for the encoder [1, bands, frames] and for the draft [frames, 80]."""
        spectrum = torch.stft(self.samples, STFT_SAMPLES, HOP_SAMPLES, window=self._window, return_complex=True)
        power = spectrum[:, :-1].abs().square()  # [201, frames]
        log_mel = (self._filters @ power).clamp(min=1e-10).log10() / 4 + 1
        return log_mel[None, : self._bands].to(self._dtype), log_mel[self._bands :].T.contiguous()

    @torch.no_grad()
    def _encode(self) -> Tensor:
        return self._encoder(self._mel).last_hidden_state


# --- draft ------------------------------------------------------------------------------------------------------------


class KernelDraft:
    """The sync kernel on one chunk: visemes, confidence and drafted latents of a region, in one call."""

    def __init__(
        self,
        height_px: int,
        width_px: int,
        mel: Tensor,
        device: torch.device,
        *,
        graphs: bool = True,
        size: ChunkSize = CHUNK,
    ) -> None:
        from kernels.project_latents.random_case import random_weights

        latent = LATENT_CHANNELS * (height_px // PIXELS_PER_LATENT) * (width_px // PIXELS_PER_LATENT)
        generator = torch.Generator(device).manual_seed(0)
        weights: ProjectionWeights = random_weights(DRAFT_HIDDEN, DRAFT_COEFFICIENTS, latent, generator)
        self.mel = mel
        self.first_frame = max(0, mel.shape[0] * 3 // 10 - size.frames)  # the window's last chunk
        if device.type == "cuda":
            from kernels.project_latents.triton_impl import ProjectionPlan

            plan = ProjectionPlan(weights, size.frames, device=device)
            z0 = torch.zeros(size.slots, latent, device=device, dtype=torch.bfloat16)
            call = lambda: plan(self.mel, z0, first_frame=self.first_frame)  # noqa: E731
            self.run = captured(call, device) if graphs else call
        else:
            z0 = torch.zeros(size.slots, latent)
            self.run = lambda: project_latents(
                self.mel, size.frames, z0, weights, backend="torch", first_frame=self.first_frame
            )


# --- reasoner ---------------------------------------------------------------------------------------------------------


def grouped_attention(
    module: nn.Module,
    query: Float[Tensor, "batch heads tokens size"],
    key: Float[Tensor, "batch kv_heads cached size"],
    value: Float[Tensor, "batch kv_heads cached size"],
    attention_mask: Float[Tensor, "batch 1 tokens cached"],
    scaling: float,
    **unused: object,
) -> tuple[Tensor, None]:
    """Attention of few queries: the heads that share a key stand as rows of one product, so no key is ever repeated."""
    batch, kv_heads, cached, size = key.shape
    tokens = query.shape[2]
    rows = query.reshape(batch, kv_heads, -1, size)  # [b, kv, group x tokens, size]
    scores = (rows @ key.transpose(2, 3)) * scaling
    scores = scores.view(batch, kv_heads, -1, tokens, cached) + attention_mask[:, :, None]
    mixed = scores.softmax(-1).view(batch, kv_heads, -1, cached) @ value
    return mixed.view(batch, -1, tokens, size).transpose(1, 2), None


def quantise_rows(x: Float[Tensor, "rows size"]) -> tuple[Tensor, Tensor]:
    """FP8 values and a float32 scale per row [rows, 1]: x is about values x scale."""
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / FP8_MAX
    return (x.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


def rescale(product: Tensor, row_scale: Tensor, channel_scale: Tensor) -> Tensor:
    """A product of FP8 values as the product of what they stand for."""
    return (product.float() * row_scale * channel_scale).to(product.dtype)


_fused: dict[Callable, Callable] = {}


def fused(function: Callable, tensor: Tensor) -> Callable:
    """The elementwise function compiled into one kernel on a GPU, as it is on a CPU."""
    if tensor.device.type != "cuda":
        return function
    if function not in _fused:
        _fused[function] = torch.compile(function, dynamic=True)
    return _fused[function]


class Fp8Linear(nn.Module):
    """A linear layer with FP8 weights, one scale per output channel, and activations quantised row by row on the fly.

    ``method``: "rowwise", both scales inside the product; "per-tensor", a product of the FP8 values alone (cuBLAS)
    whose rows and columns are scaled after it, the same up to one rounding; "dequantise", the reference: bf16 weights
    made anew each time.
    """

    def __init__(self, weight: Tensor, scale: Tensor, method: Fp8Method) -> None:
        super().__init__()
        self.register_buffer("weight", weight)  # [out, in] FP8
        self.register_buffer("scale", scale)  # [1, out] float32
        self.register_buffer("one", torch.ones((), device=weight.device))
        self.method = method

    @classmethod
    def random(
        cls, out_size: int, in_size: int, device: torch.device, dtype: torch.dtype, method: Fp8Method
    ) -> "Fp8Linear":
        values = torch.empty(out_size, in_size, device=device, dtype=dtype).normal_(0, in_size**-0.5)
        weight, scale = fused(quantise_rows, values)(values)
        return cls(weight, scale.view(1, -1), method)

    def forward(self, x: Float[Tensor, "... size"]) -> Float[Tensor, "... out"]:
        if self.method == "dequantise":
            return F.linear(x, (self.weight.float() * self.scale.T).to(x.dtype))
        rows = x.reshape(-1, x.shape[-1])
        values, row_scale = fused(quantise_rows, rows)(rows)
        if self.method == "rowwise":
            y = torch._scaled_mm(
                values, self.weight.T, scale_a=row_scale, scale_b=self.scale, out_dtype=x.dtype, use_fast_accum=True
            )
        else:
            missing = max(0, FP8_LEAST_ROWS - len(values))
            padded = F.pad(values.view(torch.uint8), (0, 0, 0, missing)).view(FP8) if missing else values
            y = torch._scaled_mm(
                padded, self.weight.T, scale_a=self.one, scale_b=self.one, out_dtype=x.dtype, use_fast_accum=True
            )
            y = fused(rescale, y)(y[: len(values)], row_scale, self.scale)
        return y.view(*x.shape[:-1], -1)


class FixedCache:
    """Keys and values of a fixed number of tokens in each layer, written at positions that lie on the device.

    transformers' attention asks of a cache only ``update``; with a four-dimensional mask given, nothing asks it for its
    length, so a pass never waits for the device and can be captured.
    """

    def __init__(self, model: "LlamaForCausalLM", tokens: int) -> None:
        config, like = model.config, model.lm_head.weight
        shape = (config.num_hidden_layers, 1, config.num_key_value_heads, tokens, config.head_dim)
        self.keys = torch.zeros(shape, device=like.device, dtype=like.dtype)
        self.values = torch.zeros_like(self.keys)
        self.positions: Tensor | None = None  # of the pass that is running

    def update(self, key: Tensor, value: Tensor, layer: int, *unused: object) -> tuple[Tensor, Tensor]:
        self.keys[layer].index_copy_(2, self.positions, key)
        self.values[layer].index_copy_(2, self.positions, value)
        return self.keys[layer], self.values[layer]


class Passes:
    """Forward passes of the reasoner over a fixed number of tokens at a place in its cache, eager or captured.

    A pass reads ``tokens`` and ``first`` (where they stand in the cache) and leaves ``probabilities`` over the visemes'
    15 tokens and the likeliest of them. Going back is only a smaller ``first``: later cache entries are masked. Tokens
    follow each other, unless ``follow`` has told that they are a tree.
    """

    def __init__(self, model: "LlamaForCausalLM", cache: FixedCache, tokens: int, *, graphs: bool) -> None:
        device = model.lm_head.weight.device
        self._model, self._cache = model, cache
        self.tokens = torch.zeros(1, tokens, dtype=torch.int64, device=device)
        self.first = torch.zeros(1, dtype=torch.int64, device=device)
        self._steps = torch.arange(tokens, device=device)
        self._depths = self._steps.clone()
        self._sight = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
        self._slots = torch.arange(cache.keys.shape[3], device=device)
        self.alphabet = torch.arange(len(VISEMES), device=device) + FIRST_TOKEN
        self._hidden_by = torch.tensor(float("-inf"), device=device, dtype=cache.keys.dtype)
        self.run = captured(self._pass, device) if graphs else self._pass

    def follow(self, tree: TokenTree) -> None:
        """Read a tree's tokens; what it leaves free of the pass is read and seen by nobody.

        Raises
        ------
        InputError : the tree is larger than the pass.
        """
        room, used = self.tokens.shape[1], len(tree.tokens)
        if used > room:
            raise InputError(f"a tree of {used} tokens in a pass over {room}")
        sight = np.eye(room, dtype=bool)
        sight[:used, :used] = tree.sight(0)
        self.tokens[0, :used].copy_(torch.tensor(tree.tokens), non_blocking=True)
        self._depths[:used].copy_(torch.tensor(tree.depths()), non_blocking=True)
        self._sight.copy_(torch.from_numpy(sight), non_blocking=True)

    @torch.no_grad()
    def _pass(self) -> tuple[Float[Tensor, "tokens 15"], Int[Tensor, " tokens"]]:
        place = self._slots - self.first  # of every slot of the cache in this pass; those before it are negative
        own = self._sight.index_select(1, place.clamp(0, self.tokens.shape[1] - 1))
        seen = (place < 0) | (own & (place < self.tokens.shape[1]))
        mask = torch.where(seen, torch.zeros_like(self._hidden_by), self._hidden_by)
        self._cache.positions = self.first + self._steps
        hidden = self._model.model(
            input_ids=self.tokens,
            attention_mask=mask[None, None],
            position_ids=(self.first + self._depths)[None],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        logits = self._model.lm_head(hidden)[0].index_select(1, self.alphabet)
        return logits.float().softmax(-1), self.alphabet[logits.argmax(-1)]


class ShapeReasoner:
    """The reasoner at a prefix of fixed length: writes a chunk's plan token by token, or scores drafts in one pass.

    The text is laid out as `reasoner.ReasonerStream`'s: a frame's evidence stands right before its token, so what comes
    after a changed token is read again with its evidence. Here every pass reads the whole chunk. Every chunk is read at
    the same prefix, as a stream's sliding context is: a pass costs what it costs in the steady state. All work is
    enqueued on the current stream; nothing here waits for the device.
    """

    def __init__(
        self, model: "LlamaForCausalLM", shapes: Shapes, *, room: Room = ROOMS[USUAL_ROOM], graphs: bool = True
    ) -> None:
        self.device = model.lm_head.weight.device
        self.prefix_tokens, self.room = shapes.prefix_tokens, room
        self._cache = FixedCache(model, shapes.cache_tokens)
        generator = torch.Generator().manual_seed(0)
        self.frames = shapes.chunk.frames
        self._evidence = torch.randint(48, 60, (self.frames, EVIDENCE_A_FRAME), generator=generator)
        self._lines = self._evidence.to(self.device)

        def passes(tokens: int) -> Passes:
            made = Passes(model, self._cache, tokens, graphs=graphs)
            made.tokens.fill_(FIRST_TOKEN)
            return made

        self._draft = passes(self.frames * TOKENS_A_FRAME)
        full = {PASS_TILE * ceil(frames * TOKENS_A_FRAME / PASS_TILE) for frames in room}
        self._branches = [passes(tokens) for tokens in sorted(full)]
        self._thought, self._first, self._next = passes(1), passes(EVIDENCE_A_FRAME), passes(TOKENS_A_FRAME)
        self._planned = torch.zeros(self.frames, dtype=torch.int64, device=self.device)
        self._planned_probabilities = torch.zeros(self.frames, len(VISEMES), device=self.device)

    def score(self, draft: Int[Tensor, " frames"]) -> tuple[Tensor, Tensor]:
        """One pass over a chunk's evidence and its draft: probabilities [frames, 15] and its own choice [frames]."""
        self._draft.tokens[0].copy_(torch.cat([self._lines, draft[:, None]], dim=1).flatten(), non_blocking=True)
        self._draft.first.fill_(self.prefix_tokens)
        probabilities, choice = self._draft.run()
        answers = slice(EVIDENCE_A_FRAME - 1, None, TOKENS_A_FRAME)
        return probabilities[answers], choice[answers]

    def score_branches(self, plans: Sequence[Int[np.ndarray, " frames"]]) -> Float[Tensor, "plans frames 15"]:
        """One pass over several drafts of a chunk, as visemes; what they begin with in common is read once."""
        tree, places, evidence = TokenTree(), [], self._evidence.tolist()
        for plan in plans:
            places += tree.alternate(-1, evidence, [FIRST_TOKEN + int(viseme) for viseme in plan[:-1]])
        fits = (each for each in self._branches if len(tree.tokens) <= each.tokens.shape[1])
        passes = next(fits, self._branches[-1])
        passes.follow(tree)
        passes.first.fill_(self.prefix_tokens)
        probabilities, _ = passes.run()
        return probabilities[places].view(len(plans), self.frames, -1)

    def plan(self, reasoning_tokens: int = 0) -> tuple[Tensor, Tensor]:
        """Write reasoning tokens, then a chunk's tokens one by one: tokens and probabilities."""
        place = self.prefix_tokens
        for _ in range(reasoning_tokens):
            self._thought.first.fill_(place)
            _, choice = self._thought.run()
            self._thought.tokens[0].copy_(choice)
            place += 1
        for frame, line in enumerate(self._lines):
            step = self._next if frame else self._first
            step.tokens[0, -EVIDENCE_A_FRAME:].copy_(line)
            step.first.fill_(place)
            probabilities, choice = step.run()
            self._planned[frame].copy_(choice[-1])
            self._planned_probabilities[frame].copy_(probabilities[-1])
            self._next.tokens[0, :1].copy_(choice[-1:])
            place += step.tokens.shape[1]
        return self._planned, self._planned_probabilities
