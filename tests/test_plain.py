"""What a user does to a module counts: in passes with and without a graph, in values and in gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from families import BACKBONES, FRAMES, SIZE, clips, gradients, move
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import prune

import d2st
from d2st.layers.plain import all_plain, is_plain

SYSTEMS = {
    "d2st": d2st.D2STConfig(),
    "d2st-local": d2st.D2STLocalConfig(),
    "st": d2st.STConfig(),
    "dst": d2st.DSTConfig(),
    "vanilla": d2st.VanillaConfig(),
    "aim": d2st.AIMConfig(),
    "task-adapter": d2st.TaskAdapterConfig(),
    "dualpath": d2st.DualPathConfig(tiles=2),
    "dist": d2st.DiSTConfig(width=16, temporal_width=8, pool_layers=1),
    "dia": d2st.DiAConfig(),
    "lora": d2st.LoRAConfig(),
    "zeroi2v": d2st.ZeroI2VConfig(),
    "lsn": d2st.LSNConfig(width=16),
    "side4video": d2st.Side4VideoConfig(width=16),
    "none": d2st.NoneConfig(),
    "full": d2st.FullConfig(),
}
ON_CNNS = ("d2st", "d2st-local", "st", "dst", "dia", "vanilla", "none", "full")


def encoder_of(system="d2st", family="clip-vit"):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), SYSTEMS[system], frames=FRAMES, image_size=SIZE)
    move(encoder)
    return encoder


class LoRA(nn.Linear):
    """A linear layer with a trained addition of low rank, and drop-out in front of it."""

    def __init__(self, layer, dropout=0.0):
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.load_state_dict(layer.state_dict())
        self.a, self.b = (
            nn.Parameter(torch.randn(*size) * 0.3) for size in ((2, self.in_features), (2, self.out_features))
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return super().forward(x) + self.dropout(x) @ self.a.T @ self.b


def double(module, args, output):
    return output * 2


def doubled(layer):
    """A method put onto one module."""
    layer.forward = lambda x: type(layer).forward(layer, x) * 2


def replace(adapter, path, new):
    parent, _, name = path.rpartition(".")
    setattr(adapter.get_submodule(parent), name, new)


CHANGES = {
    "forward hook": lambda adapter, path, layer: layer.register_forward_hook(double),
    "pre-hook": lambda adapter, path, layer: layer.register_forward_pre_hook(lambda m, args: (args[0].sin(),)),
    "method": lambda adapter, path, layer: doubled(layer),
    "weight norm": lambda adapter, path, layer: parametrizations.weight_norm(layer),
    "old weight norm": lambda adapter, path, layer: nn.utils.weight_norm(layer),
    "spectral norm": lambda adapter, path, layer: parametrizations.spectral_norm(layer),
    "pruning": lambda adapter, path, layer: prune.l1_unstructured(layer, "weight", 0.5),
    "LoRA": lambda adapter, path, layer: replace(adapter, path, LoRA(layer)),
}
LAYERS = [
    "down",
    "up",
    "pos_embed",
    "pathways.spatial.attention.output",
    "pathways.temporal.attention.query",
    "pathways.temporal.attention.key",
    "pathways.spatial.attention.value",
    "pathways.spatial.attention.points.conv",
    "pathways.spatial.attention.points.project",
    "pathways.spatial.norm",
]


def cases():
    for change in CHANGES:
        for layer in LAYERS:
            is_linear = not layer.endswith(("pos_embed", "conv", "norm"))
            if (change == "LoRA" and not is_linear) or (change.endswith("norm") and layer.endswith("spatial.norm")):
                continue
            yield pytest.param(change, layer, id=f"{change}, {layer}")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(("change", "path"), list(cases()))
def test_what_is_done_to_a_layer_of_an_adapter_counts(change, path, monkeypatch):
    """As in an ordinary graph, which torch.func is given."""
    encoder, video = encoder_of(), clips(batch=1)
    plain = encoder(video).detach()
    adapter = encoder.adapters.blocks_1
    CHANGES[change](adapter, path, adapter.get_submodule(path))
    with torch.no_grad():
        expected = encoder(video)
    got = encoder(video)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    if "weight norm" not in change:  # which starts as the same layer
        assert (got - plain).abs().max() > 3e-6
    of_lean = gradients(encoder, video)
    monkeypatch.setattr("d2st.layers.checkpointed.transformed", lambda: True)
    of_ordinary = gradients(encoder, video)
    assert of_lean.keys() == of_ordinary.keys()
    for name, gradient in of_ordinary.items():
        torch.testing.assert_close(of_lean[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("change", ["forward hook", "LoRA", "weight norm", "pruning"])
def test_what_is_done_to_every_linear_layer_counts_in_every_system(system, change):
    """And a second step is no different from the first."""
    encoder, video = encoder_of(system).eval(), clips(batch=1)
    parts = nn.ModuleDict({"adapters": encoder.adapters, "passage": encoder.passage})
    linears = [
        (path, layer)
        for path, layer in parts.named_modules()
        if type(layer) is nn.Linear and not path.endswith("to_temporal.fuse")  # the last one of DiST's does not train
    ]
    for path, layer in linears:
        CHANGES[change](parts, path, layer)
    with torch.no_grad():
        expected = encoder(video)
    if not encoder.trainable_parameters():
        return
    optimizer = torch.optim.SGD(encoder.trainable_parameters(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        got = encoder(video)
        if step == 0:
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        got.square().mean().backward()
        optimizer.step()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.trainable_parameters())


def test_backward_hooks_and_hooks_on_all_modules_run():
    encoder, video, seen = encoder_of(), clips(batch=1), []
    up = encoder.adapters.blocks_1.up
    handle = up.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 0,))
    gradient = gradients(encoder, video)["adapters.blocks_1.down.weight"]
    assert not gradient.any(), "what the hook cut off does not reach down"
    handle.remove()
    assert gradients(encoder, video)["adapters.blocks_1.down.weight"].any()
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: seen.append(module))
    try:
        encoder(video)
    finally:
        handle.remove()
    assert {id(up), id(encoder.adapters.blocks_1.pathways.spatial.attention.output)} <= {id(m) for m in seen}


def test_gradients_of_inner_maps_alone():
    """A loss on what a hook saw, without one on what the encoder gives."""
    encoder, seen = encoder_of(), []
    encoder.adapters.blocks_1.pos_embed.register_forward_hook(lambda module, args, out: seen.append(out))
    encoder(clips(batch=1))
    seen[0].square().sum().backward()
    assert encoder.adapters.blocks_1.down.weight.grad.any() and encoder.adapters.blocks_1.up.weight.grad is None


def test_random_numbers_in_a_layer_are_drawn_once():
    """Drop-out in a layer that stands for another: the gradient belongs to the numbers of the forward pass."""
    torch.manual_seed(0)
    encoder, video = encoder_of().train(), clips(batch=1).double()
    attention = encoder.adapters.blocks_1.pathways.spatial.attention
    attention.query = LoRA(attention.query, dropout=0.5)
    encoder.double()
    parameter = attention.query.b

    def loss():
        torch.manual_seed(1)
        return encoder(video).square().sum()

    loss().backward()
    direction, moved = torch.randn_like(parameter), 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(direction * moved * sign)
            values.append(loss().item())
            parameter.sub_(direction * moved * sign)
    slope = (values[0] - values[1]) / (2 * moved)
    assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("change", ["weight norm", "pruning"])
@pytest.mark.parametrize("family", ["resnet-basic", "efficientnet"])
def test_frozen_layers_that_are_changed_and_train(family, change):
    """A parametrized convolution of a backbone gets its gradient."""
    encoder, video = encoder_of("vanilla", family), clips(batch=1)
    path, layer = [(n, m) for n, m in encoder.backbone.named_modules() if isinstance(m, nn.Conv2d)][-1]
    layer.weight.requires_grad_(True)
    CHANGES[change](encoder.backbone, path, layer)
    got = {name: gradient for name, gradient in gradients(encoder, video).items() if f"backbone.{path}" in name}
    assert got and all(gradient.any() for gradient in got.values())


@pytest.mark.parametrize(
    ("system", "family"), [(s, "clip-vit") for s in SYSTEMS] + [(s, "resnet-basic") for s in ON_CNNS]
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_transforms_of_torch_func(system, family):
    """grad, vmap and both; the derivative along a direction where PyTorch has one for the backbone."""
    encoder, video = encoder_of(system, family), clips()
    torch.testing.assert_close(vmap(lambda clip: encoder(clip[None])[0])(video), encoder(video), rtol=1e-4, atol=1e-5)
    parameters = {name: p.detach() for name, p in encoder.named_parameters() if p.requires_grad}
    if parameters:

        def loss(parameters, video):
            return functional_call(encoder, parameters, (video,)).square().mean()

        expected = gradients(encoder, video)
        got = grad(loss)(parameters, video)
        for name, gradient in expected.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
        each = vmap(grad(loss), in_dims=(None, 0))(parameters, video[:, None])
        for name, gradient in expected.items():
            torch.testing.assert_close(each[name].mean(0), gradient, rtol=1e-3, atol=1e-6, msg=name)
    if family == "resnet-basic":
        step, direction = 1e-3, torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
        _, slope = jvp(encoder, (video,), (direction,))
        with torch.no_grad():
            expected = (encoder(video + step * direction) - encoder(video - step * direction)) / (2 * step)
        assert F.cosine_similarity(slope.flatten(), expected.flatten(), dim=0) > 0.99


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("family", ["clip-vit", "resnet-basic"])
@pytest.mark.parametrize("system", ["d2st", "d2st-local", "st", "dst", "vanilla"])
def test_several_gradients_in_one_backward_pass(system, family):
    """vmap over the backward pass alone, in either of PyTorch's ways."""
    encoder = encoder_of(system, family)
    features, parameters = encoder(clips(batch=1)), encoder.trainable_parameters()
    directions = torch.randn(3, *features.shape)
    alone = [torch.autograd.grad(features, parameters, g, retain_graph=True) for g in directions]
    expected = [torch.stack(gradients) for gradients in zip(*alone, strict=True)]

    def several(g, **how):
        return torch.autograd.grad(features, parameters, g, retain_graph=True, **how)

    for got in (several(directions, is_grads_batched=True), vmap(several)(directions)):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("head", "path"), [("trx", "tuples.0.key"), ("trx", "tuples.0.norm"), ("hyrsm", "fuse")])
def test_what_is_done_to_a_layer_of_a_head_counts_or_is_refused(head, path, change):
    if path.endswith("norm") and (change == "LoRA" or "norm" in change):
        return
    options = {"features": 16} | ({"width": 8} if head == "trx" else {"heads": 2})
    torch.manual_seed(0)
    head = d2st.heads.build(head, **options).eval()
    clips, labels = torch.randn(4, 4, 16), torch.arange(4)
    plain, layer = head(clips, labels, clips), head.get_submodule(path)
    CHANGES[change](head, path, layer)
    if path.endswith("key") or change in ("weight norm", "spectral norm"):
        with torch.no_grad():
            expected = head(clips, labels, clips)
        got = head(clips, labels, clips)
        torch.testing.assert_close(got, expected)
        assert change.endswith("weight norm") or (got - plain).abs().max() > 1e-5
        got.square().sum().backward()
    else:
        with pytest.raises(d2st.D2STError, match="never called as a module"):
            head(clips, labels, clips)


def test_plain():
    layer = nn.Linear(2, 2)
    assert is_plain(layer) and is_plain(nn.LayerNorm(2)) and all_plain([nn.Sequential(layer, nn.GELU())])
    assert not is_plain(LoRA(layer)) and not is_plain(nn.Dropout(0.5)) and not is_plain(nn.BatchNorm2d(2))
    for change in CHANGES.values():
        parts = nn.Sequential(copy.deepcopy(layer))
        change(parts, "0", parts[0])
        assert not all_plain([parts])
    compiled = nn.Linear(2, 2)
    compiled.compile()
    assert not is_plain(compiled)
