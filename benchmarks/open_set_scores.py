"""Which score tells clips of known classes from clips of others: AUROC of the candidates, on the same episodes.

    python benchmarks/open_set_scores.py --data store --split split.yaml --adapter runs/first/best --heads bi-mhm otam

For each head and number of shots a line of JSON: AUROC by episode, mean and half width of its 95 % interval. Choose on
validation classes (--part val, the default), so that test classes stay unseen.
"""

import argparse
import json

import torch
from torch import Tensor

import d2st
from d2st.data import sampling as frame_rules
from d2st.data.datasets import open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.evaluation.open_set import score_open, unseen_classes
from d2st.features.encode import encode_clips
from d2st.utils.statistics import auroc, mean_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--part", default="val", choices=["train", "val", "test"])
    parser.add_argument("--adapter", required=True, help="folder of a trained adapter")
    parser.add_argument("--heads", nargs="+", default=["bi-mhm", "otam", "prototype"], help="heads without weights")
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 5])
    parser.add_argument("--episodes", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoder = d2st.load(options.adapter)
    clips = open_dataset(options.data, options.split, options.part)
    transform = encoder.transform()
    features = encode_clips(encoder, clips, frame_rules.build("uniform", encoder.frames), transform)
    labels, unseen = clips.labels[features.clips], unseen_classes(options.way, len(clips.classes))
    for name in options.heads:
        head = d2st.heads.build(name).eval()
        for shot in options.shots:
            sampler = EpisodeSampler(labels, options.way, shot, 1, options.seed, clips.classes, unseen)
            found = score_open(features.embedded(head), sampler, head, options.episodes)
            areas = {"largest logit, less its class's offset": auroc(found.known, found.unknown)}
            for score, of in CANDIDATES.items():
                areas[score] = auroc(of(found.known_logits), of(found.unknown_logits))
            result = {key: [area.mean().item(), mean_interval(area.numpy())] for key, area in areas.items()}
            print(json.dumps({"head": name, "shot": shot, "auroc": result}), flush=True)
    print(json.dumps(vars(options) | {"torch": torch.__version__}))


def margin(logits: Tensor) -> Tensor:
    """Largest logit less the second."""
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return first - second


CANDIDATES = {
    "largest logit": lambda logits: logits.amax(-1),
    "energy": lambda logits: logits.logsumexp(-1),  # Liu et al., NeurIPS 2020
    "largest softmax": lambda logits: logits.softmax(-1).amax(-1),  # Hendrycks & Gimpel, ICLR 2017
    "margin": margin,
    "standard score": lambda logits: (logits.amax(-1) - logits.mean(-1)) / logits.std(-1),
}


if __name__ == "__main__":
    main()
