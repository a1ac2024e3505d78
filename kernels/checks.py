"""What every kernel wrapper checks before a launch: one line that says what was expected and what came."""

import torch
from torch import Tensor


def require(
    tensor: Tensor, name: str, shape: tuple[int | None, ...], dtype: torch.dtype, device: torch.device | None = None
) -> None:
    """Raise ValueError unless shape, dtype, device and layout fit; None in ``shape`` accepts any size but 0."""
    fits = tensor.ndim == len(shape) and all(
        got == want if want is not None else got > 0 for got, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ["any > 0" if want is None else want for want in shape]
        raise ValueError(f"{name}: expected shape {wanted}, got {list(tensor.shape)}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype}, got {tensor.dtype}; cast it first")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name}: expected it on {device}, got {tensor.device}; move it first")
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name}: expected a contiguous tensor, got strides {list(tensor.stride())}; call .contiguous() first"
        )


def require_finite(tensor: Tensor, name: str) -> None:
    """Raise ValueError for a NaN or an Inf. Waits for the device: not for a hot path."""
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name}: expected finite values, got NaN or Inf; repair the input or allow broken frames")
