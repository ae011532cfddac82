"""Which frames match: the pairs that the heads' costs are made of."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgba

from d2st import heads
from d2st.visualize.alignment import QUERY, SUPPORT, align, alignment_figure, ordered_path


def features(frames: int, seed: int) -> torch.Tensor:
    return torch.randn(frames, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("of_query, of_support", [(5, 5), (3, 6)])
def test_bi_mhm_pairs_add_up_to_its_distance(of_query, of_support):
    query, support, head = features(of_query, 0), features(of_support, 1), heads.build("bi-mhm")
    found = align(head, support, query)
    assert found.distances.shape == (of_query, of_support) and found.rule == "nearest"
    assert [i for i, _ in found.of_query] == list(range(of_query))
    assert [j for _, j in found.of_support] == list(range(of_support))
    total = sum(found.distances[pair] for pair in (*found.of_query, *found.of_support))
    assert -head(support[None], torch.tensor([0]), query[None]).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("direction", ["query", "support"])
def test_bi_mhm_in_one_direction_shows_its_pairs_alone(direction):
    query, support, head = features(5, 0), features(3, 1), heads.build("bi-mhm", direction=direction)
    found = align(head, support, query)
    assert (len(found.of_query), len(found.of_support)) == ((5, 0) if direction == "query" else (0, 3))
    total = sum(found.distances[pair] for pair in (*found.of_query, *found.of_support))
    assert -head(support[None], torch.tensor([0]), query[None]).item() == pytest.approx(total, rel=1e-5)
    pictures = np.zeros((5, 8, 8, 3), np.uint8)
    figure = alignment_figure(pictures, pictures[:3], found, ("a", "b"))
    notes = [text.get_text() for text in figure.axes[0].texts if "line" in text.get_text()]
    assert [note.split(",")[0] for note in notes] == ["Ring" if direction == "query" else "Cross"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_ordered_path_is_the_cheapest(rows, columns, seed):
    distances = np.random.default_rng(seed).random((rows, columns))
    path = ordered_path(distances)
    steps = itertools.product(range(columns), repeat=rows)
    allowed = (p for p in steps if all(b - a in (0, 1) for a, b in itertools.pairwise(p)))
    best = min(sum(distances[i, j] for i, j in enumerate(p)) for p in allowed)
    assert all(b - a in (0, 1) for a, b in itertools.pairwise(path))
    assert sum(distances[i, j] for i, j in enumerate(path)) == pytest.approx(best)


@pytest.mark.parametrize("directions", ["both", "single"])
def test_otam_s_paths_are_its_costs_without_smoothing(directions):
    query, support = features(6, 2), features(5, 3)
    head = heads.build("otam", smoothing=1e-4, directions=directions)
    found = align(head, support, query)
    assert found.rule == "path" and bool(found.of_query) == (directions == "both")
    total = sum(found.distances[pair] for pair in (*found.of_query, *found.of_support))
    assert -head(support[None], torch.tensor([0]), query[None]).item() == pytest.approx(total, abs=0.01)


def test_other_heads_show_the_nearest_frames():
    query, support = features(4, 4), features(4, 5)
    nearest = align(heads.build("bi-mhm"), support, query)
    assert align(heads.build("prototype"), support, query).of_query == nearest.of_query
    tuples = align(heads.build("bi-mhm", cosine="eps", tuples=2, direction="query"), support, query)
    assert (tuples.of_query, tuples.of_support) == (nearest.of_query, nearest.of_support)
    assert np.array_equal(tuples.distances, nearest.distances)


def test_marks_and_lines_lie_on_the_pairs():
    """Clips of other sizes: rings and crosses on the cells of the matrix, a line from frame to frame for each pair."""
    found = align(heads.build("bi-mhm"), features(5, 6), features(3, 7))
    query, support = np.zeros((3, 40, 90, 3), np.uint8), np.zeros((5, 90, 40, 3), np.uint8)
    figure = alignment_figure(query, support, found, ("a very long name of a clip", "b"), "Title")
    axis = figure.axes[0]
    (mesh,) = (marks for marks in axis.collections if isinstance(marks, QuadMesh))
    assert np.array_equal(mesh.get_array(), found.distances)
    corners = mesh.get_coordinates()
    middles = (corners[:-1, :-1] + corners[1:, 1:]) / 2  # (3, 5, 2)
    for pairs, color in ((found.of_query, QUERY), (found.of_support, SUPPORT)):
        (marks,) = (
            marks for marks in axis.collections if marks is not mesh and (marks.get_edgecolor() == to_rgba(color)).all()
        )
        assert np.allclose(marks.get_offsets(), [middles[pair] for pair in pairs])
    frames = [np.array(image.get_extent()).reshape(2, 2).mean(1) for image in axis.images]  # middles (x, y)
    above, below = frames[0:6:2], frames[6:]  # a query's frame is drawn beside the matrix too
    ends = [line.get_xdata() for line in axis.lines]
    expected = sorted(set(found.of_query) | set(found.of_support))
    assert np.allclose(ends, [(above[i][0], below[j][0]) for i, j in expected])
