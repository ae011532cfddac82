"""Pack clips into tar shards: ``python -m d2st.data.pack videos --out packed``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...utils.console import say
from ...utils.program import program
from .writer import pack


def main(argv: Sequence[str] | None = None) -> int:
    """Pack a dataset; exit codes are those of :func:`d2st.utils.program.program`."""
    parser = argparse.ArgumentParser(prog="python -m d2st.data.pack", description="Pack clips into tar shards.")
    parser.add_argument("data", type=Path, help="Dataset folder, list file or frame store.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the shards.")
    parser.add_argument("--split", help="Split file or a benchmark's name; only its clips are packed.")
    parser.add_argument("--shard-mb", type=float, default=1024, help="Megabytes after which a shard is closed (1024).")
    parser.add_argument("--replace", action="store_true", help="Finished shards of other data may be replaced.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    given = parser.parse_args(argv)
    return program("d2st.data.pack", lambda: _pack(given), given.debug)


def _pack(given: argparse.Namespace) -> int:
    report = pack(given.data, given.out, given.split, given.shard_mb, given.replace)
    packed = f"{report['clips']} clips in {report['shards']} shards ({report['bytes'] / 1e6:.1f} MB)"
    say(f"{packed} in '{given.out}', {report['kept']} of them kept; {len(report['bad'])} clips left out.")
    for entry in report["bad"][:10]:
        say(f"  {entry['source']}: {entry['reason']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
