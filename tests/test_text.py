"""Class names to CLIP features: names and templates, token ids, the cut of sequences, weights, the cache, the way of a
clip into the same space. Towers are small and have random weights; no network."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import goldens
import pytest
import small_clip
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from small_clip import BACKBONE

import d2st
from d2st import heads
from d2st.errors import D2STError
from d2st.heads import TextConfig
from d2st.text import names as text
from d2st.text import prompts

GOLDEN = json.loads((Path(__file__).parent / "golden" / "clip_tokens.json").read_text())


@pytest.fixture(scope="session")
def open_clip():
    return small_clip.installed()


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> tuple[torch.nn.Module, Path]:
    return small_clip.write_clip(tmp_path_factory.mktemp("clip"))


# ----------------------------------------------------------------------------------------------------- names


def test_the_shipped_names_are_the_released_ones() -> None:
    """Every string that the authors' text towers saw in training and test is the prompt of a class."""
    for benchmark, classes in GOLDEN["classes"].items():
        name = benchmark.split("/")[0].replace("_", "-")
        raw, clean = (prompts.read_names(prompts.SHIPPED / kind / f"{name}.yaml") for kind in ("raw", "clean"))
        assert {(released,) for released in classes} <= {tuple(texts) for texts in raw.values()}
        assert list(raw) == list(clean)
        assert all(not set("[]_") & set(prompt) for (prompt,) in clean.values())


def test_shipped_files_do_not_contradict_each_other() -> None:
    """One class has one text in all the files of a kind, so that a class is found without naming its benchmark."""
    for kind in ("raw", "clean"):
        seen: dict[str, list[str]] = {}
        for file in sorted((prompts.SHIPPED / kind).glob("*.yaml")):
            for name, texts in prompts.read_names(file).items():
                assert seen.setdefault(name, texts) == texts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("01_horizontal_swiping", "horizontal swiping"),
        ("Pouring [something] into [something soft]", "Pouring something into something soft"),
        ("BlowDryHair", "Blow Dry Hair"),
        ("watchTV", "watch TV"),
        ("TVShow", "TV Show"),
        ("hurling_(sport)", "hurling (sport)"),
        ("3d print", "3d print"),
        ("tai-chi", "tai-chi"),
    ],
)
def test_the_rule_for_names_of_folders(name: str, said: str) -> None:
    assert prompts.clean(name) == said


def test_a_class_of_no_benchmark_goes_by_the_rule() -> None:
    classes = ["BlowDryHair", "01_BlowDryHair"]  # the released name is "Blow DryHair"
    assert prompts.prompts(classes) == [["a photo of Blow DryHair"], ["a photo of Blow Dry Hair"]]
    assert [prompts.prompts([name], "clean") for name in classes] == [[["a photo of Blow Dry Hair"]]] * 2


def test_names_and_templates_of_one_s_own(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text(yaml.safe_dump({"a": "waving", "01": ["clapping", "applause"]}))
    (tmp_path / "templates.yaml").write_text(yaml.safe_dump(["{} on video", "see {}"]))
    made = prompts.prompts(["01", "a"], str(tmp_path / "names.yaml"), str(tmp_path / "templates.yaml"))
    assert made == [
        ["clapping on video", "see clapping", "applause on video", "see applause"],
        ["waving on video", "see waving"],
    ]
    assert len(prompts.prompts(["a"], templates="actions")[0]) == 8


@pytest.mark.parametrize(
    ("content", "classes", "said"),
    [
        ({"a": "x"}, ["a", "b"], "has no line for 'b'"),
        (["a", "b"], ["a"], "lines of 'class: text'"),
        ({"a": []}, ["a"], "lines of 'class: text'"),
        ({"a": " "}, ["a"], "lines of 'class: text'"),
    ],
)
def test_unusable_names_are_refused_with_a_sentence(tmp_path: Path, content, classes, said) -> None:
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(D2STError, match=said):
        prompts.prompts(classes, str(tmp_path / "names.yaml"))


def test_unusable_templates_files_and_classes_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(D2STError, match="none of photo, video, actions, nor a file"):
        prompts.prompts(["a"], templates="poem")
    with pytest.raises(D2STError, match="none of photo, video, actions, nor a file"):
        prompts.prompts(["a"], templates=300 * "poem")  # too long for a file's name
    with pytest.raises(D2STError, match="cannot be read: File name too long"):
        prompts.prompts(["a"], 300 * "name")
    (tmp_path / "templates.yaml").write_text("- a photo\n")
    with pytest.raises(D2STError, match=r"one \{\} each"):
        prompts.prompts(["a"], templates=str(tmp_path / "templates.yaml"))
    with pytest.raises(D2STError, match=r"missing\.yaml' cannot be read"):
        prompts.prompts(["a"], str(tmp_path / "missing.yaml"))
    same = tmp_path / "same.yaml"
    same.write_text("a: wave\nb: ' Wave'\nphases:\n  a: [up, down]\n  b: [Up, down]\n  c: [down, up]\n")
    for classes, names in ((["2_point_shot", "3_point_shot"], "raw"), (["a", "b"], str(same))):
        with pytest.raises(D2STError, match=f"classes '{classes[0]}' and '{classes[1]}' are told by the same words"):
            prompts.prompts(classes, names)
    with pytest.raises(D2STError, match="'a' and 'b' are told by the same words, 'Up'"):
        prompts.phases(["a", "c", "b"], str(same))
    assert prompts.phases(["a", "c"], str(same)) == [["up", "down"], ["down", "up"]]
    for name in ("17", "val0", "class_3", "()"):
        with pytest.raises(D2STError, match="no name to tell a text tower"):
            prompts.prompts([name])


# ---------------------------------------------------------------------------------------------------- tokens


def test_token_ids_are_the_reference_s(open_clip) -> None:
    for name, classes in [*GOLDEN["classes"].items(), ("strings", GOLDEN["strings"])]:
        texts = list(classes) if name == "strings" else [f"a photo of {released}" for released in classes]
        ours = text.tokenize(texts, "ViT-B-16-quickgelu")
        for row, expected in zip(ours.tolist(), classes.values(), strict=True):
            assert row[: len(expected)] == expected and not any(row[len(expected) :]), name
        assert ours.shape[1] == max(map(len, classes.values()))
    with pytest.warns(UserWarning, match="77 tokens at most; cut short: 'on and on"):
        assert text.tokenize(["on and " * 60], "ViT-B-16").shape == (1, 77)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert text.tokenize(["on " * 75], "ViT-B-16").shape == (1, 77)  # just fits


@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_sequences_cut_at_the_longest_end_token_give_the_same_features(open_clip, pool: str) -> None:
    from open_clip.transformer import TextTransformer

    torch.manual_seed(0)
    width = {"width": 32, "heads": 4, "layers": 2, "output_dim": 8}
    tower = TextTransformer(**width, pool_type=pool, eos_id=49407).eval().requires_grad_(False)
    tokens = open_clip.get_tokenizer("ViT-B-16")(["a photo of a dog", "a photo of someone who does nothing at all"])
    cut = text.encode_tokens(tower, tokens[:, : int((tokens != 0).any(0).sum())])
    torch.testing.assert_close(cut, tower(tokens), rtol=1e-6, atol=1e-6)
    assert tower.attn_mask.shape == (77, 77)  # as it was
    both_ways = TextTransformer(**width, no_causal_mask=True, pool_type="last").eval()
    torch.testing.assert_close(text.encode_tokens(both_ways, tokens[:, :12]), both_ways(tokens))


# --------------------------------------------------------------------------------------------------- features


def test_features_are_clip_s_own(open_clip, clip, tmp_path: Path) -> None:
    """Names to features through a local file, against the whole CLIP on the uncut prompt."""
    model, file = clip
    classes = ["air_drumming", "Bending something until it breaks", "my_own_class"]
    features = text.encode_names(classes, config=TextConfig("small", str(file)), cache=tmp_path)
    told = ["a photo of air drumming", "a photo of Bending [something] until it breaks", "a photo of my own class"]
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("small")(told))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)


def test_several_prompts_are_averaged_in_direction_and_length(clip, tmp_path: Path) -> None:
    _, file = clip
    one, two, both = (
        text.encode_names(["waving"], config=TextConfig("small", str(file), templates=form), cache=tmp_path)[0]
        for form in ("a photo of {}", "{} on video", _write(tmp_path / "two.yaml", ["a photo of {}", "{} on video"]))
    )
    direction = one / one.norm() + two / two.norm()
    torch.testing.assert_close(both, direction / direction.norm() * (one.norm() + two.norm()) / 2)


def _write(path: Path, content) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_features_are_kept_by_content(clip, tmp_path: Path, monkeypatch, capsys) -> None:
    """Found again by weights and tokens; anything else, or a broken file, is encoded anew."""
    _, file = clip
    built = []
    build_text_encoder = text.build_text_encoder
    monkeypatch.setattr(text, "build_text_encoder", lambda *args: built.append(args) or build_text_encoder(*args))

    def encode(classes, templates="photo", weights=file):
        config = TextConfig("small", str(weights), templates=templates)
        return text.encode_names(classes, config=config, cache=tmp_path / "cache")

    torch.manual_seed(0)
    first = encode(["wave", "clap"])
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert drawn == torch.rand(1)  # what is drawn next does not tell whether the features were there
    copy = shutil.copy(file, tmp_path / "renamed.safetensors")
    assert torch.equal(encode(["wave", "clap"], weights=copy), first) and len(built) == 1
    encode(["clap", "wave"])
    encode(["wave", "clap"], "video")
    state = load_file(file)
    save_file(state | {"ln_final.bias": state["ln_final.bias"] + 1}, tmp_path / "other.safetensors")
    assert not torch.equal(encode(["wave", "clap"], weights=tmp_path / "other.safetensors"), first)
    assert len(built) == 4 and len(list((tmp_path / "cache").iterdir())) == 4
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(encode(["wave", "clap"]), first) and len(built) == 5
    assert "cannot be read; the names are encoded again" in capsys.readouterr().err


def test_the_cache_lies_where_caches_lie(clip, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text.encode_names(["wave"], config=TextConfig("small", str(clip[1])))
    assert len(list((tmp_path / "d2st" / "text").glob("text-*.safetensors"))) == 1


def test_a_cache_that_cannot_be_written_takes_nothing_of_what_was_computed(clip, tmp_path: Path, caplog) -> None:
    (tmp_path / "home").write_text("a file where a folder would be")
    config = TextConfig("small", str(clip[1]))
    features = text.encode_names(["wave"], config=config, cache=tmp_path / "home" / "text")
    assert torch.equal(features, text.encode_names(["wave"], config=config, cache=tmp_path))
    assert "The text features are not kept for the next time" in caplog.text


def test_weights_in_other_forms(clip, tmp_path: Path) -> None:
    """A .pth, one wrapped and written from DDP, and the text tower alone give the same tower."""
    model, file = clip
    state, tokens = load_file(file), text.tokenize(["a photo of waving"], "small")
    own = {key: tensor for key, tensor in state.items() if not key.startswith(("visual.", "logit_"))}
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "ddp.pth")
    torch.save(own, tmp_path / "alone.pth")
    save_file({f"text.{key}": tensor for key, tensor in own.items()}, tmp_path / "text.safetensors")
    with torch.no_grad():
        expected = model.encode_text(torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1])))
    for other in (file, tmp_path / "ddp.pth", tmp_path / "alone.pth", tmp_path / "text.safetensors"):
        features = text.encode_tokens(text.build_text_encoder("small", weights=other), tokens)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*TorchScript")
def test_unusable_weights_are_refused_with_a_sentence(clip, tmp_path: Path) -> None:
    _, file = clip
    state = load_file(file)
    save_file({k: v for k, v in state.items() if k.startswith("visual.")}, tmp_path / "visual.safetensors")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "program.pt")
    for weights, said in [
        (tmp_path / "none.safetensors", "is not a file"),
        (tmp_path / "visual.safetensors", "do not hold the text tower of 'small'"),
        (tmp_path / "junk.pth", "cannot be read"),
        (tmp_path / "program.pt", "programs and are not run"),
    ]:
        with pytest.raises(D2STError, match=said):
            text.encode_names(["wave"], config=TextConfig("small", str(weights)), cache=tmp_path)
    with pytest.raises(D2STError, match="lacks its weights"):
        text.encode_names(["wave"], config=TextConfig("small"))
    with pytest.raises(D2STError, match="no model 'ViT-Z'"):
        text.build_text_encoder("ViT-Z")


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("vit_base_patch16_clip_quickgelu_224.openai", "ViT-B-16-quickgelu/openai"),
        ("vit_base_patch16_clip_224.openai", "ViT-B-16-quickgelu/openai"),  # OpenAI's text towers all have QuickGELU
        ("vit_base_patch32_clip_224.laion400m_e32", "ViT-B-32-quickgelu/laion400m_e32"),
        ("vit_base_patch16_clip_224.laion400m_e32", "ViT-B-16/laion400m_e32"),
        ("vit_large_patch14_clip_quickgelu_336.openai", "ViT-L-14-336-quickgelu/openai"),
        ("resnet50_clip.openai", "RN50-quickgelu/openai"),
    ],
)
def test_the_text_tower_of_an_image_tower(open_clip, backbone: str, name: str) -> None:
    assert text.clip_name(backbone) == name


@pytest.mark.parametrize("backbone", ["resnet50.a1_in1k", "d2st_stills", None, "vit_base_patch16_clip_224.laion2b"])
def test_backbones_without_a_known_text_tower_are_refused_with_a_sentence(open_clip, backbone: str | None) -> None:
    named = f"the backbone '{backbone}'" if backbone else "a backbone without a name"
    with pytest.raises(D2STError, match=f"no text tower known for {named}.* say which one belongs to it"):
        d2st.text.encode_names(["wave"], backbone)


@pytest.mark.parametrize("classes", ["wave", []])
def test_what_is_no_list_of_names_is_refused_with_a_sentence(classes: str | list[str]) -> None:
    for encode in (d2st.text.encode_names, d2st.text.encode_phases):
        with pytest.raises(D2STError, match="names of classes are a list of one or more"):
            encode(classes)


def test_a_clip_comes_into_the_joint_space(clip) -> None:
    """An encoder and a head, from one CLIP file, give what CLIP's own image tower gives."""
    model, file = clip
    encoder = d2st.adapt(BACKBONE, d2st.NoneConfig(), frames=2, pretrained=file)
    head = heads.build("zero-shot", features=encoder.num_features, joint=512)
    head.projection.set(text.visual_projection(encoder, file))
    video = torch.randn(1, 2, 3, 224, 224)
    with torch.no_grad():
        ours, theirs = head.projection(encoder(video))[0], model.encode_image(video[0])
    assert goldens.relative_error(ours, theirs) <= 1e-5


def test_the_projection_of_a_clip_resnet_is_behind_its_attention_pool(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet50_clip.openai", pretrained=False, img_size=64).eval()
    save_file(model.state_dict(), tmp_path / "resnet.safetensors")
    encoder = d2st.adapt(
        "resnet50_clip.openai", d2st.NoneConfig(), frames=1, pretrained=tmp_path / "resnet.safetensors", image_size=64
    )
    projection = text.visual_projection(encoder, tmp_path / "resnet.safetensors")
    video = torch.randn(1, 1, 3, 64, 64)
    with torch.no_grad():
        assert goldens.relative_error(projection(encoder(video))[0], model(video[0])) <= 1e-5


def test_projections_that_cannot_be_had_are_refused_with_a_sentence(tmp_path: Path) -> None:
    encoder = d2st.adapt(BACKBONE, d2st.NoneConfig(), frames=1, pretrained=False, image_size=32)
    with pytest.raises(D2STError, match="drawn at random or from False: pass the CLIP weight file"):
        text.visual_projection(encoder)
    save_file(timm.create_model(BACKBONE, num_classes=0).state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(D2STError, match=r"projection of CLIP cannot be loaded: .*missing keys \['head"):
        text.visual_projection(encoder, tmp_path / "bare.safetensors")
    by_hand = d2st.adapt(timm.create_model(BACKBONE, num_classes=0), d2st.NoneConfig(), frames=1)
    with pytest.raises(D2STError, match=r"VisionTransformer was built by hand: keep its own get_classifier\(\)"):
        text.visual_projection(by_hand, tmp_path / "bare.safetensors")


def test_without_open_clip_a_sentence_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(D2STError, match=r"pip install \"d2st\[mm\]\""):
        text.encode_names(["wave"], config=TextConfig("ViT-B-16/openai"))
