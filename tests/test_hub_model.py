"""Models go to the Hub with a card; no network is asked."""

import copy
import json
import pickle

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError

import d2st
from d2st.utils import hub

FILES = ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture
def encoder(small):
    weights = small / "weights.safetensors"
    return d2st.adapt("test_resnet", d2st.STConfig(ratio=0.25), frames=4, pretrained=weights, image_size=32)


@pytest.fixture
def uploads(monkeypatch, tmp_path_factory):
    """What a Hub that keeps its repositories in a folder was given; ``find`` downloads from there."""
    calls, store = [], tmp_path_factory.mktemp("hub")

    class Repository:
        def __init__(self, repo_id):
            self.repo_id = repo_id

    class HfApi:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, private=None, exist_ok=False):
            if repo_id.startswith("locked/"):
                raise OSError("401 Client Error: no token")
            return Repository(repo_id)

        def upload_folder(self, *, repo_id, folder_path, **options):
            files = {path.name: path.read_bytes() for path in sorted(folder_path.iterdir())}
            calls.append((repo_id, files, options))
            (store / repo_id).mkdir(parents=True)
            for name, content in files.items():
                (store / repo_id / name).write_bytes(content)
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", HfApi)
    monkeypatch.setattr(hub, "_download", lambda name, files, revision: store / name)
    return calls


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet50", "timm/resnet50.a1_in1k"),
        ("vit_base_patch16_clip_quickgelu_224.openai", "timm/vit_base_patch16_clip_224.openai"),
    ],
)
def test_the_card_names_the_repository_that_the_weights_are_in(name, published):
    """timm keeps weights under their tag, and those of CLIP once for two models."""
    backbone = timm.create_model(name, num_classes=0, device="meta")
    encoder = d2st.adapt(backbone, "none")
    assert encoder.card_facts().base_model is None
    encoder.backbone_name, encoder.weights_source = name, True
    assert encoder.card_facts().base_model == published


def test_an_encoder_goes_there_and_back(small, encoder, uploads, tmp_path) -> None:
    assert sorted(path.name for path in encoder.save_pretrained(tmp_path / "best").iterdir()) == FILES  # and no card
    with pytest.raises(d2st.D2STError, match="repo_id='user/name'"):
        encoder.save_pretrained(tmp_path / "best", push_to_hub=True)
    encoder.save_pretrained(tmp_path / "best", push_to_hub=True, repo_id="me/clips", private=True, branch="dev")
    ((name, files, options),) = uploads
    assert name == "me/clips" and sorted(files) == ["README.md", *FILES] and options["revision"] == "dev"
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "d2st" and card.data.license == "unknown"
    assert "4 frames a clip; how they are read is not recorded" in card.text
    assert 'd2st.load("hub:me/clips")' in card.text and card.text.count("not recorded; please fill in") == 5
    again = d2st.VideoEncoder.from_pretrained("hub:me/clips", weights=small / "weights.safetensors", revision="dev")
    video = torch.rand(1, 4, 3, 32, 32)
    assert torch.equal(again(video), encoder(video))


def test_a_card_has_the_training_and_the_results_of_this_folder(encoder, uploads, tmp_path) -> None:
    best = encoder.save_pretrained(tmp_path / "run" / "best")
    made = {"versions": {"d2st": "0.1.0"}, "git": {"commit": "0123456789abcdef", "changed": True}}
    training = {
        "command": "/home/me/bin/d2st train --data 'my clips'",
        "config": {"data": "my clips", "way": 5},
        **made,
    }
    (tmp_path / "run" / "train.json").write_text(json.dumps(training | {"adapter": str(best), "bad_clips": []}))
    for folder, adapter, accuracy in (("a", tmp_path / "other", 0.9), ("test", best, 0.5123)):
        (tmp_path / "run" / folder).mkdir()
        result = {"head": "otam", "way": 5, "shot": 1, "episodes": 100, "accuracy": accuracy, "interval": 0.0125}
        content = {"config": {"adapter_path": str(adapter), "data": "a|b"}, "part": "test", "results": [result]}
        (tmp_path / "run" / folder / "eval.json").write_text(json.dumps(content))
    assert encoder.push_to_hub("me/clips", run=best) == "https://huggingface.co/me/clips/commit/1"
    card = uploads[0][1]["README.md"].decode()
    for said in ("d2st train --data 'my clips'", "commit 0123456789ab, with changes", "51.23 % ± 1.25", "5-way 1-shot"):
        assert said in card
    assert (
        "/home/me" not in card
        and "90.00" not in card
        and "please fill in;" not in card
        and "not recorded; please" not in card
    )
    (best / "README.md").write_text("---\nlicense: mit\n---\nMy own words.\n")
    encoder.push_to_hub("me/again", run=best)
    assert "My own words." in uploads[1][1]["README.md"].decode()


@pytest.mark.parametrize("wrong", [5, "text", [5], None])
def test_results_that_somebody_changed_leave_blanks(encoder, uploads, tmp_path, wrong) -> None:
    best = encoder.save_pretrained(tmp_path / "run" / "best")
    training = dict.fromkeys(("command", "config", "git", "versions", "bad_clips"), wrong)
    (tmp_path / "run" / "train.json").write_text(json.dumps({"adapter": str(best), **training}))
    tested = {"config": {"adapter_path": str(best)}, "results": wrong}
    (tmp_path / "run" / "eval.json").write_text(json.dumps(tested))
    encoder.push_to_hub("me/clips", run=best)
    assert "not recorded" in uploads[0][1]["README.md"].decode()


def test_classifiers_go_there_and_back(small, encoder, uploads) -> None:
    clips = {name: [small / "data" / name / f"{n}.mp4" for n in range(2)] for name in ("red", "teal")}
    classifier = d2st.FewShotClassifier(encoder).fit(clips)
    classifier.push_to_hub("me/few")
    assert "red (2), teal (2)" in uploads[0][1]["README.md"].decode() and "support.safetensors" in uploads[0][1]
    again = d2st.FewShotClassifier.from_pretrained("hub:me/few", weights=small / "weights.safetensors")
    query = small / "data" / "red" / "3.mp4"
    assert again.predict(query) == classifier.predict(query)
    model = d2st.VideoClassifier(encoder, 2, ["red", "teal"])
    model.push_to_hub("me/full")
    again = d2st.VideoClassifier.from_pretrained("hub:me/full", weights=small / "weights.safetensors")
    assert again.names == model.names
    with pytest.raises(d2st.D2STError, match="without names"):
        d2st.VideoClassifier(encoder, 2).push_to_hub("me/nameless")


def test_what_the_hub_refuses_is_told_in_a_sentence(encoder, uploads) -> None:
    with pytest.raises(d2st.D2STError, match=r"did not take 'locked/x': 401 .*hf auth login"):
        encoder.push_to_hub("locked/x")
    with pytest.raises(d2st.D2STError, match="did not take"):
        encoder.push_to_hub("no name at all")
    assert issubclass(HfHubHTTPError, OSError) and not uploads


def test_the_mixin_leaves_models_as_they_are(encoder) -> None:
    assert "_hub_mixin_config" not in vars(encoder)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert other.state_dict().keys() == encoder.state_dict().keys()
