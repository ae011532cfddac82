"""The page's own HTML: actions, answers, progress, and what to do when there is nothing yet."""

import io
from collections.abc import Mapping, Sequence
from html import escape

from ..utils.table_file import TableWriter
from .answers import Answer, Pair
from .clips import Example
from .session import Session, Step

SHOWN = 5  # actions of a ranking; the others are folded
TITLE = """<header class="d2st-title"><h1>d2st studio</h1>
<p>Show it a few clips of each action, then let it name the action in new clips.
Everything stays on this computer.</p></header>"""


def status(step: Step | None = None, message: str = "", wrong: bool = False) -> str:
    """One line on what is going on, with a bar while it lasts, and the clips that were passed over."""
    parts = []
    if step and step.done < step.total:
        parts.append(
            f'<label class="d2st-progress">Reading clip {step.done + 1} of {step.total} '
            f'<progress max="{step.total}" value="{step.done}"></progress></label>'
        )
    elif message:
        parts.append(f'<p class="{"d2st-wrong" if wrong else "d2st-done"}">{escape(message)}</p>')
    if step and step.problems:
        parts.append(_list("Passed over or damaged:", step.problems))
    return f'<div role="status" aria-live="polite">{"".join(parts)}</div>'


def actions(session: Session) -> str:
    """The actions taught so far, each with a button to remove it, and one beside each of several clips."""
    if not session.examples:
        return (
            '<div class="d2st-empty"><h3>No actions yet</h3><ol><li>Type the name of an action.</li>'
            "<li>Choose one to five short clips of it, or record them.</li><li>Press <b>Add examples</b>.</li></ol>"
            "<p>Do this for every action that should be told apart.</p></div>"
        )
    cards = [_action(name, examples) for name, examples in session.examples.items()]
    hint = ""
    if session.never_unknown:
        hint = (
            '<p class="d2st-hint">Give an action a second example, and the studio can say when a clip shows none of '
            "them.</p>"
        )
    save = f'<a class="d2st-link" href="examples/{session.token}" download>Save the examples to a file</a>'
    return f'<ul class="d2st-cards" aria-label="Actions">{"".join(cards)}</ul>{hint}{save}'


def answers(session: Session) -> str:
    """The answers for the query clips: ranking, frames that matched, where the adapters looked."""
    passed_over = _list("Passed over:", session.passed_over) if session.passed_over else ""
    if not session.answers:
        return passed_over or (
            '<div class="d2st-empty"><h3>No answers yet</h3>'
            "<p>Choose clips that are not among the examples and press <b>Recognize</b>.</p></div>"
        )
    cards = [_answer(number, answer, session) for number, answer in enumerate(session.answers)]
    return (
        f'{passed_over}<p class="d2st-hint">Bars compare the actions with each other; how sure it is also counts that '
        "a clip may show none of them. Pairs of frames: above the clip, underneath the frame of the examples that it "
        "is most like, and between them how alike they are, at most 1.</p>"
        f'<ol class="d2st-cards" aria-label="Answers">{"".join(cards)}</ol>'
        f'<a class="d2st-link" href="answers/{session.token}" download>Save the answers as a table</a>'
    )


def table(session: Session) -> str:
    """The answers as CSV, a line a clip; the scores in the order of the actions."""
    file, names = io.StringIO(), sorted({name for answer in session.answers for name in answer.prediction.scores})
    writer = TableWriter(file)
    writer.row(["clip", "answer", "label", "confidence", *names])
    for answer in session.answers:
        shown = answer.prediction
        scores = [f"{shown.scores[name]:.6f}" if name in shown.scores else "" for name in names]
        writer.row([answer.clip.name, shown.answer, shown.label], [f"{shown.confidence:.6f}", *scores])
    return file.getvalue()


def _action(name: str, examples: Sequence[Example]) -> str:
    count = f"{len(examples)} clip{'s' * (len(examples) != 1)}"
    strips = [_example(name, e, len(examples) > 1) for e in examples if e.frames]
    loose = len(examples) - len(strips)
    if loose:
        strips.append(f'<p class="d2st-hint">{loose} out of a saved file, which holds no pictures.</p>')
    return (
        f'<li class="d2st-card"><div class="d2st-head"><h3>{escape(name)}</h3><span>{count}</span>'
        f'<button type="button" data-name="{escape(name)}" aria-label="Remove {escape(name)}">Remove</button></div>'
        f"{''.join(strips)}</li>"
    )


def _example(action: str, example: Example, several: bool) -> str:
    strip, button = _strip(example.frames, f"Frames of {example.name}"), ""
    if several:
        label = escape(f"Remove {example.name} from {action}")
        button = (
            f'<button type="button" data-name="{escape(action)}" data-key="{example.key}" aria-label="{label}" '
            f'title="{label}">×</button>'
        )
    return f'<div class="d2st-example">{strip}{button}</div>'


def _answer(number: int, answer: Answer, session: Session) -> str:
    prediction, name = answer.prediction, escape(answer.clip.name)
    bars = [
        f'<li><span class="d2st-name">{escape(label)}</span><meter min="0" max="1" value="{share:.4f}" '
        f'aria-label="{escape(label)}"></meter><span class="d2st-share">{_percent(share)}</span></li>'
        for label, share in prediction.scores.items()
    ]
    ranking = ""
    if len(bars) > 1:  # a single action is compared with nothing
        ranking = f'<ol class="d2st-bars" aria-label="Ranking">{"".join(bars[:SHOWN])}</ol>'
    if bars[SHOWN:]:
        more = f'<ol class="d2st-bars" start="{SHOWN + 1}">{"".join(bars[SHOWN:])}</ol>'
        ranking += f"<details><summary>{len(bars) - SHOWN} more</summary>{more}</details>"
    sure = ""
    if prediction.unknown:
        sure = f"<span>none of the actions; most like {escape(prediction.label)}</span>"
    elif answer.calibrated:
        sure = f"<span>{_percent(prediction.confidence)} sure</span>"
    return (
        f'<li class="d2st-card"><div class="d2st-head"><h3>{escape(prediction.answer)}</h3>{sure}'
        f"<span>{name}</span></div>{ranking}"
        f"{_list('About this clip:', answer.notes) if answer.notes else ''}{_pairs(answer.pairs)}"
        f"{_look(number, name, session.looks)}</li>"
    )


def _pairs(pairs: Sequence[Pair]) -> str:
    columns = []
    for pair in pairs:
        (above, query), (below, support, example) = pair.query, pair.support
        bottom = (
            f'<img src="{below}" alt="frame {support + 1} of {escape(example)}">'
            if below
            else f'<span class="d2st-blank">frame {support + 1}</span>'
        )
        columns.append(
            f'<figure title="{escape(example)}"><img src="{above}" alt="frame {query + 1} of the clip">'
            f"<figcaption>{pair.likeness:.2f}</figcaption>{bottom}</figure>"
        )
    return (
        '<div class="d2st-scroll d2st-pairs" tabindex="0" role="group" aria-label="Matched frames">'
        f"{''.join(columns)}</div>"
    )


def _look(number: int, name: str, looks: Mapping[int, str | None]) -> str:
    """A button that asks where the adapters looked, or the picture that it brought; ``name`` is escaped."""
    mark = f'data-number="{number}"'
    if number not in looks:
        return f'<button type="button" {mark} aria-label="Where did it look in {name}?">Where did it look?</button>'
    if looks[number] is None:
        return (
            f'<p class="d2st-hint" tabindex="-1" {mark}>This recognizer has no reference points: only D²ST adapters '
            "choose where in a clip they look.</p>"
        )
    return (
        f'<figure class="d2st-points"><div class="d2st-scroll" tabindex="0" {mark} role="group" '
        f'aria-label="Where it looked"><img src="{looks[number]}" alt="Points that the adapters read in {name}"></div>'
        '<button type="button" data-larger="yes">Larger or smaller</button>'
        "<figcaption>Circles: the places of the clip that the adapters attend to most, larger the more. The spatial "
        "pathway has many points in few moments, the temporal one few points at every moment.</figcaption></figure>"
    )


def _percent(share: float) -> str:
    return "> 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _strip(frames: Sequence[str], label: str) -> str:
    images = "".join(f'<img src="{frame}" alt="">' for frame in frames)
    return f'<div class="d2st-scroll d2st-strip" tabindex="0" role="img" aria-label="{escape(label)}">{images}</div>'


def _list(heading: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="d2st-problems"><p>{heading}</p><ul>{items}</ul></div>'
