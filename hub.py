"""Share a run on the Hugging Face Hub, or fetch one: safetensors, JSON and a model card, nothing that could run.

python hub.py push RUN OWNER/NAME [--private] [--licence mit]
python hub.py pull OWNER/NAME DIR [--revision COMMIT]          then evaluate.py, export.py or load_agent on DIR
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

SHARED = ("config.json", "task.json", "results.json", "metrics.jsonl", "README.md")
CHECKPOINT = ("manifest.json", "agent.json", "agent.safetensors", "training.json", "training.safetensors")


class HubError(ValueError):
    """What cannot be shared or fetched. The message is for the user."""

    for_user = True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    pushing = commands.add_parser("push", help="upload a finished run: its newest checkpoint, results and a model card")
    pushing.add_argument("run", type=Path)
    pushing.add_argument("repo", help="OWNER/NAME; made if it is not there")
    pushing.add_argument("--private", action="store_true", help="if it is made, for its owner alone")
    pushing.add_argument("--licence", help="as the hub names it: mit, apache-2.0, ...")
    pulling = commands.add_parser("pull", help="download a run and check it")
    pulling.add_argument("repo", help="OWNER/NAME")
    pulling.add_argument("run", type=Path, help="where it is put; must not be there yet")
    pulling.add_argument("--revision", help="a commit, a branch or a tag; default: the newest")
    given = parser.parse_args(arguments)
    try:
        if given.command == "push":
            print(f"pushed: {push(given.run, given.repo, private=given.private, licence=given.licence)}")
        else:
            print(f"pulled: {pull(given.repo, given.run, revision=given.revision)}")
    except Exception as error:
        if not getattr(error, "for_user", False):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def push(run_dir: Path, repo: str, *, private: bool = False, licence: str | None = None) -> str:
    """Uploads a finished run, once every byte of its checkpoint is checked; gives the address of the commit."""
    from agents.checkpoint import newest_checkpoint, read_checkpoint
    from reports.card import card
    from reports.runs import read_run

    run = read_run(run_dir)
    if run.results is None:
        raise HubError(f"{run_dir} cannot be shared: {run.problem}")
    checkpoint = newest_checkpoint(run_dir)
    read_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        for name in SHARED:
            if (run_dir / name).is_file():
                shutil.copy(run_dir / name, staged / name)
        (staged / "README.md").write_text(card(run, licence), encoding="utf-8")
        inside = staged / "checkpoints" / checkpoint.name
        inside.mkdir(parents=True)
        for name in CHECKPOINT:
            shutil.copy(checkpoint / name, inside / name)
        with _explained(repo, "pushed to"):
            api = _api()
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=staged, commit_message=run.method))


def pull(repo: str, run_dir: Path, *, revision: str | None = None) -> Path:
    """Downloads a run to run_dir, which appears when all of it is there and right, or not at all. Raises HubError."""
    if run_dir.exists():
        raise HubError(f"{run_dir} is there already; choose another directory")
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run_dir.parent, prefix=f".{run_dir.name}.partial-") as folder:
        with _explained(repo, "pulled from"):
            api = _api()
            commit = api.model_info(repo, revision=revision).sha
            names = check_names(api.list_repo_files(repo, revision=commit))
            for name in names:
                api.hf_hub_download(repo, name, revision=commit, local_dir=folder)
        fetched = Path(folder) / "run"
        for name in names:  # what the library keeps beside them stays behind
            (fetched / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder) / name, fetched / name)
        _check_run(fetched, repo)
        os.rename(fetched, run_dir)
    return run_dir


def check_names(names: Iterable[str]) -> list[str]:
    """Those that belong to a run. Raises HubError for one that would lie outside of it."""
    kept = []
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
            raise HubError(f"the repository names a file outside of itself: {name!r}")
        in_checkpoint = len(path.parts) == 3 and path.parts[0] == "checkpoints" and path.name in CHECKPOINT
        if name in SHARED or (in_checkpoint and path.parts[1].startswith("step_")):
            kept.append(name)
    return kept


def _check_run(path: Path, repo: str) -> None:
    """Raises an error for the user unless the checkpoint is whole and an agent can be made of it for its task."""
    from agents import load_agent
    from envs.tasks import Task
    from run import read_json, read_results

    for name in ("config.json", "task.json", "results.json"):
        if not (path / name).is_file():
            raise HubError(f"{repo} holds no run of this project: there is no {name} in it")
    load_agent(path)
    Task.from_description(read_json(path / "task.json"))
    read_results(path / "results.json")


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise HubError(f'{error}: pip install "minrnn-rl[hub]"') from error
    return HfApi()


@contextmanager
def _explained(repo: str, what: str) -> Any:
    """Turns what the library and the network complain of into a HubError of one line."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise HubError(
            f"{repo} cannot be {what} {address}: {first}. Another address is given by HF_ENDPOINT, who you "
            "are by HF_TOKEN or `hf auth login`"
        ) from error


if __name__ == "__main__":
    main()
