"""Backbones of every family, tiny, and clips for them."""

from dataclasses import replace

import timm
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, model_cfgs
from timm.models.eva import Eva
from timm.models.regnet import RegNet, RegNetCfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import d2st

SIZE, FRAMES = 32, 8
VIT = dict(img_size=SIZE, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0)
VITS = {
    "vit": lambda: VisionTransformer(**VIT),
    "clip-vit": lambda: VisionTransformer(**VIT, pre_norm=True),
    "siglip": lambda: VisionTransformer(**VIT, class_token=False, global_pool="map"),
    "dinov2-registers": lambda: VisionTransformer(**VIT, reg_tokens=4, no_embed_class=True, init_values=1e-5),
    "dinov3": lambda: Eva(**VIT, num_reg_tokens=4, use_rot_pos_emb=True, use_abs_pos_emb=False),
}
CLIP_RESNET = replace(
    model_cfgs["resnet50_clip"],
    blocks=tuple(ByoBlockCfg(type="bottle", d=1, c=c, s=s, br=0.5) for c, s in ((16, 1), (32, 2), (32, 2), (64, 2))),
    stem_chs=(8, 8, 16),
)
CNNS = {
    "resnet-basic": lambda: ResNet(BasicBlock, (1, 2, 1, 1), num_classes=0, channels=(16, 16, 32, 64)),
    "resnet-bottleneck": lambda: ResNet(Bottleneck, (1, 1, 1, 1), num_classes=0, channels=(8, 16, 16, 16)),
    "clip-resnet": lambda: ByobNet(CLIP_RESNET, img_size=SIZE, num_classes=0),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=0),
    "swin": lambda: SwinTransformer(
        img_size=SIZE, patch_size=2, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4), window_size=4,
        drop_path_rate=0.0,
        num_classes=0,
    ),
    "regnet": lambda: RegNet(RegNetCfg(depth=5, w0=8, wa=8.0, wm=1.6, group_size=8), num_classes=0),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=0),
}  # fmt: skip
BACKBONES = VITS | CNNS

VIT_B16, VIT_L14 = "vit_base_patch16_clip_quickgelu_224", "vit_large_patch14_clip_quickgelu_224"
RESNET50 = "resnet50"


def on_meta(config, frames=FRAMES, name=VIT_B16):
    """An encoder of full size without values, and a clip for it: what can be counted costs neither memory nor time."""
    backbone = timm.create_model(name, num_classes=0, device="meta")
    return d2st.adapt(backbone, config, frames=frames), torch.zeros(1, frames, 3, 224, 224, device="meta")


def same(one, other, family):
    """Whether two are alike bit for bit; of an attention pool almost.

    The last bits of its one query depend on where in memory it lies, in torch 2.9 and before.
    """
    return torch.allclose(one, other, rtol=0, atol=1e-6 if family == "siglip" else 0)


def clips(batch=2, frames=FRAMES, size=(SIZE, SIZE), seed=0):
    """Random clips (B, T, 3, H, W)."""
    return torch.randn(batch, frames, 3, *size, generator=torch.Generator().manual_seed(seed))


def check_clips_do_not_mix(encoder):
    """In evaluation a clip's features depend neither on the other clips of its batch, nor on their number and order."""
    video = clips(batch=3)
    with torch.no_grad():
        encoder.train()(5 + 3 * video)  # running statistics, where there are some, that are not those of any batch
        features = encoder.eval()(video)
        others = torch.cat([1e3 * video[:1], video[1:2].flip(1), video[2:]])
        for batch, place in ((video[2:], 0), (video.flip(0), 0), (others, 2), (video[[2, 2]], 1)):
            torch.testing.assert_close(encoder(batch)[place], features[2], rtol=1e-4, atol=1e-5)


def move(encoder):
    """Give what trains weights as if it had been trained for a while."""
    with torch.no_grad():
        for parameter in encoder.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


def gradients(encoder, video):
    """Name -> gradient of a loss that sees every output."""
    encoder.zero_grad()
    encoder(video).square().mean().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.requires_grad and p.grad is not None}
