"""The layout of the page and what its controls do; the work itself is in ``session.py``."""

from html import escape

import gradio as gr

from ..errors import D2STError
from . import cards
from .session import Session, Step
from .sessions import Sessions

_ENTER = "() => { const t = sessionStorage.getItem('d2st') || ''; sessionStorage.removeItem('d2st'); return [t] }"
_KEEP = "(token) => { window.d2stToken = token; return [] }"
_REMOVE = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-remove]');
  if (button) trigger('remove', {name: button.dataset.remove});
});"""


def build(sessions: Sessions) -> gr.Blocks:
    """The page.

    Args:
        sessions: of the tabs that will open it.
    """
    names, size = sessions.recognisers.names, sessions.max_size
    with gr.Blocks(title="d2st studio", analytics_enabled=False) as page:
        token = gr.Textbox(visible=False)
        gr.HTML(cards.TITLE)
        with gr.Row(elem_classes="d2st-recogniser"):
            recogniser = gr.Dropdown(names, value=names[0], label="Recogniser", visible=len(names) > 1, scale=1)
            about = gr.HTML()
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                gr.HTML("<h2>1. Teach</h2>")
                name = gr.Textbox(label="Name of the action", placeholder="for example: serve", max_lines=1)
                examples = _files(f"Example clips (up to {size} MB each)", "examples")
                with gr.Accordion("Record an example with the camera", open=False):
                    example_camera = _camera("Camera: example")
                add = gr.Button("Add examples", variant="primary")
                taught = gr.HTML(cards.status())
                actions = gr.HTML(js_on_load=_REMOVE)
                saved = gr.UploadButton("Open saved examples", elem_id="saved")
            with gr.Column(min_width=320):
                gr.HTML("<h2>2. Recognise</h2>")
                queries = _files(f"Clips to recognise (up to {size} MB each)", "queries")
                with gr.Accordion("Record a clip with the camera", open=False):
                    query_camera = _camera("Camera: clip to recognise")
                ask = gr.Button("Recognise", variant="primary")
                asked = gr.HTML(cards.status())
                answers = gr.HTML()
                with gr.Group(visible=False) as looking:
                    which = gr.Dropdown([], label="Clip", type="index")
                    look = gr.Button("Show where the recogniser looked")
                points = gr.HTML()

        settings, teaching, asking = [recogniser, about], [taught, actions], [asked, answers, which, looking, points]

        def enter(old: str, request: gr.Request):
            try:
                new, session = sessions.enter(old, request.session_hash)
            except D2STError as error:
                return "", gr.skip(), gr.skip(), _failed(error), *[gr.skip()] * 6
            return (
                new,
                session.recogniser,
                _about(session),
                cards.status(),
                cards.actions(session),
                cards.status(),
                *_answers(session),
            )

        def on_add(own: str, title: str, files: list[str] | None, camera: str | None):
            keep = (gr.skip(), gr.skip(), gr.skip())
            try:
                session = sessions.get(own)
                for step in session.add(title, [*(files or []), *([camera] if camera else [])]):
                    yield *keep, cards.status(step), gr.skip()
            except D2STError as error:
                yield *keep, _failed(error), gr.skip()
                return
            said = f"Learned {_clips(step.kept)} of '{' '.join(title.split())}'."
            yield "" if step.kept else gr.skip(), None, None, _ended(step, said), cards.actions(session)

        def on_remove(own: str, event: gr.EventData):
            try:
                session = sessions.get(own)
                session.remove(event.name)
            except D2STError as error:
                return _failed(error), gr.skip()
            return cards.status(message=f"Removed '{event.name}'."), cards.actions(session)

        def on_open(own: str, file: str):
            try:
                session = sessions.get(own)
                session.open_saved(file)
            except D2STError as error:
                return _failed(error), gr.skip()
            count = len(session.examples)
            return cards.status(message=f"Opened {count} action{'s' * (count != 1)}."), cards.actions(session)

        def on_ask(own: str, files: list[str] | None, camera: str | None):
            try:
                session = sessions.get(own)
                for step in session.recognise([*(files or []), *([camera] if camera else [])]):
                    yield gr.skip(), gr.skip(), cards.status(step), *_answers(session)
            except D2STError as error:
                yield gr.skip(), gr.skip(), _failed(error), *[gr.skip()] * 4
                return
            yield None, None, _ended(step, f"Recognised {_clips(step.kept)}."), *_answers(session)

        def on_choose(own: str, wanted: str):
            try:
                session = sessions.get(own)
                for step in session.use(wanted):
                    yield gr.skip(), gr.skip(), cards.status(step), cards.actions(session)
            except D2STError as error:
                current = session.recogniser if own in sessions.open else gr.skip()
                yield current, gr.skip(), _failed(error), gr.skip()
                return
            said = f"The recogniser is now {wanted}."
            yield session.recogniser, _about(session), cards.status(step, said), cards.actions(session)

        def on_look(own: str, number: int | None):
            try:
                session = sessions.get(own)
                picture = session.points(-1 if number is None else number)
            except D2STError as error:
                return _failed(error)
            return cards.point_card(picture, session.answers[number].clip.name)

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
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
        recogniser.select(on_choose, [token, recogniser], [*settings, *teaching], **quiet)
        look.click(on_look, [token, which], points, **quiet)

        def leave(request: gr.Request) -> None:
            sessions.leave(request.session_hash)

        page.unload(leave)
    return page


def _files(label: str, name: str) -> gr.File:
    return gr.File(label=label, file_count="multiple", height=150, elem_id=name)


def _camera(label: str) -> gr.Video:
    """Records a clip as it is: without the microphone, and without the ffmpeg program that gradio would call."""
    options = gr.WebcamOptions(mirror=False)
    camera = gr.Video(label=label, sources=["webcam"], include_audio=False, webcam_options=options, height=260)
    camera.preprocess = lambda payload: payload.path if payload else None
    return camera


def _about(session: Session) -> str:
    return f'<p class="d2st-hint">{escape(session.about)}</p>'


def _answers(session: Session) -> tuple:
    """Answers, the list of clips to look into, whether it is shown, and no picture yet."""
    names = [f"{i + 1}. {answer.clip.name}" for i, answer in enumerate(session.answers)]
    chosen = gr.Dropdown(choices=names, value=names[0] if names else None)
    return cards.answers(session), chosen, gr.Group(visible=bool(names)), ""


def _ended(step: Step, said: str) -> str:
    return cards.status(step, said) if step.kept else cards.status(step, "None of the clips can be read.", wrong=True)


def _failed(error: D2STError) -> str:
    return cards.status(message=str(error), wrong=True)


def _clips(count: int) -> str:
    return f"{count} clip{'s' * (count != 1)}"
