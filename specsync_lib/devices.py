"""Which processor computes: a GPU where there is one, unless the user chose."""

from specsync_lib.errors import InputError


def resolve(device: str) -> str:
    """``cpu`` or ``cuda`` for what was asked for: ``auto`` takes CUDA's first GPU where torch can use one.

    Raises
    ------
    InputError: ``cuda`` where there is none.
    """
    if device == "cpu":
        return device
    import torch  # seconds to import: who asks for the CPU does not wait for it

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        build = f"torch {torch.__version__} sees no GPU"
        raise InputError(f"parameter device: cuda was asked for, but {build} here; use device=cpu or device=auto")
    return "cpu"
