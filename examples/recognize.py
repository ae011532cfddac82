"""Recognize clips from Python: examples in, labels, scores and matching frames out; classes come and go.

    python examples/recognize.py support new --adapter runs/first/best

Without an adapter the small backbone that ships with d2st answers, frozen: it knows shapes and colors, no motion.
"""

import argparse
from pathlib import Path

import d2st


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("support", type=Path, help="folder with a folder of example clips for each class")
    parser.add_argument("query", type=Path, help="folder of clips")
    parser.add_argument("--adapter", help="folder of a trained adapter")
    parser.add_argument("--weights", help="weight file of its backbone, where one was used")
    arguments = parser.parse_args()

    if arguments.adapter:
        recognizer = d2st.FewShotClassifier.from_pretrained(arguments.adapter, weights=arguments.weights)
    else:
        recognizer = d2st.FewShotClassifier(d2st.adapt("d2st_stills", d2st.NoneConfig()))
    recognizer.fit(arguments.support)
    print("classes:", ", ".join(recognizer.classes))

    clips = sorted(path for path in arguments.query.iterdir() if path.is_file())
    if not clips:
        raise SystemExit(f"There are no clips in {arguments.query}.")
    for clip, answer in zip(clips, recognizer.predict(clips), strict=True):
        ranked = ", ".join(f"{name} {score:.2f}" for name, score in list(answer.scores.items())[:3])
        pairs = " ".join(f"{match.query_frame}-{match.support_frame}" for match in answer.matches)
        print(f"{clip.name}: {answer.label} ({ranked}); frames of the clip and of the examples: {pairs}")

    gone = recognizer.classes[-1]
    recognizer.remove_class(gone)
    print(f"without {gone}: {clips[0].name} is {recognizer.predict(clips[0]).label}")


if __name__ == "__main__":
    main()
