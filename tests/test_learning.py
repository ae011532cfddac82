"""The statistics of ``d2st learn``: folds, intervals, choices, and what is found out from held-out answers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st import D2STError, heads
from d2st.data.datasets import Clip, ClipSet
from d2st.learning import findings
from d2st.learning.answers import Answers, answer
from d2st.learning.choice import Candidate, choose
from d2st.learning.estimate import Promise, difference, promise, wilson, with_gain, without_luck
from d2st.learning.folds import divide
from d2st.learning.groups import find_groups

clips = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=40)


@given(clips, st.integers(0, 5))
@settings(max_examples=200)
def test_groups_stay_together_and_every_class_keeps_a_clip(pairs, seed):
    labels, groups = (np.array(column) for column in zip(*pairs, strict=True))
    folds = divide(labels, groups, 2, seed)
    for division in folds.of:
        for group in np.unique(groups):
            assert len(set(division[(groups == group) & (division >= 0)])) <= 1
        for i in np.flatnonzero(division >= 0):
            assert ((labels == labels[i]) & (division != division[i])).any()
    alone = [len(set(groups[labels == label])) == 1 for label in labels]
    assert not (folds.measured & alone).any()
    assert ((folds.of >= 0) == folds.measured).all()  # a clip is held out in every division, or in none
    for _, out, rest in folds:
        assert not set(groups[out]) & set(groups[rest])
    assert folds.count == folds.of[0].max() + 1 <= 5 and folds.of.max() < 10


@given(st.lists(st.integers(2, 9), min_size=2, max_size=5), st.integers(0, 5))
@settings(max_examples=50)
def test_classes_are_spread_evenly_over_folds(sizes, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    folds = divide(labels, np.arange(len(labels)), 1, seed)
    assert folds.measured.all() and folds.count == min(5, len(labels))
    for label in range(len(sizes)):
        counts = np.bincount(folds.of[0][labels == label], minlength=folds.count)
        assert counts.max() - counts.min() <= 1


def test_people_are_held_out_whole():
    labels, people = np.tile(np.arange(3), 8), np.repeat(np.arange(8), 3)
    folds = divide(labels, people, 1, 0)
    assert folds.count == 5 and folds.examples(labels) == pytest.approx(8 - 8 / 5, abs=0.2)
    for _, out, rest in folds:
        assert not set(people[out]) & set(people[rest])


def test_who_alone_shows_a_class_is_not_asked_about():
    """Else clips of that person would be asked about beside that person's own examples, which attract them."""
    labels, people = np.r_[np.tile([0, 1], 4), 2, 2], np.r_[np.repeat(np.arange(4), 2), 0, 0]
    folds = divide(labels, people, 3, 0)
    assert (folds.measured == (people != 0)).all()
    assert all(set(labels[rest]) == {0, 1, 2} for _, _, rest in folds)


def test_a_class_of_two_people_does_not_coarsen_the_folds_of_the_others():
    labels, people = np.r_[np.zeros(10, int), 1, 1], np.r_[np.arange(10), 3, 7]
    folds = divide(labels, people, 3, 0)
    assert folds.measured.all() and folds.count == 5 and folds.of[1:].max() == 9
    assert folds.examples(labels) > 6.5


def test_intervals_are_wilson_s_and_wider_for_clips_that_go_together():
    right = np.array([1.0, 0.0] * 20)
    alone = promise(right, np.arange(40))
    assert (alone.mean, alone.clips, alone.groups) == (0.5, 40, 40)
    assert 0.5 - alone.low == pytest.approx(alone.high - 0.5) == pytest.approx(0.222, abs=0.002)
    together = promise(np.repeat([1.0, 0.0], 20), np.repeat(np.arange(8), 5))  # whole people are right or wrong
    assert together.high - together.low > 1.2 * (alone.high - alone.low)
    mixed = promise(right, np.arange(40) % 20 // 2)  # people of whom each is right half of the time
    assert mixed.high - mixed.low > alone.high - alone.low  # ten people are still ten, not forty


def test_more_examples_than_folds_leave_move_the_upper_end_alone():
    found = promise(np.array([1.0, 0.0] * 20), np.arange(40))
    more = with_gain(found, 0.05)
    assert (more.mean, more.low, more.high) == pytest.approx((0.55, found.low, found.high + 0.05))
    assert with_gain(found, 0.9).mean == with_gain(found, 0.9).high == 1


def test_all_right_is_no_certainty():
    found = promise(np.ones(10), np.arange(10))
    assert found.mean == found.high == 1 and 0.45 < found.low < 0.55
    assert promise(np.ones(10), np.zeros(10)) is None  # of one person nothing can be said
    assert promise(np.full(3, np.nan), np.arange(3)) is None
    assert promise(np.array([np.nan, 1, 0]), np.arange(3)).clips == 2


@given(st.floats(0, 1), st.floats(1, 500), st.floats(1, 4))
def test_wilson_holds_the_share(share, count, quantile):
    low, high = wilson(share, count, quantile)
    assert 0 <= low <= share <= high <= 1


def test_the_interval_holds_the_truth_in_nineteen_of_twenty():
    rng = np.random.default_rng(0)
    for truth, count in ((0.3, 25), (0.6, 85), (0.9, 25)):
        found = [promise((rng.random(count) < truth).astype(float), np.arange(count)) for _ in range(400)]
        held = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.92 < held <= 1


@pytest.mark.parametrize(("people", "told"), [(2, False), (3, False), (6, True)])
def test_a_few_people_who_agree_are_no_certainty(people, told):
    groups = np.repeat(np.arange(people), 4)
    one, other = np.ones(4 * people), np.tile([1.0, 1.0, 1.0, 0.0], people)  # each lost one clip of four
    found = difference(one, other, groups)
    assert found.mean == 0.25 and found.interval > 0 and found.told == told


def test_equal_people_are_told_apart_in_less_than_one_case_of_twenty():
    rng, groups = np.random.default_rng(0), np.repeat(np.arange(2), 20)
    told = [difference(*rng.integers(0, 2, (2, 40)).astype(float), groups).told for _ in range(400)]
    assert sum(told) <= 34  # 20 expected


def test_differences_are_of_pairs():
    rng = np.random.default_rng(0)
    right = (rng.random(60) < 0.5).astype(float)
    better = np.maximum(right, (rng.random(60) < 0.4).astype(float))
    found = difference(better, right, np.arange(60))
    assert found.mean == pytest.approx((better - right).mean()) and found.told
    assert not difference(right, right, np.arange(60)).told
    assert math.isinf(difference(better, right, np.zeros(60)).interval)
    pairs = difference(better, right, np.arange(60) // 2)
    assert pairs.mean == pytest.approx(found.mean) and pairs.interval != found.interval


def test_luck_is_taken_off():
    """Of thirty candidates that guess, the best has luck alone; one that knows stays what it is."""
    rng = np.random.default_rng(0)
    right = (rng.random((30, 40)) < 0.2).astype(float)
    assert right.mean(1).max() >= 0.3
    assert without_luck(right, np.arange(40), 0) == pytest.approx(0.2, abs=0.06)
    knows = np.vstack([right, (np.arange(40) < 36)[None]])
    assert without_luck(knows, np.arange(40), 0) == pytest.approx(0.9, abs=0.03)


def set_of(names, label=lambda name: 0):
    return ClipSet(("a", "b"), tuple(Clip(name, label(name), name) for name in names))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/s01_e01.mp4", "a/s02_e01.mp4", "b/s01_e01.mp4"], ["s01", "s02"]),
        (["a/person3_x.avi", "a/Person3-y.avi", "a/person 4.avi"], ["person3", "person4"]),
        (["v_Dance_g01_c01.avi", "v_Dance_g01_c02.avi", "v_Dance_g02_c01.avi"], ["g01", "g02"]),
        (["a/000.mp4", "a/001.mp4", "a/002.mp4"], []),
        (["a/s01.mp4", "a/s02.mp4", "a/s03.mp4"], []),  # each clip another: it binds nothing
        (["a/s01_1.mp4", "a/s01_2.mp4", "a/kick.mp4"], []),  # not all of them
        (["a/clips01.mp4", "a/clips01b.mp4", "a/clips02.mp4"], []),  # no word of its own
        (["a/p01_x_s1.mp4", "a/p02_x_s1.mp4", "a/p01_x_s2.mp4"], ["p01", "p02"]),  # s is a take where p is a person
        (["a/person1/1.mp4", "a/person1/2.mp4", "a/person2/1.mp4"], ["person1", "person2"]),
        (["s1/1.mp4", "s1/2.mp4", "s1/3.mp4"], []),  # one scene, or a class: it divides nothing
    ],
)
def test_groups_are_read_from_names(tmp_path, names, expected):
    found = find_groups(set_of(names), tmp_path, None)
    assert list(found.names) == expected
    assert len(found.of) == len(names)
    assert find_groups(set_of(names), tmp_path, "none").names == ()


def test_clips_that_do_not_say_who_is_in_them_are_told_and_stand_by_themselves(tmp_path, caplog):
    names = [f"a/s0{i % 3}_{i}.mp4" for i in range(12)]
    found = find_groups(set_of([*names, "a/mine.mp4"]), tmp_path, None)
    assert found.names == ("a/mine.mp4", "s00", "s01", "s02") and found.source == "the clips' names (s00, s01, ...)"
    assert "1 of 13 clips do not say who is in them as the others do (s00, s01, ...)" in caplog.text
    assert not find_groups(set_of([*names[:3], "a/mine.mp4"]), tmp_path, None).names


def test_groups_are_read_from_a_file(tmp_path):
    few = set_of(["a/1.mp4", "a/2.mp4", "b/1.mp4"])
    (tmp_path / "groups.csv").write_text("path,group\na/1.mp4,Ann\nb/1.mp4,Ann\na/2.mp4, Bob\n")
    found = find_groups(few, tmp_path, None)
    assert found.names == ("Ann", "Bob") and found.of.tolist() == [0, 1, 0]
    other = tmp_path / "others.csv"
    for text, said in (
        ("path,group\na/1.mp4,Ann\n", "no group for 2 of 3 clips: 'a/2.mp4', 'b/1.mp4'"),
        ("clip,who\na/1.mp4,Ann\n", "names the columns path and group"),
        ("", "begin with 'nothing'"),
        ("path,group\n", "name no group for 3 of 3 clips"),
        ('path,group\n"a/1.mp4,Ann\n', "cannot be read"),
        ("path,group\na/1.mp4,Ann\na/1.mp4,Bob\n", "give clip 'a/1.mp4' the groups 'Ann' and 'Bob'"),
    ):
        other.write_text(text)
        with pytest.raises(D2STError, match=said):
            find_groups(few, tmp_path, str(other))
    with pytest.raises(D2STError, match="cannot be read"):
        find_groups(few, tmp_path, str(tmp_path / "missing.csv"))


@pytest.mark.parametrize(
    "text", ["Path; Group\n{};{}\n", "\ufeffpath\tgroup\n\n{}\t{}\n", '"group","path"\n{1},"{0}"\n']
)
def test_groups_are_read_as_spreadsheets_write_them(tmp_path, text):
    header, line = text.strip().rsplit("\n", 1)
    of = {"a/1\u2028.mp4": "Ann", "b/1.mp4": "Ann", "a/2.mp4": "Bob"}
    lines = [line.format(path, group) for path, group in of.items()]
    (tmp_path / "groups.csv").write_text("\n".join([header, *lines]), "utf-8")
    found = find_groups(set_of(list(of)), tmp_path, None)
    assert found.names == ("Ann", "Bob") and found.of.tolist() == [0, 0, 1]


def test_groups_find_names_in_both_forms_of_unicode(tmp_path):
    few = set_of(["a/Jose\u0301.mp4", "a/2.mp4", "b/1.mp4"])
    (tmp_path / "groups.csv").write_text("path,group\na/Jos\u00e9.mp4,Ann\nb/1.mp4,Ann\na/2.mp4,Bob\n", "utf-8")
    assert find_groups(few, tmp_path, None).names == ("Ann", "Bob")


def task(shots=6, way=4, noise=1.0, seed=0):
    """Features (N, T, D) of clips of several classes, and their labels."""
    rng = torch.Generator().manual_seed(seed)
    centers = torch.randn(way, 4, 16, generator=rng)
    labels = torch.arange(way).repeat_interleave(shots)
    return centers[labels] + noise * torch.randn(len(labels), 4, 16, generator=rng), labels.numpy()


def answers_of(features, labels, head="bi-mhm", repeats=2):
    head, folds = heads.build(head).eval(), divide(labels, np.arange(len(labels)), repeats, 0)
    return head, folds, answer(head, lambda fold: features, labels, folds)


def test_held_out_clips_are_answered_by_the_others_alone():
    features, labels = task()
    head, folds, answers = answers_of(features, labels)
    repeat, out, rest = next(iter(folds))
    expected = head(features[rest], torch.from_numpy(labels[rest]), features[out], 4)
    torch.testing.assert_close(answers.logits[repeat, out], expected)
    assert answers.right.mean() > 0.8
    spoiled = features.clone()
    spoiled[out[0]] = torch.randn(4, 16)  # what is held out changes only what is said of itself
    other = answer(head, lambda fold: spoiled, labels, folds)
    again = np.setdiff1d(out, out[:1])
    torch.testing.assert_close(other.logits[repeat, again], answers.logits[repeat, again])


def test_permuted_labels_are_guessed():
    features, labels = task(shots=8, noise=0.3)
    labels = np.random.default_rng(0).permutation(labels)
    candidates = [Candidate("m", name, 0, answers_of(features, labels, name)[2]) for name in ("bi-mhm", "otam")]
    expected = choose(candidates, np.arange(len(labels)), 0).expected
    assert expected.low < 0.25 < expected.high


def candidate(name, cost, right, repeats=1):
    """A candidate that answers class 0 where it is right and class 1 where not."""
    logits = torch.zeros(repeats, len(right), 2)
    logits[..., 0] = torch.as_tensor(right, dtype=torch.float32)
    logits[..., 1] = 0.5
    return Candidate(name, "bi-mhm", cost, Answers(logits, np.zeros(len(right), int)))


def test_the_cheaper_is_taken_where_nothing_tells_them_apart():
    rng = np.random.default_rng(0)
    few, many = np.arange(20), np.arange(400)
    good = rng.random(400) < 0.8
    cheap = good & (rng.random(400) < 0.9)
    found = choose([candidate("dear", 1, good[:20]), candidate("cheap", 0, cheap[:20])], few, 0)
    assert found.best.model == "dear" and found.chosen.model == "cheap" and "cheaper" in found.reason
    found = choose([candidate("dear", 1, good), candidate("cheap", 0, cheap)], many, 0)
    assert found.chosen.model == "dear" and "best mean" in found.reason
    same = choose([candidate("a", 0, cheap[:20]), candidate("b", 0, good[:20])], few, 0)
    assert same.chosen.model == "b"  # heads of one model cost the same: the mean decides


def test_what_is_expected_of_the_cheaper_does_not_rise_by_the_dear_ones():
    rng = np.random.default_rng(0)
    groups = np.arange(60)
    cheap = [candidate("cheap", 0, rng.random(60) < 0.3, repeats=2) for _ in range(5)]
    dear = [candidate("dear", 1, rng.random(60) < 0.4) for _ in range(5)]
    found = choose([*cheap, *dear], groups, 0)
    assert found.best.model == "dear" and found.chosen.model == "cheap"
    assert found.expected == choose(cheap, groups, 0).expected


def test_candidates_with_fewer_divisions_are_compared_on_those():
    right = np.arange(20) < 15
    many = candidate("many", 0, right, repeats=3)
    many.answers.logits[1:, :, 0] = 0  # later divisions are all wrong
    found = choose([many, candidate("one", 1, right)], np.arange(20), 0)
    assert found.differences[1].mean == 0 and found.chosen.model == "many"


def test_nothing_held_out_means_the_first_and_no_number():
    nothing = candidate("first", 0, np.zeros(3))
    nothing.answers.logits[:] = torch.nan
    found = choose([nothing, nothing], np.arange(3), 0)
    assert found.chosen.model == "first" and found.expected is None


def test_confusions_and_clips_in_the_wrong_folder_are_found():
    features, labels = task(noise=0.5)
    labels = labels.copy()
    labels[3] = 2  # lies in the wrong folder
    _, _, answers = answers_of(features, labels, repeats=3)
    assert [(one.clip, one.taken_for) for one in findings.suspects(answers)] == [(3, 0)]
    matrix = findings.confusion_matrix(answers, 4)
    assert matrix.sum(1) == pytest.approx(np.ones(4)) and matrix[2, 0] == pytest.approx(1 / 7)
    (worst,) = findings.confusions(matrix)
    assert (worst.one, worst.other) == (0, 2)
    assert findings.suspects(Answers(answers.logits[:1], labels)) == []  # once is no pattern


def test_a_class_that_was_never_held_out_halves_no_confusion():
    matrix = np.array([[0.6, 0.4, 0.0], [np.nan] * 3, [0.5, 0.0, 0.5]])
    found = [(one.one, one.other, one.share) for one in findings.confusions(matrix)]
    assert found == [(0, 1, pytest.approx(0.4)), (0, 2, pytest.approx(0.25))]


def test_guesses_make_no_suspects():
    features, labels = task(noise=50.0)
    assert findings.suspects(answers_of(features, labels, repeats=3)[2]) == []


def test_the_curve_rises_with_examples():
    features, labels = task(shots=10, noise=2.5)
    head, folds, answers = answers_of(features, labels, repeats=1)
    curve = findings.learning_curve(head, lambda fold: features, labels, np.arange(len(labels)), folds, 0)
    sizes, means = [size for size, _ in curve], [measured.mean for _, measured in curve]
    assert sizes == [1, 2, 3, 5, 8] and means[-1] > means[0] + 0.1
    assert means[-1] == pytest.approx(answers.right.mean(), abs=0.1)
    assert 0 < findings.gain(curve, 10, 12) < 0.1


@pytest.mark.parametrize(("falls", "gain"), [(0.6, 0.6 * (1 / 4 - 1 / 6)), (0.0, 0.0), (-0.2, 0.0)])
def test_what_two_more_examples_bring(falls, gain):
    curve = [(size, Promise(0.8 - falls / size, 0, 1, 10, 10)) for size in (1, 2, 4)]
    assert findings.gain(curve, 4, 6) == pytest.approx(gain, abs=1e-9)
    assert findings.gain(curve[:1], 4, 6) is None


def test_no_more_than_everything_can_be_gained():
    curve = [(size, Promise(1.0 - 0.1 / size, 0, 1, 10, 10)) for size in (1, 2)]
    assert findings.gain(curve, 2, 4) <= 0.05


def test_actions_without_examples_are_mostly_unknown():
    features, labels = task(shots=10, noise=0.3)
    head, folds, _ = answers_of(features, labels)
    found = findings.rejection(head, lambda fold: features, labels, folds, 0.05)
    assert found.others > 0.8 and found.own < 0.3
    assert findings.rejection(head, lambda fold: features[:10], labels[:10], folds, 0.05) is None  # one class alone
