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
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from kernels.project_latents import ProjectionWeights, project_latents
from specsync_lib.errors import InputError
from specsync_lib.judge.branches import ROOMS, TOKENS_A_FRAME, USUAL_ROOM, Room
from specsync_lib.judge.token_tree import TokenTree
from specsync_lib.units import (
    CHUNK_SAMPLES,
    ENCODER_POSITION_MEL_FRAMES,
    FRAMES_PER_CHUNK,
    HOP_SAMPLES,
    LATENT_CHANNELS,
    MEL_BANDS,
    PIXELS_PER_LATENT,
    SAMPLE_RATE_HZ,
    SLOTS_PER_CHUNK,
    STFT_SAMPLES,
    VIDEO_HEIGHT_PX,
    VIDEO_WIDTH_PX,
    VISEMES,
)

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import LlamaForCausalLM

Precision = Literal["bf16", "fp8"]
Fp8Method = Literal["rowwise", "per-tensor", "dequantise"]
ConvMethod = Literal["3d", "2d"]
Result = TypeVar("Result")

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
PASS_TILE = 16  # tokens: a pass over several plans is a whole number of them
FP8_LEAST_ROWS = 16  # cuBLAS' FP8 product is slower on fewer rows than on these
CACHED_FRAMES = 2  # of each causal convolution with three taps in time
WARM_UPS = 3
DRAFT_HIDDEN, DRAFT_COEFFICIENTS = 1024, 64
FIRST_TOKEN = 32  # the visemes are any 15 tokens of the vocabulary
EVIDENCE_A_FRAME = TOKENS_A_FRAME - 1  # of the reasoner's script


@dataclass(frozen=True)
class Shapes:
    """Sizes of every part. ``regions`` maps a name to height and width in px; ``picture`` is the whole frame's."""

    name: str
    encoder: dict[str, Any]
    reasoner: dict[str, Any]
    transformer: dict[str, Any]
    vae: dict[str, Any]
    regions: dict[str, tuple[int, int]]
    picture: tuple[int, int]
    window_s: float  # of sound that the encoder hears
    prefix_tokens: int
    cache_tokens: int
    condition_tokens: int  # text tokens that Wan's cross-attention sees


FULL = Shapes(
    name="full",
    encoder={
        "vocab_size": 51866, "num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120, "max_source_positions": 1500, "decoder_layers": 1,
    },
    reasoner={
        "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    },
    transformer={
        "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 8960, "num_layers": 30,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 1024,
    },
    vae={"base_dim": 96, "z_dim": LATENT_CHANNELS, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2},
    regions={"256px": (256, 256), "384px": (384, 384), "512px": (512, 512), "720p": (VIDEO_HEIGHT_PX, VIDEO_WIDTH_PX)},
    picture=(VIDEO_HEIGHT_PX, VIDEO_WIDTH_PX),
    window_s=30.0,
    prefix_tokens=512,
    cache_tokens=1024,
    condition_tokens=512,
)  # fmt: skip

TINY = Shapes(
    name="tiny",
    encoder={
        "vocab_size": 64, "num_mel_bins": 16, "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64, "max_source_positions": 50, "decoder_layers": 1, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3,
    },
    reasoner={
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
        "tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    transformer={
        "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS, "text_dim": 32, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 64,
    },
    vae={"base_dim": 8, "z_dim": LATENT_CHANNELS, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1},
    regions={"32px": (32, 32), "48x64px": (48, 64)},
    picture=(48, 64),
    window_s=1.0,
    prefix_tokens=16,
    cache_tokens=224,
    condition_tokens=16,
)  # fmt: skip


def hearing(shapes: Shapes, chunks: int) -> Shapes:
    """The same shapes with an encoder that hears so many chunks of sound, not padded to Whisper's 30 s.

    So a live judge of this suite listens (`pipeline_stages.Listener`, `teacher.encode`).
    """
    samples = chunks * CHUNK_SAMPLES
    positions = samples // (ENCODER_POSITION_MEL_FRAMES * HOP_SAMPLES)
    return replace(
        shapes, window_s=samples / SAMPLE_RATE_HZ, encoder=shapes.encoder | {"max_source_positions": positions}
    )


# --- building without weights -----------------------------------------------------------------------------------------


def fill(model: nn.Module, device: torch.device, dtype: torch.dtype, precise: frozenset[str] = frozenset()) -> None:
    """Give a module without storage random weights on the device, tensor by tensor, and move its buffers there.

    Matrices are normal with variance 1 / fan-in, which keeps activations near unit scale through any number of layers;
    gains are one, biases zero. A parameter with a part of its name in ``precise`` is float32.
    """
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            kept = not precise.isdisjoint((*prefix.split("."), name))
            value = torch.empty(parameter.shape, device=device, dtype=torch.float32 if kept else dtype)
            if value.numel() > max(value.shape):
                value.normal_(0, (value.numel() / value.shape[0]) ** -0.5)
            else:
                value.fill_(0.0 if name == "bias" else 1.0)
            module._parameters[name] = nn.Parameter(value, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    model.eval()


def build_encoder(shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Whisper's encoder."""
    from accelerate import init_empty_weights
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    with init_empty_weights(include_buffers=False):
        encoder = WhisperEncoder(WhisperConfig(**shapes.encoder, attn_implementation="sdpa"))
    fill(encoder, device, dtype)
    return encoder


def build_transformer(
    shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> "WanTransformer3DModel":
    """Wan's diffusion transformer; the parts that diffusers keeps in float32 stay so."""
    from accelerate import init_empty_weights
    from diffusers import WanTransformer3DModel

    with init_empty_weights(include_buffers=False):
        transformer = WanTransformer3DModel(**shapes.transformer)
    fill(transformer, device, dtype, frozenset(transformer._keep_in_fp32_modules))
    return transformer


def build_vae(shapes: Shapes, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> "AutoencoderKLWan":
    """Wan's VAE, decoder only."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLWan

    with init_empty_weights(include_buffers=False):
        vae = AutoencoderKLWan(**shapes.vae)
    del vae.encoder
    fill(vae, device, dtype)
    return vae


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


def weight_gib(*models: nn.Module) -> float:
    """Parameters and buffers, in GiB."""
    tensors = {t.data_ptr(): t for model in models for t in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 2**30


# --- one call as one CUDA graph ---------------------------------------------------------------------------------------


def captured(call: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """The call as one CUDA graph, warmed up first; on a CPU the call itself.

    The returned function replays the graph on the current stream and returns the captured call's result, whose tensors
    are overwritten by every replay. It holds the call, and so all that the call reads. Graphs may be replayed at the
    same time on several streams.

    Source
    ------
    PyTorch's CUDA semantics, "cuBLAS workspaces": one for each handle and stream, kept until they are cleared.
    """
    if device.type != "cuda":
        return call
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Left to itself, torch captures everything on one stream, which belongs to one device, and whose cuBLAS
        # workspace all graphs would share: judge and generator, replayed at the same time, would then write their
        # partial sums and semaphores over each other's. So every graph has a stream of its own and, cleared before and
        # after, a workspace in its own memory.
        torch._C._cuda_clearCublasWorkspaces()
        with torch.cuda.graph(graph, stream=stream):
            result = call()
        torch._C._cuda_clearCublasWorkspaces()

    def replay(graph: Any = graph, result: Result = result, owner: Callable[[], Result] = call) -> Result:
        graph.replay()
        return result

    return replay


# --- sound ------------------------------------------------------------------------------------------------------------


class Listener:
    """Log-mel of the last window of sound for the encoder and for the draft, and the encoder itself."""

    def __init__(
        self, shapes: Shapes, encoder: nn.Module, device: torch.device, *, graphs: bool = True, encode: bool = True
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
        self._dtype = next(encoder.parameters()).dtype
        self.hear = captured(self._hear, device) if graphs else self._hear
        self._mel, _ = self.hear()
        if encode:
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
        self, height_px: int, width_px: int, mel: Tensor, device: torch.device, *, graphs: bool = True
    ) -> None:
        from kernels.project_latents.random_case import random_weights

        latent = LATENT_CHANNELS * (height_px // PIXELS_PER_LATENT) * (width_px // PIXELS_PER_LATENT)
        generator = torch.Generator(device).manual_seed(0)
        weights: ProjectionWeights = random_weights(DRAFT_HIDDEN, DRAFT_COEFFICIENTS, latent, generator)
        self.mel = mel
        self.first_frame = max(0, mel.shape[0] * 3 // 10 - FRAMES_PER_CHUNK)  # the window's last chunk
        if device.type == "cuda":
            from kernels.project_latents.triton_impl import ProjectionPlan

            plan = ProjectionPlan(weights, FRAMES_PER_CHUNK, device=device)
            z0 = torch.zeros(SLOTS_PER_CHUNK, latent, device=device, dtype=torch.bfloat16)
            call = lambda: plan(self.mel, z0, first_frame=self.first_frame)  # noqa: E731
            self.run = captured(call, device) if graphs else call
        else:
            z0 = torch.zeros(SLOTS_PER_CHUNK, latent)
            self.run = lambda: project_latents(
                self.mel, FRAMES_PER_CHUNK, z0, weights, backend="torch", first_frame=self.first_frame
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
        self._evidence = torch.randint(48, 60, (FRAMES_PER_CHUNK, EVIDENCE_A_FRAME), generator=generator)
        self._lines = self._evidence.to(self.device)

        def passes(tokens: int) -> Passes:
            made = Passes(model, self._cache, tokens, graphs=graphs)
            made.tokens.fill_(FIRST_TOKEN)
            return made

        self._draft = passes(FRAMES_PER_CHUNK * TOKENS_A_FRAME)
        full = {PASS_TILE * ceil(frames * TOKENS_A_FRAME / PASS_TILE) for frames in room}
        self._branches = [passes(tokens) for tokens in sorted(full)]
        self._thought, self._first, self._next = passes(1), passes(EVIDENCE_A_FRAME), passes(TOKENS_A_FRAME)
        self._planned = torch.zeros(FRAMES_PER_CHUNK, dtype=torch.int64, device=self.device)
        self._planned_probabilities = torch.zeros(FRAMES_PER_CHUNK, len(VISEMES), device=self.device)

    def score(self, draft: Int[Tensor, " frames"]) -> tuple[Tensor, Tensor]:
        """One pass over a chunk's evidence and its draft: probabilities [12, 15] and the target's own choice [12]."""
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
        return probabilities[places].view(len(plans), FRAMES_PER_CHUNK, -1)

    def plan(self, reasoning_tokens: int = 0) -> tuple[Tensor, Tensor]:
        """Write reasoning tokens, then 12 frames' tokens one by one: tokens and probabilities."""
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


# --- generation -------------------------------------------------------------------------------------------------------


class ShapeDenoiser:
    """Wan's transformer on the three slots of a chunk: Euler steps of the flow from a noised draft.

    ``latents`` is the chunk's state. A corrected plan is a new condition between two steps.
    """

    def __init__(
        self,
        transformer: "WanTransformer3DModel",
        shapes: Shapes,
        height_px: int,
        width_px: int,
        *,
        steps: int,
        graphs: bool = True,
    ) -> None:
        like = transformer.proj_out.weight
        self.device, self.steps = like.device, steps
        size = (1, LATENT_CHANNELS, SLOTS_PER_CHUNK, height_px // PIXELS_PER_LATENT, width_px // PIXELS_PER_LATENT)
        self.latents = torch.zeros(size, device=like.device, dtype=like.dtype)
        self._noise, self._before = torch.randn_like(self.latents), torch.zeros_like(self.latents)
        text_dim = shapes.transformer["text_dim"]
        self._words = torch.randn(len(VISEMES), text_dim, device=like.device, dtype=like.dtype)
        self._condition = torch.randn(1, shapes.condition_tokens, text_dim, device=like.device, dtype=like.dtype)
        self._noise_levels = torch.linspace(1, 0, steps + 1, device=like.device)
        self._level = torch.ones(1, device=like.device)
        self._transformer = transformer
        self._run = captured(self._step, like.device) if graphs else self._step

    @torch.no_grad()
    def _step(self) -> Tensor:
        velocity = self._transformer(self.latents, self._level * 1000, self._condition, return_dict=False)[0]
        self.latents.sub_(velocity, alpha=1 / self.steps)
        return self.latents

    def condition(self, visemes: Int[Tensor, " frames"]) -> None:
        """The plan that the next steps follow: one token a frame at the head of the cross-attention's text."""
        self._condition[0, : len(visemes)] = self._words.index_select(0, visemes)

    def start(self, drafted: Float[Tensor, "slots latent"] | None) -> None:
        """Noise, moved halfway to drafted latents where there are any."""
        self.latents.copy_(self._noise)
        if drafted is not None:
            slots = drafted.view(SLOTS_PER_CHUNK, LATENT_CHANNELS, *self.latents.shape[3:]).transpose(0, 1)
            self.latents[0].lerp_(slots.to(self.latents.dtype), 0.5)

    def step(self, index: int) -> None:
        """Step ``index`` of ``steps``."""
        self._before.copy_(self.latents)
        self._level.copy_(self._noise_levels[index : index + 1])
        self._run()

    def undo(self) -> None:
        """Back before the last step."""
        self.latents.copy_(self._before)


def _stacked_time_conv(
    conv: nn.Conv3d, past: Float[Tensor, "1 channels 2 h w"], x: Float[Tensor, "1 channels frames h w"]
) -> Float[Tensor, "1 out frames h w"]:
    """A causal 3x3x3 convolution as one 3x3 convolution over three frames' channels: 2D engines are the better tuned.

    Channels lie innermost throughout, so that stacking copies whole lines and the result needs no other layout.
    """
    frames = torch.cat([past, x], dim=2)[0].permute(1, 2, 3, 0)  # [2 + t, h, w, c]
    stacked = torch.cat([frames[tap : tap + x.shape[2]] for tap in range(conv.kernel_size[0])], dim=-1)
    if not hasattr(conv, "stacked_weight"):  # [out, taps x channels, 3, 3]
        conv.stacked_weight = conv.weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    y = F.conv2d(stacked.permute(0, 3, 1, 2), conv.stacked_weight, conv.bias, padding=conv.kernel_size[1] // 2)
    return y.transpose(0, 1)[None]


def lean_convolutions(vae: "AutoencoderKLWan", method: ConvMethod) -> None:
    """Let the decoder's causal convolutions pad in space inside the convolution: no padded copy of every activation.

    Results are the same. "2d": those with taps in time and space run as two-dimensional ones over stacked frames.
    """

    def forward(conv: nn.Conv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        taps, side = conv.kernel_size[:2]
        if taps > 1:
            past = x.new_zeros(*x.shape[:2], taps - 1, *x.shape[3:]) if cache_x is None else cache_x
            missing = taps - 1 - past.shape[2]
            if missing:
                past = torch.cat([x.new_zeros(*x.shape[:2], missing, *x.shape[3:]), past], dim=2)
            if method == "2d" and side > 1:
                return _stacked_time_conv(conv, past, x)
            x = torch.cat([past, x], dim=2)
        return F.conv3d(x, conv.weight, conv.bias, padding=(0, side // 2, side // 2))

    for module in vae.modules():
        if type(module).__name__ == "WanCausalConv3d":
            module.forward = MethodType(forward, module)


class ShapeDecoder:
    """Wan's decoder on the three slots of a chunk, with its causal cache in place, and the pasted picture.

    ``run`` gives a chunk's 12 frames, or those of one of ``parts`` equal parts, in order, and the cache as it would be
    after them; ``commit`` makes that the cache. Decoding again before a commit starts from the same past, so a rejected
    chunk leaves no trace.
    """

    def __init__(
        self,
        vae: "AutoencoderKLWan",
        shapes: Shapes,
        latents: Float[Tensor, "1 16 slots h w"],
        *,
        graphs: bool = True,
        compiled: bool = False,
        parts: int = 1,
    ) -> None:
        self._vae, self.latents, self.parts = vae, latents, parts
        self.device = latents.device
        height, width = shapes.picture
        self.picture_shape = (FRAMES_PER_CHUNK, height, width, 3)
        self._background = torch.zeros(self.picture_shape, dtype=torch.uint8, device=latents.device)
        self._cache = self._warm_cache()
        self._decode = torch.compile(self._decode_plain, dynamic=False) if compiled else self._decode_plain
        self._places = [self._cache] * (parts + 1)  # the cache before every part, and after the last
        self._runs: list[Callable[[], tuple[Tensor, list[Tensor]]]] = []
        for part in range(parts):
            run = partial(self._run, part)
            self._runs.append(captured(run, latents.device) if graphs else run)
            self._runs[-1]()  # the next part's graph reads what this one's leaves behind

    def run(self, part: int = 0) -> tuple[UInt8[Tensor, "frames H W 3"], list[Tensor]]:
        """Decode a part whose predecessors have been decoded."""
        return self._runs[part]()

    @torch.no_grad()
    def _warm_cache(self) -> list[Tensor]:
        """The cache after the reference slot and one chunk."""
        cache: list[Tensor | str | None] = [None] * self._vae._cached_conv_counts["decoder"]
        slots = self._vae.post_quant_conv(self.latents)
        self._vae.decoder(slots[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
        self._vae.decoder(slots, feat_cache=cache, feat_idx=[0], first_chunk=False)
        return [entry.contiguous(memory_format=torch.channels_last_3d) for entry in cache if entry is not None]

    def _decode_plain(self, latents: Tensor, cache: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        after = list(cache)
        signal = self._vae.decoder(self._vae.post_quant_conv(latents), feat_cache=after, feat_idx=[0])
        frames = ((signal[0].float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return frames.permute(1, 2, 3, 0), after  # [frames, h, w, 3]

    @torch.no_grad()
    def _run(self, part: int) -> tuple[UInt8[Tensor, "frames H W 3"], list[Tensor]]:
        face, after = self._decode(self.latents.chunk(self.parts, dim=2)[part], self._places[part])
        self._places[part + 1] = after
        top, left = (
            (whole - part) // 2 for whole, part in zip(self._background.shape[1:3], face.shape[1:3], strict=True)
        )
        picture = self._background[: len(face)].clone()
        picture[:, top : top + face.shape[1], left : left + face.shape[2]] = face
        return picture, after

    def commit(self, after: list[Tensor]) -> None:
        """The past of the next chunk is this one."""
        torch._foreach_copy_(self._cache, after)
