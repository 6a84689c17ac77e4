"""The command line answers mistakes at once, and a run's directory follows from its config."""

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config import PLACE_KEYS, Config, command_line, differing_keys, run_directory

ROOT = Path(__file__).resolve().parent.parent

# Every default config file that takes values of its own, by the group it is chosen from.
OPTIONS = {
    group: sorted(path.stem for path in (ROOT / "configs" / group).glob("[!_]*.yaml"))
    for group in ("agent", "backbone", "experiment", "task")
}


Swept = tuple[Path, list[tuple[Config, Path]]]


class MistakeError(ValueError):
    for_user = True


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "a föld r"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def configs_of(*arguments: str, root: str = "train_offline") -> list[Config]:
    """The configs that main is called with, one a job."""
    seen: list[Config] = []
    command_line(root)(seen.append)(list(arguments))
    return seen


def config_of(*arguments: str, root: str = "train_offline") -> Config:
    (config,) = configs_of(*arguments, root=root)
    return config


def refusal_of(capsys: pytest.CaptureFixture[str], *arguments: str, root: str = "train_offline") -> str:
    """What stderr says of arguments that must be refused before main is called, with exit status 2."""
    called: list[Config] = []
    with pytest.raises(SystemExit) as exit_:
        command_line(root)(called.append)(list(arguments))
    assert exit_.value.code == 2
    assert not called
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message.removeprefix("error: ").rstrip("\n")


def test_overrides_of_groups_and_values_reach_main() -> None:
    config = config_of("backbone=min_lstm", "seed=1", "train.num_steps=2000", "target_return=3600", "run_dir=there")
    assert config["backbone"]["name"] == "min_lstm"
    assert (config["seed"], config["train"]["num_steps"]) == (1, 2000)
    assert (config["target_return"], config["run_dir"]) == (3600.0, "there")


@pytest.mark.parametrize(("group", "option"), [(group, name) for group in OPTIONS for name in OPTIONS[group]])
def test_every_config_file_passes_its_own_checks(group: str, option: str) -> None:
    config = config_of(f"{group}={option}")
    assert group == "experiment" or config[group]["name"] == option


def test_an_experiment_chooses_the_agent_and_changes_values() -> None:
    config = config_of("experiment=published_dt")
    assert config["agent"]["name"] == "decision_transformer"
    assert config["agent"]["context_length"] == 20


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("optimizer.learning_rate=1e-3", 0.001),
        ("target_return=3600", 3600.0),
        ("backbone.mixer.positive=True", True),
        ("device=cuda:1", "cuda:1"),
        ("run_dir=Ünicode (1) [a] #2 it's ~x=y", "Ünicode (1) [a] #2 it's ~x=y"),
        (r"run_dir=back\slash é", r"back\slash é"),
        ("run_dir=é\\'s end\\", "é\\'s end\\"),
        ("dataset=mujoco/hopper/medium-v0", "mujoco/hopper/medium-v0"),
    ],
)
def test_a_value_is_read_as_the_type_its_key_has(written: str, expected: Any) -> None:
    key = written.split("=")[0]
    value: Any = config_of(written)
    for name in key.split("."):
        value = value[name]
    assert value == expected
    assert type(value) is type(expected)


BACKBONES = ", ".join(OPTIONS["backbone"])


@pytest.mark.fault("a typo in an override, or an unknown dataset, environment or backbone: near matches, exit status 2")
@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("backbone=mingru", f"backbone must be one of {BACKBONES}; got 'mingru'. Did you mean 'min_gru'?"),
        ("backbone=null", f"backbone must be one of {BACKBONES}; got null"),
        ("backbone=_stack", f"backbone must be one of {BACKBONES}; got '_stack'"),
        ("backbone=[gru,lstm]", f"backbone must be one of {BACKBONES}; got ['gru', 'lstm']"),
        ("backbon=gru", "unknown key 'backbon'. Did you mean 'backbone'?"),
        ("trian.num_steps=5", "unknown key 'trian.num_steps'. Did you mean 'train.num_steps'?"),
        ("num_steps=5", "unknown key 'num_steps'. Did you mean 'train.num_steps'?"),
        ("lr=1", "unknown key 'lr'; --cfg job prints every key there is"),
        ("train.num_steps=abc", "train.num_steps must be a whole number; got 'abc'"),
        ("train.num_steps=0", "train.num_steps must be at least 1; got 0"),
        ("train={num_steps: x}", "train.num_steps must be a whole number; got 'x'"),
        ("backbone.dropout=1.5", "backbone.dropout must be at least 0 and less than 1; got 1.5"),
        ("backbone.name=gru", "backbone.name must be 'min_gru', as its file is named; got 'gru'"),
        (
            "agent.token_layout=merge",
            "agent.token_layout must be one of interleaved, merged; got 'merge'. Did you mean 'merged'?",
        ),
        ("run_dir=3", """run_dir must be text; got 3. To give it as text: "run_dir='3'\""""),
        (
            "agent.num_members=4",
            "agent.action_loss must be one for all members or a list of 4, one for each of agent.num_members; "
            "got ['squared', 'likelihood', 'likelihood']",
        ),
        (
            "agent.action_loss=[squared]",
            "agent.action_loss must be one for all members or a list of 3, one for each of agent.num_members; "
            "got ['squared']",
        ),
        ("backbone", "expected KEY=VALUE; got 'backbone'"),
        ("trian..x=3", "expected KEY=VALUE; got 'trian..x=3'"),
        ("--seed", "unknown option '--seed'; settings are given as KEY=VALUE, without dashes"),
    ],
)
def test_a_mistake_is_refused_with_what_would_do(
    written: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal_of(capsys, written) == message


@pytest.mark.parametrize(
    "arguments",
    [["hydra.foo=1"], ["hydra/launcher=nope"], ["~nope"], ["+seed=1"], ["dataset=${nope}"], ["--cfg", "job", "-m"]],
)
def test_what_hydra_itself_refuses_is_one_message_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refusal_of(capsys, *arguments)


def test_a_train_section_set_to_a_number_is_told_the_keys_inside(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal_of(capsys, "train=5").startswith("train is a group of keys; set one of train.num_steps, ")


def test_a_key_that_must_be_given_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal_of(capsys, root="evaluate") == "run_dir must be given: run_dir=..."


def test_a_list_of_values_without_m_says_to_add_m(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal_of(capsys, "seed=0,1").startswith("seed lists several values; add -m to run one job for each")


def test_added_and_deleted_keys_follow_hydras_own_rules() -> None:
    config = config_of("+backbone.mixer.kernel_size=4", "~agent.timestep_embedding")
    assert config["backbone"]["mixer"]["kernel_size"] == 4
    assert "timestep_embedding" not in config["agent"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")


@pytest.fixture
def own_task(in_an_empty_directory: Path) -> list[str]:
    """Arguments that choose a task of the user's own, which no shipped tuned file is for."""
    write(in_an_empty_directory / "mine/task/my_task.yaml", "{name: my_task, dataset: my.hdf5, target_return: 1.0}")
    return ["--config-dir", "mine", "task=my_task"]


def test_a_tuned_file_yields_to_an_experiment_and_both_to_the_command_line(
    in_an_empty_directory: Path, own_task: list[str]
) -> None:
    write(
        in_an_empty_directory / "mine/tuned/my_task-gru.yaml",
        """\
        # @package _global_
        train: {num_steps: 11, batch_size: 12, log_every: 13}
        """,
    )
    write(
        in_an_empty_directory / "mine/experiment/short.yaml",
        """\
        # @package _global_
        train: {batch_size: 22, log_every: 23}
        """,
    )
    train = config_of(*own_task, "backbone=gru", "experiment=short", "train.log_every=33")["train"]
    assert (train["num_steps"], train["batch_size"], train["log_every"]) == (11, 22, 33)
    assert config_of(*own_task, "backbone=lstm")["train"]["num_steps"] != 11


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {num_stepz: 5}", "unknown key 'train.num_stepz' in a config file. Did you mean 'num_steps'?"),
        ("train: {num_steps: abc}", "train.num_steps must be a whole number; got 'abc'"),
    ],
)
def test_mistakes_in_a_tuned_file_are_refused_as_well(
    content: str,
    message: str,
    in_an_empty_directory: Path,
    own_task: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(in_an_empty_directory / "mine/tuned/my_task-min_gru.yaml", "# @package _global_\n" + content)
    assert refusal_of(capsys, *own_task) == message


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Where a sweep over two seeds and two backbones was started, and each job's config and working directory."""
    started_in = tmp_path_factory.mktemp("swéep")
    jobs: list[tuple[Config, Path]] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(started_in)
        arguments = ["-m", "seed=0,1", "backbone=min_gru,gru", "train.num_steps=5", "run_dir=my füns"]
        command_line("train_offline")(lambda config: jobs.append((config, Path.cwd())))(arguments)
    return started_in, jobs


def test_a_sweep_runs_every_combination_once(swept: Swept) -> None:
    found = [(config["seed"], config["backbone"]["name"], config["train"]["num_steps"]) for config, _ in swept[1]]
    assert sorted(found) == [(seed, backbone, 5) for seed in (0, 1) for backbone in ("gru", "min_gru")]


def test_each_job_of_a_sweep_lies_in_its_own_directory_under_run_dir(swept: Swept) -> None:
    for config, _ in swept[1]:
        learner = f"{config['backbone']['name']}-ensemble"
        expected = rf"my füns/hopper_demo/{learner}/seed{config['seed']}-[0-9a-f]{{8}}"
        assert re.fullmatch(expected, run_directory(config).as_posix())


def test_a_sweep_stays_where_it_is_and_writes_only_under_runs(swept: Swept) -> None:
    started_in, jobs = swept
    assert {directory for _, directory in jobs} == {started_in}
    files = [path.relative_to(started_in) for path in started_in.rglob("*") if path.is_file()]
    assert files == [Path("runs/multirun/multirun.yaml")]


@pytest.mark.parametrize("wrong", ["seed=0,1,x", "backbone=min_gru,mingru", "train.num_steps=5,0"])
def test_a_sweep_with_one_wrong_element_runs_nothing(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "must be" in refusal_of(capsys, "-m", wrong)


def test_a_sweep_over_finished_runs_keeps_their_directories() -> None:
    configs = configs_of("-m", "run_dir=a,b", root="evaluate")
    assert [config["run_dir"] for config in configs] == ["a", "b"]


def test_a_single_run_writes_nothing_and_stays_where_it_is(in_an_empty_directory: Path) -> None:
    directories: list[Path] = []
    command_line("train_offline")(lambda config: directories.append(Path.cwd()))([])
    assert directories == [in_an_empty_directory]
    assert not list(in_an_empty_directory.iterdir())


def failing(error: Exception, seed: int, done: list[int]) -> Callable[..., None]:
    def main(config: Config) -> None:
        if config["seed"] == seed:
            raise error
        done.append(config["seed"])

    return command_line("train_offline")(main)


@pytest.mark.parametrize("arguments", [["seed=1"], ["-m", "seed=0,1,2"]])
def test_an_error_for_the_user_is_one_line_and_status_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[int] = []
    with pytest.raises(SystemExit) as exit_:
        failing(MistakeError("the file is not there"), 1, done)(arguments)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "error: the file is not there\n"
    assert done == ([0, 2] if "-m" in arguments else [])


@pytest.mark.parametrize("arguments", [["seed=1"], ["-m", "seed=0,1"]])
def test_any_other_error_keeps_its_traceback(arguments: list[str]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        failing(ZeroDivisionError("a bug"), 1, [])(arguments)
    assert caught.traceback[-1].name == "main"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "min_lstm"),
        (["--cfg", "job", "backbone=gru", "optimizer.learning_rate=1e-3"], "learning_rate: 0.001"),
        (["--info", "defaults"], "backbone/min_gru"),
    ],
)
def test_hydras_own_options_print_and_run_nothing(arguments: list[str], expected: str, tmp_path: Path) -> None:
    finished = run_script(tmp_path, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert expected in finished.stdout
    assert "main was called" not in finished.stdout


def run_script(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = directory / "script.py"
    write(
        script,
        f"""\
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from config import command_line

        @command_line("train_offline")
        def main(config):
            print("main was called")

        if __name__ == "__main__":
            main()
        """,
    )
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)


@pytest.mark.fault("a typo in an override is answered within two seconds")
@pytest.mark.parametrize("mistake", ["backbone=mingru", "trian.num_steps=5", "train.num_steps=0"])
def test_a_mistake_is_answered_within_two_seconds(mistake: str, tmp_path: Path) -> None:
    before = os.times()
    finished = run_script(tmp_path, mistake)
    after = os.times()
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.count("\n") == 1
    # Processor time: a busy machine may take longer by the clock.
    assert after.children_user - before.children_user + after.children_system - before.children_system < 2


def test_reading_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import config; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not {"torch", "gymnasium", "numpy", "numba", "minari"} & set(finished.stdout.split())


def test_the_run_directory_is_named_after_all_that_defines_the_run() -> None:
    config = config_of("seed=3", "backbone=gru")
    defining = {key: value for key, value in config.items() if key not in PLACE_KEYS}
    digest = hashlib.sha256(json.dumps(defining, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert run_directory(config) == Path(f"runs/hopper_demo/gru-ensemble/seed3-{digest[:8]}")


@pytest.mark.parametrize("place", ["device=cpu", "num_threads=1"])
def test_where_a_run_is_computed_does_not_rename_it(place: str) -> None:
    assert run_directory(config_of(place)) == run_directory(config_of())


@pytest.mark.parametrize("change", ["train.num_steps=5", "backbone.dropout=0", "evaluate.num_episodes=1"])
def test_every_other_change_renames_a_run(change: str) -> None:
    assert run_directory(config_of(change)) != run_directory(config_of())


def test_the_same_number_written_differently_names_the_same_run() -> None:
    assert run_directory(config_of("target_return=3600")) == run_directory(config_of("target_return=3.6e3"))


def test_a_home_directory_in_run_dir_is_found() -> None:
    assert run_directory(config_of("run_dir=~/somewhere")) == Path.home() / "somewhere"


def test_differing_keys_name_both_values_and_what_is_absent() -> None:
    ours = {"seed": 0, "run_dir": "a", "train": {"num_steps": 5, "name": "é"}, "mixer": {}}
    theirs = {"seed": 0, "run_dir": "b", "train": {"num_steps": 6, "name": "é"}, "mixer": {"positive": True}}
    assert differing_keys(ours, theirs) == [
        "train.num_steps: 5 != 6",
        "mixer: {} != absent",
        "mixer.positive: absent != true",
    ]
    assert differing_keys(ours, ours) == []


def test_the_default_is_one_like_filtered_bc_among_unlike_members_and_value_guidance_is_it_with_critics() -> None:
    default, one, guided = (config_of(*words)["agent"] for words in ([], ["agent=filtered_bc"], ["agent=value_guided"]))
    members = {"name": "ensemble", "num_members": 3, "action_loss": ["squared", "likelihood", "likelihood"]}
    assert default == one | members
    assert {key: guided[key] for key in default} == default | {"name": "value_guided"}
    assert guided["eta"][0] == 0 < guided["eta"][1] == guided["eta"][2]
