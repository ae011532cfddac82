"""The same bits in every run on a GPU, as far as a CPU can tell."""

import os

import pytest
import torch

from d2st import D2STError
from d2st.utils.device import deterministic

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("enable", "device", "on"), [(True, GPU, True), (False, GPU, False), (True, CPU, False)])
def test_only_a_gpu_needs_it(enable, device, on, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(enable, device):
        assert torch.are_deterministic_algorithms_enabled() == on
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == on
    assert not torch.are_deterministic_algorithms_enabled() and torch.utils.deterministic.fill_uninitialized_memory


def test_what_has_no_such_way_is_a_sentence():
    message = r"every run on this GPU \(put_ does not have a deterministic implementation\); leave deterministic off"
    with pytest.raises(D2STError, match=message), deterministic(True, GPU):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))  # refused on a CPU too
    with pytest.raises(RuntimeError, match="tensor size"), deterministic(True, GPU):
        torch.zeros(3) @ torch.zeros(4)
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(D2STError, match="not for mps"), deterministic(True, torch.device("mps")):
        pass
