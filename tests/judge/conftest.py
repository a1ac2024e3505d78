"""Fixtures of the judge's tests."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors: a second thread costs more than it brings, on a busy machine much more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
