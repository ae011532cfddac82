"""``--print-config``: a verb's settings as a file that ``--config`` reads back to the same."""

import yaml

from .heads import HeadSpec
from .results import config_dict, plain


def config_text(config: object, saved: HeadSpec | None = None) -> str:
    """A config as YAML.

    Args:
        config: of a verb.
        saved: the head that is saved with the adapter; a comment tells it where the config leaves the head open.
    """
    content = config_dict(config)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    if saved is None or content.get("head", "") is not None:
        return text
    told = yaml.safe_dump(plain(saved), default_flow_style=True, width=10**6).strip()
    return text.replace("head: null\n", f"head: null  # the one that is saved with the adapter: {told}\n")
