"""The compared systems against numbers made by running their authors' code: outputs and gradients."""

import dataclasses
from functools import partial

import goldens
import pytest
import torch
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import d2st
from d2st.adapters import dist_network, dualpath
from d2st.adapters.aim import Bottleneck
from d2st.adapters.dia import DiAAdapter
from d2st.adapters.dst import DSTAdapter
from d2st.adapters.dualpath import frameset_codes
from d2st.adapters.st import STAdapter
from d2st.adapters.vanilla import VanillaAdapter
from d2st.layers.time_shift import TimeShift

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
CLASSES = 10


def goldens_of(*patterns):
    return pytest.mark.parametrize("name", [name for pattern in patterns for name in goldens.find(pattern)])


def precision(name):
    return torch.float64 if name.endswith("_f64") else torch.float32


def check(ours, theirs, limit, what):
    error = goldens.relative_error(ours, theirs)
    assert error <= limit, f"{what}: {error:.2e}"


def check_gradients(target, tensors, limit, system, spare=()):
    """The gradient of every parameter that the authors train, and no gradient elsewhere."""
    theirs = d2st.official.translate(target, goldens.weights(tensors, None, "g/"), system)
    ours = {name: parameter for name, parameter in target.named_parameters() if parameter.requires_grad}
    assert ours.keys() - set(spare) == theirs.keys()
    for name, expected in theirs.items():
        if goldens.largest(expected) == 0:
            assert ours[name].grad.abs().max() == 0, name
        else:
            check(ours[name].grad, expected, limit, name)


def clip_vit(config, frames=8, **options):
    """A ViT of a golden's config, built as OpenAI's are."""
    kwargs = dict(
        img_size=28, patch_size=4, embed_dim=64, depth=2, num_heads=4, num_classes=0, pre_norm=True,
        act_layer=QuickGELU, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    return d2st.adapt(VisionTransformer(**kwargs | options), config, frames=frames)


def in_block(tensors):
    """A block's tensors under the names of a whole model's first block."""
    return {key.replace("/", "/transformer.resblocks.0.", 1): value for key, value in tensors.items()}


def load_block(encoder, tensors, system):
    """A block's weights into the first block of an encoder, whose other weights do not matter."""
    state = goldens.weights(in_block(tensors), next(encoder.parameters()).dtype)
    encoder.load_state_dict(encoder.state_dict() | d2st.official.translate(encoder, state, system))


def run_block(encoder, x, images=8):
    """The first block and its hooks on tokens (B*I, N, C)."""
    encoder.clip.set(images, encoder.image_size)
    return encoder.backbone.blocks[0](x)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@goldens_of("mini_resnet_vanilla_*", "mini_resnet_st_*", "mini_resnet_dst_*")
def test_adapters_of_the_d2st_release(name, dtype):
    _, tensors = goldens.read(name)
    make = {"vanilla": VanillaAdapter, "st": partial(STAdapter, zero="up"), "dst": DSTAdapter}[name.split("_")[2]]
    adapter = make(16, 4).to(dtype).train()
    assert d2st.official.load(adapter, goldens.weights(tensors, dtype)) == {}
    x = tensors["x"].to(dtype).requires_grad_()  # (T, C, H, W)
    y = adapter(x.flatten(2).transpose(1, 2).unsqueeze(0), tuple(x.shape[2:]))[0].transpose(1, 2).view_as(x)
    (y * tensors["c"].to(dtype)).sum().backward()
    end, limit = "32" if dtype == torch.float32 and "y32" in tensors else "", TOLERANCE[dtype]
    check(y, tensors[f"y{end}"], limit, "y")
    check(x.grad, tensors[f"gx{end}"], limit, "gx")
    theirs = d2st.official.translate(adapter, goldens.weights(tensors, None, f"g{end}/"))
    for name, parameter in adapter.named_parameters():
        check(parameter.grad, theirs[name], limit, name)
    for name, value in d2st.official.translate(adapter, goldens.weights(tensors, None, "b_after/")).items():
        check(adapter.get_buffer(name), value, limit, name)


@goldens_of("stadapter_adapter_*")
def test_st_adapter(name):
    meta, tensors = goldens.read(name)
    dtype, config = precision(name), meta["config"]
    adapter = STAdapter(64, config["adapter_channels"], tuple(config["kernel_size"])).to(dtype)
    assert d2st.official.load(adapter, goldens.weights(tensors, dtype), "st-adapter") == {}
    x = tensors["in/x"].requires_grad_()
    rows = (x.shape[1] - 1) // 7
    y = adapter(x.unflatten(0, (-1, 8)), (rows, 7)).flatten(0, 1)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    if "cut" not in meta:  # some of the tokens only, and gradients of weights are sums over all
        check_gradients(adapter, tensors, TOLERANCE[dtype], "st-adapter")


@goldens_of("stadapter_block_*")
def test_st_block(name):
    meta, tensors = goldens.read(name)
    dtype, config = precision(name), meta["config"]
    places = {(True, False): "attention", (False, True): "mlp", (True, True): "both"}[
        config["adapter_pre_attn"], config["adapter_pre_mlp"]
    ]
    encoder = clip_vit(d2st.STConfig(width=32, places=places, positions=(0,)), depth=1).to(dtype)
    load_block(encoder, tensors, "st-adapter")
    x = tensors["in/x"].requires_grad_()
    y = run_block(encoder, x)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(encoder, in_block(tensors), TOLERANCE[dtype], "st-adapter")


@goldens_of("stadapter_encoder_*")
def test_st_classifier(name):
    meta, tensors = goldens.read(name)
    dtype, config = precision(name), meta["config"]
    places = "both" if config["adapter_pre_attn"] else "mlp"
    adapter = d2st.STConfig(width=32, places=places, positions=tuple(range(2 - config["adapter_layers"], 2)))
    model = d2st.VideoClassifier(clip_vit(adapter), CLASSES).to(dtype)
    state = goldens.weights(tensors, dtype)
    assert d2st.official.load(model, state, "st-adapter") == {}
    published = {key: value for key, value in state.items() if "adapter" in key or key.startswith("fc.")}
    assert d2st.official.load(model, published, "st-adapter") == {}
    assert set(d2st.official.load(model.encoder, published, "st-adapter")) == {"fc.weight", "fc.bias"}
    y = model(tensors["in/video"].transpose(1, 2))
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "logits")
    check_gradients(model, tensors, TOLERANCE[dtype], "st-adapter")


@goldens_of("stadapter_fewshot_*")
def test_st_frame_features(name):
    _, tensors = goldens.read(name)
    dtype = precision(name)
    encoder = clip_vit(d2st.STConfig(width=32)).to(dtype)
    d2st.official.load(encoder, goldens.weights(tensors, dtype), "st-adapter")
    y = encoder(tensors["in/video"].transpose(1, 2))
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "features")
    check_gradients(encoder, tensors, TOLERANCE[dtype], "st-adapter")


@goldens_of("aim_adapter_*")
def test_aim_adapter(name):
    _, tensors = goldens.read(name)
    dtype = precision(name)
    adapter = Bottleneck(64, 16, skip="noskip" not in name).to(dtype)
    assert d2st.official.load(adapter, goldens.weights(tensors, dtype), "aim") == {}
    x = tensors["in/x"].requires_grad_()
    y = adapter(x)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(adapter, tensors, TOLERANCE[dtype], "aim")


def aim_config(meta):
    config = meta["config"]
    return d2st.AIMConfig(temporal_adapters=config.get("num_tadapter", 1), scale=config.get("adapter_scale", 0.5))


@goldens_of("aim_block_*")
def test_aim_block(name):
    meta, tensors = goldens.read(name)
    dtype, config = precision(name), aim_config(meta)
    config = dataclasses.replace(config, positions=(0,), temporal_embedding=False, train_final_norm=False)
    encoder = clip_vit(config, depth=1).to(dtype)
    load_block(encoder, tensors, "aim")
    x = tensors["in/x"].requires_grad_()  # (N, B*T, C)
    y = run_block(encoder, x.transpose(0, 1)).transpose(0, 1)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(encoder, in_block(tensors), TOLERANCE[dtype], "aim")


@goldens_of("aim_encoder_*")
def test_aim_classifier(name):
    meta, tensors = goldens.read(name)
    dtype = precision(name)
    model = d2st.VideoClassifier(clip_vit(aim_config(meta)), CLASSES).to(dtype)
    assert d2st.official.load(model, goldens.weights(tensors, dtype), "aim") == {}
    video = tensors["in/video"].transpose(1, 2)
    features, logits = model.encoder(video), model(video)
    theirs = tensors["c/feature"].flatten(2).transpose(1, 2)  # (B, D, T, 1, 1) -> (B, T, D)
    ((features * theirs).sum() + (logits * tensors["c/logits"]).sum()).backward()
    check(features.transpose(1, 2), tensors["out/feature"], TOLERANCE[dtype], "features")
    check(logits, tensors["out/logits"], TOLERANCE[dtype], "logits")
    check_gradients(model, tensors, TOLERANCE[dtype], "aim")


@goldens_of("aim_imagenet_encoder_*")
def test_aim_on_an_imagenet_vit(name):
    meta, tensors = goldens.read(name)
    dtype, eps = precision(name), partial(nn.LayerNorm, eps=1e-6)
    encoder = clip_vit(aim_config(meta), pre_norm=False, act_layer=nn.GELU, norm_layer=eps).to(dtype)
    assert d2st.official.load(encoder, goldens.weights(tensors, dtype), "aim") == {}
    y = encoder(tensors["in/video"].transpose(1, 2))
    (y * tensors["c"].flatten(2).transpose(1, 2)).sum().backward()
    check(y.transpose(1, 2), tensors["out/y"], TOLERANCE[dtype], "features")
    check_gradients(encoder, tensors, TOLERANCE[dtype], "aim")


@goldens_of("zeroi2v_shift_*")
def test_zeroi2v_shift(name):
    meta, tensors = goldens.read(name)
    args, x = meta["args"], tensors["in/x"].requires_grad_()  # (N, B*T, C)
    groups = [(-1, x.shape[2] // args["n_div"]), (1, x.shape[2] // args["n_div"])]
    if "long_shift_div" in args:
        groups += [(offset, x.shape[2] // args["long_shift_div"]) for offset in (-2, 2)]
    y = TimeShift(groups)(x.unflatten(1, (-1, 8)).permute(1, 2, 0, 3)).permute(2, 0, 1, 3).flatten(1, 2)
    (y * tensors["c/y"]).sum().backward()
    check(y, tensors["out/y"], 0, "y")
    check(x.grad, tensors["gin/x"], 0, "gx")


@goldens_of("zeroi2v_block_*")
def test_zeroi2v_block(name):
    meta, tensors = goldens.read(name)
    dtype = precision(name)
    config = d2st.ZeroI2VConfig(temporal_embedding=False, train_final_norm=False)
    encoder = clip_vit(config, depth=1, embed_dim=48, num_heads=meta["args"]["n_head"], img_size=8).to(dtype)
    load_block(encoder, tensors, "zeroi2v")
    x = tensors["in/x"].requires_grad_()  # (N, B*T, C)
    y = run_block(encoder, x.transpose(0, 1)).transpose(0, 1)
    (y * tensors["c/y"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(encoder, in_block(tensors), TOLERANCE[dtype], "zeroi2v")
    encoder.merge()
    check(run_block(encoder, x.transpose(0, 1)).transpose(0, 1), y, TOLERANCE[dtype], "merged")


@goldens_of("zeroi2v_encoder_*")
def test_zeroi2v_encoder_and_the_weights_that_their_script_merges(name):
    meta, tensors = goldens.read(name)
    args, dtype = meta["args"], precision(name)
    encoder = clip_vit(d2st.ZeroI2VConfig(), embed_dim=args["width"], num_heads=args["heads"]).to(dtype)
    assert d2st.official.load(encoder, goldens.weights(tensors, dtype), "zeroi2v") == {}
    video = tensors["in/x"].requires_grad_()  # (B, 3, T, H, W)
    features = encoder(video.transpose(1, 2))
    theirs = tensors["c/y"].flatten(2).transpose(1, 2)  # (B, C, T, 1, 1) -> (B, T, D)
    (features * theirs).sum().backward()
    check(features.transpose(1, 2), tensors["out/y"], TOLERANCE[dtype], "features")
    check(video.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(encoder, tensors, TOLERANCE[dtype], "zeroi2v")
    encoder.merge()
    check(encoder(video.transpose(1, 2)).transpose(1, 2), tensors["out/merged"], TOLERANCE[dtype], "merged features")
    merged = d2st.official.translate(encoder, goldens.weights(tensors, None, "wm/"), "zeroi2v")
    for key, expected in merged.items():
        check(encoder.get_parameter(key), expected, TOLERANCE[dtype], key)


@goldens_of("dualpath_adapter_*")
def test_dualpath_adapter(name):
    meta, tensors = goldens.read(name)
    dtype = precision(name)
    adapter = dualpath.Bottleneck(64, 16).to(dtype).eval()
    assert d2st.official.load(adapter, goldens.weights(tensors, dtype), "dualpath") == {}
    x = tensors["in/x"].requires_grad_()
    y = adapter(x)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    if "cut" not in meta:
        check_gradients(adapter, tensors, TOLERANCE[dtype], "dualpath")


@goldens_of("dualpath_block_*")
def test_dualpath_block(name):
    meta, tensors = goldens.read(name)
    dtype, count = precision(name), meta["config"]["Tt"]
    config = d2st.DualPathConfig(train_class_token=False, train_positions=False)
    encoder = clip_vit(config, depth=1, frames=16 * count).to(dtype)
    encoder.adapters["positions"].requires_grad_(False)  # not in a block
    load_block(encoder, tensors, "dualpath")
    x = tensors["in/x"].requires_grad_()  # (N, B*I, C)
    y = run_block(encoder, x.transpose(0, 1), images=count + 8).transpose(0, 1)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(encoder, in_block(tensors), TOLERANCE[dtype], "dualpath")


@goldens_of("dualpath_encoder_*")
def test_dualpath_classifier(name):
    meta, tensors = goldens.read(name)
    dtype, config = precision(name), meta["config"]
    adapter = d2st.DualPathConfig(antialias=config["antialias_in_Resize"], projection=True)
    encoder = clip_vit(adapter, frames=16 * config["Tt"], num_classes=config["output_dim"])
    model = d2st.VideoClassifier(encoder, CLASSES).to(dtype)
    assert d2st.official.load(model, goldens.weights(tensors, dtype), "dualpath") == {}
    images = tensors["in/images"].unflatten(0, (2, -1))  # the golden starts from framesets and frames
    encoder.passage.images = lambda video: video
    y = model(images)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "logits")
    check_gradients(model, tensors, TOLERANCE[dtype], "dualpath")


@goldens_of("dualpath_frameset_*")
def test_framesets_and_their_codes(name):
    _, tensors = goldens.read(name)
    for key, expected in goldens.weights(tensors, None, "out/").items():
        kind, *details = key.split("_")
        antialias = details[-1] == "aa"
        if kind.startswith("images"):
            frames = int(kind.removeprefix("images"))
            video = tensors[f"in/clip{frames}"].transpose(1, 2)
            passage = dualpath.DualFrameFeatures(64, frames, video.shape[3:], d2st.DualPathConfig(antialias=antialias))
            images = passage.images(video)
            check(images, expected, 1e-6, key)
        elif kind == "tpe":
            grid, count = int(details[0].removeprefix("grid")), int(details[1].removeprefix("tt"))
            assert torch.equal(frameset_codes(count, 4, (grid, grid), 64, 1, antialias), expected[0]), key


def tokens_of(x):
    """The release's (N, B*t, C) as (B, t, N, C)."""
    return x.transpose(0, 1).unflatten(0, (2, -1))


DIST_MODULES = {  # of golden's name -> module for its config, and the module's call on the golden's input
    "temporalnet": (lambda c: dist_network.TemporalNet(c["temporal_dim"]), lambda m, x: m(x)),
    "t2i": (
        lambda c: dist_network.ToIntegration(c["temporal_dim"], c["integration_dim"], c["t"], c["alpha"]),
        lambda m, x: m(x).flatten(0, 1).transpose(0, 1),
    ),
    "i2t": (
        lambda c: dist_network.ToTemporal(c["integration_dim"], c["temporal_dim"], c["alpha"]),
        lambda m, x: m(tokens_of(x), (7, 7)),
    ),
    "integrationnet": (
        lambda c: dist_network.Integration(c["integration_dim"]),
        lambda m, x: m(tokens_of(x)).flatten(0, 1).transpose(0, 1),
    ),
}


@goldens_of(*(f"dist_{module}_*" for module in DIST_MODULES))
def test_dist_modules(name):
    meta, tensors = goldens.read(name)
    dtype, (make, call) = precision(name), DIST_MODULES[name.split("_")[1]]
    module = make(meta["config"]).to(dtype)
    assert d2st.official.load(module, goldens.weights(tensors, dtype), "dist") == {}
    x = tensors["in/x"].requires_grad_()
    y = call(module, x)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(module, tensors, TOLERANCE[dtype], "dist")


def dist_vit(meta, feature="video"):
    config = meta["config"]
    adapter = d2st.DiSTConfig(
        stride=config["alpha"], width=config["integration_dim"], temporal_width=config["temporal_dim"],
        stem_frames=config["t_patch"], pool_layers=config["pool_layers"], out_features=config["out_dim"],
        feature=feature,
    )  # fmt: skip
    return clip_vit(adapter, frames=config["T"])


@goldens_of("dist_encoder_*", "dist_text_*")
def test_dist(name):
    meta, tensors = goldens.read(name)
    dtype, video = precision(name), tensors["in/images"].unflatten(0, (2, -1))
    model = encoder = dist_vit(meta).to(dtype)
    state = goldens.weights(tensors, dtype)
    if "text" in name:
        model = d2st.VideoClassifier(encoder, tensors["mid/text_features"])
    for prefix in ("", "backbone.base_encoder."):  # the CLIP model alone, and as published checkpoints have it
        left = d2st.official.load(model, {prefix + key: value for key, value in state.items()}, "dist")
        assert not [key for key in left if key.startswith(("dist_net.", "visual.")) and key != "visual.proj"]
        assert ("logit_scale" in left) == (model is encoder)
    y = model(video)
    (y * tensors["c"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check_gradients(model, tensors, TOLERANCE[dtype], "dist")
    assert all(parameter.grad is None for parameter in encoder.backbone.parameters())


@goldens_of("dist_encoder_*")
def test_dist_weights_load_into_an_encoder_of_frames(name):
    meta, tensors = goldens.read(name)
    encoder = dist_vit(meta, "frames")
    left = d2st.official.load(encoder, goldens.weights(tensors, torch.float32), "dist")
    assert "dist_net.aggregated_cls_token" in left and "dist_net.proj" not in left
    assert encoder(tensors["in/images"].unflatten(0, (2, -1))).shape == (2, meta["config"]["t"], 32)


@goldens_of("dia_adapter_*")
def test_dia_adapter(name):
    meta, tensors = goldens.read(name)
    dtype, width, frames = precision(name), meta["args"]["WIDTH"], meta["args"]["NUM_INPUT_FRAMES"]
    adapter = DiAAdapter(width, width // 4).to(dtype)
    assert d2st.official.load(adapter, goldens.weights(tensors, dtype), "dia") == {}
    x = tensors["in/x"].requires_grad_()  # (N, B*T, C)
    side = round((x.shape[0] - 1) ** 0.5)
    y = adapter(x.transpose(0, 1).unflatten(0, (-1, frames)), (side, side)).flatten(0, 1).transpose(0, 1)
    (y * tensors["c/y"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "y")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(adapter, tensors, TOLERANCE[dtype], "dia")


@goldens_of("dia_encoder_*")
def test_dia_frame_features(name):
    meta, tensors = goldens.read(name)
    dtype, args = precision(name), meta["args"]
    vit = dict(
        img_size=args["crop"], patch_size=args["PATCH_SIZE"], embed_dim=args["WIDTH"], depth=args["LAYERS"],
        num_heads=args["HEADS"],
    )  # fmt: skip
    encoder = clip_vit(d2st.DiAConfig(place="end", temporal_embedding=True), frames=args["T"], **vit).to(dtype)
    state = goldens.weights(tensors, dtype)
    for prefix in ("", "model."):  # the CLIP model alone, and as checkpoints have it
        assert d2st.official.load(encoder, {prefix + key: value for key, value in state.items()}, "dia") == {}
    x = tensors["in/x"].requires_grad_()
    y = encoder(x.unflatten(0, (-1, args["T"])))
    (y.flatten(0, 1) * tensors["c/y"]).sum().backward()
    check(y, tensors["out/y"], TOLERANCE[dtype], "features")
    check(x.grad, tensors["gin/x"], TOLERANCE[dtype], "gx")
    check_gradients(encoder, tensors, TOLERANCE[dtype], "dia", spare=["adapters.temporal_embedding.weight"])

    without = clip_vit(d2st.DiAConfig(place="end"), frames=args["T"], **vit).to(dtype)
    assert set(d2st.official.load(without, state, "dia")) == {"temporal_embedding"}
    with pytest.raises(d2st.D2STError, match=r"missing keys .*blocks_0_input"):
        d2st.official.load(clip_vit(d2st.DiAConfig(), frames=args["T"], **vit), state, "dia")
