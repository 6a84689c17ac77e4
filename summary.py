"""What a run shows of itself: a progress bar, the last table, and the learning curve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from envs.references import score_of_return
from evaluate import target_in_words


class StepsPerSecond(ProgressColumn):
    """The speed over the last seconds."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} steps/s")


class TrainingProgress:
    """A bar of gradient steps with the loss, the speed and the time left; lines can be printed above it."""

    def __init__(self, progress: Progress, first_step: int, last_step: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("training", completed=first_step, total=last_step, loss=float("nan"))

    def advance(self) -> None:
        self._progress.advance(self._bar)

    def show(self, loss: float) -> None:
        self._progress.update(self._bar, loss=loss)

    def say(self, step: int, results: dict[str, Any]) -> None:
        """One line about a point of the learning curve."""
        if not self._progress.disable:
            self._progress.console.print(f"step {step}: {score_in_words(results)}", highlight=False)


@contextmanager
def progress_over(first_step: int, last_step: int, *, shown: bool = True) -> Iterator[TrainingProgress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        StepsPerSecond(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not shown) as progress:
        yield TrainingProgress(progress, first_step, last_step)


def score_in_words(results: dict[str, Any]) -> str:
    """The mean return and, where there are reference scores, the normalised score with its interval."""
    returns, score = results["returns"], results["score"]
    if not returns:
        return str(score["reason"])
    words = f"return {sum(returns) / len(returns):.0f} over {len(returns)} episodes"
    if score["mean"] is None:
        return f"{words}, no normalised score: {score['reason']}"
    return f"{words}, score {score['mean']:.1f} [{_interval(score, ', ')}]"


def print_results(results: dict[str, Any], run_dir: Path, file: str = "results.json") -> None:
    """The data's mean, 90th percentile and best return beside the agent's, and what the score rests on."""
    console = Console()
    task, protocol = results["provenance"], results["protocol"]
    table = Table(title=f"{task['env_id'] or 'no environment'}, learnt from {task['dataset']['id']}")
    for heading, justify in (("", "left"), ("return", "right"), ("score", "right"), ("95 % interval", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading, value in recorded_returns(task).items():
        table.add_row(heading, f"{value:.0f}", score_of_return(value, task["reference"]), "")
    table.add_section()
    table.add_row(*_agent_row(results), style="bold")
    if results.get("success_rate") is not None:
        table.add_row("agent, share of successes", f"{100 * results['success_rate']:.0f} %", "", "")
    console.print(table)
    for failure in results.get("failures", []):
        console.print(f"episode of seed {failure['seed']} failed and is left out: {failure['reason']}", highlight=False)
    console.print(
        f"{protocol['checkpoint']} checkpoint, {target_in_words(protocol)}, "
        f"acting: {protocol['acting_mode']}, {task['physics']}",
        highlight=False,
    )
    console.print(f"everything: {run_dir / file}", highlight=False, soft_wrap=True)


def print_sweep(sweep: dict[str, Any]) -> None:
    """What was asked for and what was earned."""
    table = Table(title="asked and earned")
    for heading in ("asked", "mean return", "lowest", "highest"):
        table.add_column(heading, justify="right")
    for point in sweep["points"]:
        returns = point["returns"]
        earned = (sum(returns) / len(returns), min(returns), max(returns))
        table.add_row(f"{point['target_return']:.0f}", *(f"{value:.0f}" for value in earned))
    Console().print(table)


def recorded_returns(task: dict[str, Any]) -> dict[str, float]:
    """The returns in the data that an agent's return is held against."""
    dataset = task["dataset"]
    return {
        "data, mean": dataset["mean_return"],
        "data, 90th percentile": dataset["percentile_90_return"],
        "data, best": dataset["best_return"],
    }


def draw_learning_curve(run_dir: Path, results: dict[str, Any]) -> Any:
    """learning_curve.png: the loss, and the return over training against the returns in the data; gives the figure."""
    from metrics import read_metrics

    rows = read_metrics(run_dir)
    figure, (loss_axes, return_axes) = _axes()
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    loss_axes.plot(*zip(*losses, strict=True), color="tab:gray")
    loss_axes.set(xlabel="gradient steps", ylabel="training loss")
    _draw_returns(return_axes, rows, results)
    figure.suptitle(f"{results['provenance']['env_id']}: {score_in_words(results)}")
    figure.savefig(run_dir / "learning_curve.png", dpi=120)
    return figure


def _axes() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # never opens a window
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, 2)


def _draw_returns(axes: Any, rows: list[dict[str, Any]], results: dict[str, Any]) -> None:
    points = [row for row in rows if "score/return_mean" in row]
    steps = [row["step"] for row in points]
    means = [row["score/return_mean"] for row in points]
    spreads = [row["score/return_std"] for row in points]
    axes.errorbar(steps, means, yerr=spreads, marker="o", capsize=3, label="agent (bars: spread over episodes)")
    task = results["provenance"]
    for (heading, value), style in zip(recorded_returns(task).items(), (":", "--", "-"), strict=True):
        axes.axhline(value, color="black", linestyle=style, linewidth=1, label=heading)
    axes.set(xlabel="gradient steps", ylabel="return", ylim=(0, None))
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}  # so that no point of the curve is hidden
    axes.legend(fontsize="small", ncols=2, frameon=False, **above)


def _agent_row(results: dict[str, Any]) -> tuple[str, str, str, str]:
    returns, score = results["returns"], results["score"]
    heading = f"agent, mean of {len(returns)} episodes"
    if not returns:
        return "agent", score["reason"], "", ""
    mean = f"{sum(returns) / len(returns):.0f}"
    if score["mean"] is None:
        return heading, mean, "none", score["reason"]
    return heading, mean, f"{score['mean']:.1f}", _interval(score, " to ")


def _interval(score: dict[str, Any], between: str) -> str:
    return score["reason"] or f"{score['ci_low']:.1f}{between}{score['ci_high']:.1f}"
