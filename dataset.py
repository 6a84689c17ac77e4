"""Datasets: what there is, what is in one, and how to have it in another format.

python dataset.py list [WHAT]          show NAME [--png FILE]          fetch NAME          convert NAME TARGET

NAME is what `dataset=` takes: an embedded set, a path, a D4RL name or a Minari id.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from envs import Episodes

BINS = 16


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="list, show, fetch or convert")
    listing = commands.add_parser("list", help="what is on this machine, and what can be had")
    listing.add_argument("what", nargs="?", default="all", help="here, d4rl, minari, or one of D4RL's suites")
    showing = commands.add_parser("show", help="episodes, returns, spaces, environment, reference scores, problems")
    showing.add_argument("name")
    showing.add_argument("--png", type=Path, help="also draw returns and lengths into this file")
    fetching = commands.add_parser("fetch", help="download a D4RL name or a Minari id")
    fetching.add_argument("name")
    converting = commands.add_parser("convert", help="write a dataset as D4RL's HDF5 (FILE.hdf5) or Minari's (an id)")
    converting.add_argument("name")
    converting.add_argument("target", help="a path that ends in .hdf5, or a Minari id such as own/hopper/mine-v0")
    given = parser.parse_args(arguments)
    run: Any = {"list": list_datasets, "show": show, "fetch": fetch, "convert": convert}[given.command]
    try:
        run(**{key: value for key, value in vars(given).items() if key != "command"})
    except BrokenPipeError:  # the reader of a pipe, such as `head`, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not getattr(error, "for_user", False):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def list_datasets(what: str) -> None:
    """Prints a table of names: what is here, then D4RL by suite, then Minari's hub if it answers."""
    from envs.checks import DataError
    from envs.d4rl_catalog import SUITES, d4rl_files

    suites = [suite.name for suite in SUITES]
    known = ["all", "here", "d4rl", "minari", *suites]
    if what not in known:
        raise DataError(f"what to list must be one of {', '.join(known)}; got {what!r}")
    if what in ("all", "here"):
        _print_rows("on this machine", ["name", "kind"], _names_here())
    for suite in SUITES:
        if what in ("d4rl", suite.name):
            files = [file for file in d4rl_files().values() if file.suite.name == suite.name]
            rows = [(file.name, _size(file.num_bytes), _pair(file.reference), _state(file)) for file in files]
            _print_rows(f"D4RL: {suite.name}", ["name", "size", "random, expert return", ""], rows)
    if what == "minari":
        _print_rows("Minari's hub", ["name", "steps", "episodes"], _names_on_minaris_hub())
    if what == "all":
        print(
            f"D4RL has {len(d4rl_files())} more: list d4rl, or list SUITE ({', '.join(suites)}). Minari: list minari."
        )


def show(name: str, png: Path | None) -> None:
    """Prints all that a person wants to know before training on a dataset."""
    import numpy as np

    from envs import load_episodes
    from envs.environments import TaskError, physics_version
    from envs.references import reference_scores
    from envs.tasks import describe_task

    episodes = load_episodes(name)
    source, returns, lengths = episodes.source, episodes.returns, episodes.lengths
    reference = None if source.env_id is None else reference_scores(source.env_id, source)
    try:
        describe_task(episodes)
        environment = f"{source.env_id} {source.env_kwargs or ''} (here: {physics_version()})"
    except TaskError as error:
        environment = f"none to play in: {error}"
    actions = f"{episodes.num_actions} discrete" if episodes.is_discrete else f"{episodes.action_dim} continuous"
    ends = f"{int(episodes.terminated.sum())} terminated, {int(episodes.truncated.sum())} truncated"
    rows = [
        ("sha256", source.sha256),
        ("episodes, steps", f"{len(episodes):,}, {episodes.num_steps:,} ({ends})"),
        ("observations, actions", f"{episodes.obs_dim} columns, {actions}{_range(episodes)}"),
        ("environment", environment),
        ("reference scores", "none: results will be raw returns" if reference is None else _reference(reference)),
    ]
    for what, values in (("return", returns), ("length", lengths.astype(float))):
        rows.append((f"{what}: mean", f"{values.mean():,.1f}"))
        percentiles = np.percentile(values, [0, 10, 50, 90, 100])
        rows.append((f"{what}: 0, 10, 50, 90, 100 %", "  ".join(f"{one:,.1f}" for one in percentiles)))
    if reference is not None and reference.of == "return":
        scores = 100 * (np.percentile(returns, [0, 50, 90, 100]) - reference.min) / (reference.max - reference.min)
        rows.append(("score: 0, 50, 90, 100 %", "  ".join(f"{one:.1f}" for one in scores)))
    rows += [("note", note) for note in source.notes] or [("notes", "no problems found")]
    _print_rows(source.dataset_id, ["", ""], rows, header=False)
    _print_histogram(returns)
    if png is not None:
        _draw(episodes, png)
        print(f"written: {png}")


def fetch(name: str) -> None:
    """Downloads, converts and says where it is."""
    from envs import load_episodes

    episodes = load_episodes(name)
    print(f"{episodes.source.dataset_id}: {len(episodes):,} episodes, {episodes.num_steps:,} steps, ready")


def convert(name: str, target: str) -> None:
    from envs import load_episodes
    from envs.checks import DataError
    from envs.writing import write_d4rl, write_minari

    episodes = load_episodes(name)
    if target.endswith((".hdf5", ".h5")):
        path = Path(target).expanduser()
        if path.exists():
            raise DataError(f"{path} exists already: delete it or choose another name")
        write_d4rl(episodes, path)
        written: Any = path
    else:
        written = write_minari(episodes, target.removeprefix("minari:"))
    print(f"{episodes.source.dataset_id}: {len(episodes):,} episodes, {episodes.num_steps:,} steps -> {written}")


def _names_here() -> list[tuple[str, str]]:
    from envs.d4rl_catalog import d4rl_files, d4rl_folder
    from envs.datasets import embedded_names
    from envs.store import stored_names

    here = [file.name for file in d4rl_files().values() if (d4rl_folder() / file.file_name).is_file()]
    rows = [(name, "embedded") for name in embedded_names()] + [(name, f"in {d4rl_folder()}") for name in here]
    try:
        import minari

        rows += [(name, "Minari, local") for name in minari.list_local_datasets()]
    except ImportError:
        pass
    known = {name for name, _ in rows}
    return rows + [(name, "converted before") for name in sorted({*stored_names()} - known)]


def _names_on_minaris_hub() -> list[tuple[str, str, str]]:
    from envs.checks import DataError

    try:
        import minari

        found = minari.list_remote_datasets(latest_version=True, compatible_minari_version=True)
    except Exception as error:  # whatever network, hub client and Minari raise
        raise DataError(
            f"Minari's hub does not answer ({type(error).__name__}: {error}). What is here: dataset.py list; "
            "another hub is named by MINARI_REMOTE"
        ) from None
    return [(name, f"{about['total_steps']:,}", f"{about['total_episodes']:,}") for name, about in found.items()]


def _state(file: Any) -> str:
    from envs.d4rl_catalog import d4rl_folder

    return "here" if (d4rl_folder() / file.file_name).is_file() else ""


def _size(num_bytes: int | None) -> str:
    return "" if num_bytes is None else f"{num_bytes / 1e6:,.0f} MB"


def _pair(reference: tuple[float, float] | None) -> str:
    return "" if reference is None else f"{reference[0]:g}, {reference[1]:g}"


def _range(episodes: Episodes) -> str:
    return "" if episodes.is_discrete else f" from {episodes.actions.min():.3g} to {episodes.actions.max():.3g}"


def _reference(reference: Any) -> str:
    return f"0 is {reference.min:g}, 100 is {reference.max:g} ({reference.source})"


def _print_rows(title: str, headings: list[str], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=header, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_histogram(returns: NDArray[np.float64]) -> None:
    """One bar a line: how many episodes earned what."""
    import numpy as np

    counts, edges = np.histogram(returns, bins=BINS)
    print("episodes by return")
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        print(f"{low:>10,.1f} to {high:>9,.1f}  {'█' * round(40 * count / counts.max()):40}  {count}")


def _draw(episodes: Episodes, png: Path) -> None:
    """Returns over the recording and their histogram, and the lengths."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    order, spread, lengths = figure.subplots(1, 3)
    order.plot(episodes.returns, ".", markersize=3, alpha=0.6)
    order.set(xlabel="episode, as recorded", ylabel="return")
    spread.hist(episodes.returns, bins=40)
    spread.set(xlabel="return", ylabel="episodes")
    lengths.hist(episodes.lengths, bins=40, color="tab:gray")
    lengths.set(xlabel="steps", ylabel="episodes")
    figure.suptitle(f"{episodes.source.dataset_id}: {len(episodes):,} episodes, {episodes.num_steps:,} steps")
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=120)


if __name__ == "__main__":
    main()
