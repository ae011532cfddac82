"""Clips of several lengths under torch.compile."""

import pytest
import torch
from families import BACKBONES, FRAMES, clips, move
from torch._dynamo.utils import counters

import d2st


@pytest.mark.parametrize("system", ["st", "d2st", "d2st-local"])
def test_clip_lengths_have_a_graph_each_at_most(system):
    """And come back to it, whatever was encoded before."""
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), system, frames=FRAMES)
    move(encoder)
    lengths = (4, 5, 6, 7, 8, 9, 10, 12) if system == "st" else (4, 6, 8, 10)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(encoder, backend="eager")
    with torch.no_grad():
        for frames in (*lengths, *lengths[::-1]):
            video = clips(frames=frames)
            torch.testing.assert_close(compiled(video), encoder(video), rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] <= len(lengths)
    assert not counters["unimplemented"] and not counters["graph_break"]
    with torch._dynamo.config.patch(error_on_recompile=True), torch.no_grad():
        for frames in lengths:
            compiled(clips(frames=frames))
    torch._dynamo.reset()
