"""Features that were kept are found again only by the code that made them."""

import functools
import importlib
import sys
import types

import pytest
import timm
from small import options
from torch import nn

import d2st
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.data.datasets import ClipSet
from d2st.features import code_digest as digests
from d2st.features.cache import _digest
from d2st.features.code_digest import NoSource, code_digest

ADAPTER = '''
"""An adapter of somebody's own, with a helper in another file."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from d2st.adapters.base import AdapterConfig
from d2st.backbones.hooks import Insertion
from own_helper import change


@dataclass(frozen=True)
class OwnConfig(AdapterConfig):
    name: ClassVar[str] = "own"

    def insertions(self, backbone, frames):
        return [Insertion(site.key, Own(site.channels), site) for site in backbone.sites]


class Own(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(channels))

    def forward(self, x, grid):
        return change(x) + self.gain
'''
HELPER = "def change(x):\n    return x\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes the module ``own_adapter`` and its helper anew and gives it, as a new process would have it."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(adapter: str = ADAPTER, helper: str = HELPER):
        (folder / "own_adapter.py").write_text(adapter)
        (folder / "own_helper.py").write_text(helper)
        for name in ("own_adapter", "own_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("own_adapter")

    yield write
    for name in ("own_adapter", "own_helper"):
        sys.modules.pop(name, None)


def test_features_are_made_anew_where_the_adapter_s_code_is_another(small, own, tmp_path) -> None:
    """The same parameters and the same --out, and each time the number of the code of now."""

    def accuracy(module, out: str = "out") -> float:
        settings = {"way": 3, "shot": 1, "queries": 2, "episodes": 30, "adapter": module.OwnConfig()}
        result = evaluate(EvalConfig(**options(small, out=str(tmp_path / out), **settings)))
        return result["results"][0]["accuracy"]

    def caches() -> int:
        return len(list((tmp_path / "out").glob("features-*")))

    whole = accuracy(own())
    assert accuracy(own()) == whole and caches() == 1, "the code is the same"
    blind = ADAPTER.replace("change(x) + self.gain", "x * 0 + self.gain")
    assert accuracy(own(blind)) == accuracy(own(blind), "another") < whole and caches() == 2
    assert accuracy(own(ADAPTER, HELPER.replace("return x", "return x * 0"))) < whole and caches() == 3
    module = own()
    assert accuracy(module) == whole and caches() == 3
    module.Own.forward = lambda self, x, grid: x * 0 + self.gain  # without a file, as people try things
    assert accuracy(module) < whole and caches() == 4


def digest(encoder, *others) -> str:
    return code_digest([encoder], encoder.config, *others)


def test_what_is_put_onto_a_model_counts() -> None:
    encoder = d2st.adapt("test_resnet", frames=2, pretrained=False, image_size=32)
    plain = digest(encoder)
    twin = d2st.adapt("test_resnet", frames=2, pretrained=False, image_size=32).train()
    assert digest(twin) == plain, "neither weights nor the mode are code"
    adapter = next(iter(encoder.adapters.values()))
    handle = adapter.register_forward_hook(lambda module, inputs, output: output * 0)
    hooked = digest(encoder)
    handle.remove()
    handle = adapter.register_forward_hook(functools.partial(lambda scale, module, inputs, output: output * scale, 0))
    assert digest(encoder) not in (plain, hooked)
    handle.remove()
    adapter.strength = 0.5
    marked = digest(encoder)
    del adapter.strength
    adapter.forward = lambda x, grid: x
    replaced = digest(encoder)
    del adapter.forward
    assert len({plain, hooked, marked, replaced}) == 4 and digest(encoder) == plain


def test_the_package_and_the_libraries_count(monkeypatch, tmp_path) -> None:
    encoder = d2st.adapt("test_resnet", frames=2, pretrained=False, image_size=32)
    plain, versions = digest(encoder), list(digests._versions())
    assert {version.split()[0] for version in versions} >= {"torch", "torchvision", "timm", "av"}
    monkeypatch.setattr(digests, "_versions", lambda: iter([*versions[:-1], "timm 99"]))
    assert digest(encoder) != plain
    monkeypatch.undo()
    monkeypatch.setattr(digests, "_sources", lambda: "edited")
    assert digest(encoder) != plain


def test_a_class_without_a_source_file_is_not_kept(small, tmp_path, monkeypatch, capsys) -> None:
    notebook = types.ModuleType("typed_in")
    monkeypatch.setitem(sys.modules, "typed_in", notebook)
    exec(ADAPTER.replace("from own_helper import change", "change = abs"), notebook.__dict__)
    with pytest.raises(NoSource, match="Own"):
        digest(d2st.adapt("test_resnet", notebook.OwnConfig(), frames=2, pretrained=False, image_size=32))
    settings = {"way": 3, "shot": 1, "episodes": 5, "adapter": notebook.OwnConfig(), "out": str(tmp_path)}
    evaluate(EvalConfig(**options(small, **settings)))
    assert "has no source file" in capsys.readouterr().err
    assert not list(tmp_path.glob("features-*")) and (tmp_path / "eval.json").exists()


def test_layers_of_libraries_and_the_input_s_statistics_count() -> None:
    """The same weights with another activation, another stride, another mean."""

    def build(**options):
        model = timm.create_model("test_resnet", num_classes=0, **options)
        return d2st.adapt(model, "none", frames=2, image_size=32)

    plain = build()
    strided, other = build(), build()
    next(m for m in strided.backbone.modules() if isinstance(m, nn.Conv2d)).stride = (1, 1)
    other.mean = (0.1, 0.2, 0.3)
    encoders = [plain, build(act_layer=nn.SiLU), strided, other]
    assert len({digest(encoder) for encoder in encoders}) == 4 and digest(build()) == digest(plain)
    for encoder in encoders:
        encoder.backbone.load_state_dict(plain.backbone.state_dict())
    clips = ClipSet(("x",), [], (), ())
    assert len({_digest(encoder, [], clips, []) for encoder in encoders}) == 4
    assert len({code_digest([encoder.backbone]) for encoder in encoders[:3]}) == 3
