"""Ahead-of-time proof, on any machine: every launch configuration compiled for sm_90, sm_100 and sm_120.

``aot_table()`` compiles in its own process (the tests' process may be in Triton's interpreter) and reads the matrix
instructions from the PTX, and registers, stack and shared memory from the cubin. Triton's cache makes the second
call quick. ``python -m kernels.aot`` prints the same table as JSON.
"""

import json
import re
import subprocess
import tempfile
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
HIDDEN, COEFFICIENTS, DRAFTS, VISEMES = 1024, 64, 12, 15


def aot_table() -> pd.DataFrame:
    """One row per kernel, configuration and chip.

    Columns: kernel, config, slots, arch, matrix (instruction), matrix_count, shared_kib, shared_limit_kib, registers,
    stack_bytes (0: nothing spilled), early_launch (whether the PTX waits on the launch before).
    """
    return table_from("kernels.aot", "ahead-of-time compilation", interpret=False)


def jobs() -> list[dict]:
    """What is compiled: kernel, its constants, its launch options, and how its arguments are typed."""
    from kernels.project_latents import triton_impl as project
    from kernels.verify_prefix import triton_impl as verify

    half, latent_type = "*fp16", "*bf16"
    draft_types = {
        "w1_ptr": half,
        "heads_ptr": half,
        "w_coef_ptr": half,
        **dict.fromkeys(("head_sums_ptr", "coef_sums_ptr", "broken_ptr", "tickets_ptr"), "*i32"),
        "coef_operand_ptr": latent_type,
        "basis_ptr": latent_type,
    }
    found = []
    for config in dict.fromkeys([*project.CONFIGS, *project.VERSIONS.values()]):
        early = config.early_launch
        slabs = HIDDEN // config.block_hidden
        for coef in (COEFFICIENTS, 0):
            found.append(
                {
                    "kernel": "draft" if coef else "draft, plan only",
                    "fn": project.draft_kernel,
                    "config": config.label,
                    "slots": None,
                    "constants": project.draft_constants(config, slabs, coef, early and coef > 0, compiled=True),
                    "options": {"num_warps": project.DRAFT_WARPS},
                    "types": draft_types,
                }
            )
        for slots in (8, 32):
            found.append(
                {
                    "kernel": "latents",
                    "fn": project.latents_kernel,
                    "config": config.label,
                    "slots": slots,
                    "constants": project.latents_constants(config, slots, COEFFICIENTS, early),
                    "options": {"num_warps": config.latent_warps, "launch_pdl": early},
                    "types": {name: latent_type for name in ("coef_ptr", "basis_ptr", "z0_ptr", "z_ptr")},
                    "multiples_of_16": ["latent"],
                }
            )
    integers = {name: "*i32" for name in ("tokens_ptr", "accepted_ptr", "token_ptr")} | {"gate_ptr": "*i8"}
    for kernel, fn, constants in (
        ("verify, sampled", verify.verify_sampled_kernel, verify.sampled_constants(DRAFTS, VISEMES)),
        ("verify, greedy", verify.verify_greedy_kernel, verify.greedy_constants(DRAFTS, VISEMES)),
    ):
        found.append(
            {"kernel": kernel, "fn": fn, "config": "one warp", "slots": None, "constants": constants, "types": integers,
             "options": {"num_warps": verify.WARPS}}
        )  # fmt: skip
    return found


def compile_job(job: dict, arch: int) -> dict:
    """Compile one kernel for one chip and read what came out."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names, constants = job["fn"].arg_names, job["constants"]
    default = {name: "*fp32" if name.endswith("_ptr") else "i32" for name in names}
    signature = {name: "constexpr" if name in constants else job["types"].get(name, default[name]) for name in names}
    aligned = [name for name in names if name.endswith("_ptr")] + job.get("multiples_of_16", [])
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
        "arch": arch,
        "matrix": matrix if counts[matrix] else "none",
        "matrix_count": counts[matrix],
        "shared_kib": compiled.metadata.shared / 1024,
        "shared_limit_kib": SHARED_LIMIT_KIB[arch],
        "registers": usage["REG"],
        "stack_bytes": usage["STACK"] + usage["LOCAL"],
        "early_launch": "griddepcontrol" in ptx,
    }


def resource_usage(cubin: bytes, cuobjdump: Path) -> dict[str, int]:
    """REG, STACK, SHARED and LOCAL of a cubin's one kernel, as cuobjdump reports them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(cuobjdump), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}


if __name__ == "__main__":
    print(json.dumps([compile_job(job, arch) for arch in CHIPS for job in jobs()]))
