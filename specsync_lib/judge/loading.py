"""From weights on disk to a judge: the language model, its adapter merged in, digests checked."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import nn

from specsync_lib.assets import asset, pins
from specsync_lib.caches import cache_dir, made_dir
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.script import Script
from specsync_lib.locks import exclusive
from specsync_lib.paths import MODELS_DIR

MODEL_DIR = MODELS_DIR / "reasoner"
DEFAULT_MODEL = "smollm2"


def load_reasoner(
    name: str | Path = DEFAULT_MODEL,
    adapter: str | Path | None = "adapter",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    weights: Literal["trained", "random"] | None = None,
) -> Reasoner:
    """A language model as judge.

    Parameters
    ----------
    name
        "smollm2": the pinned asset; else any causal language model with safetensors: a local folder or a hub id
        (``deepseek-ai/DeepSeek-R1-Distill-Llama-70B`` is the row of full scale). The hub's own settings, such as
        ``HF_HUB_OFFLINE=1``, are honoured.
    adapter
        A folder of peft's, by path or by name below ``data/models/reasoner``; None: as it comes, led by an instruction.
        The default belongs to "smollm2" and is left out for every other model.
    device, dtype
        By default float32 on the CPU, where the exact rules are exact, and bfloat16 elsewhere.
    weights
        Where they came from, which decides the label of every number that the judge gives: "trained" (measured) or
        "random" (real-shape). Known for "smollm2", whose files are pinned; for every other model the caller says it.

    Raises
    ------
    InputError: the model or the adapter is absent, damaged or does not fit, a letter is not one token, or nobody says
        where the weights of a model of one's own came from.
    """
    own = str(name) == DEFAULT_MODEL
    if weights not in (("trained", None) if own else ("trained", "random")):
        raise InputError(f"reasoner {name}: say where its weights came from: weights='trained' or 'random'")
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
    model, tokenizer = load_language_model(dense_copy() if own else name, device, dtype)
    settings: dict = {}
    if adapter is not None and (own or str(adapter) != "adapter"):
        folder = MODEL_DIR / adapter if isinstance(adapter, str) and not Path(adapter).is_dir() else Path(adapter)
        settings = merge_adapter(model, folder)
    return Reasoner(
        model, Script(tokenizer), str(name), "real-shape" if weights == "random" else "measured", **settings
    )


def load_language_model(name: str | Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, object]:
    """A causal language model and its tokenizer, from safetensors, in eval mode.

    Raises
    ------
    InputError: there is none of that name, or it cannot be read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        # Placed as it is read: the full-scale row is larger than many a machine's memory.
        placed = {} if device.type == "cpu" else {"device_map": {"": device}}
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **placed)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise InputError(
            f"reasoner {source}: cannot be loaded ({reason}); give a folder or a hub id of a causal language model"
        ) from error
    return model.eval().requires_grad_(False), tokenizer


def dense_copy() -> Path:
    """SmolLM2 as a folder of bfloat16 safetensors and a tokenizer, unpacked once from the pinned GGUF into the cache.

    Reading the packed file takes 17 s, the copy 2 s. A copy whose files have changed is made again.
    """
    source = asset(DEFAULT_MODEL)
    name = f"smollm2-dense-{pins()[DEFAULT_MODEL]['members_sha256'][:16]}"
    for folder in (cache_dir() / name, made_dir() / name):
        if _intact(folder):
            return folder
    with exclusive(folder.with_suffix(".lock"), "unpacking the reasoner", wait=True):  # runs side by side need one
        if not _intact(folder):
            _unpack(source, folder)
    return folder


def _intact(folder: Path) -> bool:
    """Whether a copy is there, its files as they were written."""
    listing = folder.with_suffix(".json")
    return listing.is_file() and json.loads(listing.read_text(encoding="utf-8")) == _digests(folder)


def _unpack(source: Path, folder: Path) -> None:
    """Write the copy beside its place first and rename it: one that was interrupted never has the name."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    packed = {"gguf_file": source.name}
    unpacking = GgufConfig(**packed, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, **packed, dtype=torch.bfloat16, quantization_config=unpacking
    )
    with tempfile.TemporaryDirectory(prefix=".dense-", dir=folder.parent) as temporary:
        made = Path(temporary, "model")
        model.save_pretrained(made)
        AutoTokenizer.from_pretrained(source.parent, **packed).save_pretrained(made)
        for path in made.iterdir():
            path.chmod((made / "config.json").stat().st_mode)  # safetensors makes its file for its owner alone
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    write_text(folder.with_suffix(".json"), json.dumps(_digests(folder)))


def _digests(folder: Path) -> dict[str, str]:
    """Name and sha256 of every file in a folder."""
    digests = {}
    for path in sorted(folder.glob("*")):
        with path.open("rb") as handle:
            digests[path.name] = hashlib.file_digest(handle, "sha256").hexdigest()
    return digests


def merge_adapter(model: nn.Module, folder: Path) -> dict:
    """Add a low-rank adapter to a model's weights, W + (alpha / r) B A, and return its settings for `Reasoner`.

    Merged in the weights' own precision; a tuned model then costs no more than the plain one. The folder is peft's
    (adapter_config.json, adapter_model.safetensors) with our reasoner.json (temperature and instruction) beside it.

    Raises
    ------
    InputError: a file is absent, or a tensor is misshapen, not finite or fits no weight of the model.
    """
    try:
        config, settings = (
            json.loads((folder / name).read_text(encoding="utf-8")) for name in ("adapter_config.json", "reasoner.json")
        )
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as error:
        raise InputError(f"adapter {folder}: {error}; restore the folder or train it") from error
    weights = dict(model.named_parameters())
    scale = config["lora_alpha"] / config["r"]
    for key, down in tensors.items():
        if not key.endswith("lora_A.weight"):
            continue
        name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        up = tensors.get(key.replace("lora_A", "lora_B"))
        weight = weights.get(name)
        if up is None or weight is None or (up.shape[0], down.shape[1]) != tuple(weight.shape):
            raise InputError(f"adapter {folder}: {name} does not fit this model; give the adapter's own base model")
        change = scale * (up.float() @ down.float())
        if not torch.isfinite(change).all():
            raise InputError(f"adapter {folder}: {name} holds values that are not finite; restore the file")
        with torch.no_grad():
            weight += change.to(weight)
    return settings
