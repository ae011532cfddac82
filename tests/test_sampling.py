"""Reading between the cells of a volume."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.layers.trilinear import gathered, sample

counts = st.integers(1, 4)


@settings(max_examples=40, deadline=None)
@given(volume=st.tuples(counts, counts, counts), points=st.tuples(counts, counts, counts), reach=st.floats(0.1, 3))
def test_what_is_gathered_is_what_is_sampled(volume, points, reach):
    """Values and gradients, also of points outside."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, *volume, dtype=torch.float64, requires_grad=True)
    where = (torch.rand(2, *points, 3, dtype=torch.float64) * 2 - 1).mul(reach).requires_grad_()
    expected, got = sample(x, where), gathered(x, where)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn_like(expected)
    for a, b in zip(*(torch.autograd.grad(y, (x, where), g) for y in (got, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
