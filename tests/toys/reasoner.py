"""A tiny language model with random weights, a tokenizer of bytes, and evidence for it to read."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from specsync_lib import units
from specsync_lib.judge.engines.local import LocalEngine
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.script import ChunkEvidence, Script, TimedWord, chunk_evidence

CLASSES = len(units.VISEMES)


def byte_tokenizer(letters: str = "XPFTDKCSNRAEIOU") -> PreTrainedTokenizerFast:
    """Bytes, and " P" as one token for each of some letters: the way of SmolLM2's and Llama's own tokenizers."""
    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"Ġ{letter}" for letter in letters)]
    bpe = models.BPE({piece: index for index, piece in enumerate(pieces)}, [("Ġ", letter) for letter in letters])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    """Random weights, large enough that its choices differ from frame to frame."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, max_position_embeddings=4096, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def tiny_reasoner(seed: int = 0, script: Script | None = None) -> Reasoner:
    """The tiny model as judge, without an instruction."""
    script = Script(byte_tokenizer()) if script is None else script
    return Reasoner(LocalEngine(tiny_llama(seed), script.alphabet), script, "tiny", "real-shape", instruction="")


def recording(frames: int, seed: int = 0, chunk_frames: int = 12) -> list[ChunkEvidence]:
    """Random evidence with a word every half second."""
    rng = np.random.default_rng(seed)
    words = [TimedWord(("please", "hold", "on")[k % 3], 15 * k, 15 * k + 11) for k in range(frames // 15)]
    energy = rng.integers(0, 10, frames).astype(np.int8)
    return chunk_evidence(words, energy, rng.dirichlet(np.full(CLASSES, 0.1), frames).astype(np.float32), chunk_frames)
