"""Pre-train the backbone that ships with the package: ``python scripts/pretrain_stills.py --out FILE``.

It sees still images only, drawn by the same code as the demo's clips, and learns to say what is where: from the pooled
feature which colors and shapes there are, where something is, and for each color where its object is, how large, and
which way it points; from every cell of the last feature map the same of the object nearest to it. It never sees motion.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from stills import render_still
from torch import Tensor, nn
from torch.nn import functional as F

from d2st.backbones.assets import SHIPPED
from d2st.data.rendered.draw import NAMES, TINTS
from d2st.data.rendered.shapes import FILLS
from d2st.training.optim import cosine_schedule
from d2st.utils.config import Checked, option
from d2st.utils.files import write_safetensors
from d2st.utils.limits import CLIPS, NOT_NEGATIVE, POSITIVE, SEED, STEPS, THREADS, WORKERS

SHIPPED_IN = Path(__file__).parent.parent / "src" / "d2st" / "backbones" / "assets"
BINS = 8  # columns and rows that the pooled feature tells apart
NEAR = 0.18  # an object further from a cell's center than this, in image widths, is not the cell's to name
POOLED = {"presence": 1, "numbers": 3, "column": BINS, "row": BINS}  # outputs for each color
SHARED = {"shapes": len(NAMES), "places": BINS * BINS}  # outputs whatever the color
DENSE = {"presence": 1, "numbers": 5, "shape": len(NAMES), "fill": len(FILLS), "color": len(TINTS)}  # for each cell


@dataclass(frozen=True)
class StillsConfig(Checked):
    """How the shipped backbone is pre-trained.

    Args:
        out: File to write, safetensors; the default is the file the package ships.
        name: Which shipped backbone.
        images: Number of stills; every one is new.
        batch: Stills a step.
        learning_rate: Peak learning rate of AdamW, reached after 5 % of the steps, then cosine to 0.
        weight_decay: Decoupled weight decay.
        seed: Seed of the stills and of the initial weights.
        workers: Processes that render; the stills do not depend on it.
        threads: Threads of the convolutions; sums, and so the last digits, depend on it.
    """

    out: Path = SHIPPED_IN / "d2st_stills.safetensors"
    name: str = "d2st_stills"
    images: int = option(300_000, **STEPS)
    batch: int = option(128, **CLIPS)
    learning_rate: float = option(3e-3, **POSITIVE)
    weight_decay: float = option(0.02, **NOT_NEGATIVE)
    seed: int = option(0, **SEED)
    workers: int = option(1, **WORKERS)
    threads: int = option(1, **THREADS)


class Stills(torch.utils.data.Dataset):
    """Stills by index: uint8 image (3, side, side) and its objects (MOST, 8).

    Args:
        seed: Seed of the stills.
        count: How many there are.
        side: Height and width in pixels.
    """

    def __init__(self, seed: int, count: int, side: int) -> None:
        self.seed, self.count, self.side = seed, count, side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, objects = render_still(self.seed, index, self.side)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(objects)


class StillsModel(nn.Module):
    """A shipped backbone with the linear heads of its pre-training.

    Args:
        name: Name of a shipped backbone.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        spec = SHIPPED[name]
        self.backbone = timm.create_model(spec["architecture"], num_classes=0, **spec["kwargs"])
        width = self.backbone.num_features
        self.pooled = nn.Linear(width, len(TINTS) * sum(POOLED.values()) + sum(SHARED.values()))
        self.dense = nn.Conv2d(width, sum(DENSE.values()), 1)
        for key in ("mean", "std"):
            value = torch.tensor(spec["pretrained_cfg"][key]).view(3, 1, 1) * 255
            self.register_buffer(key, value, persistent=False)

    def losses(self, images: Tensor, objects: Tensor) -> dict[str, Tensor]:
        """The loss of each thing to be said about uint8 images (B, 3, H, W) with objects (B, MOST, 8)."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        features = self.backbone.forward_features(x)  # (B, C, h, w)
        outputs = self.pooled(self.backbone.forward_head(features, pre_logits=True))
        by_color, shapes, places = outputs.split([outputs.shape[1] - sum(SHARED.values()), *SHARED.values()], 1)
        by_color = by_color.unflatten(1, (len(TINTS), -1))  # (B, colors, outputs)
        return _pooled_losses(by_color, shapes, places, objects) | _dense_losses(self.dense(features), objects)


def _pooled_losses(by_color: Tensor, shapes: Tensor, places: Tensor, objects: Tensor) -> dict[str, Tensor]:
    clip, slot = (objects[..., 7] >= 0).nonzero(as_tuple=True)
    there = objects[clip, slot]  # (n, 8), every object of the batch
    color, shape = there[:, 7].long(), there[:, 5].long()
    presence, numbers, column, row = by_color.split(list(POOLED.values()), -1)
    has_color = torch.zeros_like(presence[..., 0]).index_put((clip, color), torch.ones(()))
    has_shape = torch.zeros_like(shapes).index_put((clip, shape), torch.ones(()))
    column_of, row_of = (there[:, :2] * BINS).long().unbind(1)
    has_place = torch.zeros_like(places).index_put((clip, row_of * BINS + column_of), torch.ones(()))
    return {
        "colors": 5 * F.binary_cross_entropy_with_logits(presence[..., 0], has_color),
        "shapes": F.binary_cross_entropy_with_logits(shapes, has_shape),
        "places": 10 * F.binary_cross_entropy_with_logits(places, has_place),
        "pooled numbers": 2 * F.smooth_l1_loss(numbers[clip, color], there[:, 2:5], beta=0.2),
        "column": F.cross_entropy(column[clip, color], column_of),
        "row": F.cross_entropy(row[clip, color], row_of),
    }


def _dense_losses(cells: Tensor, objects: Tensor) -> dict[str, Tensor]:
    height, width = cells.shape[2:]
    cells = cells.flatten(2).transpose(1, 2)  # (B, h*w, outputs)
    presence, numbers, shape, fill, color = cells.split(list(DENSE.values()), -1)
    down, across = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    centers = torch.stack([across.flatten(), down.flatten()], -1)  # (h*w, 2)
    distance = (objects[:, None, :, :2] - centers[:, None]).norm(dim=-1)  # (B, h*w, MOST)
    distance = distance.masked_fill(objects[:, None, :, 7] < 0, float("inf"))
    nearest = distance.argmin(-1)  # (B, h*w)
    named = torch.gather(objects, 1, nearest[..., None].expand(-1, -1, 8))  # (B, h*w, 8)
    near = distance.amin(-1) < NEAR
    target = torch.cat([(named[..., :2] - centers) / NEAR, named[..., 2:5]], -1)[near]
    kinds = named[near][:, 5:].long()
    return {
        "occupied": 2 * F.binary_cross_entropy_with_logits(presence[..., 0], near.float()),
        "cell numbers": 5 * F.smooth_l1_loss(numbers[near], target, beta=0.2),
        "shape": F.cross_entropy(shape[near], kinds[:, 0]),
        "fill": F.cross_entropy(fill[near], kinds[:, 1]),
        "color": F.cross_entropy(color[near], kinds[:, 2]),
    }


def pretrain(config: StillsConfig) -> dict:
    """Pre-train on stills and write the backbone's weights.

    Returns:
        What was done: config, seconds, and mean losses over the last tenth of the stills.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = StillsModel(config.name).to(memory_format=torch.channels_last)
    side = SHIPPED[config.name]["pretrained_cfg"]["input_size"][-1]
    stills = Stills(config.seed, config.images, side)
    loader = torch.utils.data.DataLoader(stills, config.batch, num_workers=config.workers, drop_last=True)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    rate = cosine_schedule(config.learning_rate, len(loader), warmup=0.05)
    start, tail = time.monotonic(), []
    for step, batch in enumerate(loader):
        losses = model.losses(*batch)
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        sum(losses.values()).backward()
        optimizer.step()
        if step >= 0.9 * len(loader):
            tail.append({key: value.item() for key, value in losses.items()})
        if step % 100 == 0 or step + 1 == len(loader):
            values = ", ".join(f"{key} {value.item():.2f}" for key, value in losses.items())
            print(f"{step + 1}/{len(loader)} steps, {time.monotonic() - start:.0f} s: {values}", flush=True)
    seconds = time.monotonic() - start
    recorded = {key: value for key, value in asdict(config).items() if key != "out"}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"made_by": "python scripts/pretrain_stills.py", "config": json.dumps(recorded)}
    write_safetensors(config.out, model.backbone.state_dict(), metadata)
    print(f"Wrote {config.out} ({config.out.stat().st_size / 1e6:.2f} MB) after {seconds:.0f} s.")
    means = {key: sum(losses[key] for losses in tail) / len(tail) for key in tail[0]}
    return {"config": recorded, "seconds": seconds, "losses": means}


def main(arguments: list[str] | None = None) -> None:
    """Command line of the pre-training: every field of ``StillsConfig`` is a flag."""
    parser = argparse.ArgumentParser(prog="python scripts/pretrain_stills.py", description=__doc__)
    for key, value in asdict(StillsConfig()).items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=Path if key == "out" else type(value), default=value)
    pretrain(StillsConfig(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
