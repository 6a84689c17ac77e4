"""Checkpoints: what is saved comes back, what is damaged is refused, and nothing in them can run code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from toys import BACKBONES, new_agent, recorded

from agents import CheckpointError, DecisionTransformer, build_agent, load_agent
from agents.building import AgentError
from agents.checkpoint import FORMAT_VERSION, _sha256, newest_checkpoint, read_checkpoint, save_checkpoint

SIX_HEADS = {"name": "attention", "mixer": {"num_heads": 6, "rotary": True, "window": None}}


def save(run_dir: Path, agent: DecisionTransformer, step: int = 1, **keywords: int) -> Path:
    training = {"x": torch.ones(2)}
    return save_checkpoint(run_dir, step, agent.describe(), agent.state_dict(), training, **{"keep": 2, **keywords})


def first_actions(agent: DecisionTransformer) -> np.ndarray:
    agent.reset(2, 5.0)
    return np.stack([agent.act(np.ones((2, 4)), np.zeros(2)) for _ in range(3)])


def test_a_width_that_the_heads_cannot_share_is_one_message() -> None:
    spec = new_agent(recorded()).spec
    with pytest.raises(AgentError, match="on attention: hidden_size must be a multiple of 12 for 6 heads; got 16"):
        build_agent({**spec, "backbone": {**spec["backbone"], **SIX_HEADS}})


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_an_agent_comes_back_from_its_run_directory(tmp_path: Path, backbone: str, discrete: bool) -> None:
    agent = new_agent(recorded(discrete=discrete), backbone, max_timesteps=9, token_layout="interleaved")
    agent.acting_mode = "window"
    save(tmp_path, agent)
    loaded = load_agent(tmp_path)
    assert loaded.acting_mode == "window"
    np.testing.assert_array_equal(first_actions(loaded), first_actions(agent))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    agent = new_agent(recorded())
    for step in (9, 10, 100):
        save(tmp_path, agent, step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step_00000010", "step_00000100"]
    assert newest_checkpoint(tmp_path).name == "step_00000100"


def test_the_best_checkpoint_outlives_newer_ones_until_another_is_better(tmp_path: Path) -> None:
    agent, kept = new_agent(recorded()), []
    for step, best in ((10, 10), (20, 10), (30, 10), (40, 10), (50, 50), (60, 50)):
        save(tmp_path, agent, step, best_step=best)
        kept.append(sorted(int(path.name.removeprefix("step_")) for path in (tmp_path / "checkpoints").iterdir()))
    assert kept == [[10], [10, 20], [10, 20, 30], [10, 30, 40], [40, 50], [50, 60]]


@pytest.mark.fault("one flipped bit in a checkpoint")
@pytest.mark.parametrize("name", ["agent.json", "agent.safetensors", "training.safetensors", "training.json"])
def test_one_flipped_bit_is_refused_naming_the_file(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, new_agent(recorded())) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        load_agent(tmp_path)


@pytest.mark.fault("a checkpoint of another format version")
@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, "1.0", None])
def test_another_format_is_refused_naming_both_versions(tmp_path: Path, version: Any) -> None:
    path = save(tmp_path, new_agent(recorded())) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": version}))
    with pytest.raises(CheckpointError, match=f"format {version}; this version reads formats 1 to {FORMAT_VERSION}"):
        load_agent(tmp_path)


def rewrite(checkpoint: Path, version: int, name: str, data: bytes) -> None:
    """Makes a checkpoint look as an older format wrote it: other bytes in one file, under a whole manifest."""
    (checkpoint / name).write_bytes(data)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": _sha256(data)}
    (checkpoint / "manifest.json").write_text(json.dumps({**manifest, "format_version": version}))


@pytest.mark.fault("a checkpoint of another format version")
@pytest.mark.parametrize(
    ("backbone", "keyword"), [("attention", "window"), ("min_gru", "memory_length"), ("min_lstm", "memory_length")]
)
def test_format_1_is_brought_up_to_date(tmp_path: Path, backbone: str, keyword: str) -> None:
    agent = new_agent(recorded(), backbone)
    checkpoint = save(tmp_path, agent)
    spec = json.loads((checkpoint / "agent.json").read_text())
    del spec["backbone"]["mixer"][keyword]
    rewrite(checkpoint, 1, "agent.json", json.dumps(spec).encode())
    np.testing.assert_array_equal(first_actions(load_agent(tmp_path)), first_actions(agent))
    rewrite(checkpoint, FORMAT_VERSION, "agent.json", json.dumps(spec).encode())
    with pytest.raises(AgentError, match=keyword):
        load_agent(tmp_path)


@pytest.mark.fault("a checkpoint of another format version")
def test_format_2_is_brought_up_to_date(tmp_path: Path) -> None:
    agent = new_agent(recorded(), token_layout="interleaved")
    checkpoint = save(tmp_path, agent)
    weights = {name.replace("return_to_go", "return"): tensor for name, tensor in agent.state_dict().items()}
    assert weights.keys() != agent.state_dict().keys()
    rewrite(checkpoint, 2, "agent.safetensors", safetensors.torch.save(weights))
    np.testing.assert_array_equal(first_actions(load_agent(tmp_path)), first_actions(agent))
    rewrite(checkpoint, FORMAT_VERSION, "agent.safetensors", safetensors.torch.save(weights))
    with pytest.raises(CheckpointError, match="return"):
        load_agent(tmp_path)


def test_a_missing_file_and_a_torn_manifest_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, new_agent(recorded()))
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest[:50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_agent(tmp_path)
    (path / "manifest.json").write_text(manifest)
    (path / "agent.json").unlink()
    with pytest.raises(CheckpointError, match=r"agent\.json is named in its manifest"):
        load_agent(tmp_path)


def test_a_directory_without_a_checkpoint_says_what_it_expected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint .* expected .*step_"):
        load_agent(tmp_path)


def test_a_write_that_never_ended_is_no_checkpoint(tmp_path: Path) -> None:
    agent = new_agent(recorded())
    save(tmp_path, agent, 1)
    torn = tmp_path / "checkpoints" / ".step_00000002.partial"
    torn.mkdir()
    (torn / "agent.json").write_text("{")
    assert newest_checkpoint(tmp_path).name == "step_00000001"
    save(tmp_path, agent, 2)
    assert not torn.exists()


def test_a_name_that_leads_out_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, new_agent(recorded()))
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../secret.json"] = manifest["files"]["agent.json"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="names a file outside"):
        read_checkpoint(path)


def test_an_agent_of_an_unknown_kind_is_refused() -> None:
    spec = {**new_agent(recorded()).describe(), "name": "torch.load"}
    with pytest.raises(AgentError, match=r"agent must be one of .*decision_transformer.* got 'torch.load'"):
        build_agent(spec)
