"""The product score against Task-Adapter's numbers, and what becomes of negative cosines."""

import goldens
import pytest
import torch
from torch.nn import functional as F

from d2st import heads


@pytest.mark.parametrize("case", goldens.find("ta_match_*"))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_scores_loss_and_gradients_are_the_authors(case, dtype, tolerance):
    about, golden = goldens.read(case)
    support, query, text = (golden[f"in/{name}"].to(dtype).requires_grad_() for name in ("support", "query", "text"))
    labels, targets = (torch.arange(about["way"]).repeat_interleave(about[count]) for count in ("shot", "n_query"))
    head = heads.build("product", features=text.shape[1], negative="released")
    episode = heads.EncodedEpisode(support, labels, query, targets, torch.arange(about["way"]), text)
    loss, logits = head.loss(episode)
    assert goldens.relative_error(logits / 64, golden["out/score"]) <= tolerance
    assert goldens.relative_error(loss, golden["loss/ce"]) <= tolerance
    loss.backward()
    for name, given in (("support", support), ("query", query), ("text", text)):
        assert goldens.relative_error(given.grad, golden[f"gi/{name}"]) <= tolerance, name


def test_a_class_that_is_like_the_query_in_neither_way_does_not_win():
    query = torch.tensor([[[1.0, 0.0, 0.0]]])
    support = torch.tensor([[[-1.0, 0.1, 0.0]], [[1.0, 2.0, 0.0]]])
    text = torch.tensor([[-1.0, 0.0, 0.2], [1.0, 0.0, 3.0]])
    labels = torch.tensor([0, 1])
    released = heads.build("product", features=3, negative="released")(support, labels, query, text=text)
    ours = heads.build("product", features=3)(support, labels, query, text=text)
    assert released.argmax() == 0 and ours.argmax() == 1
    assert ours[0, 0] == 0 and ours[0, 1] == released[0, 1]


def test_the_mean_is_over_shots_and_frames_of_unequal_classes():
    torch.manual_seed(0)
    support, query, text = torch.randn(3, 4, 6).abs(), torch.randn(2, 5, 6).abs(), torch.randn(2, 6).abs()
    logits = heads.build("product", features=6, scale=2.0)(support, torch.tensor([1, 0, 1]), query, text=text)
    for q, clip in enumerate(query.mean(1)):
        for c, own in enumerate((support[1:2], support[[0, 2]])):
            mean = own.flatten(0, 1).mean(0)
            expected = 2 * F.cosine_similarity(clip, mean, dim=0) * F.cosine_similarity(clip, text[c], dim=0)
            torch.testing.assert_close(logits[q, c], expected)
