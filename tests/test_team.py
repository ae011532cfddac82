"""TEAM against the authors' numbers, and against its definition, a class and a token at a time."""

import goldens
import heads_small
import pytest
import torch
from torch.nn import functional as F

from d2st import heads
from d2st.heads.transformer import faint_positions

NAMES = {
    "patterns": "AP",
    "norm.weight": "ln.weight",
    "norm.bias": "ln.bias",
    "mlp.0.weight": "mlp.inp_fc.weight",
    "mlp.0.bias": "mlp.inp_fc.bias",
    "mlp.2.weight": "mlp.out_fc.weight",
    "mlp.2.bias": "mlp.out_fc.bias",
}


def small(**options):
    return heads_small.build("team", **options).double()


@pytest.mark.parametrize("case", goldens.find("team_*"))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_logits_losses_and_gradients_are_the_authors(case, dtype, tolerance, monkeypatch):
    about, golden = goldens.read(case)
    if about["dtype"] == "torch.float32":
        tolerance = 1e-4
    weights = goldens.weights(golden, dtype, "w/DPM.")
    code = weights["pe.pe"][0]
    torch.testing.assert_close(faint_positions(len(code), code), code, rtol=0, atol=1e-7)
    monkeypatch.setattr("d2st.heads.team.faint_positions", lambda count, like: code[:count])  # theirs is float32
    head = heads.build("team", features=code.shape[1], tokens=about["args"]["agg_num"]).to(dtype).eval()
    head.load_state_dict({ours: weights[theirs].view_as(head.get_parameter(ours)) for ours, theirs in NAMES.items()})

    support, query = (golden[f"in/{side}"].to(dtype, copy=True).requires_grad_() for side in ("support", "query"))
    labels, targets = golden["in/support_labels"], golden["in/query_labels"]
    positive, negative = head._logits(support, labels, query, 5)
    outputs = {
        "logits": head(support, labels, query),
        "logits_pos": positive,
        "logits_neg": negative,
        "loss_L_pos": F.cross_entropy(positive, targets)[None],
        "loss_L_neg": F.cross_entropy(negative, targets)[None],
    }
    for name, output in outputs.items():
        assert goldens.relative_error(output, golden[f"out/{name}"]) <= tolerance, name
    loss, logits = head.loss(heads.EncodedEpisode(support, labels, query, targets, torch.arange(5)))
    assert goldens.relative_error(loss, golden["out/loss_L_pos"] + golden["out/loss_L_neg"]) <= tolerance
    assert torch.equal(logits, outputs["logits"])

    sum((output * golden[f"c/{name}"].to(dtype)).sum() for name, output in outputs.items()).backward()
    for side, clips in (("support", support), ("query", query)):
        assert goldens.relative_error(clips.grad, golden[f"gin/{side}"]) <= tolerance, side
    for ours, theirs in NAMES.items():
        assert goldens.relative_error(head.get_parameter(ours).grad, golden[f"g/DPM.{theirs}"]) <= tolerance, ours


def find(head, clip):
    """A of a clip (T, D), token by token."""
    norm = head.norm
    frames = [F.layer_norm(x, x.shape, norm.weight, norm.bias) for x in clip + faint_positions(len(clip), clip)]
    found = []
    for token in head.patterns:
        token = F.layer_norm(token, token.shape, norm.weight, norm.bias)
        weights = torch.stack([token @ frame for frame in frames]).div((len(token) / 8) ** 0.5).softmax(0)
        found.append(sum(weight * frame for weight, frame in zip(weights, frames, strict=True)))
    return found


def value(head, u):
    """V of one token (D,)."""
    first, _, second = head.mlp
    return F.relu(u + second(F.relu(first(u))))


def distinct(head, classes, n, sign):
    """Tokens of D+ or D- of class n, from the A of all classes."""
    tokens = []
    for m, token in enumerate(head.patterns):
        own, moved = classes[n][m], []
        for o in range(len(classes)):
            if o != n:
                other = classes[o][m]
                alike = F.cosine_similarity(value(head, token + sign * own), value(head, token + sign * other), dim=0)
                moved.append(value(head, token + sign * own - sign * alike * (other - own)))
        tokens.append(sum(moved) / len(moved))
    return tokens


def distance(tokens, others):
    return sum(1 - F.cosine_similarity(x, y, dim=0) for x, y in zip(tokens, others, strict=True))


@pytest.mark.parametrize("way", [2, 3])
def test_it_is_what_loops_over_classes_and_tokens_give(way):
    """Unequal shots, shuffled labels, queries of another length, two episodes at once."""
    head = small()
    rng = torch.Generator().manual_seed(1)
    support = torch.randn(2, 6, 4, 16, generator=rng, dtype=torch.float64)
    query = torch.randn(2, 2, 5, 16, generator=rng, dtype=torch.float64)
    labels = torch.tensor([[2, 0, 1, 0, 0, 2], [0, 1, 2, 2, 1, 1]]) % way
    logits = head(support, labels, query)
    assert logits.shape == (2, 2, way)
    for e in range(2):
        classes = [find(head, support[e][labels[e] == c].mean(0)) for c in range(way)]
        has, lacks = ([distinct(head, classes, n, sign) for n in range(way)] for sign in (1, -1))
        for q in range(2):
            found = find(head, query[e, q])
            clip_has, clip_lacks = (
                [value(head, p + s * a) for p, a in zip(head.patterns, found, strict=True)] for s in (1, -1)
            )
            for n in range(way):
                others = [o for o in range(way) if o != n]
                farthest = max(distance(has[o], clip_lacks) for o in others)
                farthest = farthest + max(distance(lacks[o], clip_has) for o in others)
                expected = -distance(has[n], clip_has) - farthest / 2
                torch.testing.assert_close(logits[e, q, n], expected, rtol=0, atol=1e-10)


def test_a_class_that_is_alone_stands_in_for_the_others():
    """Whether it is the only one, or the only one with clips."""
    head = small()
    episode = heads_small.episode(head, shots=(2,), dtype=torch.float64)
    alone = head(episode.support, episode.labels, episode.query)
    assert alone.shape == (4, 1) and alone.isfinite().all()
    among = head(episode.support, episode.labels + 1, episode.query, 3)
    torch.testing.assert_close(among[:, 1:2], alone, rtol=1e-12, atol=1e-12)
    assert (among[:, [0, 2]] == -torch.inf).all()
    loss, _ = head.loss(episode)
    assert loss == 0


def test_tokens_see_frames_in_their_order_and_clips_of_any_length():
    head = small()
    clips, labels = torch.randn(2, 8, 16).double(), torch.tensor([0, 1])
    logits = head(clips, labels, clips)
    assert not torch.allclose(head(clips, labels, clips.flip(1)), logits)
    assert head(clips, labels, clips[:, :1]).shape == (2, 2)
    assert logits.argmax(1).tolist() == [0, 1]


def test_drop_out_is_for_training():
    head = small(dropout=0.5)
    episode = heads_small.episode(head, dtype=torch.float64)

    def logits():
        return head(episode.support, episode.labels, episode.query)

    assert torch.equal(logits(), logits())
    head.train()
    assert not torch.equal(logits(), logits())


def test_evaluation_plans_for_the_tokens():
    clip = torch.zeros(8, 16)
    assert small(tokens=7).episode_bytes(clip, 25, 10, 5) == 35 * clip.nbytes + (6 * 10 + 10 * 5) * 7 * 16 * 8
