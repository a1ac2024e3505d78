"""A Llama whose layers compute with int8 weights and int8 activations, on a CPU, each row by itself.

    model = quantised(model)      # LlamaForCausalLM in float32; embedding and head stay as they are

Weights have a scale an output channel, activations one a token: what a token's row is does not depend on the pass that
it is read in, to the last bit. A float32 sum depends on how many rows a product has, for its order does, and rounding
to int8 makes a difference of 1e-7 one of a whole step; so no sum over a row is left to its order here:

- products of int8 values are summed as int32;
- queries, keys, values and attention's weights are rounded to grids (powers of two) so coarse that float32 holds
  every one of their sums exactly. How large a sum can become follows from the weights: behind a norm with gains g
  nothing is longer than g sqrt(width);
- the others (a norm's mean square, a softmax) torch takes row by row; a row shorter than a vector it adds in another
  order than the same row with zeros behind it, so that a softmax never gets less than a vector.

``torch.ao`` quantises activations by tensor; torchao has a scale a token, but a pass takes it twice as long as here
(eager), its attention sums in floats, and both saturate where the processor has no VNNI (:func:`most`).

Sources: a scale a token and a channel, Yao et al., "ZeroQuant", 2206.01861; several queries a key, Ainslie et al.
2305.13245.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Int8
from torch import Tensor, nn

from specsync_lib.errors import InputError

if TYPE_CHECKING:
    from transformers import Cache, LlamaForCausalLM
    from transformers.modeling_outputs import BaseModelOutputWithPast

MOST = 127  # of an int8 value
SEVEN_BITS = 63
EXACT = 2.0**24  # up to here float32 holds every whole number
LANES = 16  # floats in the longest vector of a processor
SHARES = 2.0**12  # attention's weights are rounded to so many parts of one
ROUNDED_UP = 2  # their sum is below this, for texts of up to 8192 tokens


def most() -> int:
    """The largest weight that this processor multiplies rightly: 127, or 63 where oneDNN adds pairs of products as
    int16, which saturate (x86 without VNNI)."""
    ones = torch.full((2, 64), MOST, dtype=torch.int8)
    return MOST if int(torch._int_mm(ones, ones.t())[0, 0]) == 64 * MOST**2 else SEVEN_BITS


def quantised(model: "LlamaForCausalLM") -> "LlamaForCausalLM":
    """The model itself with its layers in int8.

    Raises
    ------
    InputError: it is no Llama of plain layers (SiLU, no biases), or it is not on a CPU in float32.
    """
    layers, config = model.base_model, model.config
    if type(layers).__name__ != "LlamaModel" or config.hidden_act != "silu":
        raise InputError(f"reasoner: int8 is made for Llama's layers, this is {type(layers).__name__}; take bfloat16")
    weight = layers.embed_tokens.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise InputError(f"reasoner: int8 is for a CPU, from float32; got {weight.dtype} on {weight.device}")
    if any(part.bias is not None for part in layers.modules() if isinstance(part, nn.Linear)):
        raise InputError("reasoner: int8 is made for layers without biases; take bfloat16")
    setattr(model, model.base_model_prefix, Int8Llama(layers))
    return model


class Int8Linear(nn.Module):
    """y = x W for rows that come with a scale of their own.

    Parameters
    ----------
    weight : [out, in]
    factor : [out] or a number, of the outputs.
    """

    def __init__(self, weight: Float32[Tensor, "out in"], factor: Tensor | float = 1.0) -> None:
        super().__init__()
        scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / most()
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", factor * scale)

    def forward(self, rows: Int8[Tensor, "n in"]) -> Float32[Tensor, "n out"]:
        """Without the rows' scales."""
        return torch._int_mm(rows, self.weight.t()).float().mul_(self.scale)


def quantise(x: Float32[Tensor, "n size"]) -> tuple[Int8[Tensor, "n size"], Float32[Tensor, "n 1"]]:
    """Rows as int8, and what their values stand for: x is about values times scale."""
    scale = x.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny).div_(MOST)
    return (x / scale).round_().to(torch.int8), scale


class Norm(nn.Module):
    """RMSNorm before a product: its rows' scales go into those of int8."""

    def __init__(self, weight: Float32[Tensor, " width"], eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.eps = eps

    def forward(self, x: Float32[Tensor, "n width"]) -> tuple[Tensor, Tensor]:
        """As `quantise`."""
        rows, scale = quantise(x * self.weight)
        return rows, scale * x.square().mean(dim=1, keepdim=True).add_(self.eps).rsqrt_()


def power_of_two_below(value: float) -> float:
    """The largest power of two that is not above a positive number."""
    return 2.0 ** math.floor(math.log2(value))


class Int8Layer(nn.Module):
    """One layer: attention over grouped heads, then the gated product."""

    def __init__(self, layer: nn.Module, index: int) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        width, size, group = layer.hidden_size, attention.head_dim, attention.num_key_value_groups
        self.index, self.size, self.group = index, size, group
        before, after = layer.input_layernorm, layer.post_attention_layernorm
        query, key, value = (getattr(attention, f"{name}_proj").weight for name in "qkv")
        self.kv_heads = len(key) // size
        # The longest that a head's query and key, and the largest that a value can be: of norms, a row is no longer
        # than its gains times sqrt(width); a rotation changes no length.
        longest = [
            math.sqrt(width) * float(torch.linalg.matrix_norm(part.view(-1, size, width) * before.weight, ord=2).max())
            for part in (attention.scaling * query, key)
        ]
        largest = math.sqrt(width) * float((value * before.weight).norm(dim=1).max())
        grid = power_of_two_below(math.sqrt(EXACT / math.prod(longest)))
        value_grid = power_of_two_below(EXACT / (SHARES * ROUNDED_UP * largest))
        self.unit = grid**-2  # of a query's product with a key
        factors = [part.new_full((len(part),), factor) for part, factor in (
            (query, attention.scaling * grid), (key, grid), (value, value_grid))]  # fmt: skip
        self.heard = Norm(before.weight, before.variance_epsilon)
        self.qkv = Int8Linear(torch.cat([query, key, value]), torch.cat(factors))
        self.out = Int8Linear(attention.o_proj.weight, 1 / (SHARES * value_grid))
        self.mixed = Norm(after.weight, after.variance_epsilon)
        self.gates = Int8Linear(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
        self.down = Int8Linear(mlp.down_proj.weight)

    def forward(
        self,
        x: Float32[Tensor, "n width"],
        turn: tuple[Tensor, Tensor],
        sight: Float32[Tensor, "n seen"] | None,
        cache: "Cache",
    ) -> Float32[Tensor, "n width"]:
        """Parameters: turn, the rotation's cosine and signed sine [n, 1, size]; sight, what is added to the scores of
        the last tokens of the text."""
        rows, scale = self.heard(x)
        n, kv, size = len(x), self.kv_heads, self.size
        heads = self.qkv(rows).mul_(scale).view(n, -1, size)
        turned, value = heads[:, :-kv], heads[:, -kv:].round()
        turned = torch.addcmul(turned * turn[0], turned.roll(size // 2, dims=-1), turn[1]).round_()
        query, key = turned[:, :-kv], turned[:, -kv:]
        keys, values = cache.update(key.transpose(0, 1)[None], value.transpose(0, 1)[None], self.index)
        # the heads that share a key stand as rows of one product
        query = query.reshape(n, kv, self.group, size).permute(1, 2, 0, 3).reshape(kv, -1, size) * self.unit
        scores = (query @ keys[0].transpose(1, 2)).view(kv, self.group, n, -1)
        if sight is not None:
            scores[..., -sight.shape[1] :] += sight
        known = scores.shape[-1]
        if known < LANES:
            scores = F.pad(scores, (0, LANES - known), value=-torch.inf)
        shares = scores.softmax(dim=-1).mul_(SHARES).round_()[..., :known].reshape(kv, self.group * n, known)
        seen = (shares @ values[0]).view(kv, self.group, n, size).permute(2, 0, 1, 3).reshape(n, -1)
        rows, scale = quantise(seen)
        x = torch.addcmul(x, self.out(rows), scale)
        rows, scale = self.mixed(x)
        gate, up = self.gates(rows).mul_(scale).chunk(2, dim=1)
        rows, scale = quantise(F.silu(gate).mul_(up))
        return torch.addcmul(x, self.down(rows), scale)


class Int8Llama(nn.Module):
    """What `engines.local.LocalSession` asks of a model: one text, keys and values kept in transformers' cache."""

    dtype = torch.float32  # of what comes in and goes out

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.config, self.embed_tokens, self.rotary_emb, self.norm = (
            model.config, model.embed_tokens, model.rotary_emb, model.norm
        )  # fmt: skip
        self.layers = nn.ModuleList(Int8Layer(layer, index) for index, layer in enumerate(model.layers))

    def forward(
        self,
        input_ids: Int[Tensor, "1 n"],
        past_key_values: "Cache | None" = None,
        attention_mask: Float[Tensor, "1 1 n seen"] | None = None,
        position_ids: Int[Tensor, "1 n"] | None = None,
        use_cache: bool = True,
    ) -> "BaseModelOutputWithPast":
        """As LlamaModel's. Without a mask each token sees all before it."""
        from transformers import DynamicCache
        from transformers.modeling_outputs import BaseModelOutputWithPast

        cache = DynamicCache(config=self.config) if past_key_values is None else past_key_values
        n = input_ids.shape[1]
        if position_ids is None:
            position_ids = cache.get_seq_length() + torch.arange(n)[None]
        x = self.embed_tokens(input_ids)[0]
        cosine, sine = (part[0, :, None] for part in self.rotary_emb(x, position_ids))
        half = sine.shape[-1] // 2
        turn = cosine, torch.cat([-sine[..., :half], sine[..., half:]], dim=-1)
        sight = None
        if attention_mask is not None:
            sight = attention_mask[0, 0]
        elif n > 1:
            sight = torch.full((n, n), -torch.inf).triu_(1)
        for layer in self.layers:
            x = layer(x, turn, sight, cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x)[None], past_key_values=cache)
