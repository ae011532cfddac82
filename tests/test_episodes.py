"""Episodes: right by construction, and a function of (seed, index) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.data.episodes import EpisodeSampler, clip_generator, generator
from d2st.errors import D2STError


@st.composite
def samplers(draw: st.DrawFn) -> EpisodeSampler:
    shot, queries = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(shot + queries, shot + queries + 6), min_size=2, max_size=7))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(np.arange(len(sizes)), sizes))
    return EpisodeSampler(labels, draw(st.integers(2, len(sizes))), shot, queries, seed=draw(st.integers(0, 2**64 - 1)))


@settings(max_examples=60, deadline=None)
@given(sampler=samplers(), index=st.integers(0, 10**9))
def test_an_episode_is_right(sampler: EpisodeSampler, index: int) -> None:
    labels = np.empty(sum(len(c) for c in sampler.by_class), int)
    for c, clips in enumerate(sampler.by_class):
        labels[clips] = c
    e = sampler.draw(index)
    assert len(set(e.classes)) == sampler.way == len(e.classes)
    assert len(e.support) == sampler.way * sampler.shot and len(e.query) == sampler.way * sampler.queries
    used = np.concatenate([e.support, e.query, *e.spares])
    assert len(set(used)) == len(used), "a clip occurs twice"
    assert np.array_equal(labels[e.support], e.classes[e.support_labels])
    assert np.array_equal(labels[e.query], e.classes[e.query_labels])
    assert np.array_equal(np.bincount(e.support_labels), np.full(sampler.way, sampler.shot))
    for c, spares in zip(e.classes, e.spares, strict=True):
        assert len(spares) == len(sampler.by_class[c]) - sampler.shot - sampler.queries
        assert (labels[spares] == c).all()


@settings(max_examples=30, deadline=None)
@given(sampler=samplers(), world=st.integers(1, 8), workers=st.integers(1, 5), resume=st.integers(0, 30))
def test_the_list_is_the_same_for_any_division_of_labour(sampler, world, workers, resume) -> None:
    total = 40
    expected = [sampler.draw(i).support.tolist() for i in range(total)]
    seen = {}
    for rank in range(world):
        mine = [i for i in range(rank, total, world) if i >= resume]
        for worker in range(workers):
            for i in mine[worker::workers]:
                seen[i] = sampler.draw(i).support.tolist()
    assert [seen[i] for i in range(resume, total)] == expected[resume:]


def test_shots_are_nested_and_queries_shared() -> None:
    labels = np.repeat(np.arange(8), 9)
    one, five = (EpisodeSampler(labels, 5, shot, 2, seed=3).draw(11) for shot in (1, 5))
    assert np.array_equal(one.query, five.query) and np.array_equal(one.classes, five.classes)
    assert np.array_equal(one.support, five.support.reshape(5, 5)[:, 0])


def test_every_class_and_clip_is_drawn_equally_often() -> None:
    labels = np.repeat(np.arange(6), [4, 5, 6, 7, 8, 9])
    sampler = EpisodeSampler(labels, 3, 1, 1, seed=0)
    classes, clips = np.zeros(6), np.zeros(len(labels))
    for i in range(4000):
        e = sampler.draw(i)
        classes[e.classes] += 1
        clips[e.support] += 1
        clips[e.query] += 1
    assert np.allclose(classes / 4000, 0.5, atol=0.04)
    assert np.allclose(clips / 4000, 0.5 * 2 / np.repeat(sizes := np.arange(4, 10), sizes), atol=0.03)


def test_the_first_episode_of_seed_0_stays_what_it_is() -> None:
    """Published lists must not change with a release of this package or of numpy."""
    e = EpisodeSampler(np.repeat(np.arange(6), 5), 3, 2, 1, seed=0).draw(0)
    assert (e.classes.tolist(), e.support.tolist(), e.query.tolist()) == ([0, 2, 1], [2, 4, 12, 11, 6, 5], [3, 10, 9])


def test_streams_differ() -> None:
    draws = {generator(1, 2).random(), generator(1, 3).random(), generator(2, 2).random()}
    draws |= {clip_generator(1, 2, p).random() for p in range(5)}
    assert len(draws) == 8


def test_a_split_with_too_few_clips_is_refused_by_name() -> None:
    labels = [0] * 6 + [1] * 2 + [2] * 5
    with pytest.raises(
        D2STError, match=r"need 6 clips in every class; too few are in: clap \(2\), nod \(5\), bow \(0\)"
    ):
        EpisodeSampler(labels, 2, 5, 1, classes=["wave", "clap", "nod", "bow"])
    with pytest.raises(D2STError, match=r"5-way episode needs 5 classes.*has 3: wave, clap, nod"):
        EpisodeSampler(labels, 5, 1, 1, classes=["wave", "clap", "nod"])
    with pytest.raises(D2STError, match="way of at least 2; way is 1"):
        EpisodeSampler(labels, 1, 1, 1)
    with pytest.raises(D2STError, match="seed must be an integer from 0"):
        EpisodeSampler(labels, 2, 1, 1, seed=-1)
    with pytest.raises(D2STError, match=r"5-way episode needs 5 classes.*none"):
        EpisodeSampler([], 5, 1, 1)


@pytest.mark.parametrize("wrong", [{"way": "5"}, {"shot": 1.0}, {"queries": True}, {"seed": float("nan")}])
def test_numbers_of_an_episode_are_whole(wrong):
    with pytest.raises(D2STError, match="must be a whole number"):
        EpisodeSampler(np.repeat(np.arange(3), 4), **{"way": 2, "shot": 1} | wrong)


@pytest.mark.parametrize(
    ("labels", "classes", "told"),
    [
        ([0.2, 0.9, 1.7, 1.2], None, "float64 of shape"),
        (["a", "a", "b", "b"], None, "of shape"),
        ([[0, 1], [0, 1]], None, r"shape \(2, 2\)"),
        ([-1, 0, 0, 1, 1], None, "0 or more; one is -1"),
        ([0, 0, 1, 1, 2, 2], ["a", "b"], "0 to 1, of the 2 classes; one is 2"),
    ],
)
def test_labels_that_are_no_class_ids_are_refused(labels, classes, told):
    with pytest.raises(D2STError, match=f"EpisodeSampler: labels are .*{told}"):
        EpisodeSampler(labels, 2, 1, 1, classes=classes)


@pytest.mark.parametrize("index", [-1, 2.5, "2"])
def test_episodes_have_whole_numbers(index):
    with pytest.raises(D2STError):
        EpisodeSampler([0, 0, 1, 1], 2, 1, 1).draw(index)
