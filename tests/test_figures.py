"""Pictures: written, of a sensible size, and made from the right numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

import d2st
from d2st import figures, points


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def check(path, width: int, height: int) -> None:
    with Image.open(path) as image:
        assert image.width >= width and image.height >= height
        assert len(np.unique(np.asarray(image.convert("L")))) > 5


def test_strip_lays_frames_side_by_side(frames):
    picture = figures.strip(frames)
    assert picture.shape == (32, 4 * 32 + 3 * figures.GAP, 3)
    assert np.array_equal(picture[:, 34:66], frames[1])
    assert (picture[:, 32:34] == 255).all()


def test_contact_sheet(tmp_path, frames):
    figures.contact_sheet(tmp_path / "a.png", [(f"clip {i}", frames) for i in range(3)], "Clips")
    check(tmp_path / "a.png", 800, 200)


def test_accuracies(tmp_path):
    bars = [figures.Bar("5-way 1-shot", (30.0, 1.0), (60.0, 1.2)), figures.Bar("5-shot", (40.0, 1.0), (70.0, 1.0))]
    figures.accuracy_bars(tmp_path / "a.png", bars, 20.0)
    check(tmp_path / "a.png", 400, 300)
    figures.class_gains(tmp_path / "b.png", ["left", "right"], [10.0, 20.0], [50.0, 40.0])
    check(tmp_path / "b.png", 400, 100)


def test_frame_match(tmp_path, frames):
    distances = np.random.default_rng(0).random((4, 4))
    figures.frame_match(tmp_path / "a.png", frames, frames[::-1], distances, ("query", "example"))
    check(tmp_path / "a.png", 400, 400)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return d2st.adapt("d2st_stills", d2st.D2STConfig(), frames=4, pretrained=False)


def test_sampled_points_are_those_of_the_pathways(encoder):
    video = torch.randn(4, 3, 64, 64)
    found = points.sampled_points(encoder, video)
    assert [p.pathway for p in found] == ["spatial", "temporal"] * 4
    first = found[0]
    assert first.volume == (4, 16, 16)
    assert first.shifted.shape == (1, 64, 3) and first.resting.shape == (64, 3)
    # at most two cells of the reference grid away, in cells of the map (paper section 3.2)
    reach = torch.tensor([2 / 1, 2 / 8, 2 / 8]).clamp(max=1) * (torch.tensor([4, 16, 16]) - 1) / 2
    assert ((first.shifted - first.resting).abs() <= reach + 1e-4).all()
    assert not encoder.adapters[first.site].pathways["spatial"].attention.points._forward_hooks


def test_points_of_an_encoder_without_any_are_none():
    encoder = d2st.adapt("d2st_stills", d2st.NoneConfig(), frames=4, pretrained=False)
    assert points.sampled_points(encoder, torch.zeros(4, 3, 64, 64)) == []


def test_point_strips(tmp_path, encoder):
    video = torch.randn(4, 3, 64, 64)
    frames = np.zeros((4, 64, 64, 3), np.uint8)
    points.point_strips(tmp_path / "a.png", frames, points.sampled_points(encoder, video)[:2], "Points")
    check(tmp_path / "a.png", 400, 200)
