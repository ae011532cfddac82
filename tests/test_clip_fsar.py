"""CLIP-FSAR and zero-shot heads against the authors' numbers, their definition as loops, and wrong input."""

from dataclasses import replace

import goldens
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import d2st
from d2st import heads
from d2st.errors import D2STError
from d2st.heads import EncodedEpisode


def released(about: dict, golden: dict[str, torch.Tensor]) -> heads.CLIPFSAR:
    """The head with the options and weights of a golden."""
    options = about["train_opts"]
    merge = "before" if options.get("MERGE_BEFORE") else "after"
    inference = "text" if options.get("EVAL_TEXT") else "combine" if options.get("COMBINE") else "visual"
    head = heads.build(
        "clip-fsar",
        features=about["dim"],
        hidden=len(golden["w/context2.layers.0.1.net.0.bias"]),
        dropout=(0.0, 0.0),
        merge=merge,
        inference=inference,
        mixing=options.get("TEXT_COFF", 0.9),
        text_loss=options["USE_CLASSIFICATION_VALUE"],
        directions="single" if options.get("SINGLE_DIRECT") else "both",
    )
    assert not d2st.official.load(head, goldens.weights(golden, None), "clip-fsar")
    return head


@pytest.mark.parametrize("case", goldens.find("clipfsar_*"))
def test_logits_losses_and_gradients_are_the_reference_s(case: str) -> None:
    """Every case: training with both losses, the three inference modes, merging before and after, one direction."""
    about, golden = goldens.read(case)
    head = released(about, golden)
    support, query = golden["in/support_feats"].requires_grad_(), golden["in/query_feats"].requires_grad_()
    labels, targets = golden["in/support_labels"].long(), golden["in/query_labels"].long()
    classes = torch.empty(5, dtype=torch.long)
    classes[labels] = golden["in/real_support_labels"].long()
    if about["mode"].startswith("train"):
        episode = EncodedEpisode(support, labels, query, targets, classes, golden["in/text_train"])
        loss, logits = head.loss(episode)
    else:
        logits = head(support, labels, query, text=golden["in/text_test"][classes])
        if head.inference != "visual":
            logits = logits.exp()  # the release gives probabilities, and trains with none of them
        loss = F.cross_entropy(logits, targets)
    (loss + (logits * golden["in/probe_logits"]).sum()).backward()
    assert goldens.relative_error(logits, golden["out/logits"]) <= 1e-4
    assert goldens.relative_error(loss, golden["loss/objective"]) <= 1e-4
    assert goldens.relative_error(query.grad, golden["gi/query_feats"]) <= 1e-4
    if "gi/support_feats" in golden:
        assert goldens.relative_error(support.grad, golden["gi/support_feats"]) <= 1e-4
    gradients = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    for name, gradient in d2st.official.translate(head, goldens.weights(golden, None, "g/"), "clip-fsar").items():
        assert goldens.relative_error(gradients[name], gradient) <= 1e-4, name


def small(**options: object) -> heads.CLIPFSAR:
    torch.manual_seed(0)
    return heads.build("clip-fsar", **{"features": 16, "hidden": 32, "dropout": (0.0, 0.0)} | options).eval()


def draw(shots: list[int], queries: int, seed: int, lead: tuple[int, ...] = (), frames: int = 3) -> tuple:
    """Support, shuffled labels, query, text."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(shots)])
    labels = labels[torch.randperm(len(labels), generator=rng)]
    support = torch.randn(*lead, len(labels), frames, 16, generator=rng)
    query = torch.randn(*lead, queries, frames, 16, generator=rng)
    return support, labels, query, torch.randn(*lead, len(shots), 16, generator=rng)


@settings(max_examples=20, deadline=None)
@given(
    shots=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    queries=st.integers(1, 2),
    merge=st.sampled_from(["before", "after"]),
    metric=st.sampled_from(["otam", "bi-mhm"]),
    cosine=st.sampled_from(["norm", "eps"]),
    unit=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_definition_as_loops(shots, queries, merge, metric, cosine, unit, seed) -> None:
    """A batch of episodes, unequal shots, shuffled labels: equal to one class and one query at a time."""
    head = small(merge=merge, metric=metric, cosine=cosine, text_token="unit" if unit else "plain")
    support, labels, query, text = draw(shots, queries, seed, lead=(2,))
    with torch.no_grad():
        logits = head(support, labels, query, text=text)
        assert logits.shape == (2, queries, len(shots))
        for e in range(2):
            for c in range(len(shots)):
                name = F.normalize(text[e, c], dim=0) if unit else text[e, c]
                own = support[e][labels == c]
                clips = own.mean(0, keepdim=True) if merge == "before" else own
                seen = [head.transformer(torch.cat([clip, name[None]]))[:-1] for clip in clips]
                prototype = torch.stack(seen).mean(0)
                for q in range(queries):
                    d = heads.frame_distances(prototype[None], head.transformer(query[e, q])[None], cosine)[0, 0]
                    cost = heads.bi_mhm(d) if metric == "bi-mhm" else heads.otam(d) + heads.otam(d.T)
                    torch.testing.assert_close(logits[e, q, c], -cost, rtol=1e-4, atol=1e-5)


def test_the_stage_of_one_clip_and_the_loss_see_what_a_call_sees() -> None:
    """Evaluation embeds clips once; training does not embed at all; both have the logits of a plain call."""
    head = small()
    support, labels, query, names = draw([2, 1, 2], 4, seed=1)
    classes = torch.tensor([4, 0, 2])
    text = torch.randn(6, 16)
    text[classes] = names
    logits = head(support, labels, query, text=names)
    embedded = head.match(head.embed(support), labels, head.embed(query), 3, names)
    _, trained = head.loss(EncodedEpisode(support, labels, query, torch.tensor([0, 1, 2, 0]), classes, text))
    torch.testing.assert_close(embedded, logits)
    torch.testing.assert_close(trained, logits)


def test_the_video_text_loss_tells_names_apart() -> None:
    """By hand: over all training classes, or the episode's; with its weight, and alone."""
    support, labels, query, names = draw([1, 1], 2, seed=2)
    targets, classes, text = torch.tensor([1, 0]), torch.tensor([3, 1]), torch.randn(5, 16)
    text[classes] = names
    episode = EncodedEpisode(support, labels, query, targets, classes, text)
    videos = torch.cat([support, query]).mean(1)
    own = torch.cat([labels, targets])
    lengths = videos.norm(dim=1)[:, None] * text.norm(dim=1) + 0.01
    cosines = videos @ text.T / lengths
    alone = {"matching_loss": 0.0, "text_loss": 1.0, "scale": 7.0}
    loss, logits = small(**alone).loss(episode)
    torch.testing.assert_close(loss, F.cross_entropy(7 * cosines, classes[own]))
    loss, _ = small(**alone, contrast="episode").loss(episode)
    torch.testing.assert_close(loss, F.cross_entropy(7 * cosines[:, classes], own))
    turned = replace(episode, support=support[None], query=query[None], targets=targets[None], text=text)
    torch.testing.assert_close(small(**alone, contrast="episode").loss(turned)[0], loss)
    both, _ = small(text_loss=0.5, scale=7.0).loss(episode)
    expected = F.cross_entropy(logits, targets) + 0.5 * F.cross_entropy(7 * cosines, classes[own])
    torch.testing.assert_close(both, expected)


def test_what_the_inference_modes_listen_to() -> None:
    support, labels, query, text = draw([1, 1, 1], 3, seed=3)
    visual, names = (
        small()(support, labels, query, text=text),
        small(inference="text")(support, labels, query, text=text),
    )
    cosines = F.normalize(query.mean(1), dim=-1) @ F.normalize(text, dim=-1).T
    torch.testing.assert_close(names, cosines.log_softmax(-1))
    for mixing in (0.0, 0.3, 1.0):
        mixed = small(inference="combine", mixing=mixing, temperature=2.0)(support, labels, query, text=text)
        looks = (visual / 2).log_softmax(-1)
        torch.testing.assert_close(mixed, mixing * names + (1 - mixing) * looks)
    by_frames = small(inference="combine", mixing=0.0)(support, labels, query, text=text)
    torch.testing.assert_close(by_frames, (visual / 3).log_softmax(-1))  # T = 3 frames


def test_an_identity_start_matches_clip_s_own_features() -> None:
    support, labels, query, text = draw([2, 1], 2, seed=4)
    logits = small(start="identity", **heads.D2ST_MM | {"inference": "visual"})(support, labels, query, text=text)
    torch.testing.assert_close(logits, heads.build("bi-mhm")(support, labels, query))


def test_parameters_at_paper_size() -> None:
    head = heads.build("clip-fsar", features=768, joint=512, **heads.D2ST_MM)
    assert sum(p.numel() for p in head.parameters() if p.requires_grad) == 3_149_825


def test_the_visual_projection_is_held_saved_and_frozen() -> None:
    projection, support = nn.Linear(12, 16, bias=False), torch.randn(2, 3, 12)
    labels, text = torch.tensor([0, 1]), torch.randn(2, 16)
    for name in ("clip-fsar", "zero-shot"):
        head = heads.build(name, features=12, joint=16).eval()
        with pytest.raises(D2STError, match=f"'{name}' has no visual projection yet"):
            head(support, labels, support, text=text)
        head.projection.set(projection)
        logits = head(support, labels, support, text=text)
        again = heads.build(name, features=12, joint=16).eval()
        again.load_state_dict(head.state_dict())
        torch.testing.assert_close(again(support, labels, support, text=text), logits)
        inside = heads.build(name, features=16).eval()
        inside.load_state_dict({k: v for k, v in head.state_dict().items() if "projection" not in k})
        joint = projection(support)
        torch.testing.assert_close(inside(joint, labels, joint, text=text), logits)
        assert not any(p.requires_grad for p in head.projection.parameters())
        with pytest.raises(D2STError, match="a place for a projection 12 -> 16, and was given 12 -> 8"):
            head.projection.set(nn.Linear(12, 8))
    trained = heads.build("clip-fsar", features=12, joint=16, train_projection=True)
    assert trained.projection.linear.weight.requires_grad


VIT = {"layers": 10, "width": 256, "patch_size": 16}  # timm's smallest CLIP
RESNET = {"layers": [3, 4, 6, 3], "width": 64}


@pytest.mark.parametrize(
    ("backbone", "tower", "joint"),
    [("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", VIT, 512), ("resnet50_clip.openai", RESNET, 1024)],
)
def test_a_whole_checkpoint_goes_into_encoder_and_head(backbone: str, tower: dict, joint: int) -> None:
    """CLIP's image tower with its projection, and the head's weights, under the release's names."""
    model = pytest.importorskip("open_clip.model", reason="the extra mm (open_clip_torch) is not installed")
    text = {"width": 8, "heads": 1, "layers": 1, "vocab_size": 8}
    clip = model.CLIP(joint, {"image_size": 32, **tower}, text, quick_gelu=False).eval()
    state = {f"head.backbone.{key}": tensor + 0.01 for key, tensor in clip.visual.state_dict().items()}
    clip.visual.load_state_dict({key.removeprefix("head.backbone."): tensor for key, tensor in state.items()})
    theirs = {"0.fn.to_out.0.bias": joint, "1.net.0.bias": 8, "1.net.3.bias": joint, "0.norm.weight": joint}
    theirs = {key: torch.randn(width) for key, width in theirs.items()} | {"0.norm.bias": torch.randn(joint)}
    theirs |= {f"0.fn.to_{part}.weight": torch.randn(joint, joint) for part in ("q", "k", "v", "out.0")}
    theirs |= {"1.net.0.weight": torch.randn(8, joint), "1.net.3.weight": torch.randn(joint, 8)}
    state |= {f"head.context2.layers.0.{key}": tensor for key, tensor in theirs.items()}
    state["head.scale"] = torch.tensor([3.0])
    encoder = d2st.adapt(backbone, d2st.NoneConfig(), frames=2, pretrained=False, image_size=32)
    head = heads.build("clip-fsar", features=encoder.num_features, joint=joint, hidden=8).eval()
    assert "scale" in d2st.official.load(encoder, state, "clip-fsar")
    assert "backbone.conv1.weight" in d2st.official.load(head, state, "clip-fsar")
    video = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        assert goldens.relative_error(head.projection(encoder(video))[0], clip.visual(video[0])) <= 1e-5
    assert head.scale.item() == 3.0
    assert torch.equal(head.transformer.attention[0].qkv.weight[joint : 2 * joint], theirs["0.fn.to_k.weight"])
    inside = heads.build("clip-fsar", features=joint, hidden=8)  # for features that are projected already
    assert "backbone.conv1.weight" in d2st.official.load(inside, state, "clip-fsar")
    del state["head.context2.layers.0.0.fn.to_k.weight"]
    with pytest.raises(D2STError, match=r"missing keys .*qkv"):
        d2st.official.load(head, state, "clip-fsar")


def test_zero_shot_is_the_scaled_cosine_with_the_names() -> None:
    support, labels, query, text = draw([1, 2], 3, seed=5, lead=(2,))
    logits = heads.build("zero-shot", features=16, scale=10.0)(support, labels, query, text=text)
    for e in range(2):
        for q in range(3):
            for c in range(2):
                expected = 10 * F.cosine_similarity(query[e, q].mean(0), text[e, c], dim=0)
                torch.testing.assert_close(logits[e, q, c], expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "dtw"}, "The head 'clip-fsar': metric='dtw' must be 'otam' or 'bi-mhm'"),
        ({"merge": "never"}, "merge='never' must be 'after' or 'before'"),
        ({"directions": "none"}, "directions='none' must be"),
        ({"inference": "both"}, "inference='both' must be"),
        ({"contrast": "all"}, "contrast='all' must be"),
        ({"text_token": "long"}, "text_token='long' must be"),
        ({"start": "zero"}, "start='zero' must be"),
        ({"cosine": "dot"}, "cosine='dot' must be 'norm' or 'eps'"),
        ({"mixing": 1.5}, "mixing=1.5 must be a number from 0 to 1"),
        ({"smoothing": 0}, "smoothing=0 must be a number above 0"),
        ({"temperature": -1.0}, "temperature=-1.0 must be a number above 0"),
        ({"heads": 5}, "16 features cannot be shared by 5 attention heads"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(options: dict, said: str) -> None:
    with pytest.raises(D2STError, match=said):
        small(**options)


@pytest.mark.parametrize("name", ["clip-fsar", "zero-shot"])
def test_missing_and_foreign_names_are_refused_with_a_sentence(name: str) -> None:
    support, labels, query, text = draw([1, 1], 1, seed=6)
    head = heads.build(name, features=16)
    with pytest.raises(D2STError, match=f"'{name}' needs the features of the classes' names"):
        head(support, labels, query)
    with pytest.raises(D2STError, match="names' features have width 8, the clips' in CLIP's joint space 16"):
        head(support, labels, query, text=text[:, :8])
