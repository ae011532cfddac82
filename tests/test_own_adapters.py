"""What adapters of one's own may do, and what is told where one goes wrong."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips
from torch import nn

import d2st
from d2st.adapters.base import AdapterConfig
from d2st.backbones.hooks import Insertion


class Own(nn.Module):
    """Adds what a linear layer makes of the tokens, and gives it as ``form`` makes it."""

    def __init__(self, channels, form=lambda x: x):
        super().__init__()
        self.linear, self.form = nn.Linear(channels, channels), form

    def forward(self, x, grid):
        return self.form(x + self.linear(x))


@dataclass(frozen=True)
class OwnConfig(AdapterConfig):
    """Puts what a test says into the backbone."""

    name: ClassVar[str] = "own"
    make: ClassVar = None

    def insertions(self, backbone, frames):
        return type(self).make(backbone.sites)


def adapted(make, backbone=None):
    OwnConfig.make = staticmethod(make)
    return d2st.adapt(backbone or BACKBONES["vit"](), OwnConfig(), frames=FRAMES, image_size=SIZE)


@pytest.mark.parametrize("key", ["same", "a.b", ""])
def test_keys_that_could_not_be_kept_are_refused(key):
    """Two adapters of one key: the first would run, and neither train nor be saved."""
    model = BACKBONES["vit"]()
    with pytest.raises(d2st.D2STError, match=f"OwnConfig.insertions: each adapter needs a key of its own.*'{key}'"):
        adapted(lambda sites: [Insertion(key, Own(site.channels), site) for site in sites], model)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("form", "given"),
    [
        (lambda x: x[..., 1:, :], r"\(2, 8, 16, 32\)"),
        (lambda x: x.transpose(0, 1), r"\(8, 2, 17, 32\)"),
        (lambda x: x.mean(1, keepdim=True), r"\(2, 1, 17, 32\)"),
        (lambda x: None, "a NoneType"),
    ],
)
def test_an_adapter_that_gives_other_tokens_is_refused(form, given):
    encoder = adapted(lambda sites: [Insertion("last", Own(32, form), sites[-1])])
    with pytest.raises(d2st.D2STError, match=rf"Own at blocks.2 gave {given} for tokens .* of \(2, 8, 17, 32\)"):
        encoder(clips())


def test_one_adapter_at_several_sites_is_saved_and_loaded(tmp_path, monkeypatch):
    def make(sites):
        shared = Own(32)
        return [Insertion(site.key, shared, site) for site in sites]

    monkeypatch.setitem(d2st.adapters.SYSTEMS, "own", OwnConfig)
    backbone = BACKBONES["vit"]()
    encoder = adapted(make, copy.deepcopy(backbone))
    assert encoder.parameter_count()[0] == 32 * 33
    encoder.save_pretrained(tmp_path)
    again = d2st.load(tmp_path, backbone=backbone)
    assert torch.equal(again(clips()), encoder(clips())) and again.parameter_count() == encoder.parameter_count()


def test_what_was_unfrozen_by_hand_is_told_when_an_adapter_is_saved(tmp_path, recwarn):
    encoder = adapted(lambda sites: [Insertion("last", Own(32), sites[-1])])
    encoder.save_pretrained(tmp_path / "frozen")
    assert not recwarn.list
    encoder.backbone.blocks[2].norm1.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"2 parameters of the backbone were unfrozen \(blocks.2.norm1.weight"):
        encoder.save_pretrained(tmp_path / "unfrozen")
