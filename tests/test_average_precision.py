"""Average precision of what ``d2st spot`` finds, against a count by hand and the definition."""

import numpy as np
import pytest
from average_precision import LEAST, average_precision, rank

from d2st.spotting.segments import Segment

EVENTS = [Segment(0, 10, "a", 1), Segment(20, 30, "a", 1), Segment(40, 50, "b", 1)]


def ranked(*windows, events=EVENTS):
    """Windows (start, end, score of a, score of b)."""
    rows = np.array(windows, float).reshape(-1, 4)
    return rank(rows[:, :2], rows[:, 2:], "ab", events, overlap=0.2)


def test_all_found_first_is_one_and_nothing_found_is_zero():
    right = ranked((0, 10, 0.9, 0), (20, 30, 0.8, 0), (40, 50, 0, 0.7))
    assert average_precision([right]) == average_precision([right, right]) == 1
    assert average_precision([ranked((60, 70, 0.9, 0))]) == 0
    assert average_precision([ranked()]) == 0


def test_a_count_by_hand():
    # Of a: wrong, right, right. Precision is 0, 1/2, 2/3, so 2/3 at both recalls; b is not found.
    found = ranked((60, 70, 0.9, 0), (0, 10, 0.8, 0), (20, 30, 0.7, 0))
    assert average_precision([found]) == pytest.approx((2 / 3 + 0) / 2)
    # An intersection over union of 0.55 counts for three of the five bounds.
    assert average_precision([ranked((0, 5.5, 0.9, 0), events=EVENTS[:1])]) == pytest.approx(3 / len(LEAST))


def test_what_overlaps_is_ranked_once_and_videos_may_count_more_often():
    twice = ranked((0, 10, 0.9, 0), (1, 11, 0.8, 0), events=EVENTS[:1])
    assert len(twice.scores) == 1 and average_precision([twice]) == 1
    missed = ranked((60, 70, 0.95, 0), events=EVENTS[:1])
    assert average_precision([twice, missed], [2, 1]) == pytest.approx(average_precision([twice, twice, missed]))
    assert average_precision([twice, missed], [1, 0]) == 1
