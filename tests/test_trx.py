"""TRX against the authors' numbers, and against its definition on whole tuples."""

from itertools import combinations

import goldens
import heads_small
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.resnet import BasicBlock, ResNet
from torch.nn import functional as F

import d2st
from d2st import heads
from d2st.heads import trx as tuples


def from_golden(case: str, dtype: torch.dtype) -> tuple[heads.Head, dict, dict[str, torch.Tensor]]:
    about, golden = goldens.read(case)
    args = about["args"]
    head = heads.build(
        "trx",
        features=args["trans_linear_in_dim"],
        width=args["trans_linear_out_dim"],
        cardinalities=tuple(args["temp_set"]),
    )
    state = goldens.weights(golden, None)
    spare = d2st.official.load(head, state, system="trx")
    assert all(".pe." in key or ".norm_v." in key for key in spare) and len(spare) == 3 * len(args["temp_set"])
    return head.to(dtype).eval(), about, golden


@pytest.mark.parametrize("case", goldens.find("trx_*"))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-4)])
def test_logits_losses_and_gradients_are_the_authors(case: str, dtype: torch.dtype, tolerance: float) -> None:
    head, about, golden = from_golden(case, dtype)
    support = golden["in/support_feats"].to(dtype, copy=True).requires_grad_()
    query = golden["in/query_feats"].to(dtype, copy=True).requires_grad_()
    logits = head(support, golden["in/support_labels"], query)
    assert goldens.relative_error(logits, golden["out/logits"]) <= tolerance
    targets = golden["in/query_labels"].long()
    for reduction in ("sum", "mean"):
        loss = F.cross_entropy(logits, targets, reduction=reduction)
        assert goldens.relative_error(loss, golden[f"loss/ce_{reduction}"]) <= tolerance
    total = F.cross_entropy(logits, targets, reduction="sum") + (logits * golden["in/probe_logits"]).sum()
    assert goldens.relative_error(total, golden["loss/total"]) <= tolerance
    total.backward()
    assert goldens.relative_error(support.grad, golden["gi/support_feats"]) <= tolerance
    if "gi/query_feats" not in golden:
        return  # the part of a golden that is in the repository
    assert goldens.relative_error(query.grad, golden["gi/query_feats"]) <= tolerance
    codes = {key: code for key, code in goldens.weights(golden, None).items() if ".pe." in key}
    theirs = goldens.weights(golden, None, "g/") | codes
    theirs = d2st.official.translate(head, theirs, system="trx")
    for name, parameter in head.named_parameters():
        assert goldens.relative_error(parameter.grad, theirs[name]) <= tolerance, name
    for i, size in enumerate(about["args"]["temp_set"]):  # each cardinality alone
        if f"out/logits_c{size}" in golden:
            one = heads.build("trx", features=head.features, width=48, cardinalities=(size,)).to(dtype)
            one.tuples[0].load_state_dict(head.tuples[i].state_dict())
            logits = one.eval()(support, golden["in/support_labels"], query)
            assert goldens.relative_error(logits, golden[f"out/logits_c{size}"]) <= tolerance


def by_tuples(head: heads.Head, support, labels, query, way):
    """The definition: tuples are concatenated, projected and normed, one class and one query at a time."""
    logits = torch.zeros(len(query), way, dtype=support.dtype)
    for attention in head.tuples:
        size, width, features = attention.size, attention.norm.normalized_shape[0], head.features
        weights = [
            linear.weight.unflatten(0, (size, width)).transpose(0, 1).flatten(1)  # (O, w D)
            for linear in (attention.key, attention.value)
        ]
        position = torch.arange(support.shape[1], dtype=support.dtype)[:, None]
        angles = position / 10000 ** (torch.arange(0, features, 2, dtype=support.dtype) / features)
        code = 0.1 * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :features]

        def project(clip, weights=weights, size=size, code=code, attention=attention):
            tuples = [torch.cat([(clip + code)[t] for t in c]) for c in combinations(range(len(clip)), size)]
            keys, values = (F.linear(torch.stack(tuples), *pair) for pair in zip(weights, attention.bias, strict=True))
            return attention.norm(keys), values

        for q in range(len(query)):
            query_keys, query_values = project(query[q])
            for c in range(way):
                clips = [project(clip) for clip in support[labels == c]]
                keys, values = torch.cat([k for k, _ in clips]), torch.cat([v for _, v in clips])
                weights = (query_keys @ keys.T / width**0.5).softmax(-1)
                distance = (query_values - weights @ values).square().sum() / len(query_values)
                logits[q, c] -= distance / len(head.tuples)
    return logits


@settings(max_examples=15, deadline=None)
@given(
    shots=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    frames=st.integers(3, 6),
    cardinalities=st.sampled_from([(2, 3), (1,), (3, 1), (2,)]),
    seed=st.integers(0, 100),
)
def test_the_definition_on_whole_tuples(shots, frames, cardinalities, seed) -> None:
    """Any cardinalities, frames and unequal shots; an odd number of channels; values and gradients."""
    head = heads_small.build("trx", features=7, width=5, cardinalities=cardinalities).double()
    with torch.no_grad():
        for parameter in head.parameters():  # the norm's gain and shift too
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) * 0.3)
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    support, query = (torch.randn(n, frames, 7, generator=rng, dtype=torch.float64) for n in (len(labels), 2))
    gradients = []
    for compute in (lambda: head(support, labels, query), lambda: by_tuples(head, support, labels, query, len(shots))):
        logits = compute()
        head.zero_grad()
        (logits * torch.arange(1, logits.numel() + 1).view_as(logits)).sum().backward()
        gradients.append([logits.detach(), *(parameter.grad.clone() for parameter in head.parameters())])
    for ours, definition in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, definition, rtol=1e-9, atol=1e-9)


def test_chunks_of_queries_give_the_same(monkeypatch) -> None:
    head = heads_small.build("trx").double()
    episode = heads_small.episode(head, shots=(1, 3), queries=5, lead=(2,), dtype=torch.float64)
    whole, seen = head(episode.support, episode.labels, episode.query), []
    monkeypatch.setattr(tuples, "CHUNK", 40_000)
    inner = tuples.TupleAttention._weights
    monkeypatch.setattr(tuples.TupleAttention, "_weights", lambda *a: seen.append(a[4].shape[-3]) or inner(*a))
    torch.testing.assert_close(head(episode.support, episode.labels, episode.query), whole, rtol=1e-12, atol=1e-12)
    assert len(seen) > 2 and sum(seen) == 2 * 5


def test_shots_are_merged_by_three_rules() -> None:
    """Joint softmax, mean clip, mean of the clips' distances; one shot knows no difference."""
    several, one = {}, {}
    for shots in ("joint", "prototype", "distance"):
        head = heads_small.build("trx", shots=shots).double()
        episode = heads_small.episode(head, shots=(2, 3), dtype=torch.float64)
        several[shots] = head(episode.support, episode.labels, episode.query)
        first = [int((episode.labels == c).nonzero()[0]) for c in range(2)]
        one[shots] = head(episode.support[first], torch.arange(2), episode.query)
        mean = torch.stack([episode.support[episode.labels == c].mean(0) for c in range(2)])
        if shots == "prototype":
            torch.testing.assert_close(several[shots], head(mean, torch.arange(2), episode.query))
        if shots == "distance":
            single = head(episode.support, torch.arange(5), episode.query)
            mean = torch.stack([single[:, episode.labels == c].mean(1) for c in range(2)], dim=1)
            torch.testing.assert_close(several[shots], mean)
    assert not torch.allclose(several["joint"], several["prototype"])
    assert not torch.allclose(several["joint"], several["distance"])
    torch.testing.assert_close(one["joint"], one["prototype"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one["joint"], one["distance"], rtol=1e-9, atol=1e-9)


def test_products_that_cancel_keep_enough_digits() -> None:
    """The worst there is: weights that take the difference of two frames, on clips that move by a thousandth."""
    head = heads_small.build("trx", features=64, width=48, cardinalities=(2,))
    for linear in (head.tuples[0].key, head.tuples[0].value):
        first, second = linear.weight.data.chunk(2)
        second.copy_(-first)
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(7, 1, 64, generator=rng) * 10
    clips = base + 0.01 * torch.randn(7, 8, 64, generator=rng)
    exact = head.double()(clips[:5].double(), torch.arange(5), clips[5:].double())
    close = head.float()(clips[:5], torch.arange(5), clips[5:])
    assert goldens.relative_error(close, exact) < 2e-3


def test_a_release_with_its_resnet_and_indices() -> None:
    """One state dict into the encoder and into the head; each gives back the other's keys."""
    backbone = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(16, 16, 32, 64))
    encoder = d2st.adapt(backbone, d2st.NoneConfig(), frames=4, image_size=32)
    sequence = torch.nn.Sequential(*list(backbone.children())[:-1])
    state = {f"resnet.module.{key}": value + 1 for key, value in sequence.state_dict().items()}
    head, part = heads.build("trx", features=64, width=8, cardinalities=(2,)), "transformers.0."
    trained = {
        f"{part}{name}.{end}": torch.randn((8, 128) if end == "weight" else (8,))
        for name in ("k_linear", "v_linear")
        for end in ("weight", "bias")
    }
    trained |= {f"{part}norm_{x}.{end}": torch.randn(8) for x in "kv" for end in ("weight", "bias")}
    state |= trained | {f"{part}pe.pe": torch.zeros(1, 6, 64), f"{part}tuples.0": torch.tensor([0, 1])}

    assert not any(key.startswith("resnet") for key in d2st.official.load(encoder, state, system="trx"))
    torch.testing.assert_close(encoder.backbone.conv1.weight, state["resnet.module.0.weight"])
    spare = d2st.official.load(head, state, system="trx")
    assert {key.split(".")[0] for key in spare} == {"resnet", "transformers"} and f"{part}tuples.0" in spare
    torch.testing.assert_close(head.tuples[0].norm.bias, state[f"{part}norm_k.bias"])

    framed = {f"head.{key.replace('resnet.module', 'backbone')}": value * 2 for key, value in state.items()}  # MoLo's
    d2st.official.load(encoder, framed, system="trx")
    torch.testing.assert_close(encoder.backbone.conv1.weight, framed["head.backbone.0.weight"])
    d2st.official.load(head, framed, system="trx")
    torch.testing.assert_close(head.tuples[0].norm.bias, framed[f"head.{part}norm_k.bias"])

    with pytest.raises(d2st.D2STError, match=r"other shapes .*tuples.0.bias"):
        d2st.official.load(heads.build("trx", features=64, width=9, cardinalities=(2,)), state, system="trx")
    with pytest.raises(d2st.D2STError, match=r"missing keys \['tuples.1.bias'"):
        d2st.official.load(heads.build("trx", features=64, width=8), state, system="trx")
    del state[f"{part}v_linear.bias"]
    with pytest.raises(d2st.D2STError, match=r"transformers.0.v_linear.bias missing"):
        d2st.official.load(head, state, system="trx")


@pytest.mark.parametrize(
    ("options", "frames", "width", "said"),
    [
        ({"cardinalities": ()}, 4, 16, "different whole numbers of frames"),
        ({"cardinalities": (2, 2)}, 4, 16, "different whole numbers of frames"),
        ({"cardinalities": (0,)}, 4, 16, "whole numbers from 1 to 64"),
        ({"shots": "mean"}, 4, 16, "shots='mean' must be 'joint', 'prototype' or 'distance'"),
        ({}, 2, 16, "tuples of 3 frames and was given clips of 2"),
        ({}, 4, 15, "built for features of width 16; these have 15. Build it with features=15"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(options, frames, width, said) -> None:
    with pytest.raises(d2st.D2STError, match=said):
        heads_small.build("trx", **options).embed(torch.randn(1, frames, width))
