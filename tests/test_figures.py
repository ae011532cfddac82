"""Pictures: written, of a sensible size, and made from the right numbers."""

import numpy as np
import pytest
from PIL import Image

from d2st.spotting.segments import Segment
from d2st.spotting.timeline import over_time, timeline
from d2st.visualize import charts as figures


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


def test_timeline(tmp_path):
    spans = np.array([(i / 2, i / 2 + 2) for i in range(20)])
    scores = np.stack([np.linspace(0, 1, 20), np.linspace(1, 0, 20)], 1)
    found = [Segment(2, 5, "left", 0.9)]
    timeline(tmp_path / "a.png", spans, scores, ("left", "right"), found, 0.5, [Segment(2, 4, "right", 1)])
    check(tmp_path / "a.png", 1000, 250)
    moments = np.array([0.4, 0.6, 3.3, 50.0])
    values = over_time(spans, scores, moments)  # (4, 2)
    assert (values[[0, 3]] == 0).all() and (values[1] == scores[0]).all()
    around = [i for i, (start, end) in enumerate(spans) if start + 0.5 < 3.3 < end - 0.5]
    assert (values[2] == scores[around].max(0)).all()
