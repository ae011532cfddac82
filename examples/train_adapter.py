"""Train an adapter with a loop of one's own: PyTorch's optimizer and the pieces of d2st.

    python examples/train_adapter.py practice/clips practice/split.yaml --out my-adapter

d2st train does the same with validation, resumption, many processes and a record of all settings.
"""

import argparse

import torch
import torch.nn.functional as F

import d2st
from d2st.data import EpisodeSampler, open_dataset, sampler
from d2st.data.episodes import generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of class folders, or a frame store")
    parser.add_argument("split", help="file with the names of the training classes")
    parser.add_argument("--out", default="my-adapter")
    parser.add_argument("--backbone", default="d2st_stills")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--way", type=int, default=5)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    encoder = d2st.adapt(arguments.backbone, d2st.D2STConfig(ratio=0.5, positions=(1, 2, 3)), frames=8).train()
    head = d2st.heads.build("bi-mhm")
    optimizer = torch.optim.Adam(encoder.trainable_parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, total_steps=arguments.episodes, pct_start=0.05
    )
    encoder.summary()

    clips = open_dataset(arguments.data, arguments.split, "train")
    episodes = EpisodeSampler(clips.labels, arguments.way, shot=1, queries=1, classes=clips.classes)
    sample = sampler("uniform", encoder.frames)
    transform = encoder.transform()
    right = 0.0
    for index in range(arguments.episodes):
        episode, rng = episodes.draw(index), generator(0, index, stream=1)
        chosen = [*episode.support, *episode.query]
        video = torch.stack([transform(clips.read(i, sample, rng)) for i in chosen])  # (S + Q, T, 3, H, W)
        support, query = encoder(video).split(len(episode.support))  # (S, T, D), (Q, T, D)
        # Each clip serves as example and as query in turn.
        labels, truth = torch.from_numpy(episode.support_labels), torch.from_numpy(episode.query_labels)
        forth, back = head(support, labels, query), head(query, truth, support)  # (Q, way), (S, way)
        loss = (F.cross_entropy(forth, truth) + F.cross_entropy(back, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right += (forth.argmax(1) == truth).float().mean().item()
        if (index + 1) % 50 == 0 or index + 1 == arguments.episodes:
            done = index % 50 + 1
            print(f"episode {index + 1}: loss {loss.item():.3f}, {100 * right / done:.0f} % right in the last {done}")
            right = 0.0
    print("written to", encoder.eval().save_pretrained(arguments.out))


if __name__ == "__main__":
    main()
