"""Random weights and speech-like rows, for tests and benchmarks."""

import torch
from torch import Tensor

from kernels.causal_front.reference import (
    HEAD_WIDTH,
    LONGEST_CHUNK_FRAMES,
    MEL_BANDS,
    PHASES,
    READ_POSITIONS,
    VISEMES,
    WHEEL,
    WIDTH,
    BlockWeights,
    FrontWeights,
)


def random_weights(
    blocks: int,
    generator: torch.Generator,
    *,
    heads: int = 8,
    ffn: int = 2048,
    hidden: int = 256,
    past: int = 100,
) -> FrontWeights:
    """Weights that keep every stage near unit scale, float32."""

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=generator, device=generator.device) * scale

    def norm() -> tuple[Tensor, Tensor]:
        return 1 + normal(WIDTH, scale=0.1), normal(WIDTH, scale=0.1)

    def block() -> BlockWeights:
        inner = heads * HEAD_WIDTH
        (attn_w, attn_b), (mlp_w, mlp_b) = norm(), norm()
        return BlockWeights(
            attn_w, attn_b, normal(3 * inner, WIDTH, scale=WIDTH**-0.5), normal(3 * inner, scale=0.1),
            normal(WIDTH, inner, scale=0.5 * inner**-0.5), normal(WIDTH, scale=0.1), mlp_w, mlp_b,
            normal(ffn, WIDTH, scale=WIDTH**-0.5), normal(ffn, scale=0.1),
            normal(WIDTH, ffn, scale=0.5 * ffn**-0.5), normal(WIDTH, scale=0.1),
        )  # fmt: skip

    norm_w, norm_b = norm()
    wide = READ_POSITIONS * WIDTH
    return FrontWeights(
        conv1_w=normal(WIDTH, MEL_BANDS, 3, scale=(3 * MEL_BANDS) ** -0.5), conv1_b=normal(WIDTH, scale=0.1),
        conv2_w=normal(WIDTH, WIDTH, 3, scale=(3 * WIDTH) ** -0.5), conv2_b=normal(WIDTH, scale=0.1),
        positions=normal(WHEEL, WIDTH, scale=0.3), blocks=tuple(block() for _ in range(blocks)),
        norm_w=norm_w, norm_b=norm_b, hidden_w=normal(hidden, wide, scale=wide**-0.5),
        hidden_b=normal(hidden, scale=0.1), phase_w=normal(PHASES, hidden, scale=0.1),
        left_w=normal(LONGEST_CHUNK_FRAMES, hidden, scale=0.1),
        viseme_w=normal(VISEMES, hidden, scale=3 * hidden**-0.5),
        viseme_b=normal(VISEMES, scale=0.3), open_w=normal(1, hidden, scale=hidden**-0.5),
        open_b=normal(1, scale=0.1), temperature=torch.tensor(1.2, device=generator.device), past=past,
    )  # fmt: skip


def random_rows(batch: int, rows: int, generator: torch.Generator) -> Tensor:
    """[batch, rows, 80] in Whisper's range."""
    return torch.randn(batch, rows, MEL_BANDS, generator=generator, device=generator.device) * 0.4
