"""The page's own HTML: actions, answers, progress, and what to do when there is nothing yet."""

from collections.abc import Sequence
from html import escape

from ..prediction import Prediction
from .answers import Answer, Pair
from .clips import Example
from .session import Session, Step

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
    """The actions taught so far, each with a button to remove it."""
    if not session.examples:
        return (
            '<div class="d2st-empty"><h3>No actions yet</h3><ol><li>Type the name of an action.</li>'
            "<li>Choose one to five short clips of it, or record them.</li><li>Press <b>Add examples</b>.</li></ol>"
            "<p>Do this for every action that should be told apart.</p></div>"
        )
    cards = [_action(name, examples) for name, examples in session.examples.items()]
    hint = ""
    if len(session.examples) == 1:
        hint = '<p class="d2st-hint">Add a second action: with only one, every clip is taken for it.</p>'
    save = f'<a class="d2st-save" href="examples/{session.token}" download>Save the examples to a file</a>'
    return f'<ul class="d2st-cards" aria-label="Actions">{"".join(cards)}</ul>{hint}{save}'


def answers(session: Session) -> str:
    """The answers for the query clips, each with its ranking and, folded, the frames that matched."""
    if not session.answers:
        return (
            '<div class="d2st-empty"><h3>No answers yet</h3>'
            "<p>Choose clips that are not among the examples and press <b>Recognise</b>.</p></div>"
        )
    cards = [_answer(number, answer, session) for number, answer in enumerate(session.answers)]
    return f'<ol class="d2st-cards" aria-label="Answers">{"".join(cards)}</ol>'


def point_card(picture: str | None, clip: str) -> str:
    """Where the adapters looked."""
    if picture is None:
        return (
            '<p class="d2st-hint">This recogniser has no reference points: only D²ST adapters choose where in a clip '
            "they look.</p>"
        )
    return (
        f'<figure class="d2st-points"><div class="d2st-scroll" tabindex="0" role="group" aria-label="Reference points">'
        f'<img src="{picture}" alt="Points that the adapters read, drawn over the frames of {escape(clip)}"></div>'
        "<figcaption>Circles: the points of the clip that the adapters attend to most, larger the more. The spatial "
        "pathway has many points in few moments, the temporal one few points at every moment.</figcaption></figure>"
    )


def _action(name: str, examples: Sequence[Example]) -> str:
    count = f"{len(examples)} clip{'s' * (len(examples) != 1)}"
    strips = [_strip(e.frames, f"Frames of {e.name}") for e in examples if e.frames]
    loose = len(examples) - len(strips)
    if loose:
        strips.append(f'<p class="d2st-hint">{loose} out of a saved file, which holds no pictures.</p>')
    return (
        f'<li class="d2st-card"><div class="d2st-head"><h3>{escape(name)}</h3><span>{count}</span>'
        f'<button type="button" data-remove="{escape(name)}" aria-label="Remove {escape(name)}">Remove</button></div>'
        f"{''.join(strips)}</li>"
    )


def _answer(number: int, answer: Answer, session: Session) -> str:
    prediction = answer.prediction
    bars = "".join(
        f'<li><span class="d2st-name">{escape(name)}</span><meter min="0" max="1" value="{share:.4f}" '
        f'aria-label="{escape(name)}"></meter><span class="d2st-share">{100 * share:.0f} %</span></li>'
        for name, share in prediction.scores.items()
    )
    notes = _list("About this clip:", answer.notes) if answer.notes else ""
    return (
        f'<li class="d2st-card"><div class="d2st-head"><h3>{escape(prediction.label)}</h3>'
        f"<span>{escape(answer.clip.name)}</span></div>"
        f'<ol class="d2st-bars" aria-label="Ranking">{bars}</ol>{notes}'
        f"<details{' open' if number == 0 else ''}><summary>Which frames matched</summary>"
        f"{_pairs(answer.pairs, prediction)}</details></li>"
    )


def _pairs(pairs: Sequence[Pair], prediction: Prediction) -> str:
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
        f'<p class="d2st-hint">Above: the clip. Below: the frames of the examples of {escape(prediction.label)} that '
        "they are most like. Between: how alike they are, at most 1.</p>"
        f'<div class="d2st-scroll d2st-pairs" tabindex="0" role="group" aria-label="Matched frames">'
        f"{''.join(columns)}</div>"
    )


def _strip(frames: Sequence[str], label: str) -> str:
    images = "".join(f'<img src="{frame}" alt="">' for frame in frames)
    return f'<div class="d2st-scroll d2st-strip" tabindex="0" role="img" aria-label="{escape(label)}">{images}</div>'


def _list(heading: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<div class="d2st-problems"><p>{heading}</p><ul>{items}</ul></div>'
