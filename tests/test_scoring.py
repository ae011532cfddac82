"""Batched evaluation: the same as one episode after another."""

import numpy as np
import pytest
import torch

from d2st import heads
from d2st.data.episodes import EpisodeSampler
from d2st.evaluation import episodes as scoring


@pytest.fixture
def setting():
    """Features that a head tells apart sometimes, unequal class sizes, two views."""
    rng = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(4), [5, 7, 6, 9])
    centers = torch.randn(4, 1, 4, 8, generator=rng)
    features = centers[torch.from_numpy(labels)] + 1.5 * torch.randn(len(labels), 2, 4, 8, generator=rng)
    return features, labels


@pytest.mark.parametrize("shot", [1, 3])
@pytest.mark.parametrize("views", [1, 2])
def test_batches_equal_one_by_one(setting, monkeypatch, shot: int, views: int) -> None:
    features, labels = setting
    features, head, seen = features[:, :views], heads.build("bi-mhm"), []
    sampler = EpisodeSampler(labels, 3, shot, 2, seed=5)
    per_episode = (shot + 2) * 3 * features[0, 0].nbytes
    monkeypatch.setattr(scoring, "BUDGET", 7 * per_episode)  # 7 at a time: the last batch is smaller

    class Spy(heads.Head):
        def match(self, support, support_labels, query, way, text):
            logits = head(support, support_labels, query, way)
            seen.append((support, query, logits))
            return logits

    scores = scoring.score(features, sampler, Spy(), 60)
    assert [len(logits) for *_, logits in seen] == [7] * 8 + [4]
    support, query, logits = (torch.cat(parts) for parts in zip(*seen, strict=True))
    confusion = np.zeros((4, 4), int)
    for i in range(60):
        episode = sampler.draw(i)
        shuffled = torch.randperm(3 * shot, generator=torch.Generator().manual_seed(i))
        if views == 1:
            assert torch.equal(support[i], features[episode.support, 0])
            assert torch.equal(query[i], features[episode.query, 0])
        else:  # some view of the right clip
            assert (support[i][:, None] == features[episode.support]).flatten(2).all(-1).any(-1).all()
            assert (query[i][:, None] == features[episode.query]).flatten(2).all(-1).any(-1).all()
        one = head(support[i][shuffled], torch.from_numpy(episode.support_labels)[shuffled], query[i])
        torch.testing.assert_close(logits[i], one, rtol=0, atol=1e-6)
        predicted = one.argmax(1).numpy()
        assert scores.accuracies[i] == (predicted == episode.query_labels).mean()
        np.add.at(confusion, (episode.classes[episode.query_labels], episode.classes[predicted]), 1)
    assert np.array_equal(scores.confusion, confusion)
    assert 0.4 < scores.mean < 1, "a test on a solved or hopeless task shows nothing"


def test_both_views_are_drawn(setting) -> None:
    _, labels = setting
    support, query, _ = scoring.draw(EpisodeSampler(labels, 3, 1, 1), 0, 200, views=2)
    assert abs((support % 2).mean() - 0.5) < 0.05 and abs((query % 2).mean() - 0.5) < 0.05
    again, *_ = scoring.draw(EpisodeSampler(labels, 3, 1, 1), 150, 200, views=2)
    assert np.array_equal(support[150:], again)


def test_interval_and_shares() -> None:
    accuracies = np.array([1.0, 0.5, 0.0, 0.5])
    scores = scoring.Scores(accuracies, np.array([[3, 1, 0], [0, 2, 2], [0, 0, 0]]))
    assert scores.mean == 0.5
    assert scores.interval == pytest.approx(1.96 * np.sqrt(0.5 / 3) / 2)
    assert scores.per_class[:2].tolist() == [0.75, 0.5] and np.isnan(scores.per_class[2])
    assert np.isnan(scoring.Scores(accuracies[:1], scores.confusion).interval)
