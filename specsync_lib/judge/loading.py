"""From a row's part to a judge: a language model with its adapter merged in, or a server that has both."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import nn

from specsync_lib import rows
from specsync_lib.assets import asset, pins
from specsync_lib.caches import cache_dir, made_dir
from specsync_lib.errors import InputError
from specsync_lib.files import write_text
from specsync_lib.judge.engines.local import LocalEngine
from specsync_lib.judge.engines.openai import OpenAI
from specsync_lib.judge.engines.probe import check_scores
from specsync_lib.judge.engines.served import ServedEngine, Server, told
from specsync_lib.judge.engines.sglang import SGLang
from specsync_lib.judge.engines.vllm import VLLM
from specsync_lib.judge.int8 import quantised
from specsync_lib.judge.reasoner import Reasoner
from specsync_lib.judge.script import Script
from specsync_lib.locks import exclusive
from specsync_lib.paths import MODELS_DIR

MODEL_DIR = MODELS_DIR / "reasoner"
DEFAULT_MODEL = rows.SMOLLM2
OWN_ADAPTER = "adapter"  # smollm2's
SPREAD = "spread"  # over all GPUs
INT8 = "int8"


def load_judge(part: rows.Judge, device: str | torch.device = "cpu") -> Reasoner:
    """The judge of a row. One behind a server is asked at once whether it can score (`probe.check_scores`).

    Parameters
    ----------
    device : the run's, for a part whose own is auto.

    Raises
    ------
    InputError : see `load_reasoner`; a server that does not answer, or can not score.
    """
    if part.kind != rows.LOCAL:
        judge = served_judge(part)
        check_scores(judge)
        return judge
    known = rows.KNOWN_WEIGHTS.get(part.source)
    device = device if part.device == "auto" else part.device
    judge = load_reasoner(
        part.source,
        adapter_of(part),
        device=device,
        dtype=_dtype(part.dtype_on(str(device))),
        weights=None if known else part.weights,
        revision=part.revision,
        tokenizer=None if part.tokenizer == "auto" else part.tokenizer,
    )
    return replace(judge, temperature=part.temperature or judge.temperature)


def _dtype(name: str) -> torch.dtype | Literal["auto", "int8"]:
    return {"checkpoint": "auto", INT8: INT8}.get(name) or getattr(torch, name)


def adapter_of(part: rows.Judge) -> Path | None:
    """The folder of a part's adapter; None without one.

    Raises
    ------
    InputError : a name that is no folder of data/models/reasoner.
    """
    name = part.adapter
    if name == "auto":
        name = OWN_ADAPTER if part.source == DEFAULT_MODEL else "none"
    if name == "none":
        return None
    folder = Path(name) if Path(name).is_absolute() else MODEL_DIR / name
    if not folder.is_dir():
        raise InputError(f"judge.adapter: {folder} is no folder; give a folder of peft's, or none")
    return folder


def served_judge(part: rows.Judge) -> Reasoner:
    """The judge behind a server, unprobed: its tokenizer and its adapter's settings are read here."""
    source = part.source if part.tokenizer == "auto" else part.tokenizer
    script = Script(load_tokenizer(dense_copy() if source == DEFAULT_MODEL else source, part.revision))
    folder, server = adapter_of(part), Server(part)
    settings = {} if folder is None else read_settings(folder)
    letters = script.alphabet.tolist()
    if part.kind == "sglang":
        dialect = SGLang(server, letters)
    else:
        model = told(server, "/v1/models", "data", 0, "id") if part.served_model == "auto" else part.served_model
        dialect = VLLM(server, letters, model) if part.kind == "vllm" else OpenAI(server, script, model)
    if part.temperature:
        settings["temperature"] = part.temperature
    return Reasoner(ServedEngine(dialect, letters), script, f"{part.source} behind {part.kind}", part.label, **settings)


def load_reasoner(
    name: str | Path = DEFAULT_MODEL,
    adapter: str | Path | None = "adapter",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Literal["auto", "int8"] | None = None,
    weights: Literal["trained", "random"] | None = None,
    revision: str = "main",
    tokenizer: str | None = None,
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
        By default float32 on the CPU, where the exact rules are exact, and bfloat16 elsewhere; "auto" as stored: FP8
        and quantised checkpoints too; "int8" on a CPU (`int8.quantised`), after the adapter was merged. The device may
        be "spread": layer after layer over all GPUs.
    weights
        Where they came from, which decides the label of every number that the judge gives: "trained" (measured) or
        "random" (real-shape). Known for "smollm2", whose files are pinned; for every other model the caller says it.
    revision, tokenizer
        Of the hub; and a tokenizer from elsewhere.

    Raises
    ------
    InputError: the model or the adapter is absent, damaged or does not fit, a letter is not one token, int8 is asked of
        a model or a device that it is not made for, or nobody says where the weights of a model of one's own came from.
    """
    own = str(name) == DEFAULT_MODEL
    if weights not in (("trained", None) if own else ("trained", "random")):
        raise InputError(f"reasoner {name}: say where its weights came from: weights='trained' or 'random'")
    on_cpu = torch.device("cuda" if device == SPREAD else device).type == "cpu"
    dtype = dtype or (torch.float32 if on_cpu else torch.bfloat16)
    read_as = torch.float32 if dtype == INT8 else dtype
    model, its_tokenizer = load_language_model(dense_copy() if own else name, device, read_as, revision, tokenizer)
    settings: dict = {}
    if adapter is not None and (own or str(adapter) != OWN_ADAPTER):
        folder = MODEL_DIR / adapter if isinstance(adapter, str) and not Path(adapter).is_dir() else Path(adapter)
        settings = merge_adapter(model, folder)
    model = quantised(model) if dtype == INT8 else model
    script = Script(its_tokenizer)
    engine = LocalEngine(model, script.alphabet, f"{name} in int8" if dtype == INT8 else str(name))
    return Reasoner(engine, script, str(name), "real-shape" if weights == "random" else "measured", **settings)


def load_language_model(
    name: str | Path,
    device: str | torch.device,
    dtype: torch.dtype | Literal["auto"],
    revision: str = "main",
    tokenizer: str | Path | None = None,
) -> tuple[nn.Module, object]:
    """A causal language model and its tokenizer, from safetensors, in eval mode.

    Raises
    ------
    InputError: there is none of that name, or it cannot be read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    source = str(name)
    tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, revision)
    # Placed as it is read: the full-scale row is larger than many a machine's memory.
    places = {"cpu": {}, SPREAD: {"device_map": "auto"}}
    placed = places.get(str(device), {"device_map": {"": device}})
    with _readable(source):
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, revision=revision, **placed
        )
        packed = dtype == "auto" and hasattr(
            AutoConfig.from_pretrained(source, revision=revision), "quantization_config"
        )
    for layer in model.modules() if packed else ():
        # what transformers dequantises, where no GPU takes FP8, is left in its scales' precision
        if type(layer) is nn.Linear and layer.weight.dtype == torch.float32:
            layer.to(model.get_input_embeddings().weight.dtype)
    return model.eval().requires_grad_(False), tokenizer


def load_tokenizer(source: str | Path, revision: str = "main") -> object:
    """A tokenizer by folder or hub id.

    Raises
    ------
    InputError: there is none of that name, or it cannot be read.
    """
    from transformers import AutoTokenizer

    with _readable(str(source)):
        return AutoTokenizer.from_pretrained(str(source), revision=revision)


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """What transformers raises for a source that it can not read, as one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:  # some ways to quantise need a package of their own
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"reasoner {source}: cannot be loaded ({reason}); give a folder or a hub id of a causal language model"
        ) from error


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
    settings = read_settings(folder)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
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
        if not weight.is_floating_point() or weight.element_size() < 2:
            kind = str(weight.dtype).removeprefix("torch.")
            raise InputError(
                f"adapter {folder}: {name} is stored as {kind}; merge it into the dense checkpoint, and quantise that"
            )
        change = scale * (up.float() @ down.float())
        if not torch.isfinite(change).all():
            raise InputError(f"adapter {folder}: {name} holds values that are not finite; restore the file")
        with torch.no_grad():
            weight += change.to(weight)
    return settings


def read_settings(folder: Path) -> dict:
    """An adapter's temperature and instruction, for `Reasoner`.

    Raises
    ------
    InputError: the file is absent or no JSON.
    """
    try:
        return json.loads((folder / "reasoner.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"adapter {folder}: {error}; restore the folder or train it") from error
