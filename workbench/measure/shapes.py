"""Full-size architectures with random weights: what they are, how they are filled and captured."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from specsync_lib.face.decoders.networks import Taehv
from specsync_lib.units import (
    CHUNK,
    CHUNK_SAMPLES,
    ENCODER_POSITION_MEL_FRAMES,
    HOP_SAMPLES,
    LATENT_CHANNELS,
    SAMPLE_RATE_HZ,
    VIDEO_HEIGHT_PX,
    VIDEO_WIDTH_PX,
    ChunkSize,
)

Result = TypeVar("Result")


WARM_UPS = 3


@dataclass(frozen=True)
class Shapes:
    """Sizes of every part. ``regions`` maps a name to height and width in px; ``picture`` is the whole frame's."""

    name: str
    encoder: dict[str, Any]
    reasoner: dict[str, Any]
    transformer: dict[str, Any]
    vae: dict[str, Any]
    tiny_decoder: tuple[int, int, int, int]  # widths from the latents' side to the pictures'
    regions: dict[str, tuple[int, int]]
    picture: tuple[int, int]
    window_s: float  # of sound that the encoder hears
    prefix_tokens: int
    cache_tokens: int
    condition_tokens: int  # text tokens that Wan's cross-attention sees
    chunk: ChunkSize = CHUNK


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
    tiny_decoder=Taehv.WIDTHS,
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
    tiny_decoder=(8, 8, 8, 8),
    regions={"32px": (32, 32), "48x64px": (48, 64)},
    picture=(48, 64),
    window_s=1.0,
    prefix_tokens=16,
    cache_tokens=224,
    condition_tokens=16,
)  # fmt: skip


def hearing(shapes: Shapes, back_chunks: int) -> Shapes:
    """The same shapes with an encoder that hears so many chunks of three slots before a chunk, and the chunk: not
    padded to Whisper's 30 s.

    So a live judge of this suite listens (`pipeline_stages.Listener`, `teacher.encode`).
    """
    a_position = ENCODER_POSITION_MEL_FRAMES * HOP_SAMPLES
    positions = -(-(back_chunks * CHUNK_SAMPLES + shapes.chunk.samples(1)) // a_position)
    samples = positions * a_position
    return replace(
        shapes, window_s=samples / SAMPLE_RATE_HZ, encoder=shapes.encoder | {"max_source_positions": positions}
    )


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


def weight_gib(*models: nn.Module) -> float:
    """Parameters and buffers, in GiB."""
    tensors = {t.data_ptr(): t for model in models for t in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 2**30


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
