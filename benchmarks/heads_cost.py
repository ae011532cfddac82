"""Time what the heads of docs/results/heads.md cost, beside Bi-MHM, with their encoder and options.

    python benchmarks/heads_cost.py --repeats 11

Encoder and heads are those of study ``real-heads`` of ``dynamics.yaml``. A step is the forward and backward pass of a
training episode (5-way 1-shot, one query a class, both turns), from the frames of its ten clips on. An answer is what
an episode of a test takes of clips that were embedded: five support clips of one shot and five queries. The heads
alternate, so that other load on the machine hits all of them; figures are medians, CPU times of one thread in fp32.
"""

import argparse
import statistics
import time

import torch
from dynamics import cells_of, read_plan, settings_of

import d2st
from d2st.adapters import SYSTEMS
from d2st.training.episodic import EpisodicLoss

ANSWERS = 64  # episodes at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    plan = read_plan()
    cells = {cell["head"]: cell for cell in cells_of(plan, "real-heads") if cell["data"] == "msr-action3d"}
    losses = {name: loss_of(plan, cell) for name, cell in cells.items()}
    (size,) = {cell["image_size"] for cell in cells.values()}
    video = torch.randn(10, 8, 3, size, size)
    steps, answers = ({name: [] for name in losses} for _ in range(2))
    for _ in range(repeats + 1):  # the first is not counted
        for name, loss in losses.items():
            steps[name].append(step(loss, video))
            answers[name].append(answer(loss, video))
    print("| head | parameters | step | answer, ms |", "| --- | ---: | ---: | ---: |", sep="\n")
    for name, loss in losses.items():
        ratios = [own / base for own, base in zip(steps[name][1:], steps["bi-mhm"][1:], strict=True)]
        count = sum(parameter.numel() for parameter in loss.head.parameters())
        taken = 1000 * statistics.median(answers[name][1:])
        print(f"| `{name}` | {count:,} | {statistics.median(ratios):.2f}× | {taken:.2g} |")
    print(f"\nBi-MHM's step takes {statistics.median(steps['bi-mhm'][1:]):.2f} s; torch {torch.__version__}.")


def loss_of(plan: dict, cell: dict) -> EpisodicLoss:
    """Build encoder and head as the study does, with random weights."""
    config = SYSTEMS[cell["adapter"]](**settings_of(cell))
    encoder = d2st.adapt(cell["backbone"], config, image_size=cell["image_size"], pretrained=False)
    head = d2st.create_head(cell["head"], encoder, classes=10, **plan["heads"].get(cell["head"], {}))
    return EpisodicLoss(encoder, head, 5, 1, 1, True, 10, cell["class_loss"])


def step(loss: EpisodicLoss, video: torch.Tensor) -> float:
    """Return CPU seconds of a training episode."""
    loss.train()
    began = time.process_time()
    value, _ = loss(video, torch.arange(5))
    value.backward()
    return time.process_time() - began


@torch.no_grad()
def answer(loss: EpisodicLoss, video: torch.Tensor) -> float:
    """Return CPU seconds in which an episode of embedded clips is answered."""
    loss.eval()
    _, clips = loss._encode(video)
    embedded = loss.head.embed(clips)  # (10, T', D')
    support, query = (part.expand(ANSWERS, *part.shape) for part in embedded.split(5))
    began = time.process_time()
    loss.head.match(support, torch.arange(5), query)
    return (time.process_time() - began) / ANSWERS


if __name__ == "__main__":
    main()
