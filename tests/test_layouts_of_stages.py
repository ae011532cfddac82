"""Where a stage's channels lie, in models that do not say it, and stages that are more than a container."""

import pytest
import torch
from families import SIZE, clips
from timm.models.rdnet import RDNet
from timm.models.vision_transformer_sam import VisionTransformerSAM
from timm.models.volo import VOLO

import d2st

CHANNELS_LAST = {
    "sam": lambda: VisionTransformerSAM(
        img_size=SIZE, patch_size=8, embed_dim=24, depth=4, num_heads=2, window_size=0, num_classes=0
    ),
    "volo": lambda: VOLO(
        layers=(1, 1, 1, 1),
        img_size=2 * SIZE,
        patch_size=8,
        stem_hidden_dim=8,
        embed_dims=(24, 32, 32, 32),
        num_heads=(2, 2, 2, 2),
        downsamples=(True, False, False, False),
        outlook_attention=(True, False, False, False),
        num_classes=0,
    ),
}


@pytest.mark.parametrize("family", CHANNELS_LAST)
def test_an_adapter_gets_the_channels_and_the_cells_of_a_stage(family):
    torch.manual_seed(0)
    model = CHANNELS_LAST[family]().eval()
    side = 2 * SIZE if family == "volo" else SIZE
    video = clips(batch=1, frames=2, size=(side, side))
    frozen = model.forward_head(model.forward_features(video[0]), pre_logits=True)  # timm 1.0.29 adds more to VOLO's
    encoder = d2st.adapt(model, d2st.D2STConfig(), frames=2, image_size=side)
    torch.testing.assert_close(encoder(video)[0], frozen)
    _, maps = encoder.features_and_stages(video)
    assert [stage.shape[2] for stage in maps] == [stage["num_chs"] for stage in model.feature_info]


def test_a_change_in_a_corner_of_a_frame_reaches_the_adapter_in_that_corner():
    torch.manual_seed(0)
    model = CHANNELS_LAST["sam"]().eval()
    seen = {}

    class Spy(torch.nn.Module):
        def forward(self, x, grid):
            seen["tokens"], seen["grid"] = x, grid
            return x

    encoder = d2st.adapt(model, d2st.VanillaConfig(positions=(0,)), frames=2, image_size=SIZE)
    hook = next(iter(model.blocks[0]._forward_hooks.values()))
    hook.adapter = Spy()
    video = clips(batch=1, frames=2)
    encoder(video)
    before = seen["tokens"]
    video[..., :8, 24:] += 10
    encoder(video)
    moved = (seen["tokens"] - before).norm(dim=-1)[0, 0].view(seen["grid"])
    assert seen["grid"] == (4, 4) and moved.argmax() == 3


def test_a_stage_that_does_more_than_its_children_is_adapted_at_its_end():
    torch.manual_seed(0)
    model = RDNet(
        growth_rates=(8, 8, 8, 8),
        num_blocks_list=(1, 1, 1, 1),
        block_type=("Block",) * 4,
        is_downsample_block=(None, True, True, True),
        num_init_features=16,
        num_classes=0,
    ).eval()
    encoder = d2st.adapt(model, d2st.VanillaConfig(), frames=2, image_size=64)
    widths = [adapter.down.in_features for adapter in encoder.adapters.values()]
    assert widths == [stage["num_chs"] for stage in model.feature_info]
