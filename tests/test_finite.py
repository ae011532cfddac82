"""Numbers that are none never pass for an answer."""

import copy

import numpy as np
import pytest
import small as dataset
import torch
from safetensors.torch import load_file, save_file

import d2st
from d2st import heads
from d2st.classifiers.few_shot import FewShotClassifier
from d2st.classifiers.video import VideoClassifier
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.data.clip_reading import ClipReading
from d2st.data.datasets import open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.data.sampling import build
from d2st.data.transforms import eval_transform
from d2st.errors import D2STError
from d2st.evaluation.classification import classify
from d2st.evaluation.episodes import score
from d2st.evaluation.open_set import score_open
from d2st.features.encode import encode_clips
from d2st.spotting.watch import watch
from d2st.utils.distributed import launch
from d2st.utils.finite import check_finite, check_logits, check_weights
from d2st.visualize.clip_points import clip_points

NAN, INF = float("nan"), float("inf")


def test_features_that_are_not_finite_name_their_clips():
    values = torch.zeros(3, 2, 4)
    check_finite(values, ["a", "b", "c"], "fp32")
    check_finite([values, torch.empty(3, 0)], ["a", "b", "c"], "fp32")
    values[1, 0, 2] = NAN
    with pytest.raises(D2STError, match="The features of clip 'b' are not finite in fp32: a weight of the backbone"):
        check_finite([torch.zeros(3, 1), values], ["a", "b", "c"], "fp32")
    values[2, 1, 1] = -INF
    with pytest.raises(D2STError, match=r"of 2 clips 'b', 'c' are not finite in fp16: .* choose fp32 or bf16"):
        check_finite(values, ["a", "b", "c"], "fp16")
    with pytest.raises(D2STError, match="of 9 clips '0', '1', '2' and 6 more clips"):
        check_finite(torch.full((9, 1), NAN), [str(i) for i in range(9)], "bf16")
    with pytest.raises(D2STError, match="of clip 'a' are"):  # two views of one clip
        check_finite(torch.full((2, 1), NAN), ["a", "a"], "bf16")


def test_logits_may_rule_a_class_out_but_not_be_nan():
    check_logits(torch.tensor([[0.0, -INF], [1.0, 2.0]]), names=["a", "b"])
    for wrong in ([0.0, NAN], [0.0, INF], [-INF, -INF]):
        with pytest.raises(D2STError, match="The logits of clip 'b' are not finite"):
            check_logits(torch.tensor([[0.0, 1.0], wrong]), names=["a", "b"])
    with pytest.raises(D2STError, match="The logits of episode '11' are"):
        check_logits(torch.tensor([[[0.0], [0.0]], [[0.0], [NAN]]]), "episode", first=10)


def test_weights_that_are_not_finite_name_their_tensors():
    fine = {"a": torch.zeros(2), "steps": torch.tensor(3), "none": torch.empty(0)}
    check_weights(fine, "The weights", "copy them")
    with pytest.raises(D2STError, match="The weights hold numbers that are not finite, in 'b'; copy them"):
        check_weights(fine | {"b": torch.tensor([0.0, INF])}, "The weights", "copy them")


class Overflowing(torch.nn.Module):
    """Infinite features of the clips whose first picture is mostly red or green; the others' stay."""

    def __init__(self, encoder, channel: int) -> None:
        super().__init__()
        self.encoder, self.channel = encoder, channel

    def forward(self, video):
        features = self.encoder(video).clone()
        means = video[:, 0].mean((2, 3))  # (B, 3)
        features[means.argmax(1) == self.channel, 0, 0] = INF
        return features

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("encoder"), name)


@pytest.fixture(scope="module")
def encoder(small):
    weights = small / "weights.safetensors"
    return d2st.adapt("test_resnet", d2st.D2STConfig(), frames=4, pretrained=weights, image_size=32)


@pytest.fixture
def clips(small):
    return open_dataset(small / "data", small / "split.yaml", "train")


def encoded(encoder, clips, **more):
    transform = eval_transform(32, encoder.mean, encoder.std, encoder.interpolation)
    return encode_clips(encoder, clips, build("uniform", 4), transform, **more)


def test_encoding_stops_at_clips_with_infinite_features(encoder, clips):
    assert encoded(encoder, clips).values.isfinite().all()
    one = [clips.by_class[clips.classes.index("red")][2], clips.by_class[clips.classes.index("blue")][0]]
    with pytest.raises(D2STError, match=r"features of clip 'red/2\.mp4' are not finite in fp32: a weight of the backb"):
        encoded(Overflowing(encoder, 0), clips, indices=one, views=2)
    with pytest.raises(D2STError, match=r"of 5 clips 'red/0\.mp4', .* are not finite in fp32"):
        encoded(Overflowing(encoder, 0), clips, indices=range(15), batch_size=20)  # without the white ones
    training = Overflowing(encoder, 0).train()
    with pytest.raises(D2STError, match="are not finite"):
        encoded(training, clips, indices=one)
    assert training.training, "an encoder has the mode that it had, also after an error"
    training.eval()


def test_evaluation_and_prediction_give_no_numbers_for_a_damaged_backbone(small, tmp_path, encoder, monkeypatch):
    damaged = copy.deepcopy(encoder)
    with torch.no_grad():
        next(damaged.backbone.parameters()).view(-1)[0] = NAN
    monkeypatch.setattr("d2st.commands.evaluate.create_encoder", lambda config: (damaged, 4))
    with pytest.raises(D2STError, match="are not finite in fp32"):
        evaluate(EvalConfig(**dataset.options(small, way=3, shot=1, out=str(tmp_path))))
    assert not list(tmp_path.iterdir())  # neither result nor cache
    clip = small / "data" / "red" / "0.mp4"
    classifier = FewShotClassifier(damaged)
    with pytest.raises(D2STError, match=r"The features of clip '.*red/0\.mp4' are not finite"):
        classifier.fit({"red": [clip]})
    with pytest.raises(D2STError, match=r"The features of 8 clips 'blue/0\.mp4', .* are not finite"):
        classifier.fit(small / "data")
    whole = FewShotClassifier(encoder).fit({"red": [clip], "blue": [small / "data" / "blue" / "0.mp4"]})
    whole.encoder = damaged
    with pytest.raises(D2STError, match="are not finite"):
        whole.predict(clip)
    with pytest.raises(D2STError, match="are not finite"):
        next(iter(watch(whole, ((i / 25, picture()) for i in range(50)), 25.0, [1.0], 0.5, 4)))
    with pytest.raises(D2STError, match="are not finite"):
        clip_points(damaged, torch.zeros(4, 3, 32, 32, dtype=torch.uint8))


def picture():
    return np.zeros((32, 32, 3), np.uint8)


def test_frames_that_are_not_finite_are_told_from_weights(encoder):
    classifier = FewShotClassifier(encoder)
    video = torch.zeros(4, 3, 32, 32)
    video[0, 0, 0, 0] = NAN
    with pytest.raises(D2STError, match="The frames of clip 'given as frames' are not finite; give frames"):
        classifier.fit({"red": [video]})
    assert classifier.classes == ()


def test_features_given_for_a_class_must_be_finite(encoder):
    classifier = FewShotClassifier(encoder)
    features = torch.zeros(2, 4, encoder.num_features)
    features[1, 0, 0] = INF
    with pytest.raises(D2STError, match="The features of clip 'red, 1' are not finite"):
        classifier.set_class("red", features)


def test_episodes_whose_logits_are_nan_are_not_scored():
    labels = np.repeat(np.arange(3), 4)
    features = torch.randn(12, 1, 4, 8, generator=torch.Generator().manual_seed(0))

    class Damaged(heads.Head):
        def match(self, support, support_labels, query, way, text):
            return support.new_full((len(query), query.shape[1], way), NAN)

    with pytest.raises(D2STError, match=r"The logits of 20 episodes '0', '1', '2' and 17 more episodes are not finite"):
        score(features, EpisodeSampler(labels, 3, 1, 1), Damaged(), 20)
    with pytest.raises(D2STError, match="The logits of"):
        score_open(features, EpisodeSampler(labels, 2, 1, 1, unseen=1), Damaged(), 20)


def test_a_classifier_with_damaged_weights_answers_nothing(encoder, clips):
    model = VideoClassifier(copy.deepcopy(encoder), 4, clips.classes)
    fabric = launch(torch.device("cpu"))
    assert classify(fabric, model, clips, ClipReading(4)).scores.shape == (20, 4)
    with torch.no_grad():
        next(model.head.parameters()).fill_(INF)
    with pytest.raises(D2STError, match=r"The scores of 8 clips 'blue/0\.mp4', .* are not finite"):
        classify(fabric, model, clips, ClipReading(4))


def test_backbone_weights_that_are_not_finite_are_refused(small, tmp_path):
    state = load_file(small / "weights.safetensors")
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    state[name][0] = NAN
    save_file(state, tmp_path / "damaged.safetensors")
    with pytest.raises(D2STError, match=rf"backbone weights '.*damaged.safetensors' hold .* not finite, in '{name}'"):
        d2st.adapt("test_resnet", d2st.D2STConfig(), frames=4, pretrained=tmp_path / "damaged.safetensors")
