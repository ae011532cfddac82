"""Print what check-data found."""

from ..utils.console import plain_console, plain_table, printable

SHOWN = 10  # findings of a kind that are printed; the JSON report has all


def show(report: dict, frames: int) -> None:
    """Print a report of :func:`d2st.commands.check_data.check`; ``frames`` is what a clip is read with."""
    console = plain_console()
    decoded = "every frame" if report["full"] else "first frames"
    table = plain_table(title=f"{printable(report['data'])}: {decoded} decoded")
    for column in (
        "part",
        "classes",
        "clips",
        "unreadable",
        f"under {frames} frames",
        "frames",
        "smallest class",
    ):
        table.add_column(column, justify="left" if column in ("part", "smallest class") else "right")
    for part, found in report["parts"].items():
        small = min(found["classes"], key=found["classes"].get)
        low, middle, high = found["frames"]
        numbers = [len(found["classes"]), found["clips"], found["bad"], found["short"], f"{low} / {middle} / {high}"]
        table.add_row(printable(part), *map(str, numbers), printable(f"{small} ({found['classes'][small]})"))
    console.print(table)
    findings = {
        "cannot be read": [f"{entry['path']}: {entry['reason']}" for entry in report["bad"]],
        "shorter than a clip; frames repeat": [f"{entry['id']}: {entry['frames']}" for entry in report["short"]],
        "damaged": report["warnings"],
        "the same file more than once": [" = ".join(ids) for ids in report["duplicates"]],
        "the same file in two parts; what trains has seen the test": [" = ".join(x) for x in report["across_parts"]],
        "listed and not usable": report["problems"],
        "left out": report["notes"],
    }
    for title, lines in findings.items():
        for line in [f"{title} ({len(lines)})", *(f"  {line}" for line in lines[:SHOWN])] if lines else []:
            console.print(printable(line), highlight=False)
    for reason in [*report.get("protocol", ()), *report["reasons"]]:
        console.print(reason, highlight=False)
    console.print("usable" if report["usable"] else "not usable")
