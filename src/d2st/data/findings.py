"""Print what check-data found."""

SHOWN = 10  # findings of a kind that are printed; the JSON report has all


def show(report: dict, frames: int) -> None:
    """Print a report of :func:`d2st.data.check.check`; ``frames`` is what a clip is read with."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(soft_wrap=True, width=140)  # a file or pipe has no width of its own; 80 breaks class names
    table = Table(title=f"{escape(report['data'])}: {'every frame' if report['full'] else 'first frames'} decoded")
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
        table.add_row(part, *map(str, numbers), escape(f"{small} ({found['classes'][small]})"))
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
            console.print(line, markup=False, highlight=False)
    for reason in [*report.get("protocol", ()), *report["reasons"]]:
        console.print(reason, markup=False, highlight=False)
    console.print("usable" if report["usable"] else "not usable", markup=False)
