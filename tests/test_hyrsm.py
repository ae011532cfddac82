"""HyRSM and HyRSM++ against the authors' numbers and a loop over queries, clips and frames."""

import math

import goldens
import pytest
import torch
import torch.nn.functional as F
from families import BACKBONES, SIZE

import d2st
from d2st import heads
from d2st.errors import D2STError
from d2st.heads.hyrsm import temporal_coherence
from d2st.heads.transformer import position_code


@pytest.mark.parametrize("name", goldens.find("hyrsm*"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_losses_and_gradients_are_the_reference_s(name, dtype):
    about, golden = goldens.read(name)
    training = about["cfg_train"]
    head = heads.build(
        "hyrsm",
        features=about["dim"],
        shots="prototype" if "5shot" in about["head"] else "distance",
        classes=training["NUM_CLASS"],
        class_weight=0.6,
        temporal_weight=0.05 if "plusplus" in about["head"] else 0.0,
        temporal_window=training.get("WINDOW_SIZE", 2),
        temporal_balance=training.get("TEMPORAL_BALANCE", 4.0),
    ).to(dtype)
    head.eval()  # no drop-out, as in the reference's numbers
    state = goldens.weights(golden, dtype)
    assert d2st.official.load(head, state, "hyrsm").keys() == {"pe.pe"}
    support, query = (golden[f"in/{side}_feats"].to(dtype).requires_grad_() for side in ("support", "query"))
    labels, targets = golden["in/support_labels"].long(), golden["in/query_labels"].long()
    ids = torch.zeros(5, dtype=torch.long)
    ids[labels] = golden["in/real_support_labels"].long()
    assert torch.equal(ids[targets], golden["in/real_query_labels"].long())

    named = []
    head.classifier.register_forward_hook(lambda module, args, out: named.append(out.flatten(0, 1)))
    loss, logits = head.loss(heads.EncodedEpisode(support, labels, query, targets, ids))
    assert goldens.relative_error(torch.cat(named), golden["out/class_logits"]) <= 1e-5
    assert goldens.relative_error(logits, golden["out/logits"]) <= 1e-5
    assert goldens.relative_error(head(support, labels, query), golden["out/logits"]) <= 1e-5
    assert goldens.relative_error(loss, golden["loss/objective"]) <= 1e-5
    (loss + (logits * golden["in/probe_logits"].to(dtype)).sum()).backward()
    for side, x in (("support", support), ("query", query)):
        assert goldens.relative_error(x.grad, golden[f"gi/{side}_feats"]) <= 1e-4, side
    gradients = d2st.official.translate(head, goldens.weights(golden, dtype, "g/"), "hyrsm")
    assert gradients.keys() == dict(head.named_parameters()).keys()
    for key, gradient in gradients.items():
        assert goldens.relative_error(head.get_parameter(key).grad, gradient) <= 1e-4, key


@pytest.mark.parametrize("name", goldens.find("hyrsm_1shot_5w1s"))
def test_the_reference_s_position_code(name):
    table = goldens.read(name)[1]["w/pe.pe"][0]
    torch.testing.assert_close(position_code(len(table), table), table, rtol=0, atol=1e-6)


def small(**options):
    torch.manual_seed(0)
    return heads.build("hyrsm", features=16, heads=4, **options).double().eval()


def attention_loop(q, k, v, count):
    """(N, D) each, head by head and row by row."""
    columns = []
    for q1, k1, v1 in zip(q.chunk(count, 1), k.chunk(count, 1), v.chunk(count, 1), strict=True):
        rows = [torch.softmax(k1 @ row / math.sqrt(len(row)), 0) @ v1 for row in q1]
        columns.append(torch.stack(rows))
    return torch.cat(columns, 1)


def embed_loop(head, clip, scale=10.0, weight=1.0):
    """A clip (T, D), number by number where that is the formula."""
    code = torch.zeros_like(clip)
    width = clip.shape[1]
    for p in range(len(clip)):
        for i in range(0, width, 2):
            code[p, i] = math.sin(p / 10000 ** (2 * i / width))
            code[p, i + 1] = math.cos(p / 10000 ** (2 * (i + 1) / width))
    x, a = math.sqrt(width / scale) * clip + weight * code, head.clip_attention
    q, k, v = (F.layer_norm(x, (width,), a.norm.weight, a.norm.bias) @ a.qkv.weight.T).split(width, 1)
    return torch.relu(x + a.output(attention_loop(q, k, v, a.heads)))


def distance_loop(head, entries, query):
    """Distances (N,) of one query (T', D) to support entries (N, T, D), with the frames that they were taken from."""
    a = head.task_attention
    z = torch.stack([*(entry.mean(0) for entry in entries), query.mean(0)])
    attended = attention_loop(z @ a.query.weight.T, z @ a.key.weight.T, z @ a.value.weight.T, a.heads)
    z = torch.relu(a.norm(a.output(attended) + z))
    fused = [head.fuse(torch.stack([torch.cat([f, g]) for f in x])) for x, g in zip([*entries, query], z, strict=True)]
    *entries, query = fused
    distances = []
    for entry in entries:
        d = torch.stack([torch.stack([1 - F.cosine_similarity(s, q, 0, 1e-12) for q in query]) for s in entry])
        distances.append(d.amin(0).sum() + d.amin(1).sum())
    return torch.stack(distances), entries, query


def coherence_loop(clip, window, balance, far):
    values = []
    for i, x in enumerate(clip):
        for j, y in enumerate(clip):
            d, gap = 1 - F.cosine_similarity(x, y, 0, 1e-12), abs(i - j)
            margin = 1 - math.exp(-((gap - window) ** 2) / balance)
            values.append(d / (gap**2 + 1) if gap <= window else far * torch.relu(margin - d))
    return torch.stack(values).mean()


@pytest.mark.parametrize("shots", ["distance", "prototype"])
def test_it_is_what_a_loop_over_queries_clips_and_frames_gives(shots):
    """Unequal shots, shuffled labels, queries of another length, two episodes at once, the settings for Kinetics."""
    head = small(shots=shots, scale=2048, positions=0.01)
    rng = torch.Generator().manual_seed(1)
    support = torch.randn(2, 6, 4, 16, generator=rng, dtype=torch.float64)
    query = torch.randn(2, 3, 5, 16, generator=rng, dtype=torch.float64)
    labels = torch.tensor([[2, 0, 1, 0, 0, 2], [0, 1, 2, 2, 1, 1]])
    logits = head(support, labels, query)
    assert logits.shape == (2, 3, 3)
    for e in range(2):
        clips = [embed_loop(head, clip, 2048, 0.01) for clip in support[e]]
        of_class = [[clip for clip, label in zip(clips, labels[e], strict=True) if label == c] for c in range(3)]
        for q in range(3):
            one = embed_loop(head, query[e, q], 2048, 0.01)
            if shots == "prototype":
                distances = distance_loop(head, [torch.stack(c).mean(0) for c in of_class], one)[0]
            else:
                each = distance_loop(head, clips, one)[0]
                distances = torch.stack([each[labels[e] == c].mean() for c in range(3)])
            torch.testing.assert_close(logits[e, q], -distances, rtol=0, atol=1e-10)


@pytest.mark.parametrize("far", [1.0, 0.3])
def test_the_loss_is_the_sum_that_its_options_say(far):
    options = dict(temporal_window=1, temporal_balance=2.0, temporal_far=far)
    head = small(classes=9, class_weight=0.4, temporal_weight=0.05, **options)
    support, query = (torch.randn(n, 4, 16, dtype=torch.float64) for n in (3, 2))
    labels, targets, ids = torch.tensor([1, 0, 1]), torch.tensor([1, 0]), torch.tensor([8, 3])
    loss, logits = head.loss(heads.EncodedEpisode(support, labels, query, targets, ids))
    torch.testing.assert_close(logits, head(support, labels, query), rtol=0, atol=1e-12)
    clips = [embed_loop(head, clip) for clip in (*support, *query)]
    frames = [F.cross_entropy(head.classifier(clip), ids[label].expand(4)) for clip, label in
              zip(clips, (*labels, *targets), strict=True)]  # fmt: skip
    coherence = 0.0
    for one in clips[3:]:
        _, entries, one = distance_loop(head, clips[:3], one)
        coherence += sum(coherence_loop(x, 1, 2.0, far) for x in entries) / 3 / 2 + coherence_loop(one, 1, 2.0, far) / 2
    expected = F.cross_entropy(logits, targets) + 0.4 * torch.stack(frames).mean() + 0.05 * coherence
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    plain = small().loss(heads.EncodedEpisode(support, labels, query, targets, ids))[0]
    torch.testing.assert_close(plain, F.cross_entropy(logits, targets), rtol=0, atol=1e-10)


def test_merging_shots_by_distance_or_prototype_is_the_same_with_one_shot():
    support, labels, query = torch.randn(3, 4, 16).double(), torch.tensor([2, 0, 1]), torch.randn(5, 4, 16).double()
    two = [small(shots=shots)(support, labels, query) for shots in ("distance", "prototype")]
    torch.testing.assert_close(two[0], two[1], rtol=0, atol=1e-10)


def test_evaluation_plans_for_a_support_for_each_query():
    clip = torch.zeros(8, 16)
    assert small().episode_bytes(clip, 25, 10, 5) == 26 * 10 * clip.nbytes
    assert small(shots="prototype").episode_bytes(clip, 25, 10, 5) == 6 * 10 * clip.nbytes


def test_frames_are_not_classified_at_test_time():
    head, called = small(classes=5), []
    head.classifier.register_forward_hook(lambda *a: called.append(1))
    support, labels, query = torch.randn(2, 4, 16).double(), torch.tensor([0, 1]), torch.randn(1, 4, 16).double()
    head(support, labels, query)
    assert not called
    head.loss(heads.EncodedEpisode(support, labels, query, labels[:1], torch.tensor([4, 2])))
    assert called


def test_coherence_is_what_a_loop_over_pairs_gives():
    clip = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)).double()  # near each other: far pairs count
    assert temporal_coherence(clip) > temporal_coherence(clip, far=0.0) + 0.1
    for options in ((1, 2.0, 1.0), (2, 4.0, 0.3), (0, 9.0, 2.0)):
        expected = coherence_loop(clip, *options)
        torch.testing.assert_close(temporal_coherence(clip[None], *options), expected, rtol=0, atol=1e-12)


def test_coherence_wants_near_frames_alike_and_far_frames_apart():
    same = torch.ones(1, 6, 3)
    apart = torch.eye(6)[None]
    steady = torch.tensor([[1.0, 0, 0]] * 3 + [[0, 1.0, 0]] * 3)[None]
    assert temporal_coherence(steady) < temporal_coherence(same)
    assert temporal_coherence(apart, window=0) < temporal_coherence(same, window=0)
    assert temporal_coherence(same, far=0.0) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"features": 20}, "20 features cannot be shared by 8"),
        ({"shots": "mean"}, "The head 'hyrsm': shots='mean' must be 'prototype' or 'distance'"),
        ({"scale": 0}, "scale=0 must be a number above 0"),
        ({"classes": -1}, "classes=-1 must be a whole number from 0"),
        ({"temporal_balance": 0}, "temporal_balance=0 must be a number above 0"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options, said):
    with pytest.raises(D2STError, match=said):
        heads.build("hyrsm", **options)


def test_features_of_another_width_are_refused_with_a_sentence():
    with pytest.raises(D2STError, match=r"width 16; these have 12\. Build it with features=12"):
        small()(torch.randn(2, 4, 12), torch.tensor([0, 1]), torch.randn(1, 4, 12))


def test_a_checkpoint_of_the_release_goes_into_encoder_and_head():
    """As its framework saves it: all under "head.", the ResNet by the order of its modules."""
    encoder = d2st.adapt(BACKBONES["resnet-basic"](), d2st.FullConfig(), frames=4, image_size=SIZE)
    head = heads.build("hyrsm", features=64)
    names = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    state = {}
    for key, tensor in encoder.backbone.state_dict().items():
        first, rest = key.split(".", 1)
        state[f"head.backbone.{names[first]}.{rest}"] = torch.full_like(tensor, 2)
    part = "head.temporal_atte"
    ends = [f"{part}_before.norm", f"{part}_before.fn.to_qkv", f"{part}_before.fn.to_out.0", f"{part}.w_qs",
            f"{part}.w_ks", f"{part}.w_vs", f"{part}.layer_norm", f"{part}.fc", "head.layer2.0"]  # fmt: skip
    shapes = dict.fromkeys(ends, (64, 64)) | {ends[1]: (192, 64), ends[8]: (64, 128, 1)}
    shapes |= {ends[0]: (64,), ends[6]: (64,)}
    for end, shape in shapes.items():
        state[f"{end}.weight"] = torch.full(shape, 3.0)
        if not any(part in end for part in ("to_qkv", "w_")):
            state[f"{end}.bias"] = torch.full((64,), 3.0)
    state |= {"head.classification_layer.weight": torch.ones(9, 64), "head.classification_layer.bias": torch.ones(9)}
    state["head.pe.pe"] = torch.zeros(1, 20, 64)
    assert not any(key.startswith("backbone") for key in d2st.official.load(encoder, state, "hyrsm"))
    assert all((parameter == 2).all() for parameter in encoder.parameters())
    spare = d2st.official.load(head, state, "hyrsm")
    assert {key.split(".")[0] for key in spare} == {"backbone", "classification_layer", "pe"}
    assert all((parameter == 3).all() for parameter in head.parameters())
    with pytest.raises(D2STError, match=r"missing keys \['fuse.bias'\]"):
        d2st.official.load(head, {key: value for key, value in state.items() if key != "head.layer2.0.bias"}, "hyrsm")
