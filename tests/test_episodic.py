"""The loss of an episode: the authors' numbers, symmetric episodes, and one forward pass."""

from pathlib import Path

import goldens
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import d2st
from d2st import heads
from d2st.data import sampling
from d2st.data.datasets import Clip, ClipSet
from d2st.data.episodes import EpisodeSampler
from d2st.errors import D2STError
from d2st.training.episodic import EpisodicLoss, EpisodicValidation, rotations
from d2st.utils.distributed import launch
from d2st.utils.options import ComputeOptions


class Identity(nn.Module):
    """Stands in for an encoder: its "video" is the features already."""

    config = d2st.NoneConfig()

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features, self.calls = features, 0

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return video


def test_loss_and_gradients_are_the_released_code_s() -> None:
    """5-way 5-shot with the auxiliary class loss of weight 2, on the reference's features."""
    _, golden = goldens.read("bimhm_d2st_5w5s")
    by_class = [golden[f"in/{side}_labels"].argsort(stable=True) for side in ("support", "query")]
    features = torch.cat([golden["in/support_feats"][by_class[0]], golden["in/query_feats"][by_class[1]]])
    features.requires_grad_()
    classes = torch.empty(5, dtype=torch.long)
    classes[golden["in/support_labels"].long()] = golden["in/real_support_labels"].long()
    loss = EpisodicLoss(Identity(64), heads.build("bi-mhm"), 5, 5, 2, classes=64, class_loss=2.0)
    loss.classifier.load_state_dict(goldens.weights(golden, None, "w/classification_layer."))
    value, accuracy = loss(features, classes)
    value.backward()
    expected = torch.cat([golden["gi/support_feats"][by_class[0]], golden["gi/query_feats"][by_class[1]]])
    torch.testing.assert_close(value.detach(), golden["loss/total"], rtol=1e-5, atol=0)
    assert goldens.relative_error(features.grad, expected) < 1e-4
    assert goldens.relative_error(loss.classifier.weight.grad, golden["g/classification_layer.weight"]) < 1e-4
    right = golden["out/logits"].argmax(1) == golden["in/query_labels"]
    assert accuracy == pytest.approx(right.float().mean().item())


@given(way=st.integers(2, 5), shot=st.integers(1, 4), queries=st.integers(1, 4))
def test_rotations_make_every_clip_support_and_query(way: int, shot: int, queries: int) -> None:
    support, query = rotations(way, shot, queries)
    m, clips = shot + queries, way * (shot + queries)
    assert support.shape == (m, way * shot) and query.shape == (m, way * queries)
    for s, q in zip(support, query, strict=True):
        assert sorted([*s.tolist(), *q.tolist()]) == list(range(clips))
    assert torch.equal(support.flatten().bincount(minlength=clips), torch.full((clips,), shot))
    assert torch.equal(query.flatten().bincount(minlength=clips), torch.full((clips,), queries))
    assert support[0].tolist() == list(range(way * shot)), "rotation 0 is the episode as drawn"
    owner = torch.cat([torch.arange(way).repeat_interleave(shot), torch.arange(way).repeat_interleave(queries)])
    assert torch.equal(owner[support], owner[: way * shot].expand(m, -1)), "clips stay with their class"
    assert torch.equal(owner[query], owner[way * shot :].expand(m, -1))


def test_symmetric_loss_is_the_mean_over_the_rotations_and_encodes_once() -> None:
    way, shot, queries = 3, 2, 1
    features = torch.randn(way * (shot + queries), 4, 6, generator=torch.Generator().manual_seed(0))
    encoder = Identity(6)
    symmetric = EpisodicLoss(encoder, heads.build("bi-mhm"), way, shot, queries, symmetric=True)
    plain = EpisodicLoss(Identity(6), heads.build("bi-mhm"), way, shot, queries)
    classes = torch.arange(way)
    turned = [torch.cat([features[s], features[q]]) for s, q in zip(*rotations(way, shot, queries), strict=True)]
    each = [plain(clips, classes) for clips in turned]
    loss, accuracy = symmetric(features, classes)
    assert encoder.calls == 1
    torch.testing.assert_close(loss, torch.stack([value for value, _ in each]).mean())
    torch.testing.assert_close(accuracy, torch.stack([share for _, share in each]).mean())


def test_the_head_keeps_its_digits_under_autocast() -> None:
    features = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    loss = EpisodicLoss(Identity(8), heads.build("bi-mhm"), 2, 1, 1)
    expected, _ = loss(features, torch.arange(2))
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = loss(features, torch.arange(2))
    assert value.dtype == torch.float32 and torch.equal(value, expected)


@pytest.mark.parametrize("head", ["bi-mhm", "ts-dcm"])
def test_a_validation_without_a_readable_clip_says_so(head: str) -> None:
    """Heads of maps have nothing embedded then, which is no reason to stop without a sentence."""
    encoder = d2st.adapt("d2st_stills", "none", frames=4, pretrained=False)
    clips = ClipSet(("clap", "wave"), tuple(Clip(Path("nowhere") / f"{i}.mp4", i % 2, str(i)) for i in range(4)))
    sampler = EpisodeSampler(clips.labels, 2, 1, 1)
    reading = sampling.build("uniform", 4), encoder.transform()
    compute = ComputeOptions(device="cpu", precision="fp32")
    validation = EpisodicValidation(
        encoder, d2st.create_head(head, encoder), clips, sampler, 2, *reading, None, compute
    )
    with pytest.raises(D2STError, match="No validation is possible: 4 of 4 validation clips cannot be read"):
        validation(launch(torch.device("cpu")))
