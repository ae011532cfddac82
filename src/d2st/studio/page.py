"""Lay out the page and connect its controls with the session of the tab; the work itself is in ``session.py``."""

from collections.abc import Callable, Iterator
from functools import wraps
from html import escape
from pathlib import Path

import gradio as gr
from gradio.components import Component

from ..errors import D2STError
from . import cards
from .session import Progress, Session
from .sessions import Sessions

_ENTER = "() => { const t = sessionStorage.getItem('d2st') || ''; sessionStorage.removeItem('d2st'); return [t] }"
_KEEP = "(token) => { window.d2stToken = token; return [] }"
_PRESSED, _LIVE = (Path(__file__).with_name(name).read_text("utf-8") for name in ("cards.js", "live.js"))
_QUIET = {"preprocess": False, "show_progress": "hidden", "api_visibility": "private"}

Values = dict[Component, object]


class Page:
    """The page: its components, and what their events do.

    A handler gives new values for some components; where it raises a ``D2STError``, the status of its column says so.

    Args:
        sessions: of the tabs that will open it.

    Attributes:
        blocks: what gradio serves.
    """

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        with gr.Blocks(title="d2st studio", analytics_enabled=False, fill_width=True) as self.blocks:
            self.token = gr.Textbox(visible=False)
            gr.HTML(cards.TITLE)
            with gr.Row(elem_classes="d2st-recognizer"):
                names = sessions.models.names
                several = len(names) > 1
                self.model = gr.Dropdown(names, value=names[0], label="Recognizer", visible=several, min_width=300)
                self.about = gr.HTML(min_width=300)
            with gr.Tab("Clips"), gr.Row(equal_height=False):
                with gr.Column(min_width=320):
                    self._lay_out_teaching()
                with gr.Column(min_width=320):
                    self._lay_out_recognizing()
            with gr.Tab("Live"):
                self.live = gr.HTML(cards.LIVE, js_on_load=_LIVE)
                self.seen = gr.HTML(cards.status())
            self._connect()

    def _lay_out_teaching(self) -> None:
        gr.HTML("<h2>1. Teach</h2>")
        self.name = gr.Textbox(
            label="Name of the action", placeholder="for example: serve", max_lines=1, elem_id="name"
        )
        self.examples = self._files("Example clips", "examples")
        with gr.Accordion("Record an example with the camera", open=False):
            self.example_camera = _camera("Camera: example")
        self.add = gr.Button("Add examples", variant="primary")
        self.taught = gr.HTML(cards.status())
        self.actions = gr.HTML(js_on_load=_PRESSED)
        self.saved = gr.UploadButton("Open saved examples", size="sm")

    def _lay_out_recognizing(self) -> None:
        gr.HTML("<h2>2. Recognize</h2>")
        self.queries = self._files("Clips to recognize", "queries")
        with gr.Accordion("Record a clip with the camera", open=False):
            self.query_camera = _camera("Camera: clip to recognize")
        self.ask = gr.Button("Recognize", variant="primary")
        self.asked = gr.HTML(cards.status())
        self.answers = gr.HTML(js_on_load=_PRESSED)

    def _files(self, label: str, name: str) -> gr.File:
        label = f"{label} (up to {self.sessions.uploads.max_size} MB each)"
        return gr.File(label=label, file_count="multiple", height=150, elem_id=name)

    def _connect(self) -> None:
        settings = [self.model, self.about]
        teaching, asking = [self.taught, self.actions], [self.asked, self.answers]
        every = [self.token, *settings, *teaching, *asking]
        entered = self.blocks.load(self._enter, self.token, every, js=_ENTER, **_QUIET)
        entered.then(None, self.token, None, js=_KEEP)
        fields = [self.name, self.examples, self.example_camera]
        add = _with_errors_in(self._add, self.taught)
        gr.on([self.add.click, self.name.submit], add, [self.token, *fields], [*fields, *teaching], **_QUIET)
        self.actions.remove(_with_errors_in(self._remove, self.taught), self.token, teaching, **_QUIET)
        self.saved.upload(_with_errors_in(self._open, self.taught), [self.token, self.saved], teaching, **_QUIET)
        fields = [self.queries, self.query_camera]
        self.ask.click(_with_errors_in(self._ask, self.asked), [self.token, *fields], [*fields, *asking], **_QUIET)
        change = _with_errors_in(self._change_model, self.taught)
        self.model.select(change, [self.token, self.model], [*settings, *teaching, *asking], **_QUIET)
        self.answers.look(_with_errors_in(self._look, self.asked), self.token, asking, **_QUIET)
        seen = _with_errors_in(self._add_seen, self.seen)
        self.live.seen(seen, self.token, [self.seen, *teaching], **_QUIET)
        self.blocks.unload(self._leave)

    def _enter(self, token: str, request: gr.Request) -> Values:
        try:
            token, session = self.sessions.enter(token, request.session_hash)
        except D2STError as error:
            return {self.token: "", self.taught: _failed(error)}
        return {self.token: token, self.taught: cards.status(), **self._show_all(session)}

    def _leave(self, request: gr.Request) -> None:
        self.sessions.leave(request.session_hash)

    def _add(self, token: str, name: str, files: list[dict] | None, camera: dict | None) -> Iterator[Values]:
        session = self.sessions.get(token)
        name = _text(name)
        for progress in session.add(name, _paths(files, camera)):
            # The fields are free for the next action as soon as this one is accepted.
            freed = {} if progress.done else {self.name: "", self.examples: None, self.example_camera: None}
            yield {**freed, self.taught: cards.status(progress)}
        said = _ended(progress, f"Learned {_count(progress.kept, 'clip')} of '{' '.join(name.split())}'.")
        yield {self.taught: said, self.actions: cards.actions(session)}

    def _remove(self, token: str, event: gr.EventData) -> Iterator[Values]:
        session = self.sessions.get(token)
        name, key = _text(getattr(event, "name", None)), _text(getattr(event, "key", None))
        if key:
            said = f"Removed {session.remove_example(name, key)} from '{name}'."
        else:
            session.remove(name)
            said = f"Removed '{name}'."
        yield {self.taught: cards.status(message=said), self.actions: cards.actions(session)}

    def _open(self, token: str, file: dict) -> Iterator[Values]:
        session = self.sessions.get(token)
        session.open_saved(*_paths(file)[:1] or [""])
        said = f"Opened {_count(len(session.examples), 'action')}."
        yield {self.taught: cards.status(message=said), self.actions: cards.actions(session)}

    def _ask(self, token: str, files: list[dict] | None, camera: dict | None) -> Iterator[Values]:
        session = self.sessions.get(token)
        for progress in session.recognize(_paths(files, camera)):
            freed = {} if progress.done else {self.queries: None, self.query_camera: None}
            # Cards hold pictures: of many clips they come in ten parts, not all again for each.
            part = 10 * progress.done // progress.total > 10 * (progress.done - 1) // progress.total
            shown = {self.answers: cards.answers(session)} if part else {}
            yield {**freed, self.asked: cards.status(progress), **shown}
        said = _ended(progress, f"Recognized {_count(progress.kept, 'clip')}.")
        yield {self.asked: said, self.answers: cards.answers(session)}

    def _look(self, token: str, event: gr.EventData) -> Iterator[Values]:
        yield {self.asked: cards.status(message="Looking ...")}
        session = self.sessions.get(token)
        session.look(getattr(event, "number", None))
        yield {self.asked: cards.status(), self.answers: cards.answers(session)}

    def _add_seen(self, token: str, event: gr.EventData) -> Iterator[Values]:
        session, name = self.sessions.get(token), _text(getattr(event, "name", None))
        example = session.add_seen(name)
        said = f"Added what the camera showed as '{example.name}', an example of '{' '.join(name.split())}'."
        yield {self.seen: cards.status(message=said), self.taught: cards.status(), self.actions: cards.actions(session)}

    def _change_model(self, token: str, name: str) -> Iterator[Values]:
        session = self.sessions.get(token)
        try:
            for progress in session.change_model(_text(name)):
                yield {self.taught: cards.status(progress)}
        except D2STError:
            yield {self.model: session.model.name}
            raise
        said = cards.status(progress, f"The recognizer is now {name}.")
        yield {self.taught: said, **self._show_all(session)}

    def _show_all(self, session: Session) -> Values:
        return {
            self.model: session.model.name,
            self.about: f'<p class="d2st-hint">{escape(session.model.about)}</p>',
            self.actions: cards.actions(session),
            self.asked: cards.status(),
            self.answers: cards.answers(session),
        }


def _with_errors_in(handler: Callable[..., Iterator[Values]], status: gr.HTML) -> Callable[..., Iterator[Values]]:
    """Let a status say what a handler refuses."""

    @wraps(handler)
    def handle(*inputs, **more) -> Iterator[Values]:
        try:
            yield from handler(*inputs, **more)
        except D2STError as error:
            yield {status: _failed(error)}

    return handle


def _camera(label: str) -> gr.Video:
    options = gr.WebcamOptions(mirror=False)
    return gr.Video(label=label, sources=["webcam"], include_audio=False, webcam_options=options, height=260)


def _paths(*fields: list[dict] | dict | None) -> list[str]:
    """List the files of fields as the browser names them; ``UploadFolder`` takes none but uploads.

    gradio's own preparation of a recording would call the ffmpeg program.
    """
    files = []
    for field in fields:
        if field:
            files += field if isinstance(field, list) else [field]
    return [_text(file.get("path") if isinstance(file, dict) else None) for file in files]


def _text(value: object) -> str:
    """Give text that came from the page; anything else was made by hand."""
    if not isinstance(value, str):
        raise D2STError("The page makes no such request; reload it.")
    return value


def _ended(progress: Progress, said: str) -> str:
    if progress.kept:
        return cards.status(progress, said)
    return cards.status(progress, "None of the clips can be used.", wrong=True)


def _failed(error: D2STError) -> str:
    return cards.status(message=str(error), wrong=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
