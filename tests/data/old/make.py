"""Make the files of earlier versions: ``PYTHONPATH=CHECKOUT/src python tests/data/old/make.py COMMIT``.

CHECKOUT is a work tree of d2st at COMMIT. The files lie in the folder COMMIT beside this script and
are loaded by tests/test_old_files.py with the code of today, which must find the numbers in
``expected.json`` again. Nothing here is run by the tests, and nothing in those folders is made again
with newer code.

- ``65bbc7b``: before adapters, heads, supports and calibrations said how clips are read, and runs
  from what they are made.
- ``6784166``: before the modules were moved into rooms.

The store that both train on, ``store``, was made by 65bbc7b.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import old_models  # noqa: E402

import d2st  # noqa: E402
from d2st import heads  # noqa: E402
from d2st.cli import main  # noqa: E402
from d2st.files import write_json  # noqa: E402

SYSTEMS = {
    "none": d2st.NoneConfig(),
    "full": d2st.FullConfig(),
    "vanilla": d2st.VanillaConfig(positions="late"),
    "st": d2st.STConfig(positions=(0,)),
    "dst": d2st.DSTConfig(positions=(0,)),
    "d2st": d2st.D2STConfig(positions=(1,)),
    "aim": d2st.AIMConfig(temporal_adapters=2, drop_path=0),
    "dualpath": d2st.DualPathConfig(tiles=2, dropout=0),
    "dist": d2st.DiSTConfig(width=8, temporal_width=2, stem_frames=3, pool_layers=1),
}
HEADS = {
    "bi-mhm": {},
    "otam": {},
    "prototype": {},
    "trx": {"width": 4, "dropout": 0.0},
    "hyrsm": {"heads": 2, "classes": 7, "temporal_weight": 0.05},
    "molo": {"heads": 2, "hidden": 4, "classes": 7, "reconstruction_weight": 0.0},
    "clip-fsar": {"heads": 2, "hidden": 8},
    "zero-shot": {"scale": 10.0},
}
# What 65bbc7b makes of them; the rest has the same format as with 6784166.
FIRST_SYSTEMS = ("none", "d2st", "dualpath")
FIRST_HEADS = ("bi-mhm", "trx", "clip-fsar")
NARROW = {"full", "dist", "dualpath"}
NEEDS_TEXT = {"clip-fsar", "zero-shot"}
MODEL = ["--backbone", "d2st_stills", "--image-size", "32", "--frames", "4", "--device", "cpu"]
DATA = ["--data", "store", "--split", "split.yaml"]
D2ST = ["--adapter", "d2st", "--adapter.ratio", "0.125", "--adapter.positions", "[0]"]
D2ST += ["--adapter.pathways", "temporal"]
VANILLA = ["--adapter", "vanilla", "--adapter.ratio", "0.0625", "--adapter.positions", "[0]"]
TRAIN = ["train", *DATA, *MODEL, *D2ST, "--way", "2", "--shot", "1", "--queries", "1", "--lr", "0.003"]
TRAIN += ["--episodes", "24", "--episodes-per-step", "4", "--validate-every", "8", "--validation-episodes", "20"]
TRAIN += ["--checkpoint-minutes", "0", "--jitter", "0.2", "--seed", "3"]
FULL_SHOT = ["train", "--head", "linear", "--data", "store", *MODEL, *VANILLA, "--epochs", "4"]
FULL_SHOT += ["--split", "lists", "--clips-per-step", "3", "--batch-size", "3", "--lr", "0.003"]
FULL_SHOT += ["--warmup-epochs", "1", "--checkpoint-minutes", "0", "--validate-every", "2", "--seed", "3"]
WHERE = ["--data", "store", "--split", "split.yaml"]
COMMANDS = {
    "demo": ["demo", "--episodes", "100"],
    "check-data": ["check-data", "split.yaml", "store"],
    "prepare": ["prepare", "--data", "videos", "--out", "store", "--short-side", "128"],
    "train": ["train", *WHERE, "--adapter", "d2st", "--adapter.ratio", "0.125", "--head", "trx", "--shot", "5"],
    "train-aim": ["train", *WHERE, "--adapter", "aim", "--head", "hyrsm", "--head_lr", "0.5"],
    "train-linear": ["train", *WHERE, "--head", "linear", "--adapter", "st", "--epochs", "3"],
    "eval": ["eval", *WHERE, "--heads", "bi-mhm,otam", "--shot", "1,5", "--way", "3"],
    "eval-linear": ["eval", *WHERE, "--head", "linear", "--adapter", "linear", "--part", "val"],
    "predict": ["predict", "--support", "support", "--query", "a.mp4", "--head", "otam"],
    "predict-linear": ["predict", "--head", "linear", "--adapter", "linear", "--query", "a.mp4"],
    "visualize": ["visualize", "a.mp4", "--adapter", "d2st"],
    "spot": ["spot", "support", "long.mp4", "--lengths", "[1,2.5]"],
    "reproduce": ["reproduce", "4/D2ST", "--dry-run"],
    "export": ["export", "--adapter", "adapter", "--out", "model.onnx"],
    "bench": ["bench", "--adapters", "d2st,st"],
    "studio": ["studio"],
}
DATA_FILES = ("store", "split.yaml", "lists")


def make(commit: str) -> None:
    """Make the files of one commit in the folder that is worked in, and copy them here."""
    is_first, out = commit == "65bbc7b", Path(commit)
    if is_first:
        make_data()
    for name in DATA_FILES:
        copy(HERE / name, Path(name))
    systems = FIRST_SYSTEMS if is_first else tuple(SYSTEMS)
    head_names = FIRST_HEADS if is_first else tuple(HEADS)
    expected = {
        "adapters": adapters(out / "adapters", systems),
        "heads": classifiers(out / "heads", head_names),
        "classifier": video_classifier(out / "classifier"),
    }
    expected["runs"] = training(out / "runs")
    expected |= evaluations(out)
    expected["reproduced"] = reproduced(out / "reproduce", out / "eval" / "eval.json")
    configs(out / "configs")
    if is_first:
        next((out / "eval").glob("features-*")).unlink()  # read by the same code of the same version alone
    else:
        expected["stores"] = stores(out)
    for lock in out.rglob("*.lock"):
        lock.unlink()
    (out / "expected.json").write_text(told(expected) + "\n")
    copy(out, HERE / commit)


def make_data() -> None:
    """Make the store and the splits that the runs of every commit use."""
    old_models.write_videos(Path("videos"), list(old_models.COLORS))
    run("prepare", "--data", "videos", "--out", "store", "--format", "lossless", "--workers", "0")
    Path("store/clips.lock").unlink(missing_ok=True)
    Path("split.yaml").write_text(yaml.safe_dump(old_models.SPLIT))
    Path("lists").mkdir()
    for part, numbers in (("train", (0, 1)), ("val", (2,))):
        lines = [f"{name}/{n}.avi {name}\n" for name in old_models.SPLIT["train"] for n in numbers]
        Path(f"lists/{part}.txt").write_text("".join(lines))
    for name in DATA_FILES:
        copy(Path(name), HERE / name)


def copy(source: Path, target: Path) -> None:
    """Copy a file, or a folder in place of another."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def told(expected: dict) -> str:
    """Give JSON, one line a result."""
    rounded = json.loads(json.dumps(expected), parse_float=lambda text: float(f"{float(text):.8g}"))
    parts = []
    for key, value in rounded.items():
        if isinstance(value, dict):
            lines = [f"  {json.dumps(name)}: {json.dumps(one, ensure_ascii=False)}" for name, one in value.items()]
            parts.append(f" {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n }")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}"


def run(*argv: object) -> str:
    """Run a command; gives what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as end:  # after --print-config
            code = end.code or 0
    if code:
        raise SystemExit(f"{argv} ended with {code}: {printed.getvalue()}")
    return printed.getvalue()


def adapters(folder: Path, systems: tuple[str, ...]) -> dict:
    """Save an adapter of every system; gives features of a clip."""
    found = {}
    for place, name in enumerate(systems):
        torch.manual_seed(place)
        config = SYSTEMS[name]
        shape = {"depth": 1 if name == "full" else 2, "width": 8 if name in NARROW else 16}
        frames = 8 if name == "dualpath" else old_models.FRAMES
        encoder = d2st.adapt(old_models.backbone(**shape), config, frames=frames, image_size=old_models.SIZE)
        with torch.no_grad():
            for parameter in encoder.trainable_parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
            features = encoder.eval()(old_models.clip(frames=frames)[None])
        encoder.save_pretrained(folder / name)
        found[name] = {
            "backbone": shape,
            "frames": frames,
            "shape": list(features.shape),
            "numbers": old_models.numbers(features),
        }
    return found


def classifiers(folder: Path, names: tuple[str, ...]) -> dict:
    """Save a few-shot classifier with every head: adapter, head and support; gives its answers."""
    found = {}
    for name in names:
        torch.manual_seed(1)
        model = old_models.backbone(width=8)
        encoder = d2st.adapt(model, d2st.NoneConfig(), frames=old_models.FRAMES, image_size=old_models.SIZE)
        takes_features = name not in ("bi-mhm", "otam", "prototype")
        head = heads.build(name, **({"features": 8} if takes_features else {}), **HEADS[name]).eval()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        classifier = d2st.FewShotClassifier(encoder, head)
        classes = {"jump": [1, 2], "ワーク": [3], "a/b": [4]}
        if name in NEEDS_TEXT:
            classifier.names = {text: torch.randn(8) for text in classes}
        for text, seeds in classes.items():
            classifier.add_class(text, [old_models.clip(seed) for seed in seeds])
        prediction = classifier.predict(old_models.clip(9))
        classifier.save_pretrained(folder / name)
        found[name] = {"label": prediction.label, "logits": dict(prediction.logits)}
    return found


def video_classifier(folder: Path) -> dict:
    """Save a full-shot classifier; gives its logits."""
    torch.manual_seed(2)
    config = d2st.D2STConfig(positions=(1,))
    encoder = d2st.adapt(old_models.backbone(), config, frames=old_models.FRAMES, image_size=old_models.SIZE)
    model = d2st.VideoClassifier(encoder, 3, ["jump", "wave", "a/b"], sampling="stride", stride=2).eval()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        logits = model(old_models.clip()[None])[0]
    model.save_pretrained(folder)
    return {"names": list(model.names), "sampling": "stride", "stride": 2, "logits": logits.tolist()}


def stores(out: Path) -> dict:
    """Write a frame store of JPEGs, and tar shards; gives answers by support sets that are read from them."""
    from d2st.data.pack import main as pack

    old_models.write_videos(Path("few"), ["pink", "teal"], 1, length=3)
    run("prepare", "--data", "few", "--out", out / "store", "--short-side", "32", "--quality", "60", "--workers", "0")
    assert pack([str(out / "store"), "--out", str(out / "packed")]) == 0
    classifier = d2st.FewShotClassifier.from_pretrained("adapter")
    found = {}
    for name in ("store", f"{out}/store", f"{out}/packed"):
        prediction = classifier.fit(name).predict("query/q.avi")
        found[name] = {"label": prediction.label, "logits": dict(prediction.logits)}
    return found


def training(out: Path) -> dict:
    """Leave interrupted runs; gives what the same runs come to that are not interrupted."""
    from d2st.full_shot.loss import FullShotLoss
    from d2st.loss import EpisodicLoss

    found = {}
    for name, command, loss, calls in (
        ("train", TRAIN, EpisodicLoss, 14),
        ("linear", FULL_SHOT, FullShotLoss, 5),
    ):
        whole = out / f"{name}-whole"
        run(*command, "--out", whole)
        result = json.loads((whole / "train.json").read_text())
        found[name] = {
            "metrics": [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()],
            "best": {key: value for key, value in result.items() if key.startswith("best")},
            "final": {
                f"{file.name}/{key}": old_models.numbers(tensor, 4)
                for file in sorted((whole / "final").glob("*.safetensors"))
                for key, tensor in load_file(file).items()
            },
        }
        with interrupted(loss, calls):
            code = main([*command, "--out", str(out / name)])
        assert code == 130 and (out / name / "last.safetensors").exists(), (name, code)
        shutil.rmtree(out / name / "tensorboard", ignore_errors=True)
        copy(whole / "final", Path(f"trained-{name}"))
        shutil.rmtree(whole)
    return found


@contextlib.contextmanager
def interrupted(loss: type, calls: int):
    """Press Ctrl-C after some calls of a loss."""
    forward, seen = loss.forward, []

    def stopped(self, *inputs):
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return forward(self, *inputs)

    loss.forward = stopped
    try:
        yield
    finally:
        loss.forward = forward


def evaluations(out: Path) -> dict:
    """Write a calibration, a feature cache, results and a saved classifier; gives answers."""
    copy(Path("trained-train"), Path("adapter"))
    copy(out / "runs" / "linear" / "best", Path("linear"))
    common = ["eval", *DATA, "--adapter", "adapter", "--device", "cpu", "--seed", "5"]
    run(*common, "--way", "2", "--shot", "1,2", "--episodes", "200", "--out", out / "eval")
    calibrated = [*common, "--part", "val", "--way", "1", "--shot", "2", "--episodes", "100", "--open-set"]
    run(*calibrated, "--save-calibration", "adapter")
    old_models.write_videos(Path("support"), ["pink", "teal"], 1)
    old_models.write_video(Path("query/q.avi"), old_models.COLORS["pink"], 77)
    asked = ["--query", "query/q.avi", "--device", "cpu", "--format", "jsonl"]
    own = ["--support", "support", "--adapter", "adapter", "--reject-rate", "0.2", "--save", out / "saved"]
    results = json.loads((out / "eval" / "eval.json").read_text())["results"]
    return {
        "predict": json.loads(run("predict", *asked, *own)),
        "linear": json.loads(run("predict", "--head", "linear", "--adapter", "linear", *asked)),
        "eval": [{key: one[key] for key in ("shot", "accuracy", "interval")} for one in results],
    }


def reproduced(out: Path, result: Path) -> list[dict]:
    """Fill a row of a table of the paper with one result, as its trainings take days; gives the row."""
    module = importlib.import_module("d2st.reproduce")
    record = importlib.import_module("d2st.reproduce.run")

    def execute(runs, folder, *_):
        for one in runs:
            (Path(folder) / one.name / "test").mkdir(parents=True)
            write_json(folder / one.name / record.COMMANDS, one.lines)
            copy(result, folder / one.name / record.RESULT)
        return {}

    module.execute = execute
    module._refuse_absent = module._refuse_incomplete = lambda *_: None
    run("reproduce", "4/D2ST-Adapter/SSv2-Full", "--data", "store", "--out", out)
    cells = json.loads((out / "table4.json").read_text())["cells"]
    for file in out.glob("table4.*"):
        file.unlink()
    return [{key: cell[key] for key in ("row", "column", "paper", "ours", "interval", "seeds")} for cell in cells]


def configs(folder: Path) -> None:
    """Write what ``--print-config`` says of every command."""
    folder.mkdir()
    is_dashed = "--print-config" in Path(main.__code__.co_filename).read_text()
    for name, command in COMMANDS.items():
        printed = run(*command, "--print-config" if is_dashed else "--print_config")
        (folder / f"{name}.yaml").write_text(printed)


if __name__ == "__main__":
    scratch = Path(tempfile.gettempdir()) / "d2st-old"  # which stores say that they were made in
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    os.chdir(scratch)
    torch.set_num_threads(1)
    make(sys.argv[1])
