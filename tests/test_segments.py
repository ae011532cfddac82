"""Suppression and merging of windows, and counting what was found."""

import random
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.data.cuts import seconds
from d2st.errors import D2STError
from d2st.spotting.segments import (
    Segment,
    count_found,
    find_segments,
    iou,
    merge,
    of_classes,
    read_events,
    suppress,
    which_are_right,
    write_events,
)
from d2st.utils.progress import clock

SPAN = st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda s: (s[0] / 2, (s[0] + s[1]) / 2))
LABELS = ("a", "b", "c")
SEGMENTS = st.lists(
    st.builds(lambda s, l, v: Segment(*s, l, v), SPAN, st.sampled_from(LABELS), st.floats(0, 1)), max_size=20
)


WINDOWS = st.lists(st.tuples(SPAN, st.tuples(*[st.floats(0, 1)] * 3)), max_size=30)


def arrays(windows):
    return np.array([w[0] for w in windows]).reshape(-1, 2), np.array([w[1] for w in windows]).reshape(-1, 3)


@given(WINDOWS, st.floats(0, 0.9))
def test_suppression(windows, overlap):
    spans, scores = arrays(windows)
    order = np.argsort(-scores.max(1, initial=0), kind="stable")
    kept = suppress(spans, order, overlap)
    assert kept == [i for i in order if i in kept]
    for place, i in enumerate(kept):
        assert (iou(spans[i], spans[kept[:place]]) <= overlap).all()
    for place, i in enumerate(order):  # what was dropped overlaps something that comes before it
        if i not in kept:
            before = [j for j in order[:place] if j in kept]
            assert (iou(spans[i], spans[before]) > overlap).any()


@given(WINDOWS, st.floats(0, 1), st.floats(0, 0.9))
def test_segments_join_what_windows_of_their_class_connect(windows, threshold, overlap):
    spans, scores = arrays(windows)
    best, labels = scores.max(1, initial=0), scores.argmax(1) if len(scores) else np.empty(0, int)
    found = find_segments(spans, scores, LABELS, threshold, overlap)
    assert found == sorted(found)
    candidates = np.flatnonzero((best >= threshold) & (best > 0))
    kept = [candidates[i] for i in suppress(spans[candidates], np.argsort(-best[candidates], kind="stable"), overlap)]
    homes = []
    for i in kept:  # each is in one segment, which has the score of its best
        (home,) = [s for s in found if s.label == LABELS[labels[i]] and s.start <= spans[i, 0] and spans[i, 1] <= s.end]
        assert home.score >= best[i]
        homes.append(home)
    assert set(homes) == set(found)
    assert {s.score for s in found} <= set(best[kept])
    for one, other in pairwise(kept):  # two are in the same one if windows of the class lead from the one to the other
        if labels[one] == labels[other]:
            own = [i for i in candidates if labels[i] == labels[one]]
            reached, last = {one}, set()
            while reached != last:
                last = reached
                reached = {j for j in own for i in last if i == j or connected(spans[i], spans[j])}
            same = [home for i, home in zip(kept, homes, strict=True) if i in (one, other)]
            assert (same[0] == same[1]) == (other in reached)


def connected(one, other):
    return one[0] < other[1] and other[0] < one[1]


def test_an_action_that_goes_on_is_one_segment_and_two_that_touch_are_two():
    spans = np.array([(start / 2, start / 2 + 2) for start in range(20)])
    scores = np.where(np.arange(20) % 5 == 0, 0.9, 0.6)[:, None] * [1, 0]
    assert find_segments(spans, scores, "ab", 0.5) == [Segment(0, 11, "a", 0.9)]
    assert [(s.start, s.end) for s in find_segments(spans, scores, "ab", 0.8)] == [
        (0, 2),
        (2.5, 4.5),
        (5, 7),
        (7.5, 9.5),
    ]
    assert [(s.start, s.end) for s in find_segments(spans, scores, "ab", 0.8, gap=0.6)] == [(0, 9.5)]
    touching = np.array([(0.0, 2.0), (2.0, 4.0)])
    assert len(find_segments(touching, np.ones((2, 1)), "a", 0.5)) == 2


@given(SEGMENTS, st.floats(0, 3))
def test_merging(segments, gap):
    merged = merge(segments, gap)
    assert merged == sorted(merged, key=lambda s: s.start)
    for label in LABELS:
        before, after = ([s for s in group if s.label == label] for group in (segments, merged))
        assert all(b.start >= a.end + gap for a, b in pairwise(after))
        for segment in before:
            (home,) = [s for s in after if s.start <= segment.start and segment.end <= s.end]
            assert home.score >= segment.score
        assert {s.start for s in after} <= {s.start for s in before}
        assert {s.end for s in after} <= {s.end for s in before}
    assert merge(merged, gap) == merged


@given(SEGMENTS, SEGMENTS)
def test_counting(segments, events):
    found = count_found(segments, events)
    assert 0 <= found["right"] <= min(len(segments), len(events))
    assert (found["segments"], found["events"]) == (len(segments), len(events))
    assert count_found(events, events)["right"] == len(events)
    assert found["right"] == which_are_right(segments, events).sum()


def test_an_event_is_found_once_by_its_class_and_half_of_it():
    events = [Segment(0, 10, "a", 1), Segment(20, 30, "b", 1)]
    segments = [Segment(0, 9, "a", 0.9), Segment(1, 10, "a", 0.8), Segment(20, 30, "a", 1), Segment(26, 36, "b", 1)]
    assert count_found(segments, events) == {
        "right": 1, "segments": 4, "events": 2, "precision": 0.25, "recall": 0.5
    }  # fmt: skip
    assert which_are_right(segments, events).tolist() == [True, False, False, False]
    assert count_found([], []) == {"right": 0, "segments": 0, "events": 0, "precision": None, "recall": None}


def test_times_as_people_write_them(tmp_path):
    assert [seconds(text) for text in ("12.5", "01:02.5", " 1:00:01 ")] == [12.5, 62.5, 3601]
    assert [clock(value) for value in (0, 59.96, 62.5, 3725.3)] == ["00:00.0", "01:00.0", "01:02.5", "1:02:05.3"]
    events = [Segment(1.25, 2.5, "a, b", 1.0), Segment(3, 4, "ü", 1.0)]
    write_events(tmp_path / "e.csv", events)
    assert read_events(tmp_path / "e.csv") == events
    (tmp_path / "bad.csv").write_text("start,end,label\n1,2,a\nx,2,a\n")
    with pytest.raises(D2STError, match="Line 3"):
        read_events(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("start,end,label\n1,2,a\0b\n", "null byte in line 2"),
        (f"start,end,label\n1,{'9' * 5000},a\n", "Line 2 .* is no time"),
        ("start,end,label\n1,inf,a\n", "Line 2 .*'inf' is no time"),
        ("start,end,label\n1,1e400,a\n", "Line 2 .*'1e400' is no time"),
        ("start,end,label\n1,99999999999,a\n", "Line 2 .* longer than a year"),
        ("start,end,label\n1:2:3:4,5:0:0,a\n", "Line 2 .*'1:2:3:4' is no time"),
        ("start,end,label\n1,2,\n", "Line 2 .* label is empty"),
        ("start,end,label\n1,2\n", "Line 2 .* too few cells"),
        ("start,end,label\n2,1,a\n", "Line 2 .* end after it starts"),
        ("start,end,label,end\n1,2,a,3\n", "no column end, or several"),
        ('start,end,label\n1,2,"a\n', "Line 2 "),
        ("start,end,label\n1,2,\udcff\n", "not in UTF-8"),
        ("", "no column start, end, label"),
    ],
)
def test_events_that_cannot_be_used_are_one_sentence(tmp_path, text, words):
    (tmp_path / "e.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(D2STError, match=words) as caught:
        read_events(tmp_path / "e.csv")
    assert "\n" not in str(caught.value)


def test_events_as_people_write_them(tmp_path):
    text = "\ufeff# mine\r\nLabel; Start ;End\r\n\r\nwave;0:02;3.5\r\n# no\r\nclap;.5;1.\r\n"
    (tmp_path / "e.csv").write_text(text, encoding="utf-8")
    assert read_events(tmp_path / "e.csv") == [Segment(0.5, 1, "clap", 1.0), Segment(2, 3.5, "wave", 1.0)]
    events, told = of_classes([Segment(0, 1, "caf\u00e9", 1.0)], ["cafe\u0301"])
    assert events == [Segment(0, 1, "cafe\u0301", 1.0)] and not told


def test_damaged_events_are_sentences_or_read(tmp_path):
    rng, end, results = random.Random(3), time.monotonic() + 1, []
    lines = ["start,end,label", "label;start;end", "1,2,a", "0:01,0:02,b c", "# x", '3,4,"a, b"']
    while time.monotonic() < end:
        text = bytearray("\n".join(rng.choices(lines[:2]) + rng.choices(lines[2:], k=3)).encode())
        for _ in range(rng.randint(0, 3)):
            at = rng.randint(0, len(text))
            text[at : at + rng.randint(0, 3)] = rng.choice(
                [bytes([rng.randrange(256)]), b"\0", b"9" * 5000, b'"', b",", b"\n"]
            )
        (tmp_path / "e.csv").write_bytes(text)
        try:
            results.append(len(read_events(tmp_path / "e.csv")))
        except D2STError:
            results.append(-1)
    assert -1 in results and max(results) > 1
