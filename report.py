"""One HTML page about one run, or comparing many; it needs no network and no other file.

python report.py RUNS... [--out report.html]
python report.py RUN --card [--licence mit]              RUN/README.md, a model card
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.runs import Run


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders that hold some")
    parser.add_argument("--out", type=Path, help="default: report.html in the run directory, or here for several runs")
    parser.add_argument("--card", action="store_true", help="write README.md, a model card, into each run instead")
    parser.add_argument("--licence", help="of the model card, as the Hugging Face Hub names it: mit, apache-2.0, ...")
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
    if given.card:
        write_cards(runs, given.licence)
        return
    out = given.out or (runs[0].path if len(runs) == 1 else Path()) / "report.html"
    write_page(runs, out)
    print(f"written: {out} ({len(runs)} run{'s' * (len(runs) > 1)})")
    for run in runs:
        if run.problem:
            print(f"{run.path}: {run.problem}", file=sys.stderr)


def write_cards(runs: Sequence[Run], licence: str | None) -> None:
    """README.md in every finished run; a run that is not finished is an error, and gets none."""
    from reports.card import card
    from run import write_whole

    for run in runs:
        if run.results is not None:
            write_whole(run.path / "README.md", card(run, licence))
            print(f"written: {run.path / 'README.md'}")
    unfinished = [run for run in runs if run.results is None]
    for run in unfinished:
        print(f"error: {run.path}: {run.problem}", file=sys.stderr)
    if unfinished:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
