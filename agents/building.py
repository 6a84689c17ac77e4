"""From a plain description to an agent: which agents there are, and what is wrong with a description."""

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from agents.actions import ContinuousActions, DiscreteActions
from agents.decision_transformer import DecisionTransformer
from agents.value_guided import ValueGuided
from envs.patterns import mismatch
from minrnn import MIXERS, Backbone
from minrnn.ensemble import Ensemble

AGENTS: dict[str, type[DecisionTransformer]] = {
    "decision_transformer": DecisionTransformer,
    "behavior_cloning": DecisionTransformer,
    "filtered_bc": DecisionTransformer,
    "ensemble": DecisionTransformer,
    "value_guided": ValueGuided,
}


MOST_MEMBERS = 64


class AgentError(ValueError):
    """A description of which no agent can be made. The message is for the user."""

    for_user = True


def build_agent(spec: dict[str, Any]) -> DecisionTransformer:
    """A new agent from its description, which is what agent.json holds.

    spec: name (a key of AGENTS), backbone (Backbone's keywords), actions ({low, high}, null where unbounded, or
    {num_actions}), settings (the agent's own keywords) and num_members, of an ensemble (1 if it is not there). Raises
    AgentError.
    """
    for part in ("backbone", "actions", "settings"):
        if not isinstance(spec, dict) or not isinstance(spec.get(part), dict):
            raise AgentError(f"an agent is described by name, backbone, actions and settings; {part} is not there")
    if spec.get("name") not in sorted(AGENTS):
        raise AgentError(f"agent must be one of {', '.join(sorted(AGENTS))}; got {spec.get('name')!r}")
    _check_keywords(AGENTS[spec["name"]], spec["settings"])
    _check_keywords(Backbone, spec["backbone"])
    if spec["backbone"].get("name") in MIXERS and isinstance(spec["backbone"].get("mixer"), dict):
        _check_keywords(MIXERS[spec["backbone"]["name"]], spec["backbone"]["mixer"])
    num_members = spec.get("num_members", 1)
    if type(num_members) is not int or not 1 <= num_members <= MOST_MEMBERS:
        raise AgentError(f"an agent has 1 to {MOST_MEMBERS} members; got num_members = {num_members!r}")
    kind = ContinuousActions if "low" in spec["actions"] else DiscreteActions
    _check_keywords(kind, spec["actions"])
    try:
        members = [Backbone(**spec["backbone"]) for _ in range(num_members)]
        backbone = members[0] if num_members == 1 else Ensemble(members)
        agent = AGENTS[spec["name"]](backbone, kind(**spec["actions"]), **spec["settings"])
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        # what a keyword may be is checked where it is used
        raise AgentError(f"{spec['name']} cannot be built on {spec['backbone'].get('name')}: {error}") from error
    agent.spec = spec
    return agent


def _check_keywords(kind: type, keywords: dict[str, Any]) -> None:
    """Raises AgentError unless numbers, flags, text and lists of them are what the constructor of this kind names."""
    for name, hint in get_type_hints(kind.__init__).items():  # type: ignore[misc]
        problem = mismatch(keywords[name], _pattern_of(hint), name) if name in keywords else None
        if problem:
            raise AgentError(f"{kind.__name__}: {problem}")


def _pattern_of(hint: Any) -> Any:
    """A type hint as envs.patterns writes it; object, which anything is, for hints that say more."""
    if isinstance(hint, UnionType):
        return tuple(_pattern_of(one) for one in get_args(hint))
    if get_origin(hint) is Sequence:
        return [_pattern_of(get_args(hint)[0])]
    return None if hint is NoneType else hint if hint in (bool, int, float, str) else object
