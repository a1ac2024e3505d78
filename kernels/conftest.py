"""Kernel tests run compiled on a GPU and in Triton's interpreter without one.

Triton decides at import, its own functions and the kernels alike, so it is told here, before any test module is read;
in this process alone, so that what other tests start is as it would be without the kernels' tests.
"""

import contextlib

import pytest
import torch

if not torch.cuda.is_available():
    with contextlib.suppress(ImportError), pytest.MonkeyPatch.context() as patch:  # no Triton off Linux
        patch.setenv("TRITON_INTERPRET", "1")
        from triton import knobs

        patch.setattr(knobs, "propagate_env", False)
        knobs.runtime.interpret = True


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240229)


@pytest.fixture
def place(device):
    """A copy on the device with the same strides: ``Tensor.to`` would pack a sliced tensor and hide that it was one."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device).copy_(tensor)

    return copy
