"""Upload saved models to the Hugging Face Hub, with a card that says what they were trained on."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin
from huggingface_hub.errors import HfHubHTTPError

from ..errors import D2STError
from .provenance import is_accuracy, read_result

CARD = "README.md"
BLANK = "not recorded; please fill in"


@dataclass(frozen=True)
class CardFacts:
    """Hold what a model card says of the model itself.

    Args:
        title: heading.
        about: name -> value, the first table.
        usage: Python code that loads and uses the model; ``{repo}`` is its repository.
        base_model: repository of the backbone's weights; None is not known.
    """

    title: str
    about: Mapping[str, object]
    usage: str
    base_model: str | None = None


class HubModel(ModelHubMixin, library_name="d2st"):
    """Model whose files can go to the Hub; a subclass has ``_save_pretrained(folder)`` and :meth:`card_facts`."""

    def __new__(cls, *args: object, **options: object) -> Self:
        return object.__new__(cls)  # the mixin would keep the arguments, for a config.json of its own

    def card_facts(self) -> CardFacts:
        """Facts of the model for its card."""
        raise NotImplementedError

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        config: None = None,
        model_card_kwargs: dict | None = None,
        **options: object,
    ) -> Path:
        """Write the model's files into a folder.

        Args:
            folder: made where it is missing.
            push_to_hub: upload them, too.
            repo_id: repository to upload to, "user/name".
            config, model_card_kwargs: of huggingface_hub's own use.
            **options: of :meth:`push_to_hub`.
        """
        folder = Path(folder)
        self._save_pretrained(folder)
        if model_card_kwargs is not None:  # a copy that is uploaded
            self.generate_model_card(**model_card_kwargs).save(folder / CARD)
        if push_to_hub:
            if not repo_id:
                raise D2STError(f"'{folder}' is saved. Say where it is to be uploaded: repo_id='user/name'.")
            self.push_to_hub(repo_id, run=folder, **options)
        return folder

    def push_to_hub(self, repo_id: str, *, run: str | Path | None = None, **options: object) -> str:
        """Upload the model's files and a model card to a repository on the Hub, which is made where it is missing.

        Args:
            repo_id: "user/name".
            run: folder that the model was saved in. Its README.md is the card; without one, the train.json and
                eval.json of its training and evaluation fill a new card.
            **options: private, token, branch, commit_message, create_pr of ``huggingface_hub.ModelHubMixin``.

        Returns:
            The address of the commit.

        Raises:
            D2STError: the Hub did not take it.
        """
        options.setdefault("commit_message", "Upload a model of d2st")
        card = {"repo_id": repo_id, "run": run}
        try:
            return super().push_to_hub(repo_id, model_card_kwargs=card, **options)
        except (HfHubHTTPError, OSError, ValueError) as error:
            if isinstance(error, D2STError):
                raise
            raise D2STError(
                f"The Hub did not take {repo_id!r}: {str(error).splitlines()[0]} Check the name and the connection, "
                f"and log in with 'hf auth login' or give token=."
            ) from error

    def generate_model_card(self, repo_id: str = "user/name", run: str | Path | None = None) -> ModelCard:
        """Write the card of the model; arguments as for :meth:`push_to_hub`."""
        if run and (Path(run) / CARD).is_file():
            return ModelCard.load(Path(run) / CARD)
        facts = self.card_facts()
        data = ModelCardData(
            license="unknown",
            library_name="d2st",
            pipeline_tag="video-classification",
            tags=["action-recognition", "adapter", "few-shot"],
            base_model=facts.base_model,
        )
        trained = _read_beside(run, "train.json")
        tested = _read_beside(run, "eval.json")
        parts = [
            f"# {facts.title}",
            _table(("", ""), facts.about.items()),
            "## Use",
            f"```python\nimport d2st\n\n{facts.usage.format(repo=repo_id)}\n```",
            "## Training",
            _training(trained),
            "## Results",
            _results(tested),
            "## License",
            "Please fill in the license of these weights, here and in `license:` at the top of this file; the "
            "backbone's weights and the training data have licenses of their own.",
        ]
        return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _read_beside(run: str | Path | None, name: str) -> dict | None:
    """Read a result that is about the model in a folder: there, or in the folder of its training.

    The folder of a training has best/ and train.json; an evaluation says which folder it was of.
    """
    if run is None:
        return None
    run = Path(run).resolve()
    for file in (run / name, run.parent / name, *sorted(run.parent.glob(f"*/{name}"))):
        if not file.is_file():
            continue
        found = read_result(file, remedy="remove it, or write the card by hand")
        own = found.get("adapter") if name == "train.json" else _part(found, "config").get("adapter_path")
        if isinstance(own, str) and Path(own).resolve() == run:
            return found
    return None


def _part(result: dict, name: str) -> dict:
    """Take an object of a result; a result that somebody changed may have something else there."""
    part = result.get(name)
    return part if isinstance(part, dict) else {}


def _training(result: dict | None) -> str:
    if result is None:
        return _table(("", ""), [(name, BLANK) for name in ("data", "split", "command", "d2st")])
    config, git = _part(result, "config"), _part(result, "git")
    version = _part(result, "versions").get("d2st", BLANK)
    if git.get("commit"):
        version = f"{version}, commit {str(git['commit'])[:12]}" + (", with changes" if git.get("changed") else "")
    rows = {name: config.get(name) for name in ("data", "split", "way", "shot", "seed")}
    bad = result.get("bad_clips")
    rows |= {"clips that could not be read": len(bad) if isinstance(bad, list) else BLANK, "d2st": version}
    return _table(("", ""), [row for row in rows.items() if row[1] is not None]) + f"\n\n```sh\n{_command(result)}\n```"


def _command(result: dict) -> str:
    """Take the command of a result without the path of the program."""
    command = result.get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:  # quotes that do not close
        words = []
    return shlex.join(["d2st", *words[1:]]) if words else f"# {BLANK}"


def _results(result: dict | None) -> str:
    if result is None:
        return f"Accuracy: {BLANK} (`d2st eval` with `--adapter` of the saved folder gives it, with its interval)."
    config, rows = _part(result, "config"), []
    entries = result.get("results")
    for entry in entries if isinstance(entries, list) else ():
        if not is_accuracy(entry):
            continue
        width = entry.get("interval")
        accuracy = f"{100 * entry['accuracy']:.2f} %" + (f" ± {100 * width:.2f}" if width is not None else "")
        kind = f"{entry['way']}-way {entry['shot']}-shot" if "way" in entry else f"among the first {entry['top']}"
        rows.append((entry.get("head", "linear"), kind, entry.get("episodes", result.get("clips")), accuracy))
    told = (
        f"On the part {result.get('part')} of {config.get('data')} (split {config.get('split')}), with 95 % intervals:"
    )
    return f"{told}\n\n" + _table(("head", "task", "episodes or clips", "accuracy"), rows)


def _table(titles: tuple[str, ...], rows: object) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
