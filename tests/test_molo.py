"""MoLo against a second implementation in loops, written from the formulas: the authors' numbers are not at hand.

Logits, every part of the loss, and the gradients of weights and inputs agree to round-off in float64.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from families import BACKBONES
from torch import nn

import d2st
from d2st import heads
from d2st.errors import D2STError
from d2st.heads.molo import MotionDecoder

WIDTH, GRID, PIXELS = 16, (2, 3), (64, 96)  # 32 pixels a cell, as in the release


def small(**options):
    torch.manual_seed(0)
    head = heads.build("molo", features=WIDTH, hidden=24, **({"heads": 4} | options)).double()
    for module in head.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return head


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def episode(frames=4, lead=(), labels=(2, 0, 1, 0), targets=(1, 0, 2), video=True, grid=GRID, pixels=PIXELS):
    support, query = draw(*lead, len(labels), frames, WIDTH, *grid), draw(*lead, len(targets), frames, WIDTH, *grid)
    return heads.EncodedEpisode(
        support=support.abs().requires_grad_(),
        labels=torch.tensor(labels),
        query=query.abs().mul(1.5).requires_grad_(),
        targets=torch.tensor(targets),
        classes=torch.tensor([6, 2, 4]),
        support_video=draw(*lead, len(labels), frames, 3, *pixels, seed=2) if video else None,
        query_video=draw(*lead, len(targets), frames, 3, *pixels, seed=3) if video else None,
    )


def layer_norm(x, norm):
    return (x - x.mean(-1, keepdim=True)) / (
        x.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt() * norm.weight + norm.bias


def transformer_loop(x, transformer):
    """One clip's tokens (N, D), row by row and head by head."""
    (a,), (f,) = transformer.attention, transformer.feed_forward
    q, k, v = (layer_norm(x, a.norm) @ a.qkv.weight.T).chunk(3, 1)
    rows = []
    for i in range(len(x)):
        parts = []
        for q1, k1, v1 in zip(q[i].chunk(a.heads), k.chunk(a.heads, 1), v.chunk(a.heads, 1), strict=True):
            parts.append(torch.softmax(k1 @ q1 / math.sqrt(len(q1)), 0) @ v1)
        rows.append(torch.cat(parts) @ a.output.weight.T + a.output.bias)
    x = x + torch.stack(rows)
    return x + F.gelu(x @ f[0].weight.T + f[0].bias) @ f[3].weight.T + f[3].bias


def tokens_loop(x, token, transformer, scale=10.0, weight=1.0):
    """Frames or motions of one clip (T, D) -> its token (D,) and them."""
    x = torch.stack([token, *x])
    code = torch.zeros_like(x)
    for p in range(len(x)):
        for i in range(0, WIDTH, 2):
            code[p, i] = math.sin(p / 10000 ** (2 * i / WIDTH))
            code[p, i + 1] = math.cos(p / 10000 ** (2 * (i + 1) / WIDTH))
    out = torch.relu(transformer_loop(math.sqrt(WIDTH / scale) * x + weight * code, transformer))
    return out[0], out[1:]


def clip_loop(head, maps):
    """One clip's maps (T, D, H, W) -> (token, frames), (token, motions), differences."""
    reduce, conv, expand = head.motion.reduce, head.motion.conv, head.motion.expand
    padded = torch.cat([torch.zeros_like(maps[:1]), maps, torch.zeros_like(maps[:1])])
    reduced = []
    for t in range(len(maps)):  # a 3D convolution is three 2D ones
        at = sum(F.conv2d(padded[t + k][None], reduce.weight[:, :, k], padding=1)[0] for k in range(3))
        reduced.append(at + reduce.bias[:, None, None])
    differences, motions = [], []
    for t in range(len(maps) - 1):
        differences.append(F.conv2d(reduced[t + 1][None], conv.weight, conv.bias, padding=1)[0] - reduced[t])
        up = torch.einsum("dc,chw->dhw", expand.weight[:, :, 0, 0], differences[-1]) + expand.bias[:, None, None]
        motions.append(torch.relu(up).mean((1, 2)))
    frames = [frame.mean((1, 2)) for frame in maps]
    of_frames = tokens_loop(frames, head.frame_token, head.frame_transformer)
    return of_frames, tokens_loop(motions, head.motion_token, head.motion_transformer), differences


def cosine(x, y):
    return x @ y / (x.norm() * y.norm() + 0.01)


def set_distance(xs, ys):
    d = torch.stack([torch.stack([1 - cosine(x, y) for y in ys]) for x in xs])
    return d.amin(0).sum() + d.amin(1).sum()


def draw_loop(decoder, differences):
    """(N, C, h, w) -> (N, 3, 32h, 32w), enlarged 2, 4 and 4 times."""
    x = differences
    for factor, conv, norm in zip((2, 4, 4), decoder.convs, decoder.norms, strict=True):
        x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)
        x = F.conv2d(x, conv.weight, padding=1)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        x = (x - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        x = torch.relu(x * norm.weight[:, None, None] + norm.bias[:, None, None])
    return torch.einsum("oc,nchw->nohw", decoder.colors.weight[:, :, 0, 0], x) + decoder.colors.bias[:, None, None]


def reference(head, one):
    """Logits, and the parts of the loss: episode, classes, four contrasts, reconstruction."""
    support, query = ([clip_loop(head, clip) for clip in clips] for clips in (one.support, one.query))
    logits, contrasts = [], []
    for f, t, _ in query:
        row, contrast = [], []
        for c in range(3):
            of_class = [clip for clip, label in zip(support, one.labels, strict=True) if label == c]
            (token, frames), (motion_token, motions) = (
                tuple(sum(clip[kind][part] for clip in of_class) / len(of_class) for part in range(2))
                for kind in range(2)
            )
            row.append(-set_distance(frames, f[1]) - 0.3 * set_distance(motions, t[1]))
            contrast.append(
                torch.stack(
                    [
                        -head.frame_scale[0] * sum(1 - cosine(x, f[0]) for x in frames),
                        -head.frame_scale[0] * sum(1 - cosine(x, token) for x in f[1]),
                        -head.motion_scale[0] * sum(1 - cosine(x, t[0]) for x in motions),
                        -head.motion_scale[0] * sum(1 - cosine(x, motion_token) for x in t[1]),
                    ]
                )
            )
        logits.append(torch.stack(row))
        contrasts.append(torch.stack(contrast, 1))  # (4, way)
    logits, contrasts = torch.stack(logits), torch.stack(contrasts, 1)
    named = []
    for (token, frames), (motion_token, motions), _ in (*support, *query):
        mean = torch.stack([token, *frames]).mean(0) + torch.stack([motion_token, *motions]).mean(0)
        named.append(head.classifier(mean))
    ids = one.classes[torch.cat([one.labels, one.targets])]
    drawn = draw_loop(head.decoder, torch.stack([d for clip in (*support, *query) for d in clip[2]]))
    truth = [clip[t + 1] - clip[t] for clip in (*one.support_video, *one.query_video) for t in range(len(clip) - 1)]
    return (
        logits,
        F.cross_entropy(logits, one.targets),
        F.cross_entropy(torch.stack(named), ids),
        sum(F.cross_entropy(contrast, one.targets) for contrast in contrasts),
        (drawn - torch.stack(truth)).square().mean(),
    )


def test_logits_losses_and_gradients_are_those_of_the_loops():
    one = episode()
    head = small(classes=7, class_weight=0.8, reconstruction_weight=0.1, contrast_scale=1.3).train()
    loss, logits = head.loss(one)
    theirs, matching, naming, contrasting, drawing = reference(head, one)
    torch.testing.assert_close(logits, theirs, rtol=0, atol=1e-10)
    total = matching + 0.8 * naming + 0.05 * contrasting + 0.1 * drawing
    torch.testing.assert_close(loss, total, rtol=0, atol=1e-10)
    parameters = dict(head.named_parameters()) | {"support": one.support, "query": one.query}
    probe = draw(3, 3, seed=4)
    ours, expected = (
        torch.autograd.grad(value + (scores * probe).sum(), list(parameters.values()))
        for value, scores in ((loss, logits), (total, theirs))
    )
    for name, x, y in zip(parameters, ours, expected, strict=True):
        assert y.abs().max() > 0, name
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10, msg=name)


def test_parts_of_the_loss_are_options():
    one = episode(video=False)
    weights = dict(reconstruction_weight=0.0, contrast_weight=0.0)
    loss, logits = small(**weights).loss(one)
    torch.testing.assert_close(loss, F.cross_entropy(logits, one.targets))
    more = small(**(weights | {"contrast_weight": 0.1}))
    assert more.loss(one)[0] > loss
    fixed = small(train_contrast_scale=False)
    assert not any(name.endswith("scale") for name in fixed.state_dict())
    torch.testing.assert_close(fixed.loss(episode())[0], small().loss(episode())[0])
    assert small().needs_video and not small(**weights).needs_video


def test_motion_counts_by_its_weight():
    one = episode()
    plain, half, full = (small(motion_weight=weight)(one.support, one.labels, one.query) for weight in (0.0, 0.5, 1.0))
    assert not torch.allclose(plain, full)
    torch.testing.assert_close(half, (plain + full) / 2, rtol=0, atol=1e-10)


def test_neither_decoder_nor_its_target_is_made_at_test_time(monkeypatch):
    one, head, drawn = episode(), small(classes=7).eval(), []
    monkeypatch.setattr(MotionDecoder, "forward", lambda *a: drawn.append("forward"))
    monkeypatch.setattr(MotionDecoder, "loss", lambda *a: drawn.append("loss") or torch.zeros(()))
    head.classifier.register_forward_hook(lambda *a: drawn.append("classes"))
    head(one.support, one.labels, one.query)
    clips = head.embed(one.query)
    head.train().match(head.embed(one.support), one.labels, clips)
    assert drawn == []
    assert clips.shape == (3, 2 * 4 + 1, WIDTH)
    head.loss(one)
    assert sorted(drawn) == ["classes", "classes", "loss"]


@pytest.mark.parametrize(
    ("grid", "pixels"), [((7, 7), (224, 224)), ((14, 14), (224, 224)), ((3, 5), (48, 80)), ((4, 4), (8, 8))]
)
def test_any_map_and_image_size(grid, pixels):
    """Every stage enlarges: 7 x 7 becomes 14, 56 and 224 as released."""
    decoder, sizes = MotionDecoder(2, (4, 3, 2)).eval(), []
    for conv in decoder.convs:
        conv.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[2:])))
    assert decoder(torch.randn(1, 2, *grid), pixels).shape == (1, 3, *pixels)
    assert sizes == sorted(sizes) and sizes[-1] == pixels
    if grid == (7, 7):
        assert sizes == [(14, 14), (56, 56), (224, 224)]


def test_leading_dimensions_and_clips_of_other_lengths():
    head, one = small().eval(), episode(lead=(2,))
    logits = head(one.support, one.labels, one.query)
    alone = torch.stack([head(s, one.labels, q) for s, q in zip(one.support, one.query, strict=True)])
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-10)
    longer = draw(3, 6, WIDTH, *GRID)
    assert head(one.support[0], one.labels, longer).shape == (3, 3)


def test_refusals_are_sentences():
    one = episode()
    with pytest.raises(D2STError, match=r"maps \(..., T, 16, H, W\); these are \(4, 5, 12, 2, 3\)"):
        small()(draw(4, 5, 12, 2, 3), one.labels, one.query)
    with pytest.raises(D2STError, match="2 frames or more, not 1"):
        small()(one.support[:, :1], one.labels, one.query)
    with pytest.raises(D2STError, match="was given none"):
        small().loss(episode(video=False))
    with pytest.raises(D2STError, match="4 clips with 4 frames and 4 clips with 3 frames"):
        small().loss(replace(one, support_video=one.support_video[:, 1:]))
    with pytest.raises(D2STError, match=r"must be a (whole )?number (of at least|from) 0"):
        small(motion_weight=-1)
    with pytest.raises(D2STError, match="reduction of the head 'molo' must be 1 to 16, its width, not 17"):
        small(reduction=17)


def test_the_release_s_layout_goes_into_the_head():
    """Every key of the authors' module at width 16, as its framework saves it; each lands somewhere else."""
    layer = {"0.norm.weight": (16,), "0.norm.bias": (16,), "0.fn.to_qkv.weight": (48, 16),
             "0.fn.to_out.0.weight": (16, 16), "0.fn.to_out.0.bias": (16,), "1.net.0.weight": (24, 16),
             "1.net.0.bias": (24,), "1.net.3.weight": (16, 24), "1.net.3.bias": (16,)}  # fmt: skip
    shapes = {"class_token": (1, 1, 16), "class_token_motion": (1, 1, 16), "scale": (1,), "scale_motion": (1,),
              "motion_reduce.weight": (2, 16, 3, 3, 3), "motion_reduce.bias": (2,),
              "motion_conv.weight": (2, 2, 3, 3), "motion_conv.bias": (2,),
              "motion_up.weight": (16, 2, 1, 1), "motion_up.bias": (16,),
              "classification_layer.weight": (7, 16), "classification_layer.bias": (7,), "pe.pe": (1, 20, 16),
              "outc.conv.weight": (3, 16, 1, 1), "outc.conv.bias": (3,)}  # fmt: skip
    for name in ("temporal_atte_before", "temporal_atte_before_motion"):
        shapes |= {f"{name}.layers.0.{key}": shape for key, shape in layer.items()}
    for name, before, after in (("up1", 2, 128), ("up2", 128, 32), ("up3", 32, 16)):
        block = f"{name}.conv.double_conv"
        shapes[f"{block}.0.weight"] = (after, before, 3, 3)
        shapes |= dict.fromkeys([f"{block}.1.{x}" for x in ("weight", "bias", "running_mean", "running_var")], (after,))
        shapes[f"{block}.1.num_batches_tracked"] = ()
    state = {f"head.{key}": torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())}
    state["head.backbone.0.weight"] = torch.zeros(64, 3, 7, 7)
    head = small(classes=7)
    assert d2st.official.load(head, state, "molo").keys() == {"pe.pe", "backbone.0.weight"}
    values = [tensor.flatten()[0].item() for tensor in head.state_dict().values()]
    assert len(set(values)) == len(values) == len(shapes) - 1
    assert (
        head.motion_token[0] == 1
        and head.decoder.norms[1].running_mean[0] == state["head.up2.conv.double_conv.1.running_mean"][0]
    )
    lean = small(contrast_weight=0.0, reconstruction_weight=0.0)
    assert {"up1", "outc", "scale", "scale_motion", "classification_layer"} <= {
        key.split(".")[0] for key in d2st.official.load(lean, state, "molo")
    }
    encoder = d2st.adapt(BACKBONES["resnet-basic"](), d2st.NoneConfig(), frames=4, image_size=32)
    without = {key: value for key, value in state.items() if "backbone" not in key}
    with pytest.raises(d2st.D2STError, match=r"holds nothing for VideoEncoder: .* other parts, such as 'class_token'"):
        d2st.official.load(encoder, without, "molo")


def test_short_clips_in_half_precision_have_the_right_gradients():
    """Of two frames, which is less than the kernel: on CPUs PyTorch's own convolution is wrong there."""
    head, maps = small().float(), draw(2, 2, WIDTH, 4, 4).float()
    gradients = []
    for enabled in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled):
            head.motion(maps).float().square().sum().backward()
        gradients.append(head.motion.reduce.weight.grad.clone())
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()
