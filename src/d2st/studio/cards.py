"""Fill the page's own HTML (``cards.html``): actions, answers, progress; and write the answers as a table."""

import io
from pathlib import Path

from jinja2 import Environment

from ..utils.tables import TableWriter
from .session import Progress, Session

SHOWN = 5  # actions of a ranking; the others are folded


def _percent(share: float) -> str:
    return "> 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


_environment = Environment(autoescape=True)
_environment.filters["percent"] = _percent
_environment.globals["SHOWN"] = SHOWN
_HTML = _environment.from_string(Path(__file__).with_name("cards.html").read_text("utf-8")).module
TITLE = str(_HTML.title())
LIVE = str(_HTML.live())


def status(progress: Progress | None = None, message: str = "", wrong: bool = False) -> str:
    """Say in one line what is going on, with a bar while it lasts, and name the clips that were passed over."""
    return str(_HTML.status(progress, message, wrong))


def actions(session: Session) -> str:
    """Show the actions taught so far, each with a button to remove it, and one beside each of several clips."""
    return str(_HTML.actions(session))


def answers(session: Session) -> str:
    """Show the answers for the query clips: ranking, frames that matched, where the adapters looked."""
    return str(_HTML.answers(session))


def table(session: Session) -> str:
    """Write the answers as CSV, a line a clip; the scores in the order of the actions."""
    file = io.StringIO()
    names = sorted({name for answer in session.answers for name in answer.prediction.scores})
    writer = TableWriter(file)
    writer.row(["clip", "answer", "label", "confidence", *names])
    for answer in session.answers:
        found = answer.prediction
        scores = [f"{found.scores[name]:.6f}" if name in found.scores else "" for name in names]
        writer.row([answer.clip.name, found.answer, found.label], [f"{found.confidence:.6f}", *scores])
    return file.getvalue()
