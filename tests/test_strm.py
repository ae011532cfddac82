"""STRM against the authors' numbers, and against its definition, a patch, a frame and a tuple at a time."""

from itertools import combinations

import goldens
import heads_small
import pytest
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch.nn import functional as F

import d2st
from d2st import heads
from d2st.heads.transformer import faint_positions


def small(**options):
    return heads_small.build("strm", **options).double()


def from_golden(case, dtype, monkeypatch):
    """The head with the golden's weights and its position code, which is float32."""
    about, golden = goldens.read(case)
    args, code = about["args"], golden["w/attn_pat.pe.pe"][0].to(dtype)
    torch.testing.assert_close(faint_positions(len(code), code), code, rtol=0, atol=1e-6)
    for room in ("strm", "trx"):
        monkeypatch.setattr(f"d2st.heads.{room}.faint_positions", lambda count, like: code[:count])
    head = heads.build(
        "strm",
        features=args["trans_linear_in_dim"],
        frames=args["seq_len"],
        width=args["trans_linear_out_dim"],
        cardinalities=tuple(args["temp_set"]),
    )
    spare = d2st.official.load(head.to(dtype), goldens.weights(golden, dtype), system="strm")
    assert all(".pe." in key or ".norm_v." in key for key in spare)
    return head.eval(), golden


def of_golden(golden, dtype, frames):
    """Support and query maps (S, T, D, H, W), which take gradients."""
    maps = (golden[f"in/{side}_maps"].to(dtype, copy=True).unflatten(0, (-1, frames)) for side in ("support", "query"))
    return [clips.requires_grad_() for clips in maps]


def centered(logits):
    """What tells the classes apart, which is little in these goldens."""
    return logits - logits.mean(1, keepdim=True)


@pytest.mark.parametrize("case", goldens.find("strm_*"))
@pytest.mark.parametrize(("dtype", "run", "tolerance"), [(torch.float32, "", 1e-4), (torch.float64, "64", 1e-9)])
def test_logits_and_losses_are_the_authors(case, dtype, run, tolerance, monkeypatch):
    head, golden = from_golden(case, dtype, monkeypatch)
    support, query = of_golden(golden, dtype, head.frames)
    labels, targets = golden["in/support_labels"], golden["in/query_labels"]
    for side, clips in (("support", support), ("query", query)):  # float32 runs alone
        patched = head.patches(clips)
        assert goldens.relative_error(patched, golden[f"out/patch_{side}"]) <= 1e-6
        assert goldens.relative_error(head.mixer(patched), golden[f"out/frame_{side}"]) <= 1e-6
    logits, auxiliary = head._logits(head.embed(support), labels, head.embed(query), 5)
    for ours, theirs in ((logits, "logits"), (auxiliary, "logits_post_pat")):
        theirs = golden[f"out{run}/{theirs}"]
        assert goldens.relative_error(ours, theirs) <= tolerance
        assert goldens.relative_error(centered(ours), centered(theirs)) <= tolerance
    losses = {
        "ce_sum": F.cross_entropy(logits, targets, reduction="sum"),
        "ce_post_pat_sum": F.cross_entropy(auxiliary, targets, reduction="sum"),
        "objective": 5 * head.loss(heads.EncodedEpisode(support, labels, query, targets, torch.arange(5)))[0],
    }
    for name, loss in losses.items():
        assert goldens.relative_error(loss, golden[f"loss{run}/{name}"]) <= tolerance, name
    prediction = head(support, labels, query)
    assert goldens.relative_error(prediction, golden["out/prediction"]) <= 1e-6
    torch.testing.assert_close(prediction, logits + 0.1 * auxiliary)


@pytest.mark.parametrize("case", goldens.find("strm_c2_*"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_the_authors(case, dtype, monkeypatch):
    """Theirs are of a float32 run, whose distances lose digits in products; a sum of them, the bias's, most."""
    head, golden = from_golden(case, dtype, monkeypatch)
    support, query = of_golden(golden, dtype, head.frames)
    parts = head._logits(head.embed(support), golden["in/support_labels"], head.embed(query), 5)
    total = 0
    for logits, weight, probe in zip(parts, (1, 0.1), ("probe_logits", "probe_logits_post_pat"), strict=True):
        total = total + weight * F.cross_entropy(logits, golden["in/query_labels"], reduction="sum")
        total = total + (logits * golden[f"in/{probe}"]).sum()
    total.backward()
    for side, clips in (("support", support), ("query", query)):
        assert goldens.relative_error(clips.grad.flatten(0, 1), golden[f"gi/{side}_maps"]) <= 1e-4, side
    codes = {key: code for key, code in goldens.weights(golden, None).items() if ".pe." in key}
    theirs = d2st.official.translate(head, goldens.weights(golden, None, "g/") | codes, system="strm")
    for name, parameter in head.named_parameters():
        if name == "patches.key.bias":  # it cancels in the softmax
            assert goldens.largest(parameter.grad) < 1e-7 and goldens.largest(theirs[name]) < 1e-7
        else:
            tolerance = 3e-4 if name == "distances.0.bias" else 1e-4
            assert goldens.relative_error(parameter.grad, theirs[name]) <= tolerance, name


def patched(head, frame):
    """P of a map (D, H, W), patch by patch."""
    part, (features, height, width) = head.patches, frame.shape
    code, patches = faint_positions(16, torch.empty(features, dtype=frame.dtype)), []
    for i in range(4):
        for j in range(4):
            rows = range(i * height // 4, -(-(i + 1) * height // 4))
            columns = range(j * width // 4, -(-(j + 1) * width // 4))
            cells = torch.stack([frame[:, y, x] for y in rows for x in columns])
            patches.append(cells.amax(0) + code[len(patches)])
    enriched = []
    for patch in patches:
        weights = torch.stack([part.query(patch) @ part.key(other) for other in patches]).softmax(0)
        seen = sum(weight * part.value(other) for weight, other in zip(weights, patches, strict=True))
        patch = patch + part.gate * seen
        enriched.append(patch + part.mlp[4](F.relu(part.mlp[2](F.relu(part.mlp[0](patch))))))
    return sum(enriched) / 16


def mixed(head, frames):
    """Y of P (T, D), channel by channel, then frame by frame."""
    time, channels = head.mixer.time, head.mixer.channels
    frames = frames + faint_positions(len(frames), frames)
    columns = [column + time[2](F.relu(time[0](column))) for column in frames.T]
    return torch.stack([row + channels[2](F.relu(channels[0](row))) for row in torch.stack(columns, dim=1)])


def tuples(distance, frames):
    """What whole tuples of P (T, D) are projected to."""
    rows = []
    for places in combinations(range(len(frames)), distance.size):
        blocks = distance.project.weight.chunk(distance.size)
        rows.append(F.relu(sum(block @ frames[t] for block, t in zip(blocks, places, strict=True)) + distance.bias))
    return rows


@pytest.mark.parametrize("grid", [(1, 1), (5, 7)])
def test_it_is_what_loops_over_patches_frames_and_tuples_give(grid):
    """Unequal shots, shuffled labels, two episodes at once, maps that are smaller and larger than 4x4."""
    head = small()
    rng = torch.Generator().manual_seed(1)
    support, query = (torch.randn(2, n, 4, 16, *grid, generator=rng, dtype=torch.float64) for n in (5, 2))
    labels = torch.tensor([[2, 0, 1, 0, 0], [0, 1, 2, 2, 1]])
    logits = head(support, labels, query)
    assert logits.shape == (2, 2, 3)
    for e in range(2):
        theirs, ours = (
            [torch.stack([patched(head, x) for x in clip]) for clip in side[e]] for side in (support, query)
        )
        seen, asked = (torch.stack([mixed(head, clip) for clip in side]) for side in (theirs, ours))
        expected = head.trx(seen, labels[e], asked)
        for distance in head.distances:
            for q in range(2):
                for c in range(3):
                    of_class = [row for i in range(5) if labels[e, i] == c for row in tuples(distance, theirs[i])]
                    rows = tuples(distance, ours[q])
                    nearest = [min((row - other).norm() for other in of_class) for row in rows]
                    expected[q, c] = expected[q, c] - 0.1 * sum(nearest) / len(rows) / len(head.distances)
        torch.testing.assert_close(logits[e], expected, rtol=0, atol=1e-10)


def test_the_released_auxiliary_projection_does_not_train_and_still_teaches_what_comes_before_it():
    gradients = []
    for options in ({"auxiliary_trained": False}, {"auxiliary_trained": False, "auxiliary_weight": 2.0}):
        head = small(**options)
        loss, _ = head.loss(heads_small.episode(head, dtype=torch.float64))
        loss.backward()
        frozen = {name for name, parameter in head.named_parameters() if not parameter.requires_grad}
        assert frozen == {f"distances.{i}.{end}" for i in range(2) for end in ("bias", "project.weight")}
        assert frozen <= head.state_dict().keys()
        assert len(head.trainable_parameters()) == len(list(head.parameters())) - len(frozen)
        gradients.append(head.patches.mlp[0].weight.grad)
    assert not torch.allclose(*gradients)


def test_auxiliary_weight_scales_logits_and_loss_and_may_be_zero():
    values, weights = {}, small().state_dict()
    for weight in (0.0, 0.1, 1.0):
        head = small(auxiliary_weight=weight)
        head.load_state_dict(weights, strict=bool(weight))
        episode = heads_small.episode(head, dtype=torch.float64)
        values[weight] = torch.cat([x.flatten() for x in head.loss(episode)])
        assert len(head.distances) == (2 if weight else 0)
    torch.testing.assert_close(values[1.0] - values[0.0], 10 * (values[0.1] - values[0.0]))
    assert not torch.allclose(values[1.0], values[0.0])


def test_near_tuples_keep_their_distance():
    """A query that is nearly a support clip; products would give a distance of the order of their rounding."""
    head = small()
    clips = 10 * torch.randn(2, 4, 16, 2, 2, dtype=torch.float64)
    query = clips[:1] + 1e-4 * torch.randn(1, 4, 16, 2, 2, dtype=torch.float64)
    labels = torch.tensor([0, 1])
    exact = head._logits(head.embed(clips), labels, head.embed(query), 2)[1]
    head.float()
    close = head._logits(head.embed(clips.float()), labels, head.embed(query.float()), 2)[1]
    assert abs(close[0, 0] / exact[0, 0] - 1) < 0.05


def test_half_precision_does_not_reach_sums_that_nothing_scales():
    head = small().float()
    maps = 300 * torch.randn(2, 4, 16, 2, 2)
    exact = head.embed(maps)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(head.embed(maps), exact)
    assert head.embed(maps.half()).dtype == torch.float32


def test_the_auxiliary_projection_starts_as_a_linear_layer_on_whole_tuples():
    head = heads.build("strm", features=64, cardinalities=(2, 3)).requires_grad_(False)
    for size, distance in zip((2, 3), head.distances, strict=True):
        whole = torch.nn.Linear(size * 64, 32).requires_grad_(False)
        for ours, theirs in ((distance.project.weight, whole.weight), (distance.bias, whole.bias)):
            assert ours.numel() == theirs.numel()
            assert ours.abs().max() == pytest.approx(theirs.abs().max().item(), rel=0.2)


def test_drop_out_is_for_training():
    """Also that of the auxiliary distance, which the release leaves on."""
    head = small(dropout=0.5)
    episode = heads_small.episode(head, dtype=torch.float64)

    def parts():
        return head._logits(head.embed(episode.support), episode.labels, head.embed(episode.query), 3)

    assert all(map(torch.equal, parts(), parts()))
    head.distances.train()
    (logits, auxiliary), (again, other) = parts(), parts()
    assert torch.equal(logits, again) and not torch.equal(auxiliary, other)


def test_a_checkpoint_of_the_release_goes_into_encoder_and_head():
    """Which has no auxiliary weights: the head is built without them."""
    backbone = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(16, 16, 32, 64))
    encoder = d2st.adapt(backbone, d2st.NoneConfig(), frames=4, image_size=32)
    sequence = torch.nn.Sequential(*list(backbone.children())[:-1])
    state = {f"resnet.module.{key}": value + 1 for key, value in sequence.state_dict().items()}
    shapes = {"attn_pat.gamma": (1,)}
    layers = {f"attn_pat.{name}": (64, 64) for name in ("key_proj", "query_proj", "value_conv")}
    layers |= {
        f"attn_pat.Bot_MLP.{name}_fc": s for name, s in (("inp", (32, 64)), ("hid", (32, 32)), ("out", (64, 32)))
    }
    layers |= {f"fr_enrich.Tok_MLP.{name}_fc": (4, 4) for name in ("inp", "out")}
    layers |= {f"fr_enrich.Bot_MLP.{name}_fc": (64, 64) for name in ("inp", "out")}
    layers |= {f"transformers.0.{name}_linear": (8, 128) for name in "kv"}
    layers |= {f"transformers.0.norm_{name}": (8,) for name in "kv"}
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    state |= {key: torch.full(shape, 3.0) for key, shape in shapes.items()}
    state |= {f"{name}.pe.pe": torch.zeros(1, 6, 64) for name in ("attn_pat", "fr_enrich", "transformers.0")}

    head = heads.build("strm", features=64, frames=4, width=8, auxiliary_weight=0)
    assert not any(key.startswith("resnet") for key in d2st.official.load(encoder, state, system="strm"))
    torch.testing.assert_close(encoder.backbone.conv1.weight, state["resnet.module.0.weight"])
    spare = d2st.official.load(head, state, system="strm")
    assert {key.split(".")[0] for key in spare} == {"resnet", "attn_pat", "fr_enrich", "transformers"}
    assert all((parameter == 3).all() for parameter in head.parameters())
    with pytest.raises(d2st.D2STError, match=r"missing keys \['distances.0.bias'"):
        d2st.official.load(heads.build("strm", features=64, frames=4, width=8), state, system="strm")


def test_evaluation_plans_for_tuples_and_their_distances():
    head = small(cardinalities=(2,)).float()
    clip = head.embed(torch.randn(4, 16, 2, 2))
    assert clip.shape == (4, 2 * (2 * 12 + 8))
    numbers = 3 * 35 * 6 * 8 + 2 * 25 * 10 * 6**2
    assert head.episode_bytes(clip, 25, 10, 5) == 35 * clip.nbytes + 4 * numbers
    assert small(auxiliary_weight=0).episode_bytes(clip, 25, 10, 5) == 35 * clip.nbytes


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ({}, (5, 16, 2, 2), r"maps \(..., 4, 16, H, W\); these are \(1, 5, 16, 2, 2\).*frames as frames"),
        ({}, (4, 12, 2, 2), r"maps \(..., 4, 16, H, W\); these are \(1, 4, 12, 2, 2\)"),
        ({}, (16,), r"these are \(1, 16\)"),
        ({"frames": 2}, (2, 16, 2, 2), "tuples of 3 frames and was given clips of 2"),
        ({"cardinalities": ()}, (), "different whole numbers of frames"),
        ({"features": 1}, (), "features=1 must be a whole number from 2"),
        ({"auxiliary_weight": -1.0}, (), "auxiliary_weight=-1.0 must be"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(options, shape, said):
    with pytest.raises(d2st.D2STError, match=said):
        heads_small.build("strm", **options).embed(torch.randn(1, *shape))
