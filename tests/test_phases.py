"""Ordered phases: the head against its definition as loops, its prior, and how texts of phases are made."""

import math
from pathlib import Path

import heads_small
import pytest
import small
import small_clip
import torch
import yaml
from torch.nn import functional as F

import d2st
from d2st import D2STError, heads
from d2st.commands import cli
from d2st.heads.phases import GATE, Phases, spans
from d2st.text.prompts import PHASES, phases, prompts, read_names

TOLD = {"clap": ["open the hands", "close them."], "wave": ["raise a hand", "move it"], "jump": ["crouch", "leap!"]}


def test_spans_are_all_runs_of_phases_short_ones_first():
    assert spans(1) == [(0, 1)]
    assert spans(3) == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 3)]
    assert len(spans(4)) == 10


def by_hand(head: Phases, clip: torch.Tensor, texts: torch.Tensor) -> list[torch.Tensor]:
    """Patterns of one clip (T, D) for the texts (M, D) of one class, a text, a head and a frame at a time."""
    frames, width, d = len(clip), len(clip[0]), len(clip[0]) // head.heads
    keys, values = [], []
    for t, frame in enumerate(clip):
        angles = [t / 10000 ** ((j - j % 2) / width) for j in range(width)]
        code = [0.1 * (math.sin(a) if j % 2 == 0 else math.cos(a)) for j, a in enumerate(angles)]
        x = head.frame_norm(frame / frame.norm() + torch.tensor(code, dtype=clip.dtype))
        both = head.key_value.weight @ x + head.key_value.bias
        keys.append(both[:width])
        values.append(both[width:])
    decay, patterns = math.log1p(math.exp(head.decay.item())), []
    for (first, length), text in zip(spans(head.phases), texts, strict=True):
        text = text / text.norm()
        query = head.query.weight @ head.text_norm(text) + head.query.bias
        begin, end = first / head.phases, (first + length) / head.phases
        gate = math.log1p(math.exp(head.gate[length - 1].item()))
        parts = []
        for h in range(head.heads):
            own = slice(h * d, (h + 1) * d)
            scores = []
            for t in range(frames):
                place = (t + 0.5) / frames
                outside = max(begin - place, place - end, 0.0)
                scores.append(query[own] @ keys[t][own] / d**0.5 - gate * (outside / decay) ** 2)
            weights = torch.stack(scores).exp()
            weights = weights / weights.sum()
            parts.append(sum(weight * value[own] for weight, value in zip(weights, values, strict=True)))
        pattern = text + head.output.weight @ torch.cat(parts) + head.output.bias
        inner = head.feed_forward[0](head.pattern_norm(pattern))
        patterns.append(pattern + head.feed_forward[3](F.gelu(inner)))
    return patterns


@pytest.mark.parametrize(("phases", "frames"), [(3, 5), (2, 1), (1, 4), (4, 8)])
def test_logits_are_their_definition(phases, frames):
    head = heads_small.build("phases", phases=phases).double()
    for parameter in head.parameters():  # none is what it starts as
        parameter.data += 0.1 * torch.randn_like(parameter)
    episode = heads_small.episode(head, (2, 1, 3), queries=3, frames=frames, dtype=torch.float64)
    texts = heads_small.text_of(episode)  # (way, M, D)
    logits = head(episode.support, episode.labels, episode.query, text=texts)
    for c, own in enumerate(texts):
        clips = [by_hand(head, clip, own) for clip, of in zip(episode.support, episode.labels, strict=True) if of == c]
        prototypes = [sum(patterns) / len(clips) for patterns in zip(*clips, strict=True)]
        for q, clip in enumerate(episode.query):
            found = by_hand(head, clip, own)
            alike = [F.cosine_similarity(x, y, dim=0) for x, y in zip(found, prototypes, strict=True)]
            expected = head.log_scale.exp() * sum(alike) / len(alike)
            torch.testing.assert_close(logits[q, c], expected, rtol=1e-9, atol=1e-9)


def test_the_prior_is_flat_inside_of_a_span_and_none_for_all_phases():
    bias = heads.build("phases", features=8, phases=4, heads=2).bias(8).detach()  # two frames a phase
    assert bias.shape == (10, 8)
    for (first, length), row in zip(spans(4), bias, strict=True):
        inside = torch.zeros(8, dtype=torch.bool)
        inside[2 * first : 2 * (first + length)] = True
        assert (row[inside] == 0).all() and (row[~inside] < 0).all()
        assert torch.equal(row.sort(descending=True).values[: inside.sum()], torch.zeros(int(inside.sum())))
    far = (8 - 0.5) / 8 - 1 / 4  # of the last frame from the first phase
    torch.testing.assert_close(bias[0, -1].item(), -GATE * (far / 0.25) ** 2, rtol=1e-6, atol=0)
    assert (bias[0, 2:].diff() < 0).all(), "the farther, the more"


def test_the_order_of_phases_and_of_frames_counts():
    head = heads_small.build("phases", phases=2).double()
    episode = heads_small.episode(head, dtype=torch.float64)
    texts = heads_small.text_of(episode)
    logits = head(episode.support, episode.labels, episode.query, text=texts)
    swapped = head(episode.support, episode.labels, episode.query, text=texts[:, [1, 0, 2]])
    backwards = head(episode.support, episode.labels, episode.query.flip(1), text=texts)
    assert (logits - swapped).abs().max() > 1e-3 and (logits - backwards).abs().max() > 1e-3


def test_the_scale_is_capped():
    head = heads_small.build("phases").double()
    episode = heads_small.episode(head, dtype=torch.float64)
    head.log_scale.data.fill_(9.0)
    logits = head(episode.support, episode.labels, episode.query, text=heads_small.text_of(episode))
    assert 50 < logits.abs().max() <= 100


def test_episode_bytes_know_of_the_readings():
    head = heads_small.build("phases", phases=2)
    clip = torch.zeros(4, 2 * heads_small.FEATURES)
    expected = 35 * clip.nbytes + (10 * 5 + 25) * (8 * 3 + 2 * 4) * heads_small.FEATURES * 4
    assert head.episode_bytes(clip, 25, 10, 5) == expected


def test_texts_of_another_number_of_phases_are_refused():
    head = heads.build("phases", features=8, phases=3, heads=2)
    support, labels = torch.randn(2, 4, 8), torch.tensor([0, 1])
    for texts in (torch.randn(2, 3, 8), torch.randn(2, 8)):
        with pytest.raises(D2STError, match=r"built for 3 phases of a class, whose 6 spans"):
            head(support, labels, support, text=texts)
    with pytest.raises(D2STError, match="needs the features of the classes' names"):
        head(support, labels, support)
    with pytest.raises(D2STError, match="8 features cannot be shared by 3 attention heads"):
        heads.build("phases", features=8, heads=3)


def write(folder: Path, content: object) -> str:
    file = folder / "names.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def test_a_file_of_names_may_tell_phases_too(tmp_path):
    file = write(tmp_path, {"clap": "clapping", "wave": "waving", PHASES: TOLD})
    assert phases(["wave", "clap"], file) == [TOLD["wave"], TOLD["clap"]]
    assert prompts(["clap"], file, "{}") == [["clapping"]]
    assert read_names(Path(write(tmp_path, {PHASES: TOLD}))) == {}
    assert read_names(Path(write(tmp_path, {PHASES: "of the moon"}))) == {PHASES: ["of the moon"]}, (
        "a class of that name"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"clap": "clapping"}, "must have the key phases"),
        ({PHASES: ["a", "b"]}, "must have the key phases"),
        ({PHASES: {"clap": "open, close"}}, "must have the key phases"),
        ({PHASES: {"clap": ["a", "b"], "wave": ["a", "b", "c"]}}, "'clap' in 2 phases and 'wave' in 3"),
        ({PHASES: {"wave": ["a", "b"]}}, "tells no phases of 'clap'"),
    ],
)
def test_phases_that_cannot_be_used_are_refused(tmp_path, content, said):
    with pytest.raises(D2STError, match=said):
        phases(["clap"], write(tmp_path, content))
    with pytest.raises(D2STError, match="needs a YAML file with the key phases"):
        phases(["clap"], "clean")


def test_spans_are_texts_in_the_order_of_the_phases(tmp_path, monkeypatch):
    clip = small_clip.write_clip(tmp_path)[1]
    config = heads.TextConfig("small", str(clip), write(tmp_path, {PHASES: TOLD}))
    found = d2st.text.encode_phases(["jump", "clap"], config=config, cache=tmp_path)
    assert found.shape == (2, 3, small_clip.JOINT)
    texts = [["crouch.", "leap!", "crouch. Then leap!"]]
    texts += [["open the hands.", "close them.", "open the hands. Then close them."]]
    for own, of_class in zip(found, texts, strict=True):
        for feature, text in zip(own, of_class, strict=True):
            told = heads.TextConfig("small", str(clip), write(tmp_path, {"x": text}), "{}")
            torch.testing.assert_close(feature, d2st.text.encode_names(["x"], config=told, cache=tmp_path)[0])


def test_phases_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Trained, tested, and kept with a support set; the head remembers its file of phases."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = small.write_dataset(tmp_path)
    clip = small_clip.write_clip(tmp_path)[1]
    told = {
        name: [f"a {name} beginning", f"a {name} middle", f"a {name} end"] for of in small.SPLIT.values() for name in of
    }
    file = write(tmp_path, {PHASES: told})
    where = ["--data", str(folder / "data"), "--split", str(folder / "split.yaml"), "--device", "cpu"]
    where += ["--weights", str(clip), "--text.weights", str(clip), "--way", "2"]
    out = ["--out", str(tmp_path / "run")]
    model = ["--backbone", small_clip.BACKBONE, "--image-size", "32", "--frames", "2", "--adapter", "vanilla"]
    flags = ["--head", "phases", "--head.phases", "3", "--text.model", "small", "--text.names", file]
    short = ["--episodes", "4", "--episodes-per-step", "2", "--validation-episodes", "5"]
    assert cli.main(["train", *where, *model, *flags, *short, *out]) == 0
    best = ["--adapter", str(tmp_path / "run" / "best")]
    assert cli.main(["eval", *where, *best, "--shot", "1,2", "--episodes", "20", "--open-set"]) == 0
    assert "2-way 2-shot" in capsys.readouterr().out
    assert cli.main(["train", *where, *model, *flags[:2], *flags[4:], *short, "--out", str(tmp_path / "four")]) == 2
    assert "built for 4 phases of a class" in capsys.readouterr().err
    encoder, head = d2st.load(tmp_path / "run" / "best", weights=clip), heads.load(tmp_path / "run" / "best")
    assert head.text.names == file and head.phases == 3
    classifier = d2st.FewShotClassifier(encoder, head, text=heads.TextConfig(weights=str(clip)))
    clips = {name: [folder / "data" / name / f"{n}.mp4" for n in (0, 1)] for name in ("pink", "sand")}
    query = folder / "data" / "sand" / "4.mp4"
    answer = classifier.fit(clips).predict(query)
    classifier.save_support(tmp_path / "support.safetensors")
    other = d2st.FewShotClassifier(encoder, head).load_support(tmp_path / "support.safetensors")
    assert other.predict(query).logits == pytest.approx(answer.logits, abs=1e-5)
