"""Loading the authors' layout: refusals. That it is read right is tested with their numbers in test_parity_d2st.py."""

import goldens
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import d2st
from d2st.adapters.d2st import D2STAdapter


def adapter_and_state():
    _, tensors = goldens.read("mini_vit_d2st_w64")
    densities = {"spatial": (2, 4, 4), "temporal": (8, 2, 2)}
    adapter = D2STAdapter(64, 16, volume=(8, 14, 14), densities=densities, groups=4, heads=4)
    return adapter, goldens.weights(tensors, torch.float32)


def test_mismatches_are_listed():
    adapter, state = adapter_and_state()
    del state["up.bias"]
    state["surprise.weight"] = torch.zeros(1)
    with pytest.raises(d2st.D2STError, match=r"missing keys \['up.bias'\], unexpected keys \['surprise.weight'\]"):
        d2st.official.load(adapter, state)


def test_sizes_are_checked():
    adapter, state = adapter_and_state()
    state["down.bias"] = torch.zeros(3)
    with pytest.raises(d2st.D2STError, match=r"other shapes \['down.bias'\]"):
        d2st.official.load(adapter, state)


def test_a_kernel_over_time_is_none_over_space():
    from d2st.adapters.st import STAdapter

    theirs = STAdapter(8, 4, (3, 1, 1)).state_dict()
    theirs |= {f"{name}.weight": theirs[f"{name}.weight"][..., None, None, None] for name in ("down", "up")}
    assert d2st.official.load(STAdapter(8, 4, (3, 1, 1)), theirs) == {}, "a 1x1x1 convolution is a linear layer"
    with pytest.raises(d2st.D2STError, match=r"other shapes \['conv.weight'\]"):
        d2st.official.load(STAdapter(8, 4, (1, 3, 1)), theirs)


def test_ddp_prefix_is_dropped():
    adapter, state = adapter_and_state()
    assert d2st.official.load(adapter, {f"module.{key}": value for key, value in state.items()}) == {}


def test_what_no_rule_names_is_not_taken_for_the_head():
    """Whatever its key begins with: an encoder without adapters would be left as it is without a word."""
    backbone = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    encoder = d2st.adapt(backbone, d2st.NoneConfig(), frames=4)
    state = {"head.ln_post.weight": torch.ones(32), "cls_head.fc_cls.bias": torch.ones(3)}
    with pytest.raises(d2st.D2STError, match=r"unexpected keys \['head.ln_post.weight'\]"):
        d2st.official.load(encoder, state, "aim")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            {"module.classification_layer.weight": torch.ones(3, 32)},
            "other parts, such as 'classification_layer.weight'",
        ),
        ({}, "it is empty"),
    ],
    ids=["head", "empty"],
)
def test_what_holds_nothing_for_an_encoder_is_refused(state, said):
    """One without adapters takes its frozen backbone from elsewhere, and would be left as it is without a word."""
    backbone = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    encoder = d2st.adapt(backbone, d2st.NoneConfig(), frames=4)
    with pytest.raises(d2st.D2STError, match=f"holds nothing for VideoEncoder: .*{said}"):
        d2st.official.load(encoder, state)


@pytest.mark.parametrize(
    ("system", "shapes"),
    [
        ("clip-fsar", {"context2.layers.0.0.fn.to_q.weight": (2, 2), "context2.layers.0.0.fn.to_k.weight": (2, 3),
                       "context2.layers.0.0.fn.to_v.weight": (2, 2)}),
        ("strm", {"new_dist_loss_post_pat.0.clsW.weight": (4, 4)}),
        ("ta2n", {"align.secondstage.mvnet.0.weight": (3,)}),
    ],
)  # fmt: skip
def test_tensors_that_do_not_go_together_are_refused_with_a_sentence(system, shapes):
    state = {key: torch.ones(shape) for key, shape in shapes.items()}
    with pytest.raises(d2st.D2STError, match="has not the tensors of the release, or not their shapes"):
        d2st.official.load(d2st.heads.build("bi-mhm"), state, system)


def test_unknown_system():
    with pytest.raises(d2st.D2STError, match="system='timesformer'"):
        d2st.official.load(*adapter_and_state(), system="timesformer")


def test_releases_of_trained_weights_alone_must_hold_them_all():
    backbone = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    model = d2st.VideoClassifier(d2st.adapt(backbone, d2st.STConfig(places="mlp"), frames=4), 3)
    theirs = {"down": "fc1", "conv": "conv", "up": "fc2"}
    state = {"fc.weight": torch.ones(3, 32), "fc.bias": torch.ones(3)}
    for name, tensor in model.encoder.adapters.state_dict().items():
        site, part, end = name.split(".")
        key = f"transformer.resblocks.{site.split('_')[1]}.adapter_pre_mlp.{theirs[part]}.{end}"
        state[key] = torch.full_like(tensor, 2.0)
    frozen = backbone.pos_embed.clone()
    assert d2st.official.load(model, state, "st-adapter") == {}
    assert all((parameter >= 1).all() for parameter in model.trainable_parameters())
    assert torch.equal(backbone.pos_embed, frozen)

    del state["transformer.resblocks.1.adapter_pre_mlp.conv.bias"]
    with pytest.raises(d2st.D2STError, match=r"missing keys \['encoder.adapters.blocks_1_mlp.conv.bias'\]"):
        d2st.official.load(model, state, "st-adapter")
    state["transformer.resblocks.1.adapter_pre_mlp.conv.bias"] = torch.ones(16)
    state["ln_post.weight"] = torch.ones(32)  # one frozen weight calls for all of them
    with pytest.raises(d2st.D2STError, match=r"missing keys .*'encoder.backbone.pos_embed'"):
        d2st.official.load(model, state, "st-adapter")
