"""From overrides (`task=hopper train.num_steps=5`) to a checked config: Hydra composes, we explain the mistakes."""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from config_values import Config, ConfigError, check_choice, check_members, checked_config, did_you_mean, dotted_keys

CONFIGS = Path(__file__).resolve().parent / "configs"
HYDRA_VERSION = "1.3"
EXCEPTION_GROUPS = ("experiment", "scaled", "tuned")  # their files change values that other files define


class Composer:
    """Composes the configs of one root file, and remembers the defaults that values are checked against."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._defaults: dict[tuple[str, ...], Config] = {}
        self._options: dict[str, list[str]] = {}

    def jobs(self, arguments: Sequence[str]) -> list[list[str]]:
        """The overrides of each job of a sweep."""
        with hydra_ready():
            overrides = _parse(arguments)
            for override in overrides:
                self._check_option(override, arguments)
            return [list(job) for job in itertools.product(*map(_elements, overrides))]

    def config(self, arguments: Sequence[str]) -> Config:
        """The resolved config of one job as nested dicts; ConfigError explains the first mistake in it."""
        with hydra_ready():
            overrides = _parse(arguments)
            for override in overrides:
                _refuse_sweep(override)
                self._check_option(override, arguments)
            defaults = self._defaults_for([override for override in overrides if self._chooses(override, arguments)])
            values = [override for override in overrides if not self._chooses(override, arguments)]
            for override in values:
                _check_key(override, defaults)
            added = [override.key_or_group for override in values if override.is_add() or override.is_force_add()]
            composed = compose(self.root, list(arguments), return_hydra_config=True)
            config = checked_config(_plain(composed), defaults, added)
            check_members(config)
            _check_names(config, _choices(composed))
            return config

    def _defaults_for(self, chosen: list[Override]) -> Config:
        """The config of these choices before an experiment, a tuned file or the command line changes a value."""
        lines = tuple(str(override.input_line) for override in chosen)
        if lines not in self._defaults:
            composed = compose(self.root, list(lines), return_hydra_config=True)
            choices = _choices(composed)
            files = {group: choices.get(group) for group in EXCEPTION_GROUPS if choices.get(group) != "none"}
            exceptions = [group for group, file in files.items() if file in self._group_options(group, lines)]
            if exceptions:
                composed = compose(self.root, _without_exceptions(chosen, choices, exceptions))
            self._defaults[lines] = _plain(composed)
        return self._defaults[lines]

    def _chooses(self, override: Override, arguments: Sequence[str]) -> bool:
        """Whether an override chooses a file or concerns Hydra itself, rather than setting a value."""
        group = override.key_or_group
        is_file = not isinstance(override.value(), dict) and bool(self._group_options(group, arguments))
        return is_file or override.is_hydra_override()

    def _check_option(self, override: Override, arguments: Sequence[str]) -> None:
        group = override.key_or_group
        if override.is_delete() or override.is_hydra_override() or not self._chooses(override, arguments):
            return
        chosen = override.sweep_string_iterator() if override.is_discrete_sweep() else [override.value()]
        for option in chosen:
            check_choice(group, option, self._group_options(group, arguments))

    def _group_options(self, group: str, arguments: Sequence[str]) -> list[str]:
        """The files of a config group, empty where there is no such group; a leading underscore marks a shared part."""
        if group not in self._options:
            search = [argument for argument in arguments if argument.startswith("hydra.searchpath=")]
            loader = GlobalHydra.instance().config_loader()
            options = loader.get_group_options(group, config_name=self.root if search else None, overrides=search)
            self._options[group] = [option for option in options if not option.startswith("_")]
        return self._options[group]


@contextmanager
def explained_errors() -> Iterator[None]:
    """Turns what Hydra complains of into a ConfigError of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        missing = re.search(r"Could not find 'hydra/launcher/(?:submitit_)?(\w+)'", str(error))
        if missing:
            extra = "slurm" if missing[1] == "local" else missing[1]
            raise ConfigError(f'this launcher is not installed: pip install "minrnn-rl[{extra}]"') from error
        raise ConfigError(" ".join(str(error).split())) from error
    except RuntimeError as error:
        if "srun" not in str(error):
            raise
        raise ConfigError(
            "+launcher=slurm needs Slurm's srun, which is not here; +launcher=slurm_local does without"
        ) from error


@contextmanager
def hydra_ready() -> Iterator[None]:
    """Hydra set up on our configs, inside a running sweep too; its complaints become ConfigErrors."""
    running = GlobalHydra.instance().is_initialized()
    with (
        explained_errors(),
        nullcontext() if running else initialize_config_dir(str(CONFIGS), version_base=HYDRA_VERSION),
    ):
        try:
            yield
        except ConfigError:
            raise
        except ValueError as error:  # so Hydra says what its grammar allows and its merging does not: ~task=0
            raise ConfigError(" ".join(str(error).split())) from error


def quoted(argument: str) -> str:
    """The override, its value in quotes where Hydra's grammar cannot read it bare: accents, `~`, `#`, `=`, brackets."""
    key, equals, value = argument.partition("=")
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + match[2].replace("'", r"\'"), value)
    for candidate in (argument, f"{key}='{escaped}'") if equals else (argument,):
        try:
            OverridesParser.create().parse_override(candidate)
            return candidate
        except HydraException:
            continue
    raise ConfigError(f"expected KEY=VALUE; got {argument!r}")


def _parse(arguments: Sequence[str]) -> list[Override]:
    loader = GlobalHydra.instance().config_loader()
    return OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))


def _plain(composed: DictConfig) -> Config:
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return cast(Config, OmegaConf.to_container(ours, resolve=True))


def _elements(override: Override) -> list[str]:
    """The overrides that a sweep goes through: `seed=0,1` gives `seed=0` and `seed=1`; none where only Hydra knows."""
    if override.is_interval_sweep():
        return []
    if override.is_discrete_sweep():
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return [str(override.input_line)]


def _choices(composed: DictConfig) -> dict[str, str]:
    """The file chosen from each of our groups."""
    chosen = {str(group): str(choice) for group, choice in composed.hydra.runtime.choices.items() if choice is not None}
    return {group: choice for group, choice in chosen.items() if not group.startswith("hydra")}


def _without_exceptions(chosen: list[Override], choices: dict[str, str], exceptions: list[str]) -> list[str]:
    """Overrides that choose the same files as `choices`, but for the `exceptions`, which change others' values."""
    by_hand = [override for override in chosen if override.key_or_group not in EXCEPTION_GROUPS]
    named = {override.key_or_group for override in by_hand} | set(EXCEPTION_GROUPS)
    implied = [f"{group}={choice}" for group, choice in choices.items() if group not in named]
    removed = [f"~{group}" for group in exceptions if group != "experiment"]
    if "experiment" in choices:  # it stays, since the name of another file is made with it
        removed.append("experiment=none")
    return [str(override.input_line) for override in by_hand] + implied + removed


def _refuse_sweep(override: Override) -> None:
    if override.is_sweep_override():
        key, values = str(override.input_line).split("=", 1)
        raise ConfigError(
            f"{key} lists several values; add -m to run one job for each"
            f""", or quote them to give them as one text: "{key}='{values}'\""""
        )


def _check_key(override: Override, defaults: Config) -> None:
    """Raises ConfigError where a value is set under a key that no config file defines."""
    key, known = override.key_or_group, dict(dotted_keys(defaults))
    inside = [other for other in known if other.startswith(key + ".")]
    if key in known or override.is_delete() or override.is_add() or override.is_force_add():
        return
    if inside and not isinstance(override.value(), dict):
        raise ConfigError(f"{key} is a group of keys; set one of {', '.join(inside)}")
    if not inside:
        near = did_you_mean(key, [*known, *defaults]) or "; --cfg job prints every key there is"
        raise ConfigError(f"unknown key {key!r}{near}")


def _check_names(config: Config, choices: dict[str, str]) -> None:
    """A choice goes by the name of its file: run directories and messages say that name."""
    for group, choice in choices.items():
        part = config.get(group)
        if isinstance(part, dict) and part.get("name", choice) != choice:
            raise ConfigError(f"{group}.name must be {choice!r}, as its file is named; got {part['name']!r}")
