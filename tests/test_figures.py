"""Pictures: what is drawn lies where the numbers say."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from d2st.spotting import timeline as lanes
from d2st.spotting.segments import Segment
from d2st.spotting.timeline import TRUTH, over_time, timeline
from d2st.utils.files import write_png
from d2st.visualize import charts
from d2st.visualize.charts import AFTER, BEFORE
from d2st.visualize.sheet import pixels as drawn


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def color_at(picture, axis, x, y) -> str:
    """The color at data coordinates of an axis."""
    column, row = axis.transData.transform((x, y))
    red, green, blue = picture[round(axis.figure.bbox.height - row), round(column)]
    return f"#{red:02x}{green:02x}{blue:02x}"


def test_strip_lays_frames_side_by_side(frames):
    picture = charts.strip(frames)
    assert picture.shape == (32, 4 * 32 + 3 * charts.GAP, 3)
    assert np.array_equal(picture[:, 34:66], frames[1])
    assert (picture[:, 32:34] == 255).all()


def test_contact_sheet(frames):
    figure = charts.contact_sheet([(f"clip {i}", frames // (i + 1)) for i in range(3)], "Clips")
    shown = [axis for axis in figure.axes if axis.images]
    by_label = {axis.get_title(loc="left"): axis.images[0].get_array() for axis in shown}
    assert list(by_label) == ["clip 0", "clip 2", "clip 1"]  # columns from top to bottom
    for i in range(3):
        assert np.array_equal(by_label[f"clip {i}"], charts.strip(frames // (i + 1)))
    assert figure.get_suptitle() == "Clips"


def test_bars_are_as_high_as_accuracies():
    labels, frozen, adapted = ["5-way 1-shot", "5-shot"], [(30.0, 1.0), (40.0, 1.0)], [(60.0, 1.2), (70.0, 1.0)]
    figure = charts.accuracy_bars(labels, frozen, adapted, 20.0)
    picture, axis = drawn(figure), figure.axes[0]
    for x, height, color in ((-0.2, 30, BEFORE), (0.2, 60, AFTER), (0.8, 40, BEFORE), (1.2, 70, AFTER)):
        beside = x + 0.1  # an interval is drawn in the middle
        assert color_at(picture, axis, beside, height - 2) == color
        assert color_at(picture, axis, beside, height + 0.9) == "#ffffff"
    assert [label.get_text() for label in axis.get_xticklabels()] == labels
    lengths = [np.ptp(bar.get_segments()[0][:, 1]) for bar in axis.collections]
    assert lengths == pytest.approx([2.0, 2.4])  # of the first bar of each kind


def test_any_number_of_adapters_has_looks():
    points = [charts.Point(f"adapter {i}", i + 1, 50.0, 1.0) for i in range(70)]
    assert charts.accuracy_against_parameters({"all": points}).axes


def test_classes_are_sorted_by_their_accuracy():
    figure = charts.class_gains(["right", "left"], [10.0, 20.0], [50.0, 40.0])
    picture, axis = drawn(figure), figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["left", "right"]
    for row, (before, after) in enumerate([(20, 40), (10, 50)]):
        assert color_at(picture, axis, before, row) == BEFORE
        assert color_at(picture, axis, after, row) == AFTER
        assert color_at(picture, axis, (before + after) / 2, row) == "#c9d1d9"
        assert color_at(picture, axis, after + 7, row) == "#ffffff"


def test_no_window_is_lost_in_the_picture_of_a_long_video():
    moments = np.linspace(0, 10800, 2000)  # three hours, a moment every 5.4 seconds
    for start in [*np.random.default_rng(0).uniform(0, 10798, 50).tolist(), 0.0, 10798.0]:
        values = over_time(np.array([[start, start + 2]]), np.array([[0.9]]), moments)[:, 0]
        assert values.max() == 0.9 and abs(moments[values.argmax()] - start - 1) < 5.5


def test_a_timeline_has_bars_where_segments_and_events_are(tmp_path):
    spans = np.array([(i / 2, i / 2 + 2) for i in range(20)])
    scores = np.stack([np.linspace(0, 1, 20), np.linspace(1, 0, 20)], 1)
    figure = timeline(spans, scores, ("left", "right"), [Segment(2, 5, "left", 0.9)], 0.5, [Segment(2, 4, "right", 1)])
    picture, (left, right) = drawn(figure), figure.axes
    assert [axis.get_ylabel() for axis in (left, right)] == ["left", "right"]
    assert color_at(picture, left, 3, 1.17) == color_at(picture, left, 4.9, 1.17) == AFTER
    assert color_at(picture, right, 3, -0.19) == TRUTH
    for axis, x, y in ((left, 5.2, 1.17), (left, 1.8, 1.17), (right, 3, 1.17), (left, 3, -0.19), (right, 4.2, -0.19)):
        assert color_at(picture, axis, x, y) == "#ffffff"
    assert color_at(picture, left, 10, 0.2) == color_at(picture, right, 1, 0.2) != "#ffffff"  # where scores are high
    assert color_at(picture, left, 1, 0.2) == color_at(picture, right, 10, 0.2) == "#ffffff"  # where they are low
    assert to_hex(left.lines[0].get_color()) == "#333333" and left.lines[0].get_ydata()[0] == 0.5
    write_png(tmp_path / "a.png", figure)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 13 * 110


def test_a_timeline_of_many_classes_has_lanes_of_those_that_matter(monkeypatch):
    monkeypatch.setattr(lanes, "LANES", 3)
    spans, scores = np.array([[0.0, 2.0], [1.0, 3.0]]), np.array([[0.1, 0.9, 0.3, 0.2, 0.0], [0.2, 0.1, 0.8, 0.1, 0.3]])
    found, happened = [Segment(0, 2, "e", 0.3)], [Segment(0, 2, "a", 1)]
    figure = timeline(spans, scores, tuple("abcde"), found, 0.2, happened)
    assert [axis.get_ylabel() for axis in figure.axes] == ["a", "b", "e"]
    drawn(figure)


def test_scores_over_time_are_the_best_of_the_windows_around():
    spans = np.array([(i / 2, i / 2 + 2) for i in range(20)])
    scores = np.stack([np.linspace(0, 1, 20), np.linspace(1, 0, 20)], 1)
    moments = np.arange(0.05, 50, 0.3)
    for moment, value in zip(moments, over_time(spans, scores, moments), strict=True):
        around = [i for i, (start, end) in enumerate(spans) if start + 0.5 < moment < end - 0.5]
        assert (value == (scores[around].max(0) if around else 0)).all()
