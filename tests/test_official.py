"""Loading the authors' layout: refusals. That it is read right is tested with their numbers in test_parity_d2st.py."""

import goldens
import pytest
import torch

import d2st
from d2st.adapters.d2st import D2STAdapter


def adapter_and_state():
    _, tensors = goldens.read("mini_vit_d2st_w64")
    densities = {"spatial": (2, 4, 4), "temporal": (8, 2, 2)}
    adapter = D2STAdapter(64, 16, volume=(8, 14, 14), densities=densities, groups=4, heads=4)
    return adapter, goldens.weights(tensors, torch.float32)


def test_mismatches_are_listed():
    adapter, state = adapter_and_state()
    del state["up.bias"]
    state["surprise.weight"] = torch.zeros(1)
    with pytest.raises(d2st.D2STError, match=r"missing keys \['up.bias'\], unexpected keys \['surprise.weight'\]"):
        d2st.official.load(adapter, state)


def test_sizes_are_checked():
    adapter, state = adapter_and_state()
    state["down.bias"] = torch.zeros(3)
    with pytest.raises(d2st.D2STError, match=r"other sizes \['down.bias'\]"):
        d2st.official.load(adapter, state)


def test_ddp_prefix_is_dropped():
    adapter, state = adapter_and_state()
    assert d2st.official.load(adapter, {f"module.{key}": value for key, value in state.items()}) == {}


def test_unknown_system():
    with pytest.raises(d2st.D2STError, match="system='timesformer'"):
        d2st.official.load(*adapter_and_state(), system="timesformer")
