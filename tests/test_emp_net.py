"""EMP-Net against the authors' numbers, its tokens from encoders, and the whole way from clips to answers."""

import json
from itertools import product

import goldens
import heads_small
import numpy as np
import pytest
import small as small_data
import small_clip
import torch
from families import BACKBONES, FRAMES, SIZE, VIT, clips, move
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

import d2st
from d2st import D2STError, heads
from d2st.backbones.features import block_tokens
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.train import TrainConfig, train
from d2st.data import sampling
from d2st.data.datasets import open_dataset
from d2st.features.encode import encode_clips
from d2st.heads import EncodedEpisode, HeadSpec, TextConfig

SIDES = ("support", "query")
LEVELS = ("patch", "frame", "token")  # in the order of ours
BLOCKS = (4, 8, 12)


def attention(theirs, prefix):
    """The weights of an attention under our names."""
    qkv = theirs.get(f"{prefix}.fn.to_qkv.weight")
    if qkv is None:
        qkv = torch.cat([theirs[f"{prefix}.fn.to_{part}.weight"] for part in "qkv"])
    own = {f"norm.{kind}": theirs[f"{prefix}.norm.{kind}"] for kind in ("weight", "bias")}
    own |= {f"output.{kind}": theirs[f"{prefix}.fn.to_out.0.{kind}"] for kind in ("weight", "bias")}
    return own | {"query.weight": qkv[: len(qkv) // 3], "key_value.weight": qkv[len(qkv) // 3 :]}


def translate(theirs):
    """Tensors under the release's names, under ours."""
    found = {}

    def put(ours, prefix, attentions):
        for number, name in enumerate(attentions):
            part = attention(theirs, f"{prefix}.layers.0.{number}")
            found.update({f"{ours}.{name}.{key}": tensor for key, tensor in part.items()})
        for key in ("0.weight", "0.bias", "3.weight", "3.bias"):
            found[f"{ours}.feed_forward.{key}"] = theirs[f"{prefix}.layers.0.{len(attentions)}.net.{key}"]

    for number, level in enumerate(LEVELS):
        put(f"fusion.{number}", f"spatialtemporal_reasion_{number + 1}", ("space", "time"))
        put(f"exchange.{number}", f"inter_reasion_{level}", ("attention",))
        put(f"modulation.{number}", f"fusion_{level}", ("attention",))
    return found


def released_names(golden, text):
    """What the release takes for the names of classes 0 to 4: those of the first five support clips, else name 0."""
    labels, names = golden["in/support_labels"][:5].tolist(), golden["in/support_real"][:5].tolist()
    return text[[dict(zip(labels, names, strict=True)).get(label, 0) for label in range(5)]]


@pytest.mark.parametrize("case", goldens.find("empnet_*"))
@pytest.mark.parametrize(("dtype", "run", "tolerance"), [(torch.float32, "", 1e-4), (torch.float64, "64", 1e-9)])
def test_shares_losses_and_gradients_are_the_authors(case, dtype, run, tolerance, monkeypatch):
    about, golden = goldens.read(case)
    args = about["args"]
    head = heads.build("emp-net", features=args["C"], merge="before" if args["merge_before"] else "after")
    head = head.to(dtype).eval()
    head.load_state_dict(translate(goldens.weights(golden, dtype)))
    inputs = {
        (side, block): golden[f"in/{side}_block{block}"].to(dtype, copy=True) for side in SIDES for block in BLOCKS
    }
    inputs = {key: x.unflatten(0, (-1, args["T"])).requires_grad_() for key, x in inputs.items()}
    support, query = (head.clips_of(None, [inputs[side, block] for block in BLOCKS]) for side in SIDES)
    text, labels = golden["in/text"].to(dtype).mean(0), golden["in/support_labels"]
    classes = torch.empty(5, dtype=torch.long)
    classes[labels] = golden["in/support_real"]
    asked, names = released_names(golden, text), head.names
    if args["shot"] == 1:
        assert torch.equal(asked, text[classes])
    monkeypatch.setattr(head, "names", lambda clips, text: names(clips, asked))

    rows = head.embed(support), head.embed(query)
    logits = [*head.looks(rows[0], labels, rows[1], text[classes], 5), *head.names(torch.cat(rows), asked)]
    names_of_logits = [f"{level}_{kind}" for kind, level in product(("logits", "class_logits"), LEVELS)]
    shares = {name: own.softmax(-1) for name, own in zip(names_of_logits, logits, strict=True)}
    for name, ours in shares.items():
        assert goldens.relative_error(ours, golden[f"out{run}/logits_{name}"]) <= tolerance, name

    episode = EncodedEpisode(support, labels, query, golden["in/query_labels"], classes, text)
    loss, answer = head.loss(episode)
    assert goldens.relative_error(loss, golden[f"loss{run}/objective"]) <= tolerance
    mean = sum(golden[f"out{run}/logits_{name}"][-5:] for name in shares) / 6
    assert goldens.relative_error(answer.softmax(-1), mean) <= tolerance
    assert torch.equal(head.match(rows[0], labels, rows[1], 5, text[classes]), answer)

    (loss + sum((ours * golden[f"in/probe_logits_{name}"]).sum() for name, ours in shares.items())).backward()
    for side, block in (("support", 4), ("query", 12)):
        theirs = golden[f"gi/{side}_block{block}"]
        assert goldens.relative_error(inputs[side, block].grad.flatten(0, 1), theirs) <= 1e-4
    theirs = translate(goldens.weights(golden, dtype, "g/"))
    for key, parameter in head.named_parameters():
        assert goldens.largest_difference(parameter.grad, theirs[key]) <= 1e-4 * goldens.largest(theirs[key]), key


@pytest.mark.parametrize("merge", ["after", "before"])
def test_unequal_shots_as_loops(merge):
    """Each class by itself, one place of its clips after the other."""
    head = heads_small.build("emp-net", merge=merge).double()
    episode = heads_small.episode(head, shots=(2, 1, 3), dtype=torch.float64)
    support, query, text = head.embed(episode.support), head.embed(episode.query), heads_small.text_of(episode)
    found = head.looks(support, episode.labels, query, text, 3)
    width = heads_small.FEATURES
    for c, name in enumerate(text):
        own = support[episode.labels == c].unflatten(-1, (-1, width))[..., :-3, :]  # (K, T, N+2, D')
        own = own.mean(0, keepdim=True) if merge == "before" else own
        told = []
        for clip in own:
            seen = [
                head.modulation[max(0, place - own.shape[2] + 3)](vectors + name, torch.cat([vectors, name[None]]))
                for place, vectors in enumerate(clip.unbind(1))
            ]
            told.append([torch.stack(seen[:-2]).mean(0), *seen[-2:]])
        for level in range(3):
            prototype = torch.stack([clip[level] for clip in told]).mean(0)
            for q, clip in enumerate(query.unflatten(-1, (-1, width))[..., -3:, :]):
                distances = heads.frame_distances(prototype[None], clip[None, :, level], "eps")[0, 0]
                cost = heads.otam(distances) + heads.otam(distances.T)
                torch.testing.assert_close(found[level][q, c], -cost)


def test_all_patches_and_frames_count_where_there_are_few():
    head = heads_small.build("emp-net", best_patches=100, best_frames=100)
    episode = heads_small.episode(head)
    clips, text = head.embed(episode.query), heads_small.text_of(episode)
    vectors = clips.unflatten(-1, (-1, heads_small.FEATURES))
    alike = heads.cosines(vectors, text, "eps")  # (Q, T, N+5, way)
    patches, frames, tokens = head.names(clips, text)
    torch.testing.assert_close(patches, alike[:, :, :-5].mean((1, 2)))
    torch.testing.assert_close(frames, alike[:, :, -5].mean(1))
    torch.testing.assert_close(tokens, alike[:, :, -4].mean(1))
    head.best_patches, head.best_frames = 1, 1
    patches, frames, _ = head.names(clips, text)
    torch.testing.assert_close(patches, alike[:, :, :-5].mean(1).amax(1))
    torch.testing.assert_close(frames, alike[:, :, -5].amax(1))


def test_the_cross_entropy_of_logits_takes_one_softmax():
    episode = heads_small.episode(heads_small.build("emp-net"), shots=(1, 2))
    losses = {}
    for kind in ("shares", "logits"):
        head = heads_small.build("emp-net", cross_entropy=kind)
        support, query = head.embed(episode.support), head.embed(episode.query)
        text = heads_small.text_of(episode)
        looks = head.looks(support, episode.labels, query, text, 2)
        names = head.names(torch.cat([support, query]), text)
        told = [(own, episode.targets) for own in looks]
        told += [(own, torch.cat([episode.labels, episode.targets])) for own in names]
        expected = sum(F.cross_entropy(x.softmax(-1) if kind == "shares" else x, truth) for x, truth in told)
        losses[kind], _ = head.loss(episode)
        torch.testing.assert_close(losses[kind], expected)
    assert losses["shares"] != losses["logits"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": 12}, "12 is no multiple of 8"),
        ({"merge": "never"}, "merge='never' must be 'after' or 'before'"),
        ({"best_patches": 0}, "best_patches=0 must be"),
        ({"cross_entropy": "both"}, "cross_entropy='both' must be"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(options, words):
    with pytest.raises(D2STError, match=words):
        heads.build("emp-net", **options)


def test_what_is_no_three_blocks_is_refused_in_a_sentence():
    head = heads.build("emp-net", features=16)
    for shape in ((2, 4, 16), (2, 4, 2, 5, 16)):
        with pytest.raises(D2STError, match="was built for the tokens of 3 blocks"):
            head.embed(torch.zeros(shape))


def encoder_of(backbone, config=None):
    torch.manual_seed(0)
    encoder = d2st.adapt(backbone, config or d2st.D2STConfig(ratio=0.5), frames=FRAMES, image_size=SIZE)
    move(encoder)
    return encoder


@pytest.mark.parametrize("family", ["vit", "clip-vit", "dinov2-registers", "dinov3"])
@torch.no_grad()
def test_tokens_are_those_of_three_blocks_behind_the_last_norm(family):
    """With adapters in the blocks; registers are left out, and timm gives the same in another way."""
    encoder, video = encoder_of(BACKBONES[family]()), clips()
    features, tokens = encoder.features_and_tokens(video)
    assert torch.equal(features, encoder(video))
    _, maps = encoder.features_and_maps(video)
    torch.testing.assert_close(tokens[-1][:, :, 1:], maps.flatten(3).transpose(2, 3))
    with encoder.clip.turn():
        theirs = block_tokens(encoder.backbone, encoder.images(video))
        encoder.clip.done()
    for ours, block in zip(tokens, theirs, strict=True):
        prefix = encoder.backbone.num_prefix_tokens
        kept = torch.cat([block[:, :, :1], block[:, :, prefix:]], dim=2)
        torch.testing.assert_close(ours, encoder.backbone.norm(kept))


def test_blocks_end_the_thirds():
    for depth, blocks in ((3, [0, 1, 2]), (10, [2, 5, 9]), (12, [3, 7, 11])):
        encoder = encoder_of(VisionTransformer(**VIT | {"depth": depth}), "none")
        assert [site.module for site in encoder.token_blocks] == [f"blocks.{block}" for block in blocks]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_adapters_through_the_tokens_of_every_block(checkpointing):
    encoder = encoder_of(BACKBONES["clip-vit"]()).train()
    encoder.set_grad_checkpointing(checkpointing)
    _, tokens = encoder.features_and_tokens(clips())
    for block, last in enumerate(tokens):
        reached = torch.autograd.grad(
            last.square().sum(), list(encoder.adapters.blocks_0.parameters()), retain_graph=True
        )
        assert all(gradient.any() for gradient in reached), block


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (BACKBONES["resnet-basic"], "st"),
        (BACKBONES["siglip"], "st"),
        (lambda: VisionTransformer(**VIT, class_token=False, reg_tokens=2, global_pool="avg"), "none"),
        (lambda: VisionTransformer(**VIT | {"depth": 2}), "none"),
        (BACKBONES["vit"], d2st.LSNConfig(width=32)),
    ],
    ids=["a CNN", "no class token", "registers alone", "two blocks", "features of its own"],
)
def test_encoders_without_three_blocks_of_tokens_are_refused(build, config):
    encoder = d2st.adapt(build(), config, frames=FRAMES, image_size=SIZE)
    with pytest.raises(D2STError, match=r"has no three blocks of class token and patches .*\(emp-net\)"):
        encoder.features_and_tokens(clips())
    with pytest.raises(D2STError, match="has no three blocks"):
        d2st.create_head("emp-net", encoder)


def test_heads_that_look_at_tokens_maps_and_stages_share_an_encoding(small):
    encoder = encoder_of(VisionTransformer(**VIT | {"depth": 4}), "none")
    torch.manual_seed(0)
    named = [
        heads.build("emp-net", features=32).eval(),
        heads.build("ts-dcm", features=32, width=8, frames=FRAMES).eval(),
    ]
    named.append(d2st.create_head("sloshnet", encoder, width=8))
    read = (
        open_dataset(small / "data", small / "split.yaml", "test"),
        sampling.build("uniform", FRAMES),
        encoder.transform(),
    )
    together = encode_clips(encoder, *read, heads=named)
    assert list(together.tokens) == ["emp-net", "ts-dcm", "sloshnet"]
    for head in named:
        found = encode_clips(encoder, *read, heads=[head])
        np.testing.assert_allclose(together.embedded(head), found.embedded(head), rtol=1e-5, atol=1e-5)


def test_it_trains_and_answers_with_an_adapter_and_the_names(small, tmp_path, monkeypatch):
    """On the smallest of timm's CLIPs, whose tokens are projected as CLIP does it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "clip").mkdir()
    weights = str(small_clip.write_clip(tmp_path / "clip")[1])
    told = TextConfig("small", weights, names="clean")
    asked = small_data.options(small, backbone=small_clip.BACKBONE, weights=weights, frames=2, text=told)
    asked |= {"head": HeadSpec("emp-net", {"merge": "before"}), "adapter": d2st.STConfig(width=8, positions=(8, 9))}
    asked |= {"way": 2, "queries": 1, "episodes": 4, "episodes_per_step": 2, "validation_episodes": 10}
    with pytest.raises(D2STError, match="takes tokens of three blocks, of which prefix_crops keeps one"):
        train(TrainConfig(**asked, out=str(tmp_path / "crops"), prefix_crops=1))
    train(TrainConfig(**asked, out=str(tmp_path / "run")))
    best = tmp_path / "run" / "best"
    saved = json.loads((best / "head_config.json").read_text())["head"]
    assert (saved["features"], saved["joint"], saved["merge"]) == (256, small_clip.JOINT, "before")
    found = small_data.options(small, adapter_path=str(best), out=str(tmp_path / "test"), text=told, weights=weights)
    found |= {"backbone": None, "image_size": None, "frames": None}
    result = evaluate(EvalConfig(**found, way=2, shot=(1, 2), queries=1, episodes=20))
    assert [row["head"] for row in result["results"]] == ["emp-net", "emp-net"]
    again = d2st.FewShotClassifier(d2st.load(best, weights=weights), heads.load(best), text=told)
    shown = {name: [small / "data" / name / "0.mp4"] for name in ("pink", "teal")}
    assert again.fit(shown).predict(small / "data" / "pink" / "1.mp4").label in shown
