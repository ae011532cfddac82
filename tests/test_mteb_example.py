"""examples/mteb_encoder.py: what mteb hands over becomes embeddings, without mteb and, where it is there, by itself."""

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from small import noisy, write_clip
from torch.utils.data import DataLoader

import d2st

TASK = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
T = 4
LENGTHS = (1, 3, 4, 11, 40)  # frames of the clips: fewer than T, as many, more


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
        yield importlib.import_module("mteb_encoder")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """The folder of an adapter that looks at other frames too."""
    torch.manual_seed(0)
    encoder = d2st.adapt("d2st_stills", d2st.STConfig(), frames=T)
    with torch.no_grad():
        for parameter in encoder.trainable_parameters():
            parameter.normal_(std=0.1)
    return encoder.save_pretrained(tmp_path_factory.mktemp("mteb") / "adapter")


@pytest.fixture(scope="module")
def model(script, adapter):
    return script.MtebEncoder(str(adapter), device="cpu")


@pytest.fixture(scope="module")
def clips():
    """Clips of several lengths and sizes, uint8 (L, 3, H, W)."""
    random = torch.Generator().manual_seed(0)
    sizes = [(96, 96), (64, 80), (100, 70), (64, 64), (96, 96)]
    return [
        torch.randint(0, 256, (length, 3, *size), dtype=torch.uint8, generator=random)
        for length, size in zip(LENGTHS, sizes, strict=True)
    ]


class Decoder:
    """What torchcodec's decoders have; it remembers which frames were asked for."""

    metadata = SimpleNamespace(average_fps=None)

    def __init__(self, frames):
        self.frames, self.asked = frames, []

    def __len__(self):
        return len(self.frames)

    def get_frames_at(self, indices):
        assert isinstance(indices, list) and all(type(index) is int for index in indices)
        self.asked += indices
        return SimpleNamespace(data=self.frames[indices])


def loader(videos, batch_size=2):
    """A loader as mteb makes them, whose own way of making batches keeps videos in a list."""
    rows = [{"video": video, "label": 0} for video in videos]
    return DataLoader(rows, batch_size, collate_fn=lambda rows: {"video": [row["video"] for row in rows]})


def centers(length, frames=T):
    return [(2 * k + 1) * length // (2 * frames) for k in range(frames)]


def expected(adapter, clips, frames=T):
    """Embeddings by the pieces of d2st, one clip at a time."""
    encoder = d2st.load(adapter)
    transform = encoder.transform()
    with torch.no_grad():
        features = [encoder(transform(clip[centers(len(clip), frames)])[None])[0] for clip in clips]  # (T, D) each
    return torch.stack([own.mean(0) for own in features]).numpy()


def test_clips_of_any_length_and_size_become_the_mean_of_their_frames(model, adapter, clips):
    found = model.encode(loader(clips), **TASK, batch_size=2, show_progress_bar=False)
    assert isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == (5, 192)
    np.testing.assert_allclose(found, expected(adapter, clips), rtol=1e-4, atol=1e-5)
    assert (np.abs(np.linalg.norm(found, axis=1) - 1) > 0.01).all()  # not normalized


def test_of_a_decoder_only_the_frames_that_are_used_are_decoded(model, clips):
    decoders = [Decoder(clip) for clip in clips]
    found = model.encode(loader(decoders), **TASK)
    assert [decoder.asked for decoder in decoders] == [centers(length) for length in LENGTHS]
    np.testing.assert_array_equal(found, model.encode(loader(clips), **TASK))


def test_files_are_read_too(model, tmp_path):
    file = tmp_path / "clip.mp4"
    write_clip(file, noisy(np.random.default_rng(0), "red", 9))
    (embedding,) = model.encode(loader([str(file)]), **TASK)
    again = d2st.load(model.encoder.save_pretrained(tmp_path / "adapter"))
    clip = torch.from_numpy(np.stack(list(d2st.data.video.open.iter_frames(file)))).movedim(-1, 1)  # (L, 3, H, W)
    assert len(clip) == 9 and again.frames == T
    np.testing.assert_allclose(embedding, expected(tmp_path / "adapter", [clip])[0], rtol=1e-4, atol=1e-5)


def test_the_number_of_frames_is_free(script, adapter, clips):
    more = script.MtebEncoder(str(adapter), device="cpu", frames=7)
    found = more.encode(loader(clips), **TASK)
    np.testing.assert_allclose(found, expected(adapter, clips, 7), rtol=1e-4, atol=1e-5)


def test_clips_are_read_as_the_adapter_was_trained(script, adapter, clips, tmp_path):
    encoder = d2st.load(adapter)
    encoder.lay_out(d2st.data.clip_reading.ClipReading(3, "stride", stride=2, image_size=(64, 64)))
    model = script.MtebEncoder(str(encoder.save_pretrained(tmp_path)), device="cpu")
    decoder = Decoder(clips[-1])
    model.encode(loader([decoder]), **TASK)
    assert decoder.asked == [17, 19, 21]  # 3 frames, 2 apart, in the middle of 40


def test_clips_that_see_their_batch_are_refused(script, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    encoder = d2st.adapt("test_vit", d2st.TaskAdapterConfig(videos="together"), frames=T, pretrained=weights)
    folder = encoder.save_pretrained(tmp_path / "adapter")
    with pytest.raises(d2st.D2STError, match="the clips of a call see each other"):
        script.MtebEncoder(str(folder), device="cpu", weights=str(weights))


def test_what_reads_goes_to_a_loaders_workers(model, clips):
    again = pickle.loads(pickle.dumps(model.read_clips))
    assert torch.equal(again([{"video": clips[3]}]), model.read_clips([{"video": clips[3]}]))
    assert len(pickle.dumps(model.read_clips)) < 10_000  # without the model


def test_similarities_are_cosines(model):
    one, other = np.array([[3.0, 0], [1, 1]]), torch.tensor([[0.0, 2], [5, 5]])
    half = 0.5**0.5
    torch.testing.assert_close(model.similarity(one, other), torch.tensor([[0, half], [half, 1]]))
    torch.testing.assert_close(model.similarity_pairwise(one, other), torch.tensor([0.0, 1]))
    assert model.similarity(one[0], other).shape == (1, 2)


@pytest.fixture
def pretended(monkeypatch, clips):
    """In mteb's place a module that does with a model what mteb.evaluate does."""

    class ModelMeta(SimpleNamespace):
        @classmethod
        def create_empty(cls, overwrites):
            return cls(**overwrites)

    def evaluate(model, tasks, *, encode_kwargs, num_proc):
        assert model.mteb_model_meta.modalities == ["video"] and num_proc is None
        for task in tasks:
            embeddings = model.encode(loader(clips, encode_kwargs["batch_size"]), **TASK, **encode_kwargs)
            score = float(model.similarity_pairwise(embeddings, embeddings).mean())
            yield SimpleNamespace(task_name=task, get_score=lambda score=score: score)

    names = {
        "mteb": {"get_tasks": lambda tasks: tasks, "evaluate": evaluate},
        "mteb.models": {},
        "mteb.models.model_meta": {"ModelMeta": ModelMeta, "ScoringFunction": SimpleNamespace(COSINE="cosine")},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def test_the_script_hands_the_model_to_mteb(script, adapter, pretended, monkeypatch, capsys):
    typed = ["mteb_encoder.py", str(adapter), "--tasks", "Diving", "Falling", "--frames", "2", "--batch-size", "3"]
    monkeypatch.setattr(sys, "argv", typed)
    script.main()
    assert capsys.readouterr().out == "Diving: 1.0000\nFalling: 1.0000\n"


def test_results_of_other_weights_and_frames_have_other_names(script, adapter, pretended, model, tmp_path):
    about = model.mteb_model_meta
    assert (about.name, about.embed_dim, about.experiment_kwargs) == ("d2st/st-d2st_stills", 192, None)
    encoder = d2st.load(adapter)
    same = script.MtebEncoder(str(encoder.save_pretrained(tmp_path / "same")), device="cpu", frames=7)
    assert same.mteb_model_meta.revision == about.revision
    assert same.mteb_model_meta.experiment_kwargs == {"frames": 7}
    with torch.no_grad():
        encoder.trainable_parameters()[0].add_(1)
    other = script.MtebEncoder(str(encoder.save_pretrained(tmp_path / "other")), device="cpu")
    assert other.mteb_model_meta.revision != about.revision


def test_mteb_itself_takes_the_model(script, adapter, tmp_path):
    mteb = pytest.importorskip("mteb")
    import datasets
    from mteb.abstasks import AbsTaskClassification
    from mteb.models import EncoderProtocol, ModelMeta

    random = np.random.default_rng(0)
    for n in range(12):
        write_clip(tmp_path / f"{n}.mp4", noisy(random, ("blue", "red")[n % 2], 3 + n))

    def rows(numbers):
        content = {"video": [str(tmp_path / f"{n}.mp4") for n in numbers], "label": [n % 2 for n in numbers]}
        return datasets.Dataset.from_dict(content)

    class Colors(AbsTaskClassification):
        metadata = mteb.TaskMetadata(
            name="Colors",
            description="two colors",
            dataset={"path": "none", "revision": "1"},
            type="VideoClassification",
            category="v2c",
            modalities=["video"],
            eval_splits=["test"],
            eval_langs=["zxx-Zxxx"],
            main_score="accuracy",
        )
        input_column_name, samples_per_label, n_experiments = "video", 3, 2

        def load_data(self, **_):
            self.dataset = datasets.DatasetDict(train=rows(range(8)), test=rows(range(8, 12)))
            self.data_loaded = True

    model = script.MtebEncoder(str(adapter), device="cpu")
    assert isinstance(model, EncoderProtocol) and isinstance(model.mteb_model_meta, ModelMeta)
    (result,) = mteb.evaluate(model, [Colors()], cache=None, encode_kwargs={"batch_size": 3})
    assert result.get_score() == 1
