"""Nothing that is read from disk can run code: each file here would leave a mark if it could."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from test_checkpoint import save
from toys import new_agent, recorded

import train_offline
from agents import CheckpointError, load_agent
from agents.building import AgentError
from agents.checkpoint import _sha256
from config import command_line
from envs import DataError, load_episodes


class Mark:
    """Unpickled, it makes the file that is named."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Where code that ran would leave its mark; made to be sure that it can."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Mark(path)))
    assert path.exists()
    path.unlink()
    return path


def replace_file(checkpoint: Path, name: str, data: bytes) -> None:
    """Puts other bytes into a checkpoint, with a manifest that vouches for them."""
    (checkpoint / name).write_bytes(data)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": _sha256(data)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.fault("a pickle in a checkpoint")
@pytest.mark.parametrize("name", ["agent.safetensors", "training.safetensors", "agent.json", "training.json"])
def test_a_pickle_in_a_checkpoint_is_refused(tmp_path: Path, mark: Path, name: str) -> None:
    checkpoint = save(tmp_path / "run", new_agent(recorded()))
    replace_file(checkpoint, name, pickle.dumps(Mark(mark)))
    with pytest.raises(CheckpointError, match=f"{name} is not"):
        load_agent(tmp_path / "run")
    assert not mark.exists()


@pytest.mark.fault("`_target_` in a checkpoint")
@pytest.mark.parametrize("where", ["", "backbone", "settings", "actions"])
def test_a_target_in_a_description_is_never_called(tmp_path: Path, mark: Path, where: str) -> None:
    agent = new_agent(recorded())
    checkpoint = save(tmp_path / "run", agent)
    spec = agent.describe()
    (spec[where] if where else spec).update({"_target_": "os.system", "_args_": [f"touch '{mark}'"]})
    replace_file(checkpoint, "agent.json", json.dumps(spec).encode())
    if where:
        with pytest.raises(AgentError):
            load_agent(tmp_path / "run")
    else:
        assert load_agent(tmp_path / "run") is not None  # a key that nobody reads
    assert not mark.exists()


@pytest.mark.fault("a checkpoint whose manifest names files elsewhere")
@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd"])
def test_a_manifest_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    checkpoint = save(tmp_path / "run", new_agent(recorded()))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="outside its directory"):
        load_agent(tmp_path / "run")


@pytest.mark.fault("a pickle as a dataset")
@pytest.mark.parametrize("name", ["data.hdf5", "data.pkl", "data.npy"])
def test_a_pickle_is_no_dataset(tmp_path: Path, mark: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Mark(mark)))
    with pytest.raises(DataError, match="is not an HDF5 file"):
        load_episodes(str(tmp_path / name))
    assert not mark.exists()


@pytest.mark.fault("a YAML file with python objects in it")
@pytest.mark.parametrize(
    "line",
    ["seed: !!python/object/apply:os.system [\"touch '{mark}'\"]", 'seed: ${{oc.decode:"!!python/name:os.system"}}'],
)
def test_python_objects_in_yaml_are_refused(
    tmp_path: Path, mark: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "configs" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\n" + line.format(mark=mark) + "\n")
    with pytest.raises(SystemExit) as exit_:
        command_line("train_offline")(lambda config: None)(
            ["--config-dir", str(tmp_path / "configs"), "experiment=mine"]
        )
    assert exit_.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.fault("`_target_` on the command line")
def test_a_target_in_an_override_is_refused(mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for override in ("backbone._target_=os.system", "+backbone._target_=os.system"):
        with pytest.raises(SystemExit):
            train_offline.main([override, f"+backbone._args_=[\"touch '{mark}'\"]"])
        assert not mark.exists()
    assert "Traceback" not in capsys.readouterr().err
