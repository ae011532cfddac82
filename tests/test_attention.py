"""Reference points: the window rule, Table 14's shapes, and where the points are read."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

import d2st
from d2st.layers.deformable_attention import (
    AnisotropicAttention,
    ShiftedPoints,
    cell_coordinates,
    reference_points,
    window,
)

TABLE_14 = {  # feature map -> (spatial, temporal, uniform) densities of a ResNet's stages; a ViT-B/16 has the third map
    (8, 56, 56): ((2, 8, 8), (8, 4, 4), (4, 4, 4)),
    (8, 28, 28): ((2, 4, 4), (8, 2, 2), (4, 4, 4)),
    (8, 14, 14): ((2, 4, 4), (8, 2, 2), (4, 4, 4)),
    (8, 7, 7): ((2, 2, 2), (8, 1, 1), (4, 4, 4)),
}
RELEASED_WINDOWS = {  # (map, density) -> (kernel, stride) that the authors wrote down by hand
    ((8, 56, 56), (2, 8, 8)): ((4, 7, 7), (4, 7, 7)),
    ((8, 56, 56), (8, 4, 4)): ((1, 14, 14), (1, 14, 14)),
    ((8, 28, 28), (2, 4, 4)): ((4, 7, 7), (4, 7, 7)),
    ((8, 28, 28), (8, 2, 2)): ((1, 14, 14), (1, 14, 14)),
    ((8, 14, 14), (2, 4, 4)): ((4, 5, 5), (4, 3, 3)),
    ((8, 14, 14), (8, 2, 2)): ((1, 7, 7), (1, 7, 7)),
    ((8, 7, 7), (2, 2, 2)): ((4, 4, 4), (4, 3, 3)),
    ((8, 7, 7), (8, 1, 1)): ((1, 7, 7), (1, 7, 7)),
}


@given(st.integers(1, 64), st.integers(1, 64))
def test_window_gives_the_points_asked_for(length, points):
    kernel, stride, padding = window(length, points)
    assert kernel >= 1 and stride >= 1 and padding >= 0
    assert (length + 2 * padding - kernel) // stride + 1 == points
    if points <= length:
        assert padding == 0
        assert (points - 1) * stride + kernel == length, "the windows do not cover the axis exactly"
    else:
        assert kernel - padding <= length, "a window sees padding alone"


@pytest.mark.parametrize(("volume", "density"), RELEASED_WINDOWS)
def test_window_is_the_released_one(volume, density):
    windows = [window(length, points) for length, points in zip(volume, density, strict=True)]
    assert tuple(zip(*windows, strict=True)) == (*RELEASED_WINDOWS[volume, density], (0, 0, 0))


@pytest.mark.parametrize(
    ("name", "pathways"), [("resnet18", "both"), ("vit_tiny_patch16_224", "both"), ("resnet18", "uniform")]
)
def test_defaults_are_table_14(name, pathways):
    encoder = d2st.adapt(name, d2st.D2STConfig(pathways=pathways), pretrained=False)
    adapters = [adapter for key, adapter in encoder.adapters.items() if key != "temporal_embedding"]
    maps = list(TABLE_14) if name == "resnet18" else [(8, 14, 14)] * 12
    for volume, adapter in zip(maps, adapters, strict=True):
        names = ("spatial", "temporal", "uniform")
        expected = dict(zip(names, TABLE_14[volume], strict=True))
        for pathway, module in adapter.pathways.items():
            assert module.attention.points.density(volume) == expected[pathway]
            x = torch.zeros(1, module.norm.normalized_shape[0], *volume)
            assert module.attention.points(x).shape[2:5] == expected[pathway]


@pytest.mark.parametrize("density", [(16, 4, 4), (9, 2, 2), (8, 4, 4), (2, 9, 9), (1, 1, 1)])
def test_density_above_the_map_works(density):
    """The last row of Table 7 asks for 16 points in time on 8 frames, Table 8 for 8 on 4."""
    backbone = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    encoder = d2st.adapt(backbone, d2st.D2STConfig(spatial=density, temporal=density), frames=4)
    points = []
    for pathway in encoder.adapters["blocks_0"].pathways.values():
        pathway.attention.points.register_forward_hook(lambda module, args, out: points.append(out))
    encoder.adapters["blocks_0"].up.weight.data.normal_()
    features = encoder(torch.randn(1, 4, 3, 32, 32))
    assert [tuple(p.shape[2:5]) for p in points] == [density, density]
    features.sum().backward()


def test_unshifted_points_are_cell_centers_read_with_aligned_corners():
    """Released: references are normalized by n, read with align_corners, so 8 points on 8 cells start at 0.4375."""
    cells = cell_coordinates(reference_points((8, 1, 1)), (8, 8, 8))
    torch.testing.assert_close(cells[:, 0, 0, 0], 0.4375 + 0.875 * torch.arange(8))
    torch.testing.assert_close(cells[0, 0, 0, 1], torch.tensor(3.5))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_offsets_stay_within_their_reach(n_t, n_h, n_w):
    torch.manual_seed(0)
    density = (n_t, n_h, n_w)
    points = ShiftedPoints(8, 2, (6, 5, 5), density)
    torch.nn.init.normal_(points.project.weight, std=100.0)
    shift = points(torch.randn(2, 8, 6, 5, 5)) - reference_points(density)
    reach = torch.tensor([min(1.0, 2 / n) for n in density])
    assert (shift.abs() <= reach + 1e-6).all()
    assert (shift.abs() > 0.9 * reach).any()


def test_sampling_is_trilinear_and_zero_outside():
    torch.manual_seed(0)
    attention = AnisotropicAttention(4, (3, 4, 5), (1, 1, 2), groups=2, heads=2).double()
    volume = torch.randn(1, 4, 3, 4, 5, dtype=torch.float64)
    cells = torch.tensor([[[1.25, 2.5, 3.75], [-0.5, 0, 0]], [[0, 0, 4.5], [-3, 1, 1]]], dtype=torch.float64)
    points = cells / (torch.tensor([3, 4, 5], dtype=torch.float64) - 1) * 2 - 1  # (G, n, 3)
    got = attention._sample(volume, points.view(1, 2, 1, 1, 2, 3))[0]  # (n, C)

    def read(channel, t, y, x):
        inside = 0 <= t < 3 and 0 <= y < 4 and 0 <= x < 5
        return volume[0, channel, t, y, x] if inside else volume.new_zeros(())

    for group in range(2):
        for n in range(2):
            t, y, x = cells[group, n].tolist()
            for channel in (2 * group, 2 * group + 1):
                expected = sum(
                    read(channel, int(t // 1) + i, int(y // 1) + j, int(x // 1) + k)
                    * (t % 1 if i else 1 - t % 1) * (y % 1 if j else 1 - y % 1) * (x % 1 if k else 1 - x % 1)
                    for i in (0, 1) for j in (0, 1) for k in (0, 1)
                )  # fmt: skip
                torch.testing.assert_close(got[n, channel], torch.as_tensor(expected))


def test_half_precision_reads_where_the_points_are():
    torch.manual_seed(0)
    attention = AnisotropicAttention(4, (1, 56, 56), (1, 8, 8), groups=1, heads=1)
    volume = (torch.arange(56) % 2).expand(1, 4, 1, 56, 56).bfloat16()  # between cells it reads how far between
    points = torch.rand(1, 1, 1, 8, 8, 3) * 2 - 1
    got, expected = attention._sample(volume, points), attention._sample(volume.double(), points.double())
    assert got.dtype == torch.bfloat16 and (got - expected).abs().max() < 0.005


def test_class_token_asks_but_is_never_sampled():
    torch.manual_seed(0)
    attention = AnisotropicAttention(8, (2, 3, 3), (2, 2, 2), groups=2, heads=2)
    x = torch.randn(1, 2, 1 + 9, 8)
    other = x.clone()
    other[:, :, 0] = torch.randn(8)
    with torch.no_grad():
        a, b = attention(x, (3, 3)), attention(other, (3, 3))
    torch.testing.assert_close(a[:, :, 1:], b[:, :, 1:], rtol=0, atol=0)
    assert not torch.equal(a[:, :, 0], b[:, :, 0])
