"""The layout of the page and what its controls do; the work itself is in ``session.py``."""

from html import escape

import gradio as gr

from ..errors import D2STError
from . import cards
from .session import Session, Step
from .sessions import Sessions

_ENTER = "() => { const t = sessionStorage.getItem('d2st') || ''; sessionStorage.removeItem('d2st'); return [t] }"
_KEEP = "(token) => { window.d2stToken = token; return [] }"
# A pressed button is replaced with its cards: whoever pressed it by key goes on from what took its place.
_PRESSED = """let pressed;
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || !element.contains(button)) return;
  if (button.dataset.larger) return button.closest('figure').classList.toggle('d2st-larger');
  pressed = button.dataset.number ? `[data-number="${button.dataset.number}"]` : '[data-name]';
  if (button.dataset.name) trigger('remove', {name: button.dataset.name, key: button.dataset.key || ''});
  if (button.dataset.number) trigger('look', {number: Number(button.dataset.number)});
});
watch('value', () => {
  if (pressed && !element.contains(document.activeElement)) element.querySelector(pressed)?.focus();
  pressed = null;
});"""


def build(sessions: Sessions) -> gr.Blocks:
    """The page.

    Args:
        sessions: of the tabs that will open it.
    """
    names, size = sessions.recognizers.names, sessions.max_size
    with gr.Blocks(title="d2st studio", analytics_enabled=False) as page:
        token = gr.Textbox(visible=False)
        gr.HTML(cards.TITLE)
        with gr.Row(elem_classes="d2st-recognizer"):
            recognizer = gr.Dropdown(names, value=names[0], label="Recognizer", visible=len(names) > 1, min_width=300)
            about = gr.HTML(min_width=300)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                gr.HTML("<h2>1. Teach</h2>")
                name = gr.Textbox(
                    label="Name of the action", placeholder="for example: serve", max_lines=1, elem_id="name"
                )
                examples = _files(f"Example clips (up to {size} MB each)", "examples")
                with gr.Accordion("Record an example with the camera", open=False):
                    example_camera = _camera("Camera: example")
                add = gr.Button("Add examples", variant="primary")
                taught = gr.HTML(cards.status())
                actions = gr.HTML(js_on_load=_PRESSED)
                saved = gr.UploadButton("Open saved examples", size="sm")
            with gr.Column(min_width=320):
                gr.HTML("<h2>2. Recognize</h2>")
                queries = _files(f"Clips to recognize (up to {size} MB each)", "queries")
                with gr.Accordion("Record a clip with the camera", open=False):
                    query_camera = _camera("Camera: clip to recognize")
                ask = gr.Button("Recognize", variant="primary")
                asked = gr.HTML(cards.status())
                answers = gr.HTML(js_on_load=_PRESSED)

        settings, teaching, asking = [recognizer, about], [taught, actions], [asked, answers]

        def enter(old: str, request: gr.Request):
            try:
                new, session = sessions.enter(old, request.session_hash)
            except D2STError as error:
                return "", gr.skip(), gr.skip(), _failed(error), *[gr.skip()] * 3
            return (
                new,
                session.recognizer.name,
                _about(session),
                cards.status(),
                cards.actions(session),
                cards.status(),
                cards.answers(session),
            )

        def on_add(own: str, title: str, files: list[dict] | None, camera: dict | None):
            keep = (gr.skip(), gr.skip(), gr.skip())
            try:
                session = sessions.get(own)
                title = _text(title)
                for step in session.add(title, _paths(files, camera)):
                    # The fields are free for the next action as soon as this one is accepted.
                    yield *(keep if step.done else ("", None, None)), cards.status(step), gr.skip()
            except D2STError as error:
                yield *keep, _failed(error), gr.skip()
                return
            said = f"Learned {_clips(step.kept)} of '{' '.join(title.split())}'."
            yield *keep, _ended(step, said), cards.actions(session)

        def on_remove(own: str, event: gr.EventData):
            try:
                session = sessions.get(own)
                name, key = _text(_of(event, "name")), _text(_of(event, "key"))
                if key:
                    said = f"Removed {session.remove_example(name, key)} from '{name}'."
                else:
                    session.remove(name)
                    said = f"Removed '{name}'."
            except D2STError as error:
                return _failed(error), gr.skip()
            return cards.status(message=said), cards.actions(session)

        def on_open(own: str, file: dict):
            try:
                session = sessions.get(own)
                session.open_saved(*_paths(file)[:1] or [""])
            except D2STError as error:
                return _failed(error), gr.skip()
            count = len(session.examples)
            return cards.status(message=f"Opened {count} action{'s' * (count != 1)}."), cards.actions(session)

        def on_ask(own: str, files: list[dict] | None, camera: dict | None):
            keep = (gr.skip(), gr.skip())
            try:
                session = sessions.get(own)
                for step in session.recognize(_paths(files, camera)):
                    # Cards hold pictures: of many clips they come in ten parts, not all again for each.
                    part = 10 * step.done // step.total > 10 * (step.done - 1) // step.total
                    fields = keep if step.done else (None, None)
                    yield *fields, cards.status(step), cards.answers(session) if part else gr.skip()
            except D2STError as error:
                yield *keep, _failed(error), gr.skip()
                return
            yield *keep, _ended(step, f"Recognized {_clips(step.kept)}."), cards.answers(session)

        def on_choose(own: str, wanted: str):
            try:
                session = sessions.get(own)
                for step in session.use(_text(wanted)):
                    yield gr.skip(), gr.skip(), cards.status(step), gr.skip(), gr.skip(), gr.skip()
            except D2STError as error:
                current = session.recognizer.name if own in sessions.open else gr.skip()
                yield current, gr.skip(), _failed(error), *[gr.skip()] * 3
                return
            said = f"The recognizer is now {wanted}."
            taught = cards.status(step, said), cards.actions(session)
            yield session.recognizer.name, _about(session), *taught, cards.status(), cards.answers(session)

        def on_look(own: str, event: gr.EventData):
            yield cards.status(message="Looking ..."), gr.skip()
            try:
                session = sessions.get(own)
                session.look(_of(event, "number"))
            except D2STError as error:
                yield _failed(error), gr.skip()
                return
            yield cards.status(), cards.answers(session)

        quiet = {"preprocess": False, "show_progress": "hidden", "api_visibility": "private"}
        page.load(enter, token, [token, *settings, *teaching, *asking], js=_ENTER, **quiet).then(
            None, token, None, js=_KEEP
        )
        gr.on(
            [add.click, name.submit],
            on_add,
            [token, name, examples, example_camera],
            [name, examples, example_camera, *teaching],
            **quiet,
        )
        actions.remove(on_remove, token, teaching, **quiet)
        saved.upload(on_open, [token, saved], teaching, **quiet)
        ask.click(on_ask, [token, queries, query_camera], [queries, query_camera, *asking], **quiet)
        recognizer.select(on_choose, [token, recognizer], [*settings, *teaching, *asking], **quiet)
        answers.look(on_look, token, asking, **quiet)

        def leave(request: gr.Request) -> None:
            sessions.leave(request.session_hash)

        page.unload(leave)
    return page


def _files(label: str, name: str) -> gr.File:
    return gr.File(label=label, file_count="multiple", height=150, elem_id=name)


def _camera(label: str) -> gr.Video:
    options = gr.WebcamOptions(mirror=False)
    return gr.Video(label=label, sources=["webcam"], include_audio=False, webcam_options=options, height=260)


def _paths(*fields: list[dict] | dict | None) -> list[str]:
    """Files of fields as the browser names them; ``Inbox`` takes none but uploads.

    gradio's own preparation of a recording would call the ffmpeg program.
    """
    files = [file for field in fields if field for file in (field if isinstance(field, list) else [field])]
    return [_text(file.get("path") if isinstance(file, dict) else None) for file in files]


def _text(value: object) -> str:
    """Text that came from the page; anything else was made by hand."""
    if not isinstance(value, str):
        raise D2STError("The page makes no such request; reload it.")
    return value


def _of(event: gr.EventData, name: str) -> object:
    return getattr(event, name, None)


def _about(session: Session) -> str:
    return f'<p class="d2st-hint">{escape(session.recognizer.about)}</p>'


def _ended(step: Step, said: str) -> str:
    return cards.status(step, said) if step.kept else cards.status(step, "None of the clips can be read.", wrong=True)


def _failed(error: D2STError) -> str:
    return cards.status(message=str(error), wrong=True)


def _clips(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"
