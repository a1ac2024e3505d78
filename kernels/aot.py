"""Ahead-of-time proof, on any machine: every launch configuration compiled for sm_90, sm_100 and sm_120.

``aot_table()`` compiles in its own process (the tests' process may be in Triton's interpreter) and reads the matrix
instructions from the PTX, and registers, stack and shared memory from the cubin. Triton's cache makes the second
call quick. ``python -m kernels.aot`` prints the same table as JSON.
"""

import itertools
import json
import os
import re
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

from kernels.fresh_process import table_from

CHIPS = {
    90: "Hopper (H100, H200)",
    100: "Blackwell data centre (B200)",
    120: "Blackwell workstation (RTX 50, RTX PRO 6000)",
}
SHARED_LIMIT_KIB = {90: 227, 100: 227, 120: 99}  # per block, CUDA C++ Programming Guide, table of compute capabilities
MATRIX_INSTRUCTIONS = ("wgmma.mma_async", "tcgen05.mma", "mma.sync")
TILE_COPIES = ("cp.async.bulk.tensor", "cp.async.cg")  # by the bulk copy engine, or by each thread
HIDDEN, COEFFICIENTS, DRAFTS, VISEMES = 1024, 64, 12, 15


def aot_table() -> pd.DataFrame:
    """One row per kernel, configuration and chip.

    Columns: kernel, config, slots, warps, arch, matrix (instruction), matrix_count, shared_kib, shared_limit_kib,
    registers, stack_bytes (0: nothing spilled), early_launch (whether the PTX waits on the launch before), copies_ahead
    (asynchronous copies to shared memory before the first product: a streaming kernel's tiles on their way).
    """
    return table_from("kernels.aot", "ahead-of-time compilation", interpret=False)


def jobs() -> list[dict]:
    """What is compiled: kernel, its constants, its launch options, and how its arguments are typed."""
    from kernels.project_latents import triton_impl as project
    from kernels.project_latents import triton_kernels as kernels
    from kernels.verify_prefix import triton_impl as verify

    half, latent_type = "*fp16", "*bf16"
    tile_type = lambda config: f"tensordesc<bf16[{COEFFICIENTS}, {config.block_latent}]>"  # noqa: E731
    draft_types = {
        "w1_ptr": half,
        "heads_ptr": half,
        "w_coef_ptr": half,
        **dict.fromkeys(("head_sums_ptr", "coef_sums_ptr", "broken_ptr"), "*i32"),
        **dict.fromkeys(("tickets_ptr", "turn_ptr"), "*i32"),
        "coef_operand_ptr": latent_type,
        "basis_ptr": latent_type,
    }
    found = []
    streamed_types = draft_types | dict.fromkeys(("z0_ptr", "z_ptr", "basis_rows"), latent_type)
    for config in dict.fromkeys([*project.CONFIGS, *project.VERSIONS.values()]):
        early = config.early_launch
        slabs = HIDDEN // config.block_hidden
        for coef in (COEFFICIENTS, 0):
            found.append(
                {
                    "kernel": "draft" if coef else "draft, plan only",
                    "fn": kernels.draft_kernel,
                    "config": config.label,
                    "slots": None,
                    "constants": project.draft_constants(config, slabs, coef, early and coef > 0, compiled=True),
                    "options": project.draft_options(config, coef),
                    "types": draft_types,
                }
            )
        for slots in (8, 32):
            latents = {
                "kernel": "latents",
                "fn": kernels.latents_kernel,
                "config": config.label,
                "slots": slots,
                "constants": project.latents_constants(config, slots, COEFFICIENTS, early),
                "options": {"num_warps": config.latent_warps, "launch_pdl": early},
                "types": {name: latent_type for name in ("coef_ptr", "basis_ptr", "z0_ptr", "z_ptr")},
                "multiples_of_16": ["latent"],
            }
            streamed = {
                "kernel": "latents, streamed",
                "fn": kernels.stream_kernel,
                "constants": project.stream_constants(config, slots, COEFFICIENTS, early, True, itemsize=2),
                "types": streamed_types | ({"basis_rows": tile_type(config)} if config.copy_engine else {}),
            }
            found.append(latents | streamed if config.stream_kib else latents)
    integers = {name: "*i32" for name in ("tokens_ptr", "accepted_ptr", "token_ptr")} | {"gate_ptr": "*i8"}
    for kernel, fn, constants in (
        ("verify, sampled", verify.verify_sampled_kernel, verify.sampled_constants(DRAFTS, VISEMES)),
        ("verify, greedy", verify.verify_greedy_kernel, verify.greedy_constants(DRAFTS, VISEMES)),
    ):
        found.append(
            {"kernel": kernel, "fn": fn, "config": "one warp", "slots": None, "constants": constants, "types": integers,
             "options": {"num_warps": verify.WARPS}}
        )  # fmt: skip
    return found + front_jobs()


def front_jobs() -> list[dict]:
    """The causal front's launches: Whisper base's sizes, two seconds of past for the draft and four for the ears."""
    from kernels.causal_front import triton_impl as front
    from kernels.causal_front import triton_kernels as kernels

    width, ffn, hidden, half = front.WIDTH, 2048, 256, "*bf16"
    integers = dict.fromkeys(
        ("at_ptr", "place_ptr", "whole_ptr", "whole_rows_ptr", "whole_ring_ptr", "reads_ptr"), "*i32"
    )
    halves = dict.fromkeys(
        (
            "rows_ptr",
            "w_ptr",
            "qkv_ptr",
            "keys_ptr",
            "values_ptr",
            "outputs_ptr",
            "hidden_ptr",
            "heads_ptr",
            "kept_ptr",
        ),
        half,
    )
    products = {
        "conv1": (front.CONV1_DEPTH, width, 45, {"GELU": True}, (half, half)),
        "conv2": (3 * width, width, 22, {"GELU": True, "RESIDUAL": 2}, (half, "*fp32")),
        "queries, keys, values": (width, 3 * width, 22, {"NORM": True}, ("*fp32", half)),
        "out": (width, width, 22, {"RESIDUAL": 1}, (half, "*fp32")),
        "up": (width, ffn, 22, {"NORM": True, "GELU": True}, ("*fp32", half)),
        "down": (ffn, width, 22, {"RESIDUAL": 1}, (half, "*fp32")),
        "hidden": (front.READ_POSITIONS * width, hidden, 12, {"GELU": True, "BIAS_STRIDE": hidden}, (half, half)),
    }
    found = [
        {"kernel": f"front, {name}", "fn": kernels.linear_kernel, "config": tile.label,
         "constants": front.linear_constants(k, n, m, "tf32", tile, **what),
         "types": integers | halves | {"a_ptr": a, "out_ptr": out},
         "options": {"num_warps": tile.warps, "num_stages": tile.stages}}
        for tile in front.TILES for name, (k, n, m, what, (a, out)) in products.items()
    ]  # fmt: skip
    found += [
        {"kernel": f"front, attention over {past}", "fn": kernels.attention_kernel,
         "types": integers | halves | {"out_ptr": half},
         "config": "one head a program",
         "constants": front.attention_constants(width, past, ring, "tf32"), "options": {"num_warps": front.WARPS}}
        for past, ring in ((100, 128), (200, 256))
    ]  # fmt: skip
    return [job | {"slots": None} for job in found]


def compile_job(job: dict, arch: int) -> dict:
    """Compile one kernel for one chip and read what came out."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, constants = job["fn"].arg_names, job["constants"]
    default = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in names}
    signature = {name: "constexpr" if name in constants else job["types"].get(name, default[name]) for name in names}
    pointers = [name for name in names if signature[name].startswith("*")]
    aligned = pointers + job.get("multiples_of_16", [])
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(job["fn"], signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=job["options"])
    ptx = compiled.asm["ptx"]
    counts = {name: len(re.findall(rf"\b{re.escape(name)}\b", ptx)) for name in MATRIX_INSTRUCTIONS}
    matrix = max(counts, key=counts.get)
    usage = resource_usage(compiled.asm["cubin"], Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")
    return {
        "kernel": job["kernel"],
        "config": job["config"],
        "slots": job["slots"],
        "warps": job["options"]["num_warps"],
        "arch": arch,
        "matrix": matrix if counts[matrix] else "none",
        "matrix_count": counts[matrix],
        "shared_kib": compiled.metadata.shared / 1024,
        "shared_limit_kib": SHARED_LIMIT_KIB[arch],
        "registers": usage["REG"],
        "stack_bytes": usage["STACK"] + usage["LOCAL"],
        "early_launch": "griddepcontrol" in ptx,
        "copies_ahead": max(map(ptx.split("mma.sync", 1)[0].count, TILE_COPIES)),
    }


def resource_usage(cubin: bytes, cuobjdump: Path) -> dict[str, int]:
    """REG, STACK, SHARED and LOCAL of a cubin's one kernel, as cuobjdump reports them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(cuobjdump), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}


def compile_numbered(arch: int, number: int) -> dict:
    """A job by its number, for a worker process: kernels do not pickle."""
    return compile_job(jobs()[number], arch)


if __name__ == "__main__":
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        pairs = itertools.product(CHIPS, range(len(jobs())))
        print(json.dumps(list(pool.map(compile_numbered, *zip(*pairs, strict=True)))))
