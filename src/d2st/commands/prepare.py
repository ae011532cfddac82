"""``d2st prepare``: videos to a frame store, decoded once and read fast."""

from ..data.store_writer import write_store
from ..utils.console import say
from .tool_options import PrepareConfig


def prepare(config: PrepareConfig) -> dict:
    """Decode every clip of a dataset once into a frame store, and print what was done.

    Returns:
        The report of :func:`d2st.data.store_writer.write_store`.

    Raises:
        D2STError: settings or data are unusable, or another run works on the store.
    """
    report = write_store(config.data, config.out, config.split, config)
    made = f"{report['written']} written now, {report['kept']} kept, {len(report['bad'])} unreadable"
    if report["removed"]:
        made += f", {report['removed']} that are gone or were made otherwise removed"
    say(f"{report['clips']} clips in '{report['out']}' ({report['bytes'] / 1e6:.1f} MB): {made}.")
    unreadable = [entry["reason"] for entry in report["bad"]]
    for text in [*unreadable, *report["warnings"], *report["problems"], *report["notes"]][:10]:
        say(f"  {text}")
    say(f"All findings are in {report['out']}/report.json.")
    return report
