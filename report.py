"""One HTML page about one run, or comparing many; it needs no network and no other file.

python report.py RUNS... [--out report.html]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders that hold some")
    parser.add_argument("--out", type=Path, help="default: report.html in the run directory, or here for several runs")
    given = parser.parse_args(arguments)
    from reports.page import write_page
    from reports.runs import find_runs

    missing = [place for place in given.runs if not place.is_dir()]
    runs = find_runs(given.runs)
    if missing or not runs:
        where = ", ".join(map(str, missing or given.runs))
        print(
            f"error: {'there is no directory' if missing else 'there is no run (config.json) in'} {where}",
            file=sys.stderr,
        )
        raise SystemExit(1)
    out = given.out or (runs[0].path if len(runs) == 1 else Path()) / "report.html"
    write_page(runs, out)
    print(f"written: {out} ({len(runs)} run{'s' * (len(runs) > 1)})")
    for run in runs:
        if run.problem:
            print(f"{run.path}: {run.problem}", file=sys.stderr)


if __name__ == "__main__":
    main()
