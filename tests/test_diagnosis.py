"""How the attention of adapters does: figures that are known, on backbones of every family."""

import math

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips, move

import d2st
from d2st.adapters.d2st import D2STAdapter
from d2st.data.datasets import open_dataset
from d2st.layers.trilinear import sample
from d2st.reproduce.offsets import measure
from d2st.visualize.diagnosis import diagnose, spread_clips
from d2st.visualize.points import pathways, sampled_points


def encoder(family="clip-vit", **settings) -> d2st.VideoEncoder:
    torch.manual_seed(0)
    return d2st.adapt(BACKBONES[family](), d2st.D2STConfig(ratio=0.5, **settings), frames=FRAMES, image_size=SIZE)


def offsets(model: d2st.VideoEncoder, size: float) -> None:
    """Make the offset networks' outputs larger, or zero."""
    for attention in pathways(model).values():
        torch.nn.init.normal_(attention.points.project.weight, std=size)


@pytest.mark.parametrize("family", BACKBONES)
def test_every_pathway_has_its_figures(family) -> None:
    model = encoder(family, positions="late", groups=2, heads=4, position_bias="staggered")
    move(model)
    found = diagnose(model, clips(3))
    adapters = sum(isinstance(module, D2STAdapter) for module in model.adapters.modules())
    assert [entry.pathway for entry in found] == ["spatial", "temporal"] * adapters and adapters > 0
    for entry in found:
        assert 0 <= entry.outside < 1 and 0 < entry.entropy <= 1 + 1e-6 and 0 <= entry.saturated <= 1
        assert entry.volume[0] == FRAMES and len(entry.moved) == 3 and min(entry.varied) >= 0
        assert all(0 < least <= most for least, most in entry.sharpness)
        assert entry.shift[0][0] < 0 < entry.shift[0][1], "staggered heads look before and after"
        assert all(math.isfinite(number) for number in entry.numbers().values())


def test_points_at_rest_and_even_attention() -> None:
    model = encoder(offset_init="rest")
    for attention in pathways(model).values():
        torch.nn.init.zeros_(attention.query.weight)
        torch.nn.init.zeros_(attention.query.bias)
    for entry in diagnose(model, clips(2)):
        assert entry.entropy == pytest.approx(1) and entry.outside == pytest.approx(0, abs=1e-6)
        assert entry.saturated == 0 and entry.sharpness is entry.shift is None
        assert entry.moved == pytest.approx((0, 0, 0), abs=1e-5) and entry.varied == pytest.approx((0, 0, 0), abs=1e-5)


@pytest.mark.parametrize("points", ["free", "inside"])
def test_saturated_offsets_and_what_is_read_outside(points) -> None:
    """The attention outside is what reading a map of ones loses."""
    model = encoder(points=points)
    offsets(model, 1000.0)
    video = clips(1)[0]
    figures = diagnose(model, [video])
    for entry, read in zip(figures, sampled_points(model, video)[0], strict=True):
        assert entry.saturated > 0.95, "also where points are held inside"
        last = torch.tensor(entry.volume) - 1
        ones = torch.ones(len(read.shifted), 1, *entry.volume)
        seen = sample(ones, (read.shifted / last * 2 - 1)[:, None, None])[:, 0, 0, 0].mean(0)  # (n,)
        assert entry.outside == pytest.approx(float(1 - read.attention @ seen / read.queries), abs=1e-4)
        assert (entry.outside > 0.1) == (points == "free")


@torch.no_grad()
def test_the_entropy_is_that_of_the_weights() -> None:
    model, seen = encoder("dinov2-registers", positions=(1,), heads=2), []
    attention = next(iter(pathways(model).values()))
    torch.nn.init.normal_(attention.query.weight, std=1.0)
    handle = attention.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    found = diagnose(model, clips(2))[0]
    handle.remove()
    each = []
    for inputs in seen:
        weights = torch.cat(list(attention.weights(*inputs, rows=50)[1]), dim=2)  # (1, h, T*N, n)
        each.append(-(weights * weights.log()).sum(-1).mean() / math.log(weights.shape[-1]))
    assert found.entropy == pytest.approx(float(torch.stack(each).mean()), rel=1e-4) and found.entropy < 0.9


def test_points_vary_over_clips_by_what_they_see() -> None:
    model = encoder("resnet-basic", positions=(2,))
    offsets(model, 1.0)
    one, other = clips(2)
    same, different = diagnose(model, [one, one]), diagnose(model, [one, other])
    for still, entry, *pair in zip(
        same, different, *(sampled_points(model, video)[0] for video in (one, other)), strict=True
    ):
        assert still.varied == pytest.approx((0, 0, 0), abs=1e-5)
        shifted = torch.stack([points.shifted for points in pair])
        expected = (shifted[0] - shifted[1]).abs().mean((0, 1)) / 2  # standard deviation of two
        assert entry.varied == pytest.approx(expected.tolist(), rel=1e-4) and max(entry.varied) > 0.001
        moved = torch.stack([points.shifted - points.resting for points in pair]).abs().mean((0, 1, 2))
        assert entry.moved == pytest.approx(moved.tolist(), rel=1e-4)


def test_adapters_without_deformable_attention_have_no_figures() -> None:
    model = d2st.adapt(BACKBONES["clip-vit"](), d2st.STConfig(), frames=FRAMES)
    assert diagnose(model, clips(1)) == []


def test_the_offsets_of_reports_are_the_same_figures(small, tmp_path) -> None:
    model = d2st.adapt("d2st_stills", d2st.D2STConfig(ratio=0.0625, positions=(3,)), frames=4)
    offsets(model, 1.0)
    model.save_pretrained(tmp_path)
    data = {"data": small / "data", "split": small / "split.yaml"}
    measured = measure([tmp_path], data, "d2st_stills", clips=3)
    figures = diagnose(model, spread_clips(model, open_dataset(**data, part="test"), 3))
    assert [entry["pathway"] for entry in measured["trained"]] == ["spatial", "temporal"]
    for entry, before, there in zip(measured["trained"], measured["untrained"], figures, strict=True):
        assert entry["moved"] == pytest.approx(there.moved, abs=6e-4) and entry["moved"] != before["moved"]
        assert all(shared <= moved for shared, moved in zip(entry["shared"], entry["moved"], strict=True))
