"""The sync plan's way into Wan's own transformer: an adapter beside its frozen weights, and low-rank changes to them.

    adapter, facts = load_adapter(folder)
    model = AdaptedTransformer(transformer, adapter)       # FaceGenerator takes it in the transformer's place

Wan 2.1's transformer takes 16 latent channels and a text of width 4096; it knows no plan, no person and no past. Added:

- the *plan*: the four frames of a slot become ``features`` numbers; before each of the middle blocks, those of a slot
  and of its two neighbours go through a linear layer that starts at zero, and are added in the whole slot;
- *reference and mask*: the resting face's latents, the last committed slot's, and whether there is one, through a patch
  projection of their own that starts at zero, added to the patch embedding;
- *low-rank changes* (LoRA) of the blocks' self-attention and feed-forward layers, whose second factor starts at zero;
  merged into the weights where nothing learns.

What starts at zero adds zero: a new adapter's output is the base model's, bit for bit. In the place of a text stands
one row of zeros: Wan pads every prompt with such rows, and cross-attention reads any number of equal ones alike.

Source
------
Gan et al., "OmniAvatar", 2025 (2506.18866), section 3, for the arrangement; Hu et al., "LoRA", 2021 (2106.09685).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from specsync_lib.draft.latents import vae_sha256
from specsync_lib.errors import InputError
from specsync_lib.files import atomic_path, write_json
from specsync_lib.paths import MODELS_DIR
from specsync_lib.tensors import read_checked, read_object
from specsync_lib.units import CHUNK_SLOTS, FRAMES_PER_SLOT, LATENT_CHANNELS

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

WEIGHTS, FACTS = "adapter.safetensors", "adapter.json"
HELD_CHANNELS = 2 * LATENT_CHANNELS + 1  # the resting face, the last slot, whether anything was committed
NEIGHBOURS = 3  # slots whose plan a slot sees: its own, the one before and the one after
# Layers of a block that get a low-rank change. Cross-attention gets none: it reads no text here.
CHANGED = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ffn.net.0.proj", "ffn.net.2")
# What tells one transformer from another. Of its tensors these are float32 in whatever precision it is loaded.
TELLING = ("time_embedder", "scale_shift_table")


@dataclass(frozen=True)
class AdapterSize:
    """How much is added. rank 0: no low-rank changes; their factor is alpha / rank."""

    features: int = 32
    rank: int = 32
    alpha: float = 32.0


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter is for.

    Attributes
    ----------
    size : of what is added.
    frame_features : of a frame's plan (`generation.FRAME_FEATURES`).
    width, layers : the transformer's.
    transformer_sha256, vae_sha256 : whose weights it lies beside (`transformer_sha256`), and whose latents those see.
    pixels : side of the faces that it was trained on.
    chunk_slots : sizes of the chunks that it was trained on.
    """

    size: AdapterSize
    frame_features: int
    width: int
    layers: int
    transformer_sha256: str
    vae_sha256: str
    pixels: int
    chunk_slots: tuple[int, ...]

    def check(self, transformer_digest: str, vae_digest: str) -> None:
        """Refuse a transformer or a VAE that this is not for.

        Raises
        ------
        InputError : another one's.
        """
        for part, mine, given in (
            ("transformer", self.transformer_sha256, transformer_digest),
            ("VAE", self.vae_sha256, vae_digest),
        ):
            if mine != given:
                raise InputError(
                    f"adapter: trained beside another {part} ({mine[:12]}…, this one's digest is {given[:12]}…); train "
                    "one with workbench.train.adapter"
                )


class Casting(nn.Linear):
    """A linear layer in its input's precision: its weights may learn in float32 beside a base in bfloat16."""

    def forward(self, x: Float[Tensor, "*n inside"]) -> Float[Tensor, "*n outside"]:
        """The layer's output, of ``x``'s type."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class LowRank(nn.Module):
    """A low-rank change of a linear layer, x A B alpha / rank; B starts at zero."""

    def __init__(self, inside: int, outside: int, size: AdapterSize) -> None:
        super().__init__()
        self.down, self.up = Casting(inside, size.rank, bias=False), Casting(size.rank, outside, bias=False)
        self.factor = size.alpha / size.rank
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "*n inside"]) -> Float[Tensor, "*n outside"]:
        """What is added to the layer's output."""
        return self.factor * self.up(self.down(x))


class PlanAdapter(nn.Module):
    """All that is added to a transformer; new: nothing (``pack`` and ``down`` are random, what follows them is zero).

    Parameters
    ----------
    frame_features : of a frame's plan.

    Attributes
    ----------
    chunk_slots : sizes of the chunks that it knows (:attr:`AdapterFacts.chunk_slots`).
    """

    def __init__(self, transformer: "WanTransformer3DModel", size: AdapterSize, frame_features: int) -> None:
        super().__init__()
        config, self.frame_features = transformer.config, frame_features
        self.chunk_slots: tuple[int, ...] = CHUNK_SLOTS
        width = config.num_attention_heads * config.attention_head_dim
        self.pack = Casting(FRAMES_PER_SLOT * frame_features, size.features)
        adding = {str(block): Casting(NEIGHBOURS * size.features, width) for block in middle_blocks(config.num_layers)}
        self.add = nn.ModuleDict(adding)
        self.held = nn.Conv3d(HELD_CHANNELS, width, config.patch_size, config.patch_size)
        for layer in (*self.add.values(), self.held):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        changed = _changed_layers(transformer) if size.rank else {}
        self.low_rank = nn.ModuleDict(
            {_as_key(name): LowRank(layer.in_features, layer.out_features, size) for name, layer in changed.items()}
        )

    def additions(
        self, plan: Float[Tensor, "batch frames features"], slots: int
    ) -> dict[int, Float[Tensor, "batch slots width"]]:
        """What is added before each middle block; the plan begins a slot before the chunk, and ends one after it or
        later."""
        packed = F.silu(self.pack(plan.unflatten(1, (-1, FRAMES_PER_SLOT)).flatten(2)))
        around = packed.unfold(1, NEIGHBOURS, 1)[:, :slots].flatten(2)  # [batch, slots, features x neighbours]
        return {int(block): layer(around) for block, layer in self.add.items()}

    def project_held(
        self,
        still: Float[Tensor, "batch 16 h w"],
        last: Float[Tensor, "batch 16 h w"],
        first: Bool[Tensor, " batch"],
        slots: int,
    ) -> Float[Tensor, "batch width slots h2 w2"]:
        """What is added to the patch embedding: the same in every slot."""
        begun = (~first).to(still)[:, None, None, None].expand(-1, 1, *still.shape[2:])
        held = torch.cat([still, last, begun], dim=1).unsqueeze(2)
        held = F.conv3d(held, self.held.weight.to(held), self.held.bias.to(held), self.held.stride)
        return held.expand(-1, -1, slots, -1, -1)


def middle_blocks(layers: int) -> range:
    """The blocks that hear the plan: the middle half, at least one."""
    return range(layers // 4, max(layers // 4 + 1, layers - layers // 4))


class AdaptedTransformer(nn.Module):
    """Wan's own transformer with an adapter: takes a chunk, the plan and what is held, and predicts the velocity.

    Parameters
    ----------
    learns : False: low-rank changes are merged into the transformer's weights, in place. True: they stay beside it and
        its own weights are frozen.
    checkpointed : whether a backward pass computes every block again instead of keeping what is inside it.
    """

    def __init__(
        self,
        transformer: "WanTransformer3DModel",
        adapter: PlanAdapter,
        *,
        learns: bool = False,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.adapter, self.checkpointed = transformer, adapter, checkpointed
        if learns:
            transformer.requires_grad_(False)
            attach(transformer, adapter)
        else:
            merge(transformer, adapter)
            adapter.low_rank.clear()
            weight = transformer.patch_embedding.weight
            self.eval().requires_grad_(False).adapter.to(weight.device, weight.dtype)

    @property
    def config(self) -> object:
        """The transformer's."""
        return self.base.config

    @property
    def patch_embedding(self) -> nn.Module:
        """The transformer's."""
        return self.base.patch_embedding

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's."""
        return self.base.dtype

    def forward(
        self,
        noisy: Float[Tensor, "batch 16 slots h w"],
        times: Float[Tensor, " batch"],
        tokens: Float[Tensor, "batch frames features"],
        still: Float[Tensor, "batch 16 h w"],
        last: Float[Tensor, "batch 16 h w"],
        first: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "batch 16 slots h w"]:
        """The velocity eps - z. ``WanTransformer3DModel.forward`` for Wan 2.1, with the two additions in it.

        Parameters
        ----------
        times : in [0, 1000].
        tokens : `generation.plan_tokens`, of which the first ``frame_features`` numbers are read.
        """
        base, slots, kind = self.base, noisy.shape[2], self.patch_embedding.weight.dtype
        noisy, plan, still, last = (x.to(kind) for x in (noisy, tokens, still, last))
        additions = self.adapter.additions(plan[..., : self.adapter.frame_features], slots)
        rotary = base.rope(noisy)
        hidden = base.patch_embedding(noisy) + self.adapter.project_held(still, last, first, slots)
        grid = dict(zip("thw", hidden.shape[2:], strict=True))
        hidden = hidden.flatten(2).transpose(1, 2).contiguous()
        no_text = noisy.new_zeros(len(noisy), 1, base.config.text_dim)
        told, modulation, text, _ = base.condition_embedder(times, no_text, None)
        modulation = modulation.unflatten(1, (6, -1))
        for number, block in enumerate(base.blocks):
            if number in additions:
                hidden = (hidden.unflatten(1, (slots, -1)) + additions[number].unsqueeze(2)).flatten(1, 2)
            inputs = hidden, text, modulation, rotary
            again = self.checkpointed and torch.is_grad_enabled()
            hidden = checkpoint(block, *inputs, use_reentrant=False) if again else block(*inputs)
        shift, scale = (base.scale_shift_table + told.unsqueeze(1)).chunk(2, dim=1)
        hidden = (base.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        sides = dict(zip("pqr", base.config.patch_size, strict=True))
        form = "b (t h w) (p q r c) -> b c (t p) (h q) (w r)"
        return rearrange(base.proj_out(hidden), form, **grid, **sides)


# --- low-rank changes -------------------------------------------------------------------------------------------------


def _changed_layers(transformer: "WanTransformer3DModel") -> dict[str, nn.Linear]:
    """The layers that get a low-rank change, by name."""
    names = (f"blocks.{block}.{layer}" for block in range(len(transformer.blocks)) for layer in CHANGED)
    return {name: transformer.get_submodule(name) for name in names}


def _as_key(name: str) -> str:
    """A module's name without dots, which a dictionary of modules refuses."""
    return name.replace(".", "/")


def attach(transformer: "WanTransformer3DModel", adapter: PlanAdapter) -> None:
    """Add the low-rank changes to the layers' outputs, so that they can learn."""
    for name, layer in _changed_layers(transformer).items() if adapter.low_rank else ():
        change = adapter.low_rank[_as_key(name)]
        layer.register_forward_hook(lambda _, inputs, output, change=change: output + change(inputs[0]))


@torch.no_grad()
def merge(transformer: "WanTransformer3DModel", adapter: PlanAdapter) -> None:
    """Add the low-rank changes to the layers' weights, summed in float32 and rounded once: they then cost nothing."""
    for name, layer in _changed_layers(transformer).items() if adapter.low_rank else ():
        change, weight = adapter.low_rank[_as_key(name)], layer.weight
        product = change.up.weight.to(weight.device).float() @ change.down.weight.to(weight.device).float()
        layer.weight.copy_(weight.float() + change.factor * product)


# --- files ------------------------------------------------------------------------------------------------------------


def transformer_sha256(state: Mapping[str, Tensor]) -> str:
    """Digest of what tells one transformer from another: its time embedding and modulation tables (:data:`TELLING`).

    They are the same in any precision, any sharding and on any device, and few enough to be read at every start; a
    fine-tune that leaves all of them as they were is not told apart.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if is_telling(name):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_telling(name: str) -> bool:
    """Whether a tensor of this name is part of :func:`transformer_sha256`."""
    return not set(TELLING).isdisjoint(name.split("."))


def facts_of(
    transformer: "WanTransformer3DModel",
    vae_digest: str,
    size: AdapterSize,
    frame_features: int,
    pixels: int,
    chunk_slots: tuple[int, ...] = CHUNK_SLOTS,
) -> AdapterFacts:
    """What an adapter beside this transformer is for; ``vae_digest``: `draft.latents.vae_sha256`."""
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    digests = transformer_sha256(transformer.state_dict()), vae_digest
    return AdapterFacts(size, frame_features, width, config.num_layers, *digests, pixels, chunk_slots)


def adapter_folder(name: str) -> Path:
    """Where an adapter lies: ``data/models/<name>``, or the path that was given."""
    return Path(MODELS_DIR, name)


def save_adapter(folder: Path, adapter: PlanAdapter, facts: AdapterFacts) -> None:
    """Write ``adapter.safetensors`` (float32) and ``adapter.json``."""
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in adapter.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    write_json(folder / FACTS, asdict(facts))


def read_facts(folder: Path) -> AdapterFacts:
    """What the adapter of a folder is for.

    Raises
    ------
    InputError : the file is absent, or says it not.
    """
    if not (folder / FACTS).is_file():
        raise InputError(f"{folder / FACTS}: absent; give a folder of workbench.train.adapter")
    content = read_object(folder / FACTS)
    try:
        parts = {"size": AdapterSize(**content["size"]), "chunk_slots": tuple(content["chunk_slots"])}
        facts = AdapterFacts(**content | parts)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / FACTS}: describes no adapter ({error}); copy it again") from error
    kinds = {"alpha": float, "chunk_slots": tuple, "size": AdapterSize, "transformer_sha256": str, "vae_sha256": str}
    if not facts.chunk_slots or not set(facts.chunk_slots) <= set(CHUNK_SLOTS):
        raise InputError(f"{folder / FACTS}: chunk_slots are {list(facts.chunk_slots)}, expected some of {CHUNK_SLOTS}")
    for name, value in (vars(facts) | vars(facts.size)).items():
        kind = kinds.get(name, int)
        if type(value) is not kind or (kind is int and not 0 <= value < 2**20):
            raise InputError(f"{folder / FACTS}: {name} is {json.dumps(value)}, which describes no adapter")
    return facts


def load_adapter(folder: Path, transformer: "WanTransformer3DModel", vae: "AutoencoderKLWan") -> PlanAdapter:
    """The adapter of a folder, float32 on the CPU, if it is for these two.

    Raises
    ------
    InputError : a file is absent or damaged, or it is for another transformer or VAE.
    """
    facts = read_facts(folder)
    facts.check(transformer_sha256(transformer.state_dict()), vae_sha256(vae))
    adapter = PlanAdapter(transformer, facts.size, facts.frame_features)
    expected = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: absent; copy it again or train one with workbench.train.adapter")
    state = read_checked([folder / WEIGHTS], expected)
    adapter.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    adapter.chunk_slots = facts.chunk_slots
    return adapter.eval()
