"""A local judge's checkpoints as they are stored: FP8 in the hub's layout, and layers spread by a device map."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from specsync_lib import rows
from specsync_lib.errors import InputError
from specsync_lib.judge.loading import load_judge, merge_adapter
from specsync_lib.judge.reasoner import Reasoner
from tests.toys.reasoner import byte_tokenizer, recording, tiny_llama

BLOCK, LARGEST = 16, 448  # of float8_e4m3fn


def write_fp8(folder: Path) -> Path:
    """The tiny model with its projections in FP8, a scale for every block, as DeepSeek's and Qwen's checkpoints are;
    beside it, in ``dense``, what these numbers stand for."""
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    stored, dense = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if "_proj" not in name:
            stored[name], dense[name] = weight.bfloat16(), weight.bfloat16()
            continue
        blocks = weight.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))  # [rows, 16, columns, 16]
        scale = blocks.abs().amax(dim=(1, 3)) / LARGEST
        quantised = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        stored[name], stored[f"{name}_scale_inv"] = quantised.reshape(weight.shape), scale
        dense[name] = (quantised.float() * scale[:, None, :, None]).reshape(weight.shape).bfloat16()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    byte_tokenizer().save_pretrained(folder / "dense")
    (folder / "dense" / "config.json").write_text(json.dumps(config))
    save_file(dense, folder / "dense" / "model.safetensors", metadata={"format": "pt"})
    kind = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}
    config["quantization_config"] = kind | {"modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def fp8(tmp_path_factory) -> Path:
    return write_fp8(tmp_path_factory.mktemp("fp8"))


def judge(source: Path, **changes: str) -> Reasoner:
    return load_judge(rows.Judge(source=str(source), weights="random", adapter="none", **changes))


def scored(model: Reasoner) -> np.ndarray:
    stream = model.stream()
    stream.read(recording(12)[0])
    return stream.score(np.arange(12) % 15)


def test_a_checkpoint_in_fp8_judges_as_the_numbers_that_it_stands_for(fp8):
    """Without a GPU transformers makes bfloat16 of it; the scales must have been heeded."""
    found, dense = scored(judge(fp8, dtype="checkpoint")), scored(judge(fp8 / "dense", dtype="bfloat16"))
    np.testing.assert_allclose(found, dense, atol=0.03)
    assert np.abs(found - scored(judge(fp8 / "dense", dtype="float32"))).max() < 0.05
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-3)


def test_layers_that_a_device_map_spreads_judge_alike(fp8):
    """On this machine the map has one place; on several GPUs it has theirs."""
    one, spread = (scored(judge(fp8 / "dense", dtype="float32", device=device)) for device in ("cpu", "spread"))
    np.testing.assert_allclose(spread, one, atol=1e-6)


def test_an_adapter_is_not_merged_into_quantised_weights(tmp_path):
    model, name = tiny_llama(), "model.layers.0.self_attn.q_proj"
    layer = model.get_submodule(name)
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    (tmp_path / "reasoner.json").write_text('{"temperature": 1.0, "instruction": ""}')
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 2}')
    factors = {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(32, 2)}
    state = {f"base_model.model.{name}.{part}.weight": factor for part, factor in factors.items()}
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(
        InputError, match=r"q_proj.weight is stored as float8_e4m3fn; merge it into the dense"
    ) as caught:
        merge_adapter(model, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_way_to_quantise_whose_package_is_not_here_is_one_line(fp8, tmp_path):
    folder = shutil.copytree(fp8 / "dense", tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        judge(folder, dtype="checkpoint")
    assert "\n" not in str(caught.value) and "bitsandbytes" in str(caught.value)
