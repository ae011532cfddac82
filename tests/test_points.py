"""Where adapters look: the places are the right pixels, and the attention is the attention's own."""

import clips
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import d2st
from d2st.backbones.sites import inspect
from d2st.data import sampling as frame_rules
from d2st.data.transforms import eval_transform, eval_view
from d2st.data.video.reader import read_clip
from d2st.errors import D2STError
from d2st.layers.deformable_attention import AnisotropicAttention, reference_points
from d2st.visualize import points
from d2st.visualize.clip_points import clip_points

SIDES = st.integers(8, 400)
VIT = dict(img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)


def vit(size=64):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(**VIT | {"img_size": size})


def stills():
    return d2st.adapt("d2st_stills", d2st.D2STConfig(), frames=4)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(4, 200), st.integers(4, 200), st.integers(0, 2**32 - 1))
def test_places_go_to_the_picture_and_back(height, width, h, w, seed):
    """Cell -> pixel of the model -> pixel of the picture, and back."""
    view, volume = eval_view((h, w), height, width), (3, 7, 5)
    cells = torch.from_numpy(np.random.default_rng(seed).uniform(-2, 9, (20, 3)))
    there = view.to_picture(points.cells_to_pixels(cells, volume, view.size))
    back = points.pixels_to_cells(view.to_model(there), volume, view.size)
    assert torch.allclose(back, cells, atol=1e-9)
    top, left, bottom, right = view.window
    slack = 0.5 * max(height / view.resized[0], width / view.resized[1])  # a resized side is rounded to whole pixels
    assert -0.5 - slack <= top < bottom <= height - 0.5 + slack and -0.5 - slack <= left < right <= width - 0.5 + slack


@settings(max_examples=40, deadline=None)
@given(st.integers(40, 200), st.integers(40, 200), st.integers(16, 120), st.integers(16, 120))
def test_the_view_is_what_the_transform_does(height, width, h, w):
    """A picture whose colors are its own coordinates shows where each pixel of the model's frame comes from."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    picture = torch.from_numpy(np.stack([y, x, x]))[None]
    seen = eval_transform((h, w), (0, 0, 0), (1, 1, 1), "bilinear")(picture)[0] * 255  # (3, h, w)
    view = eval_view((h, w), height, width)
    grid = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), dim=-1).double()
    expected = view.to_picture(grid)  # (h, w, 2)
    inner = (slice(4, -4), slice(4, -4))  # the edge of a picture bends a ramp
    assert (expected[..., 0] - seen[0])[inner].abs().max() < 1
    assert (expected[..., 1] - seen[1])[inner].abs().max() < 1


def square(path, height: int, width: int, at: tuple[int, int], side: int):
    """A clip of grey noise with a bright square, centered at (y, x), that the codec keeps."""
    import av

    picture = np.random.default_rng(0).integers(40, 60, (height, width, 3)).astype(np.uint8)
    y, x = at[0] - side // 2, at[1] - side // 2
    picture[y : y + side, x : x + side] = 250
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "10"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for _ in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def set_offset(pathway, offset: torch.Tensor) -> None:
    """Give every point of a pathway the same offset, (3,) in normalized coordinates, whatever it sees."""
    shift = pathway.attention.points
    with torch.no_grad():
        shift.conv.weight.zero_()
        shift.conv.bias.copy_(torch.linspace(-1, 1, len(shift.conv.bias)))
        hidden = torch.nn.functional.gelu(shift.norm(shift.conv.bias))  # (C/G,)
        wanted = torch.atanh(offset / (shift.REACH / shift.counts).clamp(max=1))
        shift.project.weight.copy_(wanted[:, None] * hidden / hidden.square().sum())


# (height, width) as stored, quarter turns that the file asks for, (y, x) of the square in the upright picture, its side
CASES = {
    "square": ((128, 128), 0, (40, 90), 16),
    "wide": ((96, 240), 0, (30, 150), 16),
    "portrait": ((320, 180), 0, (200, 60), 30),
    "hd": ((720, 1280), 0, (300, 500), 90),
    "small": ((48, 64), 0, (20, 40), 8),
    "turned": ((180, 320), 1, (200, 60), 30),
    "upside-down": ((96, 240), 2, (30, 150), 16),
    "turned-back": ((180, 320), 3, (150, 120), 30),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [64, (64, 96)])
def test_a_known_offset_lands_on_the_square(tmp_path, case, size):
    """The square is found in what the model sees; a point is sent to that cell; it must come out where it was drawn."""
    (height, width), turns, place, side = CASES[case]
    stored = square_in_stored(place, turns, (height, width))
    path = square(tmp_path / "a.mp4", height, width, stored, side)
    if turns:
        # Display matrices that turn the stored picture clockwise by 90, 180 and 270 degrees.
        clips.turn(path, *{1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[turns])
    frames = read_clip(path, frame_rules.build("uniform", 4))
    encoder = d2st.adapt(vit(size), d2st.D2STConfig(), frames=4, image_size=size)
    seen = eval_transform(encoder.image_size, (0, 0, 0), (1, 1, 1), encoder.interpolation)(frames)
    bright = (seen[0].mean(0) > 0.6).nonzero().double().mean(0)  # (2,), center of the square in the model's pixels
    cells = (bright + 0.5) / 8 - 0.5  # patches of 8 pixels
    pathway = encoder.adapters["blocks_1"].pathways["spatial"]
    volume = torch.tensor([4, encoder.image_size[0] // 8, encoder.image_size[1] // 8])
    target = torch.tensor([1.0, *cells.tolist()]) / (volume - 1) * 2 - 1  # (3,), normalized: on frame 1
    resting = reference_points((1, 4, 4)).flatten(0, 2)  # (n, 3)
    nearest = (resting - target).abs().max(1).values.argmin()
    set_offset(pathway, target - resting[nearest])
    clip = clip_points(encoder, frames)
    entry = next(e for e in clip.pathways if (e.site, e.pathway) == ("blocks_1", "spatial"))
    t, y, x = clip.shifted(entry)[0, nearest].tolist()
    assert clip.frames.shape[1:3] == ((width, height) if turns % 2 else (height, width))
    assert t == pytest.approx(1, abs=1e-3)
    pixel = max(a / b for a, b in zip(clip.view.picture, clip.view.resized, strict=True))  # of the model
    assert (y, x) == pytest.approx((place[0] - 0.5, place[1] - 0.5), abs=max(1.0, 0.75 * pixel))
    assert clip.frames[1, round(y), round(x)].mean() > 200
    assert clip.inside(clip.shifted(entry)[0, nearest])


def square_in_stored(place, turns, stored):
    """Where (y, x) of the upright picture lies in the stored one, which is shown turned clockwise ``turns`` times."""
    (y, x), (height, width) = place, stored
    return {0: (y, x), 1: (height - x, y), 2: (height - y, width - x), 3: (x, width - y)}[turns]


@pytest.mark.parametrize("build", ["d2st_stills", "convnext"])
def test_cells_lie_where_they_look(build):
    """Measured: the response of a map to a changed pixel is centered on that pixel to a quarter of a cell, on average
    over places. (In theory a ResNet's strided convolutions center cell i at i steps, half a cell off; a trained one has
    learned to look at all of the picture.)"""
    torch.manual_seed(0)
    if build == "convnext":
        from timm.models.convnext import ConvNeXt

        model = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), num_classes=0).eval()
    else:
        model = d2st.backbones.build.build(build).eval()
    seen = {}
    sites = inspect(model, (64, 64)).sites[:3]
    for site in sites:
        model.get_submodule(site.module).register_forward_hook(lambda m, a, out, key=site.key: seen.update({key: out}))
    base = torch.randn(4, 3, 64, 64)
    places = [(y, x) for y in range(20, 46, 5) for x in range(20, 46, 5)]
    errors = {site.key: [] for site in sites}
    with torch.no_grad():
        model.forward_features(base)
        before = {key: out.clone() for key, out in seen.items()}
        for y, x in places:
            changed = base.clone()
            changed[:, :, y, x] += 2 * torch.randn(4, 3)
            model.forward_features(changed)
            for site in sites:
                energy = (seen[site.key] - before[site.key]).square().sum((0, 1))  # (H, W)
                weights, (h, w) = energy / energy.sum(), energy.shape
                center = [0.0, (weights.sum(1) @ torch.arange(h).float()), (weights.sum(0) @ torch.arange(w).float())]
                pixel = points.cells_to_pixels(torch.tensor(center), (1, h, w), (64, 64))
                errors[site.key].append(pixel[1:] - torch.tensor([y, x]))
    for key, found in errors.items():
        off = torch.stack(found).mean(0).abs().max() / (64 / seen[key].shape[-1])  # in cells
        assert off < 0.25, f"{key}: {off:.2f} cells"


@torch.no_grad()
def test_the_weights_are_those_of_the_attention():
    """What is computed beside the attention gives its output, whatever is held at once."""
    torch.manual_seed(0)
    attention = AnisotropicAttention(16, (4, 6, 5), (2, 3, 3), groups=2, heads=4)
    x, grid = torch.randn(2, 4, 1 + 30, 16), (6, 5)
    *_, sampled, expected = attention._match(x, grid)
    value = attention._split(attention.value(sampled))
    for rows in (1, 7, 1000):
        found, lots = attention.weights(x, grid, rows)
        weights = torch.cat(list(lots), dim=2)  # (B, h, T*N, n)
        assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 124))
        y = (weights @ value).transpose(1, 2).flatten(2).view_as(x)
        assert torch.allclose(attention.output(y), attention(x, grid), atol=1e-6)
        assert torch.equal(found, expected)


def test_points_of_every_pathway(monkeypatch):
    encoder, video = stills(), torch.randn(4, 3, 64, 64)
    found, features = points.sampled_points(encoder, video, token=(2, 30.0, 40.0))
    assert torch.equal(features, encoder(video[None])[0])
    assert [p.pathway for p in found] == ["spatial", "temporal"] * 4
    first = found[0]
    assert first.volume == (4, 16, 16) and first.queries == 4 * 16 * 16
    assert first.shifted.shape == (1, 64, 3) and first.resting.shape == (64, 3) and first.attention.shape == (64,)
    # at most two cells of the reference grid away, in cells of the map (paper section 3.2)
    reach = torch.tensor([2 / 1, 2 / 8, 2 / 8]).clamp(max=1) * (torch.tensor([4, 16, 16]) - 1) / 2
    assert ((first.shifted - first.resting).abs() <= reach + 1e-4).all()
    for entry in found:
        assert entry.attention.sum() == pytest.approx(entry.queries, rel=1e-4)
        assert entry.token.sum() == pytest.approx(1, rel=1e-4)
    attention = encoder.adapters[first.site].pathways["spatial"].attention
    assert not attention._forward_hooks and not attention.points._forward_hooks
    monkeypatch.setattr(points, "_WEIGHTS", 1000)  # memory is bounded, the sums are the same
    for small, entry in zip(points.sampled_points(encoder, video, token=(2, 30.0, 40.0))[0], found, strict=True):
        assert torch.allclose(small.attention, entry.attention, rtol=1e-4)
        assert torch.allclose(small.token, entry.token)


@torch.no_grad()
def test_the_token_is_the_one_at_its_pixel():
    """Class token and registers come before the patches; the row of weights is that of the patch that was chosen."""
    encoder = d2st.adapt(vit(), d2st.D2STConfig(positions=(1,)), frames=4)
    video, seen = torch.randn(4, 3, 64, 64), []
    attention = encoder.adapters["blocks_1"].pathways["temporal"].attention
    handle = attention.register_forward_hook(lambda m, inputs, out: seen.append(inputs))
    (_, entry), _ = points.sampled_points(encoder, video, token=(2, 8 * 5 + 3.0, 8 * 6 + 7.4))
    handle.remove()
    weights = torch.cat(list(attention.weights(*seen[0], rows=4096)[1]), dim=2)[0].mean(0)  # (T*N, n)
    assert torch.allclose(entry.token, weights[2 * 65 + 1 + 5 * 8 + 6])


def test_points_of_an_encoder_without_any_are_none():
    encoder = d2st.adapt("d2st_stills", d2st.NoneConfig(), frames=4, pretrained=False)
    clip = clip_points(encoder, torch.zeros(4, 3, 50, 70, dtype=torch.uint8))
    assert clip.pathways == () and clip.features.shape[0] == 4 and clip.frames.shape == (4, 50, 70, 3)


def test_the_most_attended_points_come_first():
    encoder = stills()
    for name, parameter in encoder.adapters.named_parameters():
        if ".points.project." in name:
            torch.nn.init.normal_(parameter, std=1.0)  # so that some points leave the clip
    clip = clip_points(encoder, torch.randint(0, 255, (4, 3, 48, 96), dtype=torch.uint8), token=(1, 40, 20))
    assert clip.names == ["spatial", "temporal"] and len(clip.sites) == 4
    entries = [e for e in clip.pathways if e.pathway == "spatial"]
    everywhere = torch.cat([clip.shifted(e).flatten(0, 1) for e in entries])
    for of_token in (False, True):
        given = torch.cat([(e.token if of_token else e.attention).repeat(len(e.shifted)) for e in entries])
        seen = clip.inside(everywhere)
        places, weights = clip.top("spatial", 10, of_token)
        assert places.shape == (10, 3) and torch.equal(weights, given[seen].sort(descending=True).values[:10])
        assert torch.equal(places[0], everywhere[seen][given[seen].argmax()])
        outside = (given[~seen].sum() / given.sum()).item()
        assert clip.share_outside("spatial", of_token) == pytest.approx(outside)
    assert len(clip.top("spatial", 10**6)[1]) == seen.sum() < len(everywhere)


@pytest.mark.parametrize("token, words", [((4, 1, 1), "frames 0 to 3"), ((0, 2, 20), "x from 24 to 71")])
def test_a_token_must_be_in_sight(token, words):
    with pytest.raises(D2STError, match=words):
        clip_points(stills(), torch.zeros(4, 3, 48, 96, dtype=torch.uint8), token=token)
