"""A Whisper of any size from a folder in transformers' layout: mels, width and layers are read from the checkpoint.

Names are those of openai-whisper's own model, which does the work; nothing is unpickled.
"""

import re
from pathlib import Path

import torch
from torch import Tensor
from whisper.model import ModelDimensions, Whisper

from specsync_lib.errors import InputError
from specsync_lib.tensors import read_checked, read_object, weight_files

WEIGHTS = "model.safetensors"
HEADS = "generation_config.json"  # names the heads that follow the words
TIED = "proj_out.weight"  # some files hold the decoder's embedding a second time
# theirs to ours, in order; what stands for a layer is told by its number
NAMES = (
    ("model.", ""), (".layers.", ".blocks."), (".self_attn_layer_norm.", ".attn_ln."), (".self_attn.", ".attn."),
    (".encoder_attn_layer_norm.", ".cross_attn_ln."), (".encoder_attn.", ".cross_attn."), (".q_proj.", ".query."),
    (".k_proj.", ".key."), (".v_proj.", ".value."), (".out_proj.", ".out."), (".fc1.", ".mlp.0."), (".fc2.", ".mlp.2."),
    (".final_layer_norm.", ".mlp_ln."), (".embed_positions.weight", ".positional_embedding"),
    (".embed_tokens.", ".token_embedding."), ("encoder.layer_norm.", "encoder.ln_post."),
    ("decoder.layer_norm.", "decoder.ln."),
)  # fmt: skip


def hub_folder(source: str) -> Path:
    """The folder of a checkpoint: itself, or the hub's snapshot (JSON and safetensors alone).

    Raises
    ------
    InputError : neither a folder nor reachable on (or cached from) the hub.
    """
    if Path(source).is_dir():
        return Path(source)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(source, allow_patterns=["*.json", WEIGHTS, "model-*.safetensors"])
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(f"Whisper {source}: no folder here, and the hub did not give it ({reason})") from error


def load_checkpoint(folder: Path) -> Whisper:
    """The Whisper of a folder, float32 on the CPU, in eval mode, alignment heads set for word times.

    Raises
    ------
    InputError : a file is absent or damaged, or the config describes no Whisper.
    """
    config = read_object(folder / "config.json")
    model = Whisper(_dimensions(folder, config))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    named = {_theirs(name): name for name in shapes}
    files = weight_files(folder, WEIGHTS)
    expected = {theirs: shapes[ours] for theirs, ours in named.items()}
    state = read_checked(files, expected, optional={TIED: shapes["decoder.token_embedding.weight"]})
    model.load_state_dict({named[name]: tensor.float() for name, tensor in state.items() if name in named})
    heads = _alignment_heads(folder, model.dims)
    if heads is not None:
        model.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return model.eval().requires_grad_(False)


def _theirs(name: str) -> str:
    """Transformers' name of an openai-whisper tensor."""
    for theirs, ours in reversed(NAMES):
        if ours:
            name = re.sub(f"(?<![a-z_]){re.escape(ours)}" if ours[0] != "." else re.escape(ours), theirs, name)
    return f"model.{name}"


def _dimensions(folder: Path, config: dict) -> ModelDimensions:
    try:
        if config["model_type"] != "whisper":
            raise KeyError(f"model_type {config['model_type']!r}")
        return ModelDimensions(
            n_mels=config["num_mel_bins"], n_audio_ctx=config["max_source_positions"],
            n_audio_state=config["d_model"], n_audio_head=config["encoder_attention_heads"],
            n_audio_layer=config["encoder_layers"], n_vocab=config["vocab_size"],
            n_text_ctx=config["max_target_positions"], n_text_state=config["d_model"],
            n_text_head=config["decoder_attention_heads"], n_text_layer=config["decoder_layers"],
        )  # fmt: skip
    except KeyError as error:
        raise InputError(f"{folder / 'config.json'}: describes no Whisper ({error}); give one's folder") from error


def _alignment_heads(folder: Path, dims: ModelDimensions) -> Tensor | None:
    """[layers, heads] of the decoder's heads that follow the words; None: openai-whisper's guess stays."""
    named = read_object(folder / HEADS).get("alignment_heads") if (folder / HEADS).is_file() else None
    if not named:
        return None
    heads = torch.zeros(dims.n_text_layer, dims.n_text_head, dtype=torch.bool)
    try:
        for layer, head in named:
            heads[layer, head] = True
    except (IndexError, TypeError, ValueError) as error:
        raise InputError(f"{folder / HEADS}: alignment_heads do not fit this Whisper ({error})") from error
    return heads
