"""Experience is recorded, written and read back as it happened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

import collect
from envs import Episodes, Source, load_episodes
from envs.d4rl import read_d4rl
from envs.environments import make_environment
from envs.minari import read_minari
from envs.recording import RandomPolicy, join, record
from envs.writing import write_d4rl, write_minari

PENDULUM = "InvertedPendulum-v5"


@pytest.fixture(autouse=True)
def in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


class Still:
    """A policy that does nothing, and remembers what it was told."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.rewards: list[float] = []
        self.targets: list[float] = []
        self._nothing = np.zeros((1, *(env.action_space.shape or ())), np.float32)

    def reset(self, num_envs: int, target_return: float) -> None:
        self.targets.append(target_return)

    def act(self, observations: Any, rewards: Any) -> Any:
        assert observations.shape[0] == 1
        self.rewards.append(float(rewards[0]))
        return self._nothing


def recorded(num_steps: int = 60) -> Episodes:
    env = make_environment(PENDULUM)
    source = Source("mine", "", PENDULUM, reference=(1.0, 9.0), notes=("one", "two"))
    return record(RandomPolicy(env.action_space, 3), env, num_steps=num_steps, seed=5, source=source)


def test_what_is_recorded_is_what_happened() -> None:
    env = make_environment(PENDULUM)
    policy = Still(env)
    episodes = record(policy, env, num_steps=60, seed=5, source=Source("mine", ""), target_return=7.0)
    assert episodes.num_steps >= 60 > episodes.num_steps - episodes.lengths[-1]
    assert policy.targets == [7.0] * len(episodes)
    for index, episode in enumerate(episodes):
        observation, _ = env.reset(seed=5 + index)
        for step in range(len(episode)):
            np.testing.assert_array_equal(episode.observations[step], observation.astype(np.float32))
            observation, reward, terminated, truncated, _ = env.step(episode.actions[step])
            assert np.float32(reward) == episode.rewards[step]
        assert (terminated, truncated) == (episode.terminated, episode.truncated)
        np.testing.assert_array_equal(episode.final_observation, observation.astype(np.float32))
    begins = episodes.offsets[:-1]
    np.testing.assert_array_equal(policy.rewards, np.where(np.isin(np.arange(episodes.num_steps), begins), 0, 1))


def test_a_seed_gives_the_same_recording() -> None:
    np.testing.assert_array_equal(recorded().observations, recorded().observations)


@pytest.mark.parametrize("kind", ["d4rl", "minari"])
def test_a_recording_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    episodes = join([recorded(), recorded(30)], recorded(1).source)
    if kind == "d4rl":
        write_d4rl(episodes, tmp_path / "new" / "mine.hdf5")
        again = read_d4rl(tmp_path / "new" / "mine.hdf5")
    else:
        write_minari(episodes, "own/mine-v0")
        again = read_minari("own/mine-v0")
    for field in ("observations", "actions", "rewards", "offsets", "terminated", "truncated", "final_observations"):
        np.testing.assert_array_equal(getattr(again, field), getattr(episodes, field))
    assert (again.source.env_id, again.source.reference) == (PENDULUM, (1.0, 9.0))


def test_minaris_own_tools_read_what_was_written() -> None:
    import minari

    episodes = recorded()
    write_minari(episodes, "own/mine-v0")
    dataset = minari.load_dataset("own/mine-v0")
    assert dataset.total_episodes == len(episodes)
    assert dataset.recover_environment().spec.id == PENDULUM  # type: ignore[union-attr]


def test_a_minari_id_that_is_taken_is_not_written_over() -> None:
    write_minari(recorded(), "own/mine-v0")
    with pytest.raises(ValueError, match="there is a Minari dataset own/mine-v0 already"):
        write_minari(recorded(), "own/mine-v0")
    with pytest.raises(ValueError, match="expected a Minari id such as"):
        write_minari(recorded(), "mine")


def test_a_random_policy_and_ones_own_are_collected_by_name(
    in_an_empty_place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_an_empty_place / "my_policies.py").write_text("from test_collect import Still as still\n")
    monkeypatch.syspath_prepend(str(in_an_empty_place))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for policy, kind in (("random", "random"), ("my_policies:still", "own")):
        command = [f"env_id={PENDULUM}", f"policy={policy}", "num_steps=40", "formats=[d4rl,minari]"]
        collect.main(command)
        from_file = load_episodes(f"data/{PENDULUM}-{kind}.hdf5")
        from_minari = load_episodes(f"own/inverted{PENDULUM[8:].lower()}/{kind}-v0")
        np.testing.assert_array_equal(from_file.actions, from_minari.actions)
        capsys.readouterr()
        collect.main(command)
        assert "is there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("kinds=[randm]", "kinds must be some of random, medium"),
        ("formats=[]", "formats must be some of d4rl, minari"),
        ("policy=nothing", "policy must be sac, random, a run directory or module:function; got 'nothing'"),
        ("policy=no.module:f", "policy=no.module:f cannot be imported"),
    ],
)
def test_what_cannot_be_collected_is_refused_at_once(
    override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        collect.main([f"env_id={PENDULUM}", override])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("random_return", "curve", "expected"),
    [
        (0.0, {10: 1.0, 20: 5.0, 30: 9.0}, 20),
        (-1200.0, {10: -1000.0, 20: -400.0, 30: -300.0}, 20),
        (-100.0, {10: -800.0, 20: -500.0}, 20),  # none is above random
    ],
)
def test_medium_is_a_third_of_the_way_to_the_best(random_return: float, curve: dict[int, float], expected: int) -> None:
    learning: Any = SimpleNamespace(curve=curve)
    assert collect.medium_step({"train": {"medium": 1 / 3}}, learning, random_return) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_kind_of_sac_is_collected_and_learning_goes_on_where_it_was(
    in_an_empty_place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3")
    common = [f"env_id={PENDULUM}", "train.checkpoint_every=150", "train.num_episodes=2", "num_steps=60"]
    collect.main([*common, "train.num_steps=300", "kinds=[random]"])
    folder = in_an_empty_place / "data" / f"{PENDULUM}-sac-seed0"
    first = (folder / "step_00000150.safetensors").read_bytes()
    collect.main([*common, "train.num_steps=600", f"kinds=[{','.join(collect.KINDS)}]"])
    assert (folder / "step_00000150.safetensors").read_bytes() == first
    assert (folder / "step_00000600.safetensors").is_file()
    sets = {kind: load_episodes(f"data/{PENDULUM}-{kind}.hdf5") for kind in collect.KINDS}
    assert all(episodes.source.env_id == PENDULUM for episodes in sets.values())
    assert sets["medium_expert"].num_steps == sets["medium"].num_steps + sets["expert"].num_steps
    assert sets["medium_replay"].num_steps <= 600
    assert np.abs(sets["medium_replay"].actions).max() > 1.0  # this environment's bounds are +-3
    low, high = (sets[kind].returns.mean() for kind in ("random", "expert"))
    assert sets["expert"].source.reference == ((pytest.approx(low), pytest.approx(high)) if low < high else None)
