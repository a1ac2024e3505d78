"""Which processor computes, a GPU where there is one, unless the user chose; its threads; and what it multiplies."""

import os

from specsync_lib.errors import InputError
from specsync_lib.provenance import usable_cores

SPIN_VARIABLE = "GOMP_SPINCOUNT"


def settle_threads() -> None:
    """OpenMP's threads do not spin while they wait for each other, for judge and generator share the cores: in this
    process, before torch is imported, and in all that it starts. What the user has set stays."""
    os.environ.setdefault(SPIN_VARIABLE, "1000")


def usable_threads() -> int:
    """Threads to compute on: one a usable core, and no more than OMP_NUM_THREADS, where the user has set it."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min([usable_cores(), *([max(1, int(wanted))] if wanted.isdecimal() else [])])


def resolve(device: str) -> str:
    """``cpu`` or ``cuda`` for what was asked for: ``auto`` takes CUDA's first GPU where torch can use one.

    Raises
    ------
    InputError: another word, or ``cuda`` where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"parameter device: got {device!r}; expected auto, cpu or cuda")
    if device == "cpu":
        return device
    import torch  # seconds to import: who asks for the CPU does not wait for it

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        build = f"torch {torch.__version__} sees no GPU"
        raise InputError(f"parameter device: cuda was asked for, but {build} here; use device=cpu or device=auto")
    return "cpu"


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, and oneDNN may use it.

    ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI`` makes any CPU behave as one that does not.
    """
    import torch

    bound = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    allowed = bound in ("ALL", "DEFAULT") or any(name in bound for name in ("BF16", "FP16", "AMX", "AVX10"))
    return allowed and any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
