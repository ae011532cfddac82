"""What ``d2st eval`` prints."""

from rich.console import Console
from rich.table import Table

from ..utils.console import plain_console, plain_table, printable


def print_result(result: dict, classes: tuple[str, ...]) -> None:
    """Print accuracies by class for one head, by head for several.

    Args:
        result: what eval.json holds.
        classes: evaluated.
    """
    console, several = plain_console(), "left_out" in result
    console.print(f"Accuracy in percent on {len(classes)} {result['part']} classes, {result['clips']} clips:")
    console.print(_by_head(result) if several else _by_class(result["results"], classes))
    console.print(f"95 % intervals over {result['results'][0]['episodes']} episodes.")
    if "open_set" in result["results"][0]:
        _print_open(console, result["results"])
    for r in result["results"]:
        if "mixing" in r:
            value, found = r["mixing"]["best"], r["mixing"]["accuracies"]
            console.print(
                f"{r['shot']}-shot: --head.inference combine --head.mixing {value:g} is right in "
                f"{100 * found[value]:.2f} % ({100 * found[0.0]:.2f} by clips alone, {100 * found[1.0]:.2f} by names)."
            )
    for name, reason in result.get("left_out", {}).items():
        console.print(f"No number for {name}: {reason}", highlight=False)
    for clip in result["bad_clips"]:
        console.print(f"Left out, cannot be read: {clip['id']}: {clip['reason']}", highlight=False)


def _by_class(results: list[dict], classes: tuple[str, ...]) -> Table:
    table = plain_table("class")
    for r in results:
        table.add_column(f"{r['way']}-way {r['shot']}-shot", justify="right")
    for name in classes:
        shares = [r["per_class"][name] for r in results]
        table.add_row(printable(name), *("-" if share is None else f"{100 * share:.1f}" for share in shares))
    table.add_section()
    table.add_row("all", *(_percent(r["accuracy"], r["interval"]) for r in results))
    return table


def _by_head(result: dict) -> Table:
    """Rows heads, columns shots; where there are several heads, also what sets them apart on the same episodes."""
    cells = {(r["head"], r["shot"]): r for r in result["results"]}
    names, shots = list(dict.fromkeys(name for name, _ in cells)), list(dict.fromkeys(shot for _, shot in cells))
    table, way = plain_table("head"), result["results"][0]["way"]
    for shot in shots:
        table.add_column(f"{way}-way {shot}-shot", justify="right")
    if len(names) > 1:
        for shot in shots:
            table.add_column(f"{shot}-shot,\nless {names[0]}", justify="right")
    for name in names:
        row = [cells[name, shot] for shot in shots]
        means = [_percent(r["accuracy"], r["interval"]) for r in row]
        apart = [_percent(r["difference"]["mean"], r["difference"]["interval"], "+") for r in row if "difference" in r]
        table.add_row(name, *means, *apart)
    return table


def _percent(mean: float, interval: float | None, sign: str = "") -> str:
    return f"{100 * mean:{sign}.2f} ± " + ("-" if interval is None else f"{100 * interval:.2f}")


def _print_open(console: Console, results: list[dict]) -> None:
    """What becomes of queries of the episode's classes and of others, by where the threshold comes from."""
    for r in results:
        found = r["open_set"]
        console.print(f"{r['head']}, {r['way']}-way {r['shot']}-shot, open set: AUROC {_short(found['auroc'])}")
        table = plain_table("threshold of", "kept", "right", "rejected", "mean", "off by")
        for source, words in {"fixed": "these queries", "support": "support", "calibration": "calibration"}.items():
            if source in found:
                shares = [_short(found[source][key]) for key in ("kept", "right", "rejected", "accuracy")]
                off = found[source].get("ece")
                table.add_row(words, *shares, "" if off is None else f"{100 * off:.1f}")
        console.print(table)
    kept = 100 - 100 * results[0]["open_set"]["reject_rate"]
    console.print(
        f"kept: of the classes' queries, those not answered 'unknown' (asked: {kept:g} %); right: those that get their "
        f"own class; rejected: of other classes' queries, those answered 'unknown'; mean: of right and rejected; "
        f"off by: mean error of the confidence.",
        highlight=False,
    )


def _short(found: dict) -> str:
    width = "-" if found["interval"] is None else f"{100 * found['interval']:.1f}"
    return f"{100 * found['mean']:.1f} ± {width}"
