"""A checkpoint: a directory of safetensors and JSON under a sha256 manifest, written beside and renamed.

    RUN/checkpoints/step_00004000/
        agent.json              what the agent is: names, widths, bounds, statistics, acting mode
        agent.safetensors       the weights that act
        training.safetensors    the weights that learn and the optimizer's state
        training.json           the step
        manifest.json           format version, and size and sha256 of the files above

Nothing in it can run code when read, and nothing is read before its hash was checked.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from agents.building import build_agent
from agents.decision_transformer import DecisionTransformer

FORMAT_VERSION = 3
FILES = ("agent.json", "agent.safetensors", "training.json", "training.safetensors")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another format. The message is for the user."""

    for_user = True


def load_agent(run_dir: str | Path) -> DecisionTransformer:
    """The agent of a run, ready to `reset` and `act`: from its newest checkpoint, or from the checkpoint given."""
    path = Path(run_dir)
    if not (path / "manifest.json").is_file():
        path = newest_checkpoint(path)
    files = read_checkpoint(path)
    agent = build_agent(files["agent.json"])
    check_weights(path / "agent.safetensors", files["agent.safetensors"], agent.state_dict())
    agent.load_state_dict(files["agent.safetensors"])
    return agent.eval()


def save_checkpoint(
    run_dir: Path,
    step: int,
    spec: dict[str, Any],
    weights: dict[str, Tensor],
    training: dict[str, Tensor],
    *,
    keep: int,
    best_step: int | None = None,
) -> Path:
    """Writes the checkpoint of this step and then removes all but the newest `keep` and that of best_step."""
    final = checkpoint_of(run_dir, step)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    contents = {
        "agent.json": _json_bytes(spec),
        "agent.safetensors": save(_contiguous(weights)),
        "training.safetensors": save(_contiguous(training)),
        "training.json": _json_bytes({"step": step}),
    }
    files = {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in contents.items()}
    contents["manifest.json"] = _json_bytes({"format_version": FORMAT_VERSION, "files": files})
    for name, data in contents.items():
        _write_synced(partial / name, data)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync_directory(final.parent)
    for old in _checkpoints(run_dir)[keep:]:
        if best_step is None or old != checkpoint_of(run_dir, best_step):
            shutil.rmtree(old)
    return final


def checkpoint_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint after this many gradient steps lies, if it was kept."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


def newest_checkpoint(run_dir: Path) -> Path:
    """The newest checkpoint of a run; one that is damaged is an error, never skipped in silence."""
    found = _checkpoints(run_dir)
    if not found:
        raise CheckpointError(f"no checkpoint in {run_dir}: expected {run_dir / 'checkpoints'}/step_*/manifest.json")
    return found[0]


def newest_whole_checkpoint(run_dir: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The files of the newest checkpoint that is whole, None if there is none, and what is wrong with newer ones."""
    complaints: list[str] = []
    for path in _checkpoints(run_dir):
        try:
            return read_checkpoint(path), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    return None, complaints


def remove_litter(run_dir: Path) -> None:
    """Takes away what a kill left half written."""
    for path in (run_dir / "checkpoints").glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)
    for path in run_dir.glob(".*.partial"):
        path.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The files of a checkpoint by name, JSON and tensors decoded; every byte was checked against the manifest."""
    manifest = _read_manifest(path)
    contents: dict[str, Any] = {}
    for name, expected in manifest["files"].items():
        if Path(name).name != name:
            raise CheckpointError(f"{path / 'manifest.json'} names a file outside its directory: {name!r}")
        data = _read_checked(path / name, expected)
        contents[name] = _json(path / name, data) if name.endswith(".json") else _tensors(path / name, data)
    _check_step(path / "training.json", contents["training.json"])
    for version in range(manifest["format_version"], FORMAT_VERSION):
        MIGRATIONS[version](contents)
    return contents


def check_weights(path: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises CheckpointError unless the tensors found at path have these names, shapes and types, and are numbers."""
    shapes, expected_shapes = (
        {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()} for tensors in (found, expected)
    )
    for name in sorted({*shapes, *expected_shapes}, key=str):
        if shapes.get(name) != expected_shapes.get(name):
            raise CheckpointError(
                f"{path} does not fit the agent that it should: expected {name} to be "
                f"{expected_shapes.get(name, 'absent')}, got {shapes.get(name, 'nothing')}"
            )
        if not bool(torch.isfinite(found[name]).all()):
            raise CheckpointError(f"{path} has nan or inf in {name}")


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
        version = manifest["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / 'manifest.json'} cannot be read: {error!r}") from error
    if type(version) is not int or version not in (*MIGRATIONS, FORMAT_VERSION):
        raise CheckpointError(
            f"{path} has checkpoint format {version}; this version reads formats {min(MIGRATIONS)} to {FORMAT_VERSION}"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not set(FILES) <= set(files):
        raise CheckpointError(f"{path / 'manifest.json'} does not name all of {', '.join(FILES)}")
    return manifest


def _read_checked(path: Path, expected: Any) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} is named in its manifest but cannot be read: {error}") from error
    if not isinstance(expected, dict) or len(data) != expected.get("bytes") or _sha256(data) != expected.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its bytes do not match the sha256 in manifest.json")
    return data


def _add_keywords_of_mixers(contents: dict[str, Any]) -> None:
    """Format 1 knew no attention with a window and no minimal RNN whose memories are spread as it begins."""
    added = {"attention": "window", "min_gru": "memory_length", "min_lstm": "memory_length"}
    with suppress(LookupError, TypeError, AttributeError):  # what is no description is refused as one
        backbone = contents["agent.json"]["backbone"]
        if backbone["name"] in added:
            backbone["mixer"].setdefault(added[backbone["name"]], None)


def _rename_returns(contents: dict[str, Any]) -> None:
    """Format 2 called a module `return`, a word of Python's own, which no graph of it can be written with."""
    for name in ("agent.safetensors", "training.safetensors"):
        contents[name] = {key.replace("embed.return.", "embed.return_to_go."): x for key, x in contents[name].items()}


# From each older format to the next: what has to change in the decoded files.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], None]] = {1: _add_keywords_of_mixers, 2: _rename_returns}


def _check_step(path: Path, training: Any) -> None:
    step = training.get("step") if isinstance(training, dict) else None
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{path} must hold the number of steps taken; got {step!r}")


def _json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoints, newest first; a name with a dot is one whose writing never ended."""
    return sorted((run_dir / "checkpoints").glob("step_*"), reverse=True)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Makes a rename durable; only POSIX systems can open a directory for that."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
