"""Teach actions and answer queries for one browser tab: the logic of the page, without the page."""

import filecmp
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import UNKNOWN
from ..classifiers.support_set import REMEDY
from ..data.walk import nfc
from ..errors import D2STError
from ..utils.console import tell
from . import answers, clips
from .answers import Answer, Example
from .camera import PageCamera
from .clips import Upload, UploadFolder
from .models import ModelCache

LONGEST = 60  # characters of a name


@dataclass
class Progress:
    """Count how far a long piece of work is.

    Attributes:
        total: clips to look at.
        done: clips looked at.
        kept: of those done, the ones that could be read.
        problems: sentences so far.
    """

    total: int
    done: int = 0
    kept: int = 0
    problems: list[str] = field(default_factory=list)


class Session:
    """The actions, clips and answers of one tab.

    Args:
        models: shared by all tabs.
        uploads: where this tab's uploads come in.
        folder: of this tab, to which they are taken; only this user can read it.
        max_clips: examples kept, and queries at once.
        token: its secret name.
    """

    def __init__(
        self, models: ModelCache, uploads: UploadFolder, folder: Path, max_clips: int, token: str = ""
    ) -> None:
        self.models, self.uploads, self.folder = models, uploads, folder
        self.max_clips, self.token = max_clips, token
        self.busy = threading.Lock()
        self.model = models.get(models.names[0])
        self.classifier = self.model.classifier()
        self.examples: dict[str, list[Example]] = {}
        self.saved_seconds: dict[str, tuple[float, float]] = {}  # of the examples that came out of a saved file
        self.camera = PageCamera()
        self.never_unknown = True  # whether nothing says what a clip of none of the actions looks like
        self.answers: list[Answer] = []
        self.looks: dict[int, str | None] = {}  # number of an answer -> where the adapters read its clip
        self.passed_over: list[str] = []  # sentences about clips without an answer

    @property
    def count(self) -> int:
        """Count the example clips kept."""
        return sum(map(len, self.examples.values()))

    def add(self, name: str, uploads: Sequence[str | Path]) -> Iterator[Progress]:
        """Teach an action, or more of it; clips that cannot be read, or that it has, are named and the rest goes on.

        Raises:
            D2STError: no name, no clips, or too many.
        """
        name = self._spelled(name)
        if not uploads:
            raise D2STError(f"Choose at least one example clip of '{name}', or record one.")
        if self.count + len(uploads) > self.max_clips:
            raise D2STError(
                f"{len(uploads)} more clips would make {self.count + len(uploads)}, and this page keeps "
                f"{self.max_clips}; choose fewer, or remove an action."
            )
        with self._changing_examples():
            progress = Progress(len(uploads))
            yield progress
            for upload in uploads:
                try:
                    clip = self.uploads.take(upload, self.folder)
                    with _removed_on_error(clip):
                        self._refuse_again(name, clip)
                        example = self._learn(self.classifier, name, clip, progress.problems)
                    self.examples.setdefault(name, []).append(example)
                    progress.kept += 1
                except Exception as error:
                    progress.problems.append(_sentence(error, upload))
                progress.done += 1
                yield progress

    def remove(self, name: str) -> None:
        """Forget an action and its clips."""
        with self._changing_examples():
            with self.models.lock:
                self.classifier.remove_class(name)
            clips.remove([example.clip for example in self.examples.pop(name)])

    def remove_example(self, name: str, key: str) -> str:
        """Forget one of several examples of an action.

        Args:
            name: of the action.
            key: of the example.

        Returns:
            The name of its file.

        Raises:
            D2STError: it is no longer there, or the only one.
        """
        with self._changing_examples():
            examples = self.examples.get(name, [])
            keys = [example.key for example in examples]
            if key not in keys:
                raise D2STError(f"This example of '{name}' is no longer there.")
            removed = examples[keys.index(key)]
            if len(examples) == 1:
                raise D2STError(f"{removed.name} is the only example of '{name}'; remove the action instead.")
            kept = [i for i, example in enumerate(examples) if example is not removed]
            with self.models.lock:
                encoded = self.classifier.support[name]
                self.classifier.set_class(name, encoded.frames[kept], encoded.tokens[kept])
                if name in self.saved_seconds and any(examples[i].clip is None for i in kept):
                    self.classifier.seconds[name] = self.saved_seconds[name]
                self.classifier.time_clips(name, [examples[i].clip.path for i in kept if examples[i].clip])
            self.examples[name] = [examples[i] for i in kept]
            clips.remove([removed.clip])
            return removed.name

    def recognize(self, uploads: Sequence[str | Path]) -> Iterator[Progress]:
        """Answer for each clip, in ``answers``; those before are forgotten.

        Raises:
            D2STError: nothing was taught yet, no clips, or too many.
        """
        if not self.examples:
            raise D2STError("Teach at least one action first; two or more, and there is something to tell apart.")
        if not uploads:
            raise D2STError("Choose at least one clip to recognize, or record one.")
        if len(uploads) > self.max_clips:
            raise D2STError(f"{len(uploads)} clips at once are too many; choose at most {self.max_clips}.")
        with self._working():
            self._forget_answers()
            progress = Progress(len(uploads))
            yield progress
            for upload in uploads:
                try:
                    self.answers.append(self._answer(self.uploads.take(upload, self.folder)))
                    progress.kept += 1
                except Exception as error:
                    self.passed_over.append(_sentence(error, upload))
                progress.done += 1
                yield progress

    def answer_live(self) -> dict:
        """Answer what the page's camera shows now; see :meth:`d2st.studio.camera.PageCamera.answer`."""
        with self.models.lock:
            calibrated = len(self.examples) > 1 and not self.never_unknown
            return self.camera.answer(self.classifier, calibrated)

    def add_seen(self, name: str) -> Example:
        """Teach that what the camera showed in the last window was an action; the clip is kept as an upload is.

        Raises:
            D2STError: no name, no window yet or one that was added already, too many examples, or no space.
        """
        name = self._spelled(name)
        if self.count >= self.max_clips:
            raise D2STError(f"This page keeps {self.max_clips} examples; remove some, or an action.")
        with self._changing_examples():
            clip = self.camera.keep(self.folder, self.uploads)
            with _removed_on_error(clip):
                example = self._learn(self.classifier, name, clip, [])
            self.examples.setdefault(name, []).append(example)
            return example

    def change_model(self, name: str) -> Iterator[Progress]:
        """Let another model look at all examples; nothing is changed before it has seen them all.

        Raises:
            D2STError: it cannot be loaded, or examples have no clips to look at.
        """
        loose = [name for name, examples in self.examples.items() if any(e.clip is None for e in examples)]
        if loose:
            raise D2STError(
                f"{', '.join(loose)} came out of a saved file, which only the recognizer '{self.model.name}' can "
                "read; remove them to change to another."
            )
        with self._changing_examples():
            model = self.models.get(name)
            classifier = model.classifier()
            learned: dict[str, list[Example]] = {}
            unreadable = []
            progress = Progress(self.count)
            yield progress
            for action, examples in self.examples.items():
                for clip in (example.clip for example in examples):
                    try:
                        example = self._learn(classifier, action, clip, progress.problems)
                        learned.setdefault(action, []).append(example)
                        progress.kept += 1
                    except D2STError as error:
                        unreadable.append(clip)
                        progress.problems.append(str(error))
                    progress.done += 1
                    yield progress
            self._forget_answers()  # they are the other's
            clips.remove(unreadable)
            self.model, self.classifier, self.examples = model, classifier, learned

    def saved(self) -> bytes:
        """Give all examples as the one file of ``FewShotClassifier.save_support``: features, no pictures.

        Raises:
            D2STError: there are none.
        """
        if not self.examples:
            raise D2STError("There is nothing to save yet: teach an action first.")
        path = self.folder / "examples.safetensors"
        with self.models.lock:  # until the file is gone: another request of this tab takes the same name
            try:
                return self.classifier.save_support(path).read_bytes()
            finally:
                path.unlink(missing_ok=True)

    def open_saved(self, upload: str | Path) -> None:
        """Take the actions of a saved file, and forget those before.

        Raises:
            D2STError: it cannot be read, or another model saved it. The actions before are kept.
        """
        with self._changing_examples():
            file = self.uploads.take(upload, self.folder)
            try:
                with self.models.lock:
                    self.classifier.load_support(file.path)
            except D2STError as error:
                said = str(error).replace(str(file.path), file.name)
                raise D2STError(said.replace(REMEDY, "choose a file that the studio saved")) from error
            finally:
                clips.remove([file])
            clips.remove([example.clip for examples in self.examples.values() for example in examples])
            self.examples = {
                name: [Example(f"saved example {i + 1}", None, []) for i in range(len(encoded.frames))]
                for name, encoded in self.classifier.support.items()
            }
            self.saved_seconds = dict(self.classifier.seconds)

    def look(self, number: int) -> None:
        """Draw where the adapters read the clip of an answer, into ``looks``.

        Raises:
            D2STError: there is no such answer.
        """
        with self._working(), self.models.lock:
            if not isinstance(number, int) or not 0 <= number < len(self.answers):
                raise D2STError("This answer is no longer there; recognize the clip again.")
            frames, _ = clips.read(self.classifier, self.answers[number].clip)
            self.looks[number] = answers.point_picture(self.classifier, frames)

    def _forget_answers(self) -> None:
        clips.remove([answer.clip for answer in self.answers])
        self.answers, self.looks, self.passed_over = [], {}, []

    def _spelled(self, name: str) -> str:
        """Check the name of an action, and give it as it was taught: an accent may be a letter of its own."""
        name = _checked_name(name)
        return next((taught for taught in self.examples if nfc(taught) == name), name)

    def _refuse_again(self, name: str, clip: Upload) -> None:
        """Refuse a clip that is an example of any action: held out, each would find itself in the other."""
        for action, examples in self.examples.items():
            for example in examples:
                if example.clip and filecmp.cmp(example.clip.path, clip.path, shallow=False):
                    move = "" if action == name else "; remove it there to add it here"
                    raise D2STError(f"{clip.name}: is an example of '{action}' already, as {example.name}{move}.")

    def _learn(self, classifier: FewShotClassifier, name: str, clip: Upload, problems: list[str]) -> Example:
        with self.models.lock:
            frames, notes = clips.read(classifier, clip)
            example = Example(clip.name, clip, answers.small_frames(frames))
            classifier.add_class(name, [classifier.transform(frames)])
            classifier.time_clips(name, [clip.path])
        problems += notes
        return example

    def _answer(self, clip: Upload) -> Answer:
        with self.models.lock, _removed_on_error(clip):
            frames, notes = clips.read(self.classifier, clip)
            return answers.answer(self.classifier, clip, frames, self.examples, notes)

    @contextmanager
    def _changing_examples(self) -> Iterator[None]:
        """Work that may also end early: the page was reloaded, or an error came."""
        with self._working():
            try:
                yield
            finally:
                with self.models.lock:
                    self.never_unknown = not self.examples or self.classifier.never_unknown is not None

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Do one piece of work at a time; a second is refused with a sentence instead of waiting."""
        if not self.busy.acquire(blocking=False):
            raise D2STError("This page is still at work; wait until it is done.")
        try:
            yield
        finally:
            self.busy.release()


def _checked_name(name: str) -> str:
    name = nfc(" ".join((name or "").split()))
    if not name:
        raise D2STError("Give the action a name first, for example: serve.")
    if name.casefold() == UNKNOWN:
        raise D2STError(f"'{UNKNOWN}' is the answer for clips of none of the actions; give the action another name.")
    if len(name) > LONGEST:
        raise D2STError(f"The name has {len(name)} letters; give one of at most {LONGEST}.")
    return name


@contextmanager
def _removed_on_error(clip: Upload) -> Iterator[None]:
    """Delete a clip that turns out to be of no use."""
    try:
        yield
    except BaseException:
        clips.remove([clip])
        raise


def _sentence(error: Exception, upload: str | Path) -> str:
    """Say why a clip could not be used, whatever it was: the others go on."""
    if isinstance(error, D2STError):
        return str(error)
    name, reason = Path(upload).name, " ".join(f"{type(error).__name__}: {error}".split())
    tell(f"d2st studio: {name} was passed over: {reason}")
    return f"{name}: cannot be used ({reason})."
