"""What every matching head promises; what a single head computes is tested in its own file."""

import copy
import pickle
from dataclasses import replace

import heads_small
import pytest
import torch
from heads_small import FRAMES, NO_SUPPORT, SMALL, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st import D2STError, heads

NAMES = sorted(heads.HEADS)
EXACT = dict(rtol=1e-9, atol=1e-9)
FIRST_COUNTS = ("ta2n", {"shots": "first"})  # the released rule, in which the first shot of a class is its reference
OPTIONS = [(name, {}) for name in NAMES] + [
    ("bi-mhm", {"shots": "distance"}),
    ("bi-mhm", {"shots": "joint"}),
    ("bi-mhm", {"shots": "joint", "tuples": 2, "direction": "query"}),
    ("otam", {"shots": "distance", "directions": "single"}),
    ("prototype", {"metric": "euclidean"}),
    ("ridge", {"order": True}),
    ("logistic", {"order": True}),
    FIRST_COUNTS,
    ("trx", {"shots": "prototype"}),
    ("trx", {"shots": "distance"}),
    ("phases", {"phases": 1}),
    ("phases", {"phases": 3}),
    ("product", {"negative": "released"}),
    ("strm", {"auxiliary_weight": 0.0}),
    ("ts-dcm", {"width": 8, "classes": 0}),
    ("hyrsm", {"shots": "prototype"}),
    ("clip-fsar", {"merge": "before", "metric": "bi-mhm"}),
    ("clip-fsar", {"inference": "text"}),
    ("clip-fsar", {"inference": "combine"}),
    ("clip-fsar", {"inference": "combine", "mixing": 1.0}),
    ("clip-fsar", {"inference": "combine", "mixing": 0.0}),
    ("emp-net", {"merge": "before", "cross_entropy": "logits"}),
]


def logits_of(head, episode):
    return head(episode.support, episode.labels, episode.query, episode.way, text_of(episode))


def small(name, *args, options=None, **kwargs):
    """A head with options in float64, and an episode for it."""
    head = heads_small.build(name, **(options or {})).double()
    return head, heads_small.episode(head, *args, dtype=torch.float64, **kwargs)


def test_every_head_is_held_to_the_contract():
    assert SMALL.keys() == heads.HEADS.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", [(), (2,), (2, 1)])
@pytest.mark.parametrize("shots", [(1, 1), (2, 1, 3), (2, 2, 2, 2, 2)])
def test_leading_dimensions_are_episodes(name, lead, shots):
    head, episode = small(name, shots, lead=lead)
    logits = logits_of(head, episode)
    assert logits.shape == (*lead, 4, len(shots))
    support, query = episode.support.flatten(0, len(lead) - 1), episode.query.flatten(0, len(lead) - 1)
    for one, clips, queries in zip(logits.flatten(0, -3), support, query, strict=True) if lead else ():
        torch.testing.assert_close(head(clips, episode.labels, queries, len(shots), text_of(episode)), one, **EXACT)
    if lead:  # labels may differ between the episodes of a batch
        shuffle = torch.stack([torch.randperm(len(episode.labels)) for _ in support]).unflatten(0, lead)
        shuffled = torch.stack([c[s] for c, s in zip(support, shuffle.flatten(0, -2), strict=True)]).unflatten(0, lead)
        again = head(shuffled, episode.labels[shuffle], episode.query, len(shots), text_of(episode))
        torch.testing.assert_close(again, logits, **EXACT)


@pytest.mark.parametrize(("name", "options"), [option for option in OPTIONS if option != FIRST_COUNTS])
def test_order_of_support_and_names_of_classes_do_not_matter(name, options):
    """Nor which shot of a class comes first: the second order turns them all around."""
    head, episode = small(name, options=options)
    logits = logits_of(head, episode)
    for order in (torch.tensor([3, 5, 0, 1, 4, 2]), torch.arange(6).flip(0)):
        other = replace(episode, support=episode.support[order], labels=episode.labels[order])
        torch.testing.assert_close(logits_of(head, other), logits, **EXACT)
    names = torch.tensor([2, 0, 1])  # class c is called names[c] now
    other = replace(episode, labels=names[episode.labels], classes=episode.classes[names.argsort()])
    torch.testing.assert_close(logits_of(head, other)[..., names], logits, **EXACT)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_query_s_logits_do_not_depend_on_the_others(name, options):
    """Nor on how many there are, in which order, and of which classes: two of each, one alone, one class alone."""
    head, episode = small(name, options=options, queries=6)
    first = torch.stack([(episode.labels == c).nonzero()[0, 0] for c in range(3)])
    query = episode.support[first.repeat_interleave(2)] + 0.3 * episode.query  # near to a clip of their class
    logits = logits_of(head, replace(episode, query=query))
    assert (logits[0] - logits[2]).abs().max() > 1e-3, "the queries differ too little to tell"
    for which in ([0], [5], [2, 3], [0, 2, 4], [4, 1, 5, 0, 3, 2], [3, 3, 3, 0]):
        part = logits_of(head, replace(episode, query=query[which]))
        torch.testing.assert_close(part, logits[which], **EXACT)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_queries_labels_do_not_reach_the_logits(name, options):
    """What ``loss`` returns of both: it sees them, its logits do not."""
    head, episode = small(name, options=options)
    other = replace(episode, targets=(episode.targets + 1) % episode.way)
    (loss, logits), (other_loss, other_logits) = head.loss(episode), head.loss(other)
    assert torch.equal(logits, other_logits) and loss != other_loss


@pytest.mark.parametrize("name", NAMES)
def test_stages_make_the_whole(name):
    head, episode = small(name)
    clips = torch.cat([episode.support, episode.query])
    one_by_one = torch.stack([head.embed(clip) for clip in clips])  # (S + Q, T', D')
    support, query = one_by_one.split([len(episode.support), len(episode.query)])
    staged = head.match(support, episode.labels, query, text=text_of(episode))  # the way is read from the labels
    torch.testing.assert_close(staged, logits_of(head, episode), **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_copies_give_the_same(name):
    head, episode = small(name)
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(logits_of(other, episode), logits_of(head, episode))


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_a_scalar_whose_gradient_reaches_everything(name):
    head, episode = small(name, lead=(2,))
    episode = replace(episode, support=episode.support.requires_grad_(), query=episode.query.requires_grad_())
    loss, logits = head.train().loss(episode)
    assert loss.shape == () and logits.shape == (2, 4, 3)
    loss.backward()
    parameters = dict(head.named_parameters()) | {"support": episode.support, "query": episode.query}
    without = [key for key, p in parameters.items() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == (["support"] if name in NO_SUPPORT else [])


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_integers_of_any_type(name):
    head, episode = small(name)
    loss, logits = head.loss(episode)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        whole = {key: getattr(episode, key).to(dtype) for key in ("labels", "targets", "classes")}
        other_loss, other_logits = head.loss(replace(episode, **whole))
        assert torch.equal(other_loss, loss) and torch.equal(other_logits, logits)
        for way in (None, episode.way):
            found = head(episode.support, whole["labels"], episode.query, way, text_of(episode))
            torch.testing.assert_close(found, logits, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_compiles(name):
    head, episode = small(name, (1, 1, 1))  # several shots of TRX break the graph: their largest number is read
    compiled = torch.compile(head, backend="aot_eager")
    loss = compiled(episode.support, episode.labels, episode.query, episode.way, text_of(episode)).square().sum()
    torch.testing.assert_close(loss, logits_of(head, episode).square().sum(), **EXACT)


KINDS = {
    "random": lambda clips: clips,
    "identical": lambda clips: torch.ones_like(clips),
    "opposite": lambda clips: torch.ones_like(clips) * (torch.arange(clips.shape[0]) % 2 * 2 - 1)[:, None, None],
    "zero": torch.zeros_like,
}


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_finite(name):
    """Losses and gradients under autocast, with frame distances from 0 to 2 and features of any size."""
    head = heads_small.build(name).train()
    maps = head.takes != "features"  # convolutions in float16 are slow on a CPU

    @settings(max_examples=3 if maps else 12, deadline=None)
    @given(
        support=st.sampled_from(sorted(KINDS)),
        query=st.sampled_from(["as support", "minus support", "zero", "random"]),
        scale=st.sampled_from([0.1, 1.0, 100.0]),  # a gradient is as large as the features are small: float16 ends
        low=st.sampled_from([torch.bfloat16, torch.float16]),
        given_low=st.booleans(),
        frames=st.sampled_from([FRAMES] if maps else [FRAMES, 16]),
        seed=st.integers(0, 3),
    )
    def check(support, query, scale, low, given_low, frames, seed):
        episode = heads_small.episode(head, shots=(1, 2), queries=3, frames=frames, seed=seed)
        clips = episode.support
        clips = (KINDS[support](clips.flatten(2)) if clips.ndim > 3 else KINDS[support](clips)).view_as(clips) * scale
        queries = {"as support": clips, "minus support": -clips, "zero": clips * 0, "random": episode.query * scale}
        dtype = low if given_low else torch.float32
        clips, queries = (tensor.to(dtype, copy=True).requires_grad_() for tensor in (clips, queries[query]))
        head.zero_grad()
        with torch.autocast("cpu", dtype=low):
            loss, logits = head.loss(replace(episode, support=clips, query=queries))
        loss.backward()
        assert loss.isfinite() and logits.isfinite().all()
        for tensor in (clips, queries, *head.parameters()):
            assert tensor.grad is None or tensor.grad.isfinite().all()

    check()


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_classes_without_clips_cannot_win_and_change_nothing(name, options):
    """Whether they come last, first or between; and training on them stays finite."""
    head = heads_small.build(name, **options).double()
    for labels in ([0, 0, 1, 1], [4, 1, 1, 4, 1]):
        way, kept = 5, sorted(set(labels))
        episode = heads_small.episode(head, (1,) * way, dtype=torch.float64)
        labels = torch.tensor(labels)
        episode = replace(episode, support=episode.support[: len(labels)], labels=labels)
        if episode.support_video is not None:
            episode = replace(episode, support_video=episode.support_video[: len(labels)])
        episode = replace(episode, targets=torch.full_like(episode.targets, kept[-1]))
        logits = logits_of(head, episode)
        assert logits.shape == (4, way) and not logits.isnan().any()
        others = [c for c in range(way) if c not in kept]
        assert (logits[:, others] == -torch.inf).all() and logits[:, kept].isfinite().all()
        text = text_of(episode)
        small = torch.tensor([kept.index(c) for c in labels])
        alone = head(episode.support, small, episode.query, len(kept), text if text is None else text[kept])
        torch.testing.assert_close(logits[:, kept], alone, **EXACT)
        head.zero_grad()
        loss, _ = head.loss(episode)
        assert loss.isfinite()
        if loss.requires_grad:
            loss.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
        features = episode.support.clone().requires_grad_()
        if name not in NO_SUPPORT:
            head(features, labels, episode.query, way, text)[:, kept].sum().backward()
            assert features.grad is None or features.grad.isfinite().all()


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_SUPPORT))
def test_wrong_labels_are_refused_in_a_sentence(name):
    head, episode = small(name, (1, 1, 1))
    for labels, way, said in (
        ([-1, 0, 1], None, "0 or more; these are -1..1"),
        ([-1, 0, 1], 3, r"0..2 for way=3; these are -1..1"),
        ([0, 1, 3], 3, r"0..2 for way=3; these are 0..3"),
        ([0, 2, 2], None, r"\[1\] have none"),
        ([0.0, 0.5, 1.0], 2, "whole numbers"),
        ([0.0, 1.0, float("nan")], None, "whole numbers"),
        ([0, 1], 2, "one label for each"),
        ([0, 0, 0], 0, "way=0"),
        ([0, 1, 2], 3.0, "way=3.0"),
    ):
        with pytest.raises(D2STError, match=said):
            head(episode.support, torch.tensor(labels), episode.query, way, text_of(episode))
    with pytest.raises(D2STError, match="0 clips"):
        head(episode.support[:0], torch.tensor([], dtype=torch.long), episode.query, None, text_of(episode))


ANY_WIDTH = {"bi-mhm", "logistic", "otam", "prototype", "ridge"}  # what they see has any width; SloshNet has a test


@pytest.mark.parametrize("name", sorted(set(NAMES) - ANY_WIDTH - {"sloshnet"}))
def test_features_of_another_width_are_refused_in_a_sentence(name):
    head, episode = small(name)
    support, query = (torch.cat([clips, clips], dim=2) for clips in (episode.support, episode.query))
    with pytest.raises(D2STError, match="was built for"):
        head(support, episode.labels, query, episode.way, text_of(episode))


TEXT = [pair for pair in OPTIONS if heads_small.build(pair[0], **pair[1]).needs_text]


@pytest.mark.parametrize(("name", "options"), TEXT)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_names_of_another_number_of_classes_are_refused_in_a_sentence(name, options, lead):
    head = heads_small.build(name, **options)
    episode = heads_small.episode(head, (1, 1, 1), lead=lead)
    text = text_of(episode)
    row = text.ndim - (3 if head.needs_phases else 2)
    for rows in ([0], [0, 1], [0, 1, 2, 0]):
        for way in (3, None):
            with pytest.raises(D2STError, match=f"each of 3 classes; it was given those of {len(rows)}"):
                head(episode.support, episode.labels, episode.query, way, text.index_select(row, torch.tensor(rows)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_tensor_or_no_set_is_refused_in_a_sentence(name):
    head, episode = small(name, (2, 1, 1))
    text = text_of(episode)
    for labels in (episode.labels.tolist(), episode.labels.numpy()):
        for way in (3, None):
            with pytest.raises(D2STError, match="takes tensors; labels is a"):
                head(episode.support, labels, episode.query, way, text)
    with pytest.raises(D2STError, match="query is a single one"):
        head(episode.support, episode.labels, episode.query[0], 3, text)
    with pytest.raises(D2STError, match="one label for each of the S clips"):
        head(episode.support[:-1], episode.labels, episode.query, 3, text)
    if name not in NO_SUPPORT:
        with pytest.raises(D2STError, match="labels is a list"):
            head(episode.support, [0, 1, 2, 0], episode.query, 3, text)


@pytest.mark.parametrize("name", ["trx", "strm", "sloshnet"])
def test_no_episodes_have_no_logits(name):
    head, episode = small(name, (1, 1, 1))
    support, query = (clips.expand(0, *clips.shape) for clips in (episode.support, episode.query))
    assert head(support, episode.labels, query, 3).shape == (0, 4, 3)


@pytest.mark.parametrize(("name", "options"), [("trx", {}), ("bi-mhm", {"shots": "joint"})])
def test_a_second_shot_counts_where_labels_cannot_be_read(name, options):
    """With as many clips as classes, of which one has two and one none."""
    head, episode = small(name, (1, 1, 1), options=options)
    labels = torch.tensor([0, 0, 2])
    expected = head(episode.support, labels, episode.query, 3)
    found = torch.func.vmap(lambda support: head(support, labels, episode.query, 3))(episode.support[None])[0]
    torch.testing.assert_close(found, expected, **EXACT)
    found = torch.compile(head, backend="eager")(episode.support, labels, episode.query, 3)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_every_floating_point_type(name):
    """Features of an encoder in half precision, or of two types, as those in the head's own."""
    head = heads_small.build(name)
    episode = heads_small.episode(head)
    text = text_of(episode)
    for support, query in ((torch.bfloat16, torch.bfloat16), (torch.float64, torch.float32), (torch.float16,) * 2):
        given = episode.support.to(support), episode.query.to(query)
        got = head(given[0], episode.labels, given[1], None, None if text is None else text.to(support))
        expected = head(given[0].float(), episode.labels, given[1].float(), None, text)
        torch.testing.assert_close(got.float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_feature_is_refused(name):
    head = heads_small.build(name)
    episode = heads_small.episode(head)
    with pytest.raises(D2STError, match="features, which are floating-point numbers"):
        head(episode.support.long(), episode.labels, episode.query, None, text_of(episode))
    fewer = (
        episode.support[..., :2, :, :] if head.takes != "features" and name != "ts-dcm" else episode.support[..., :3]
    )
    if name == "ts-dcm":
        fewer = fewer.transpose(-1, -2)
    with pytest.raises(D2STError, match=f"'{name}'|width"):
        head(fewer, episode.labels, episode.query, None, text_of(episode))
    if head.needs_text:
        with pytest.raises(D2STError, match="needs the features of the classes' names"):
            head(episode.support, episode.labels, episode.query, None, ["wave", "clap", "jump"])
    if any(True for _ in head.parameters()):
        with pytest.raises(D2STError, match="half precision"):
            logits_of(copy.deepcopy(head).bfloat16(), episode)
