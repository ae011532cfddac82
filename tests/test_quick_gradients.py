"""Gradients that take a quicker way on a CPU are those of PyTorch's own layers."""

import math

import pytest
import torch
import torch.nn.functional as F
from families import BACKBONES, FRAMES, SIZE, VITS, clips
from timm.layers.activations import QuickGELU

import d2st
from d2st.layers import attention
from d2st.layers.attention import QuickGradient, attend
from d2st.layers.frozen import LeanQuickGELU

SHAPES = [(2, 3, 5, 4, 8), (1, 2, 7, 7, 4), (3, 1, 1, 6, 2)]  # B, heads, queries, keys, width


def inputs(shape, dtype=torch.float64):
    """Queries, keys and values of a layer that makes them in one product, so that they are views of it."""
    batch, heads, queries, keys, width = shape
    torch.manual_seed(0)
    made = (torch.randn(batch, n, heads, width).to(dtype) for n in (queries, keys, keys))
    return [tensor.transpose(1, 2).requires_grad_() for tensor in made]


@pytest.fixture
def any_type(monkeypatch):
    """Take the products for other types than bf16 too, so that they can be compared in float64."""
    monkeypatch.setattr(attention, "_gains", lambda *inputs: True)


@pytest.mark.parametrize("piece", [1, 40, 2**20], ids=lambda n: f"pieces of {n}")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [None, 0.7])
def test_gradients_of_attention(shape, scale, piece, any_type, monkeypatch):
    monkeypatch.setattr(attention, "PIECE", piece)
    given = inputs(shape)
    got, expected = attend(*given, scale=scale), F.scaled_dot_product_attention(*given, scale=scale)
    assert torch.equal(got, expected) and "_Attention" in type(got.grad_fn).__name__
    g = torch.randn_like(got)
    for a, b in zip(*(torch.autograd.grad(y, given, g) for y in (got, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_attention_can_be_differentiated_twice(any_type):
    given = inputs(SHAPES[0])
    assert torch.autograd.gradcheck(attend, given) and torch.autograd.gradgradcheck(attend, given)


def test_several_gradients_of_attention_at_once(any_type):
    given = inputs(SHAPES[0])
    y = attend(*given)
    several = torch.randn(4, *y.shape, dtype=y.dtype)
    got = torch.autograd.grad(y, given, several, is_grads_batched=True, retain_graph=True)
    for i, one in enumerate(several):
        for a, b in zip(got, torch.autograd.grad(y, given, one, retain_graph=True), strict=True):
            torch.testing.assert_close(a[i], b)


def test_attention_in_bf16_rounds_no_more_than_elsewhere():
    given = inputs((2, 4, 50, 50, 16), torch.bfloat16)
    got = attend(*given)
    g = torch.randn_like(got)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    expected = torch.autograd.grad(F.scaled_dot_product_attention(*exact), exact, g.double())
    for a, b in zip(torch.autograd.grad(got, given, g), expected, strict=True):
        assert a.dtype == torch.bfloat16 and (a.double() - b).norm() < 0.01 * b.norm()


def test_what_is_passed_on_to_pytorch():
    """Masks, dropout, causal attention, shared keys, other types, and where no gradient is wanted."""
    q, k, v = inputs((2, 2, 4, 4, 8), torch.bfloat16)
    mask = torch.zeros(4, 4).bfloat16()
    with QuickGradient():
        assert "_Attention" in type(F.scaled_dot_product_attention(q, k, v).grad_fn).__name__
        others = [
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
            F.scaled_dot_product_attention(q, k, v, is_causal=True),
            F.scaled_dot_product_attention(q, k, v, dropout_p=0.5),
            F.scaled_dot_product_attention(q.float(), k.float(), v.float()),
            F.scaled_dot_product_attention(q, k[:1], v[:1]),
            F.scaled_dot_product_attention(q.detach(), k.detach(), v.detach()),
        ]
    assert all("_AttentionBackward" not in type(y.grad_fn).__name__ for y in others)


@pytest.mark.parametrize("family", VITS)
def test_frozen_vits_take_it_in_bf16(family, monkeypatch):
    """Gradients as near to float32's as PyTorch's own are, in blocks that are computed again, too."""
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), d2st.NoneConfig(), frames=FRAMES, image_size=SIZE)
    video, taken = clips(batch=1).requires_grad_(), []
    direction, own = torch.randn(encoder.num_features), attention._write_gradients
    monkeypatch.setattr(attention, "_write_gradients", lambda *args: taken.append(own(*args)))

    def gradient(enabled=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = (encoder(video).float() * direction).sum()  # their squares are constant behind a norm
        return torch.autograd.grad(loss, video)[0]

    expected = gradient(enabled=False)
    assert not taken
    got = gradient()
    assert len(taken) == len(encoder.backbone.blocks)
    assert F.cosine_similarity(got.flatten(), expected.flatten(), dim=0) > 0.995
    encoder.set_grad_checkpointing()
    assert torch.equal(gradient(), got) and len(taken) == 2 * len(encoder.backbone.blocks)


def test_quickgelu_in_bf16():
    """As near to the exact values as the ordinary layer is, and the same bits in other types."""
    x = torch.linspace(-8, 8, 4001).bfloat16()
    exact = QuickGELU()(x.double())
    near = [(layer(x).double() - exact).abs() / exact.abs().clamp(min=1e-3) for layer in (LeanQuickGELU(), QuickGELU())]
    assert near[0].max() <= 1.5 * near[1].max() and near[0].mean() <= 1.1 * near[1].mean()
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert torch.equal(LeanQuickGELU()(x.to(dtype)), QuickGELU()(x.to(dtype)))


def test_scale_is_that_of_pytorch():
    q, k, v = inputs((1, 1, 3, 4, 5))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(5)).softmax(-1)
    torch.testing.assert_close(attend(q, k, v), weights @ v)
