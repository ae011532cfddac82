"""TS-FSAR, the head ``ts-dcm`` and the side network ``lsn``: the authors' numbers, and their definitions in loops."""

from functools import partial

import goldens
import heads_small
import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips, move, on_meta
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

import d2st
from d2st import heads
from d2st.features.encode import encode_batch
from d2st.heads.ts_dcm import channel_distances
from d2st.training.episodic import EpisodicLoss

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def check(ours, theirs, limit, what):
    error = goldens.relative_error(ours, theirs)
    assert error <= limit, f"{what}: {error:.2e}"


def weights(golden, dtype=None, prefix="w/"):
    return goldens.weights(golden, dtype, prefix)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", goldens.find("*dcm_5w*"))
def test_logits_and_gradients_of_the_head_are_the_authors(case, dtype):
    about, golden = goldens.read(case)
    limit = TOLERANCE[dtype] if about["dtype"] == "torch.float64" else 1e-4
    args = about["args"]
    head = heads.build("ts-dcm", features=args["hidden_dim"], alpha=args["DC_ALPHA"]).to(dtype)
    state = {f"ts_dcm.{key}": weight for key, weight in weights(golden, dtype).items()}
    assert d2st.official.load(head, state, "ts-fsar") == {}
    tokens = golden["in/tokens"].to(dtype, copy=True).requires_grad_()
    videos = tokens.unflatten(0, (-1, 8)).transpose(-1, -2)  # (S + Q, T, D, 1 + P)
    support, query = videos[:-5], videos[-5:]

    described = head.embed(videos[:1].detach())[0, :2, : head.described]
    check(described, golden["out/adc0"], limit, "descriptions")
    logits = head(support, golden["in/support_labels"], query)
    check(logits, golden["out/logits"], limit, "logits")
    (logits * golden["c/logits"]).sum().backward()
    check(tokens.grad, golden["gin/tokens"], limit, "gradient of the tokens")
    check(head.generator.weight.grad, golden["g/generator.weight"], limit, "gradient of the weights")


def model_of(golden, args, dtype):
    """Encoder and head of a whole model, with the checkpoint's weights, and what neither has a place for."""
    vit = VisionTransformer(
        img_size=12, patch_size=4, embed_dim=32, depth=args["NUM_LAYERS"], num_heads=4, mlp_ratio=2, num_classes=0,
        pre_norm=True, act_layer=QuickGELU, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    config = d2st.LSNConfig(width=args["OUTPUT_DIM"], temporal=tuple(args["TEMP_LAYERS"]))
    encoder = d2st.adapt(vit, config).to(dtype)
    classes = len(golden["w/model.Linear.weight"])
    head = heads.build("ts-dcm", features=args["OUTPUT_DIM"], classes=classes, class_weight=args["CLS"]).to(dtype)
    state = weights(golden, dtype) | {"model.embeddings.position_ids": torch.arange(10)[None]}
    left = d2st.official.load(encoder, state, "ts-fsar"), d2st.official.load(head, state, "ts-fsar")
    return encoder, head, left


def attention(x, state, heads):
    """Self-attention over the rows of (B, L, C), with the authors' names."""
    layers = ((state[f"{name}.weight"], state[f"{name}.bias"]) for name in ("q_linear", "k_linear", "v_linear"))
    query, key, value = (F.linear(x, *layer).unflatten(2, (heads, -1)).transpose(1, 2) for layer in layers)
    shares = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
    return F.linear((shares @ value).transpose(1, 2).flatten(2), state["proj.weight"], state["proj.bias"])


def text_losses(encoder, golden, args, state, video, tokens, dc_logits, truth):
    """What the release adds: text scores of the side network and of adapted CLIP, and a distillation of these."""
    part = {key.removeprefix("model."): weight for key, weight in state.items()}
    side = F.layer_norm(tokens, tokens.shape[-1:], part["up_ln.weight"], part["up_ln.bias"])
    side = F.normalize((side @ part["up_linear.weight"].T).mean(1), dim=-1)
    with torch.no_grad():
        clip = encoder.backbone.forward_features(video.flatten(0, 1))[:, 0] @ part["projection.weight"].T
        clip = clip.unflatten(0, video.shape[:2])
    norm = F.layer_norm(clip, clip.shape[-1:], part["Adapter.norm1.weight"], part["Adapter.norm1.bias"])
    own = {key.removeprefix("Adapter.attn."): weight for key, weight in part.items()}
    adapted = (2 - args["RES_ALPHA"]) * clip + args["RES_ALPHA"] * attention(norm, own, heads=8)
    text = F.normalize(golden["in/text"], dim=-1)
    side, teacher = (args["TEMP"] * x @ text.T for x in (side, F.normalize(adapted.mean(1), dim=-1)))
    cooled = [(logits / args["KD_T"]).log_softmax(-1) for logits in (dc_logits, teacher)]
    divergence = args["KD_T"] ** 2 * F.kl_div(*cooled, reduction="batchmean", log_target=True)
    distilled = divergence + F.cross_entropy(teacher, truth)
    return args["SIDE"] * F.cross_entropy(side, truth) + args["KD"] * distilled, clip


@pytest.mark.parametrize("case", goldens.find("*model_train_5w1s_f32"))
def test_features_losses_and_gradients_of_the_whole_model_are_the_authors(case):
    """The published checkpoint's layout is read; text scores, which are not in the package, are written out here."""
    about, golden = goldens.read(case)
    encoder, head, (not_encoder, not_head) = model_of(golden, about["args"], torch.float32)
    texts = {key for key in weights(golden) if key.startswith(("model.Adapter.", "model.up_", "model.projection."))}
    others = {"model.Linear.weight", "ts_dcm.generator.weight", "model.embeddings.position_ids"}
    assert not_encoder.keys() == texts | others
    assert texts < not_head.keys()
    state = {key: weight.requires_grad_() for key, weight in weights(golden).items() if key in texts}
    state["model.projection.weight"].requires_grad_(False)

    video = golden["in/images"].unflatten(0, (-1, 8))
    features, maps = encoder.features_and_maps(video)
    tokens = torch.cat([features.unsqueeze(-1), maps.flatten(3)], dim=3).transpose(2, 3)  # (B, T, 1 + P, C)
    check(tokens[:2].flatten(0, 1), golden["out/side_tokens"], 1e-4, "tokens")
    assert torch.equal(encoder(video), features)

    labels, targets = golden["in/support_labels"], golden["in/target_labels"]
    truth = golden["in/real_labels"]
    classes = truth[:5][labels.argsort()]
    assert torch.equal(classes[labels], truth[:5]) and torch.equal(classes[targets], truth[5:])
    videos = head.clips_of(features, maps)
    loss, logits = head.loss(heads.EncodedEpisode(videos[:5], labels, videos[5:], targets, classes))
    check(logits, golden["out/logits"], 1e-4, "logits")
    dc_logits = head.classify(head.embed(videos)).squeeze(1)
    added, clip = text_losses(encoder, golden, about["args"], state, video, features, dc_logits, truth)
    check(clip[:2].flatten(0, 1), golden["out/clip_cls"], 1e-4, "CLIP's class tokens")
    check(loss + added, golden["out/loss"], 1e-4, "loss")

    ((loss + added) * golden["c/loss"]).sum().backward()
    theirs = weights(golden, prefix="g/")
    for target in (encoder, head):
        expected = d2st.official.translate(target, theirs, "ts-fsar")
        own = {name: parameter for name, parameter in target.named_parameters() if parameter.requires_grad}
        assert own.keys() <= expected.keys()
        for name, parameter in own.items():
            check(parameter.grad, expected[name], 1e-4, name)
    for name, weight in state.items():
        if weight.requires_grad and not name.endswith("k_linear.bias"):  # which cancels in the softmax
            check(weight.grad, theirs[name], 1e-4, name)
    assert all(parameter.grad is None for parameter in encoder.backbone.parameters())


@pytest.mark.parametrize("case", goldens.find("*model_train_5w1s_f32"))
def test_the_side_network_is_what_its_formulas_give(case):
    """In float64, a frame or a place at a time, from the authors' weights."""
    about, golden = goldens.read(case)
    encoder, _, _ = model_of(golden, about["args"], torch.float64)
    state = {key.removeprefix("model."): weight for key, weight in weights(golden, torch.float64).items()}
    video = golden["in/images"].double().unflatten(0, (-1, 8))[:2]
    vit = encoder.backbone
    with torch.no_grad():
        levels = [vit.norm_pre(vit._pos_embed(vit.patch_embed(video.flatten(0, 1))))]  # (B*T, N, C)
        for block in vit.blocks:
            levels.append(block(levels[-1]))
        taps = []
        for i, level in enumerate(levels):
            norm = F.layer_norm(level, level.shape[-1:], state[f"side_LN.{i}.weight"], state[f"side_LN.{i}.bias"])
            taps.append(norm @ state[f"side_downsample.{i}.weight"].T)
        x = taps[0]
        for i, tap in enumerate(taps[1:]):
            own = {key.removeprefix(f"side_transformer.{i}."): w for key, w in state.items() if f"mer.{i}." in key}
            x = x + along(F.layer_norm(x, (64,), own["norm1.weight"], own["norm1.bias"]), own, i in (1,))
            hidden = F.layer_norm(x, (64,), own["norm2.weight"], own["norm2.bias"])
            hidden = F.gelu(F.linear(hidden, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
            x = x + F.linear(hidden, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
            gate = torch.sigmoid(state[f"side_gate_params.{i}"] / 0.1)
            x = gate * x + (1 - gate) * tap
        features, maps = encoder.features_and_maps(video)
    x = x.unflatten(0, (2, 8))
    assert goldens.relative_error(features, x[:, :, 0]) < 1e-12
    assert goldens.relative_error(maps, x[:, :, 1:].transpose(2, 3)) < 1e-12


def along(x, state, over_time):
    """Attention of (B*T, N, C) within each frame, or over the frames of each place, one after the other."""
    attn = {key.removeprefix("attn."): weight for key, weight in state.items()}
    out = torch.empty_like(x)
    if not over_time:
        for frame in range(len(x)):
            out[frame] = attention(x[frame : frame + 1], attn, heads=1)[0]
        return out
    for clip in range(0, len(x), 8):
        for place in range(x.shape[1]):
            out[clip : clip + 8, place] = attention(x[None, clip : clip + 8, place], attn, heads=1)[0]
    return out


def test_descriptions_are_what_loops_over_channels_give():
    x, alpha = torch.randn(2, 3, 5, dtype=torch.float64), 0.3  # two frames, 3 channels, 5 cells
    for frame, ours in zip(x, channel_distances(x, alpha), strict=True):
        distances = torch.tensor(
            [[((a - b).square().sum() / 10 + 1e-5) ** alpha for b in frame] for a in frame], dtype=torch.float64
        )
        centering = torch.eye(3, dtype=torch.float64) - 1 / 3
        centered = centering @ distances @ centering
        expected = torch.stack([centered[i, j] for i in range(3) for j in range(i, 3)])
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_near_channels_keep_their_distances_far_from_zero():
    """In float32, where the squares are a million times as large as what they differ by."""
    x = torch.randn(6, 9, dtype=torch.float64)
    torch.testing.assert_close(channel_distances((x + 1000).float(), 0.4).double(), channel_distances(x, 0.4),
                               rtol=0, atol=1e-3)  # fmt: skip


@pytest.mark.parametrize("width", [16, 6])
def test_logits_are_what_loops_over_frames_give(width):
    """Unequal shots, shuffled labels, with and without reduced channels."""
    head = heads_small.build("ts-dcm", width=width).double()
    episode = heads_small.episode(head, shots=(1, 3), queries=2, dtype=torch.float64)

    def describe(clip):
        """(T, D, 1 + P) -> (T, F), (T, C)."""
        rows = [head.reduce(frame.T).T if head.reduce else frame for frame in clip]
        cells = [F.cosine_similarity(f[:, :1], f[:, 1:], dim=0) * f[:, 1:] for f in rows]
        return torch.stack([channel_distances(cell, 0.4) for cell in cells]), torch.stack([f[:, 0] for f in rows])

    support = [describe(clip) for clip in episode.support]
    mean = torch.stack([features for _, features in support]).mean((0, 1))
    logits = head(episode.support, episode.labels, episode.query)
    for q, clip in enumerate(episode.query):
        ours, features = describe(clip)
        weights = (head.generator.weight @ (mean + features.mean(0))).view(4, 4)
        for c in range(2):
            shots = [theirs for (theirs, _), label in zip(support, episode.labels, strict=True) if label == c]
            prototype = sum(shots) / len(shots)
            cosines = ours @ prototype.T / (ours.norm(dim=1)[:, None] * prototype.norm(dim=1) + 0.01)
            torch.testing.assert_close(logits[q, c], (weights * cosines).sum(), rtol=0, atol=1e-10)


def test_what_the_head_cannot_take_is_refused_in_a_sentence():
    head = heads_small.build("ts-dcm")
    with pytest.raises(d2st.D2STError, match="features have width 8, its maps 16 channels"):
        head.clips_of(torch.zeros(1, 4, 8), torch.zeros(1, 4, 16, 2, 2))
    for shape in ((1, 4, 16, 2, 2), (1, 5, 16, 5), (1, 4, 16, 1)):  # maps alone, other frames, no cell
        with pytest.raises(d2st.D2STError, match=r"was built for clips \(..., 4, 16, 1 \+ H\*W\)"):
            head.embed(torch.zeros(shape))


def test_drop_out_is_for_the_classifier_in_training():
    head = heads_small.build("ts-dcm", dropout=0.5)
    episode = heads_small.episode(head)
    (loss, logits), (again, _) = head.loss(episode), head.loss(episode)
    assert loss == again
    (loss, same), (again, _) = head.train().loss(episode), head.loss(episode)
    assert loss != again and torch.equal(same, logits)


def test_evaluation_plans_for_the_pairs_of_frames():
    clip = torch.zeros(4, 152)
    assert heads_small.build("ts-dcm").episode_bytes(clip, 25, 10, 5) == 40 * clip.nbytes + 10 * 6 * 16 * 4


def side(**options):
    torch.manual_seed(0)
    config = d2st.LSNConfig(**{"width": 32} | options)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), config, frames=FRAMES)
    move(encoder)
    return encoder


def test_frames_see_each_other_in_temporal_blocks_alone():
    video = clips()
    other = video.clone()
    other[:, 3] += 1
    for temporal, changed in (((), [3]), ((1,), list(range(FRAMES)))):
        encoder = side(temporal=temporal)
        with torch.no_grad():
            differs = (encoder(video) - encoder(other)).abs().amax((0, 2)) > 1e-6
        assert differs.nonzero().flatten().tolist() == changed


def test_the_released_blocks_are_those_of_a_vit_b():
    encoder, _ = on_meta(d2st.LSNConfig())
    assert [i for i, block in enumerate(encoder.passage.blocks) if block.over_time] == [6, 8, 10]
    assert [block.over_time for block in side().passage.blocks] == [False, True, False]


def test_a_clip_has_any_length():
    encoder = side(temporal=(0, 2))
    for frames in (1, 5):
        features, maps = encoder.features_and_maps(clips(frames=frames))
        assert features.shape == (2, frames, 32) and maps.shape == (2, frames, 32, 4, 4)
    assert encoder.num_features == encoder.map_channels == 32


def test_a_gate_mixes_a_block_with_the_backbone_s():
    """Closed in the end, the feature is the last tap; open, the tap has no part."""
    encoder = side(temporal=())
    passage = encoder.passage
    with torch.no_grad():
        passage.gates[-1] = -100.0
        last = d2st.backbones.features.block_tokens(encoder.backbone, clips(), last=1)[0]
        torch.testing.assert_close(encoder(clips()), passage.taps[-1](last)[:, :, 0])
        passage.gates[-1] = 100.0
        before = encoder(clips())
        passage.taps[-1].linear.weight.zero_()
        torch.testing.assert_close(encoder(clips()), before)


def test_what_the_side_network_cannot_have_is_refused_in_a_sentence():
    with pytest.raises(d2st.D2STError, match=r"temporal=\(1, 3\) must name some of this VisionTransformer's 3 blocks"):
        d2st.adapt(BACKBONES["vit"](), d2st.LSNConfig(temporal=(1, 3)), image_size=SIZE)
    with pytest.raises(d2st.D2STError, match="width=100 must be a multiple of 64"):
        d2st.LSNConfig(width=100)


def test_no_gradient_goes_through_the_backbone():
    video = clips().requires_grad_()
    side().forward(video).sum().backward()
    assert video.grad is None


def test_half_precision_autocast_is_finite():
    encoder = side()
    head = d2st.create_head("ts-dcm", encoder)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = EpisodicLoss(encoder, head, 2, 1, 1)(clips(batch=4), torch.arange(2))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in (*encoder.trainable_parameters(), *head.trainable_parameters()))


def test_clips_are_embedded_for_evaluation_as_for_training():
    encoder = side()
    head = d2st.create_head("ts-dcm", encoder)
    with torch.no_grad():
        features, tokens = encode_batch(encoder, clips(), [head])
        expected = head.embed(head.clips_of(*encoder.features_and_maps(clips())))
    assert torch.equal(features, encoder(clips())) and torch.equal(tokens, expected)


def test_the_two_train_together():
    encoder = side()
    head = d2st.create_head("ts-dcm", encoder)
    assert head.features == 32 and head.frames == FRAMES
    loss, _ = EpisodicLoss(encoder, head, 2, 1, 1)(clips(batch=4), torch.arange(2))
    loss.backward()
    gradients = [parameter.grad for parameter in (*encoder.trainable_parameters(), *head.trainable_parameters())]
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
