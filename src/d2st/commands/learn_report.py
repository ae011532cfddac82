"""Write the report of ``d2st learn``: one HTML file with everything in it."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..data import sampling
from ..data.datasets import ClipSet
from ..data.video.errors import VideoError
from ..learning.estimate import Promise
from ..utils.console import drawable, printable
from ..utils.files import write_atomic
from ..utils.progress import clock
from ..utils.sentences import short
from ..version import __version__
from ..visualize.charts import contact_sheet

LONGEST = 60  # letters of a class's name in a picture
SHOWN = 10  # clips and candidates that are listed
NO_BETTER = (
    "That is no better than guessing, as far as so many clips can tell: try another backbone, an adapter that was "
    "trained on other actions of this kind, more minutes, or more clips."
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2328}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border-bottom:1px solid #d0d7de;padding:.3rem .8rem;"
    "text-align:left}td.n,th.n{text-align:right}img{max-width:100%}"
    "pre{background:#f6f8fa;padding:1rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    "figure{margin:1rem 0}figcaption{color:#59636e}.lead{font-size:1.25rem}"
)


class Page:
    """Collect headings, paragraphs, tables and pictures; every text is escaped."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts = [f"<h1>{_text(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Add a heading."""
        self.parts.append(f"<h2>{_text(text)}</h2>")

    def text(self, text: str, kind: str = "") -> None:
        """Add a paragraph."""
        self.parts.append(f'<p class="{kind}">{_text(text)}</p>' if kind else f"<p>{_text(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], text: int = 1) -> None:
        """Add a table, whose first ``text`` columns are text."""

        def line(cells: Sequence[object], tag: str) -> str:
            marks = ["" if i < text else ' class="n"' for i in range(len(cells))]
            return "".join(f"<{tag}{mark}>{_text(cell)}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

        body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
        self.parts.append(f"<table><thead><tr>{line(header, 'th')}</tr></thead><tbody>{body}</tbody></table>")

    def picture(self, figure: Figure, caption: str) -> None:
        """Add a picture, inside of the file."""
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=110)
        data = base64.b64encode(content.getvalue()).decode()
        self.parts.append(
            f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )

    def code(self, text: str) -> None:
        """Add a command line."""
        self.parts.append(f"<pre>{_text(text)}</pre>")

    def __str__(self) -> str:
        body = "\n".join(self.parts)
        head = f'<meta charset="utf-8"><title>{_text(self.title)}</title><style>{STYLE}</style>'
        return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _text(value: object) -> str:
    return html.escape(printable(value))


def write_page(out: Path, report: dict, clips: ClipSet) -> Path:
    """Write ``report.html``.

    Args:
        out: folder of the recognizer.
        report: what ``report.json`` holds.
        clips: of which examples are shown.
    """
    page = Page("What this recognizer can do")
    page.text(expected_sentence(report), "lead")
    _add_candidates(page, report)
    if report["confusion"]:
        _add_confusions(page, report, clips)
        _add_curve(page, report)
        _add_unknown(page, report)
    _add_clips(page, report)
    page.heading("Use it")
    page.code(report["use"])
    page.heading("How it was made")
    page.text(f"d2st {__version__}, in {clock(60 * report['minutes'])}. The same again:")
    page.code(report["command"])
    path = out / "report.html"
    write_atomic(path, lambda part: part.write_text(str(page), encoding="utf-8", errors="surrogateescape"))
    return path


def expected_sentence(report: dict) -> str:
    """Say how often the recognizer will be right."""
    if len(report["classes"]) < 2:
        return "One class has nothing to be told from: clips get its name, or 'unknown', and nothing was measured."
    if not report["expected"] and report["groups"]["count"]:
        return (
            "How often it will be right cannot be said: too few of the people or scenes, by "
            f"{report['groups']['source']}, could be held out. Add clips "
            "of others to every class, or pass --groups none."
        )
    if not report["expected"]:
        return "How often it will be right cannot be said: too few clips could be held out. Add clips to every class."
    found = Promise(**report["expected"])
    of = f"{found.clips} held-out clips"
    if report["groups"]["count"]:
        of += f" of {found.groups} people or scenes"
    sizes = report["classes"].values()
    guess = max(sizes) / sum(sizes)
    guessing = "guessing" if len({*sizes}) == 1 else "always saying the largest class"
    doubt = "" if found.low > guess else f" {NO_BETTER}"
    return (
        f"Of 100 new clips like these about {100 * found.mean:.0f} will get the right label, {100 * found.low:.0f} to "
        f"{100 * found.high:.0f} with 95 % confidence ({of}; {guessing} has {100 * guess:.0f}).{doubt}"
    )


def _add_candidates(page: Page, report: dict) -> None:
    page.heading("What was tried")
    page.text(report["rule"])
    rows = []
    for row in report["candidates"]:
        if row["measured"]:
            found, difference = Promise(**row["measured"]), row["difference"]
            of_difference = f"{100 * difference['mean']:+.1f} ± {100 * difference['interval']:.1f}"
            accuracies = [f"{100 * found.mean:.1f}", f"{100 * found.low:.0f} to {100 * found.high:.0f}", of_difference]
        else:
            accuracies = ["–", "–", "–"]
        rows.append([row["model"], row["head"], *accuracies])
    page.table(["model", "head", "right, %", "95 % interval", "less the chosen one"], rows, text=2)
    for entry in report["left_out"]:
        page.text(f"Not tried: {entry['model']}: {entry['reason']}.")
    page.text(report["reason"])
    if report["expected"]:
        page.text(
            "The accuracy at the top may be lower than the chosen line's: what is best of several on some clips "
            "is so by luck, too, and that part is taken off (bootstrap bias correction)."
        )


def _add_confusions(page: Page, report: dict, clips: ClipSet) -> None:
    page.heading("What is mixed up")
    page.picture(
        _matrix(np.array(report["confusion"], float), clips.classes), "Rows are the truth, columns the answer."
    )
    for pair in report["confused"][:3]:
        page.text(
            f"'{pair['one']}' and '{pair['other']}': {100 * pair['share']:.0f} of 100 answers, were both as frequent."
        )
        sheet = _examples(clips, [pair["one"], pair["other"]])
        if sheet:
            page.picture(sheet, f"A clip of '{pair['one']}' beside one of '{pair['other']}'.")


def _matrix(shares: np.ndarray, names: Sequence[str]) -> Figure:
    places, labels = np.arange(len(names)), [drawable(short(name, LONGEST)) for name in names]
    side = min(12.0, 1 + 0.4 * len(names)) + max(1.5, 0.07 * max(map(len, labels)))  # inches, and those of a letter
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(places, labels, rotation=90, fontsize=8)
    axis.set_yticks(places, labels, fontsize=8)
    for i, j in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
        color = "white" if shares[i, j] > 0.6 else "black"
        axis.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=color)
    return figure


def _examples(clips: ClipSet, names: Sequence[str]) -> Figure | None:
    """Draw the first clip of each class; None where one cannot be read any more."""
    sample, strips = sampling.build("uniform", 6), []
    for name in names:
        index = int(clips.by_class[clips.classes.index(name)][0])
        try:
            frames = clips.read(index, sample).permute(0, 2, 3, 1).numpy()
        except VideoError:
            return None
        strips.append((name, frames))
    if len({frames.shape for _, frames in strips}) > 1:
        side = min(min(frames.shape[1:3]) for _, frames in strips)
        strips = [(name, _square(frames, side)) for name, frames in strips]
    return contact_sheet(strips)


def _square(frames: np.ndarray, side: int) -> np.ndarray:
    """Cut the middle of frames, (T, H, W, 3) to (T, side, side, 3)."""
    top, left = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
    return frames[:, top : top + side, left : left + side]


def _add_curve(page: Page, report: dict) -> None:
    if len(report["curve"]) < 2:
        return
    page.heading("Would more clips help?")
    sizes = [point["shots"] for point in report["curve"]]
    means, lows, highs = (100 * np.array([point[end] for point in report["curve"]]) for end in ("mean", "low", "high"))
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.fill_between(sizes, lows, highs, alpha=0.15, linewidth=0)
    axis.plot(sizes, means, marker="o")
    axis.set(xlabel="examples of each class", ylabel="right, %", ylim=(0, 102), xticks=sizes)
    page.picture(figure, "Accuracy with fewer examples, and its 95 % interval.")
    if report["gain"] is not None:
        page.text(f"Two more clips of each class are expected to bring about {100 * report['gain']:.1f} points.")


def _add_unknown(page: Page, report: dict) -> None:
    found = report["rejection"]
    if not found:
        return
    page.heading("Clips of none of the classes")
    page.text(f"Answered 'unknown' are {100 * found['own']:.0f} of 100 clips of the classes themselves.")
    if np.isnan(found["others"]):
        page.text(
            "What becomes of other actions cannot be said with two classes: without one there is nothing to compare."
        )
    else:
        page.text(
            f"And {100 * found['others']:.0f} of 100 clips of an action without examples: classes were taken out of "
            f"the examples, and what was said of their clips was counted."
        )
    if found["trained_on_others"]:
        page.text(
            "The adapters were trained on those actions, too: there was no time to train others without them. Expect "
            "fewer of really new actions."
        )


def _add_clips(page: Page, report: dict) -> None:
    if report["suspects"]:
        page.heading("Look at these clips")
        page.text("Whenever they were held out they were taken for the same other class: are they in the wrong folder?")
        rows = [(entry["id"], entry["class"], entry["taken_for"]) for entry in report["suspects"][:SHOWN]]
        page.table(["clip", "is in", "taken for"], rows, text=3)
    looked = report["looked"]
    if looked["left_out"] or looked["problems"]:
        page.heading("Left out")
    for problem in looked["problems"]:
        page.text(problem)
    if looked["left_out"]:
        page.table(["clip", "reason"], [(c["id"], c["reason"]) for c in looked["left_out"]], text=2)
