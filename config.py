"""The command line of the root scripts, and what a config says of its run.

Imports nothing heavy: a mistake on the command line must be answered at once, before torch is loaded.
"""

import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser  # the only way to know what hydra.main will take for an override
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from config_overrides import CONFIGS, HYDRA_VERSION, Composer, explained_errors, quoted
from config_values import Config, ConfigError, dotted_keys

__all__ = ["PLACE_KEYS", "Config", "ConfigError", "command_line", "differing_keys", "dotted_keys", "run_directory"]

# Where a run lies and what it runs on; every other key defines what it computes.
PLACE_KEYS = ("run_dir", "device", "num_threads", "profile_steps")

Main = Callable[[Config], None]


def command_line(root: str) -> Callable[[Main], Callable[..., None]]:
    """Makes main(config) a command that reads its config from configs/ROOT.yaml and the overrides given to it.

    The command takes a list of arguments, or None for those of the process. A mistake in them exits with status 2, an
    error that is `for_user` with status 1, both with one message on stderr. Other errors pass with their traceback.
    """

    def decorate(main: Main) -> Callable[..., None]:
        @functools.wraps(main)
        def command(arguments: Sequence[str] | None = None) -> None:
            try:
                _run(root, main, sys.argv[1:] if arguments is None else list(arguments))
            except ConfigError as error:
                _print_error(error)
                raise SystemExit(2) from None
            except Exception as error:
                if not getattr(error, "for_user", False):
                    raise
                _print_error(error)
                raise SystemExit(1) from None

        return command

    return decorate


def run_directory(config: Config) -> Path:
    """Where a run lies: run_dir if one is given, else a name under runs/ that follows from the config alone."""
    return Path(config["run_dir"]).expanduser() if config["run_dir"] else Path("runs") / _run_name(config)


def differing_keys(ours: Config, theirs: Config) -> list[str]:
    """One line `key: our value != their value` for each dotted key in which two configs define different runs."""
    left, right = dict(dotted_keys(_definition(ours))), dict(dotted_keys(_definition(theirs)))
    keys = [key for key in {**left, **right} if left.get(key, "absent") != right.get(key, "absent")]
    return [f"{key}: {_shown(left, key)} != {_shown(right, key)}" for key in keys]


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"


def _definition(config: Config) -> Config:
    return {key: value for key, value in config.items() if key not in PLACE_KEYS}


def _run_name(config: Config) -> Path:
    """TASK/BACKBONE-AGENT/seedN-HASH, the hash over all that defines the run."""
    canonical = json.dumps(_definition(config), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    learner = f"{config['backbone']['name']}-{config['agent']['name']}"
    return Path(config["task"]["name"]) / learner / f"seed{config['seed']}-{digest}"


def _run(root: str, main: Main, arguments: list[str]) -> None:
    options, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}; settings are given as KEY=VALUE, without dashes")
    if options.experimental_rerun:
        raise ConfigError("--experimental-rerun is refused, it unpickles a file; give the overrides again instead")
    overrides = [quoted(override) for override in options.overrides]
    if options.help or options.hydra_help or options.cfg or options.info or options.shell_completion:
        _show(root, main, [argument for argument in arguments if argument not in options.overrides] + overrides)
        return
    if options.config_dir:
        overrides.append(f"hydra.searchpath=['file://{Path(options.config_dir).resolve()}']")
    if options.multirun:
        _sweep(root, main, overrides)
    else:
        main(Composer(root).config(overrides))  # hydra.main would write files and trim tracebacks


def _show(root: str, main: Main, arguments: list[str]) -> None:
    """Prints what --help, --cfg and the like ask for; runs nothing."""
    try:
        _hand_to_hydra(root, main, arguments)
    except ValueError as error:  # two such options at once
        raise ConfigError(str(error)) from error


def _sweep(root: str, main: Main, overrides: list[str]) -> None:
    """Runs each job of a sweep, once all are known to be right; a job that fails does not stop the others."""
    composer = Composer(root)
    failures: list[Exception] = []
    here = os.getpid()
    jobs = composer.jobs(overrides)
    configs = [composer.config(job_overrides) for job_overrides in jobs]

    @functools.wraps(main)
    def job(_: DictConfig) -> None:
        given = HydraConfig.get().overrides
        config = _in_its_directory(composer.config([*given.hydra, *given.task]))
        try:
            main(config)
        except Exception as error:
            if not getattr(error, "for_user", False):
                raise
            _print_error(error)
            if os.getpid() != here:  # a launcher's own process; Hydra hands the error over when all jobs have run
                raise
            failures.append(error)

    _hand_to_hydra(root, job, ["--multirun", *overrides])
    for job_overrides, config in zip(jobs, configs, strict=True):
        if "task" in config:  # launchers that run jobs elsewhere leave no other word of them here
            own = [override for override in job_overrides if any(override not in others for others in jobs)]
            print(_in_one_line(own, run_directory(_in_its_directory(config))))
    if failures:
        raise SystemExit(1)


def _in_its_directory(config: Config) -> Config:
    """A sweep's run_dir is a folder of run directories."""
    if "task" not in config or not config["run_dir"]:
        return config
    return {**config, "run_dir": str(Path(config["run_dir"]) / _run_name(config))}


def _in_one_line(overrides: Sequence[str], run_dir: Path) -> str:
    """What a job of a sweep was asked, where it lies and what it scored."""
    try:
        score = json.loads((run_dir / "results.json").read_bytes())["score"]
        outcome = score["reason"] if score["mean"] is None else f"score {score['mean']:.1f}"
        if score["ci_low"] is not None:
            outcome += f" [{score['ci_low']:.1f}, {score['ci_high']:.1f}]"
    except (OSError, ValueError, KeyError):
        outcome = "not finished"
    return f"{' '.join(overrides)}  {run_dir}  {outcome}".strip()


def _hand_to_hydra(root: str, job: Callable[..., None], arguments: list[str]) -> None:
    with _process_arguments(arguments), explained_errors():
        hydra.main(config_path=str(CONFIGS), config_name=root, version_base=HYDRA_VERSION)(job)()


@contextmanager
def _process_arguments(arguments: list[str]) -> Iterator[None]:
    """Lets hydra.main, which reads sys.argv, see these arguments, and keeps it from trimming tracebacks."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [argv[0], *arguments], "1"
    try:
        yield
    finally:
        sys.argv = argv
        del os.environ["HYDRA_FULL_ERROR"]
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _print_error(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
