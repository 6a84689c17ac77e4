"""From a plain description to an agent: which agents there are, and what is wrong with a description."""

from typing import Any

from agents.actions import ContinuousActions, DiscreteActions
from agents.decision_transformer import DecisionTransformer
from minrnn import Backbone

AGENTS: dict[str, type[DecisionTransformer]] = {
    "decision_transformer": DecisionTransformer,
    "behavior_cloning": DecisionTransformer,
}


class AgentError(ValueError):
    """A description of which no agent can be made. The message is for the user."""

    for_user = True


def build_agent(spec: dict[str, Any]) -> DecisionTransformer:
    """A new agent from its description, which is what agent.json holds.

    spec: name (a key of AGENTS), backbone (Backbone's keywords), actions ({low, high}, null where unbounded, or
    {num_actions}) and settings (the agent's own keywords). Raises AgentError.
    """
    for part in ("backbone", "actions", "settings"):
        if not isinstance(spec, dict) or not isinstance(spec.get(part), dict):
            raise AgentError(f"an agent is described by name, backbone, actions and settings; {part} is not there")
    if spec.get("name") not in sorted(AGENTS):
        raise AgentError(f"agent must be one of {', '.join(sorted(AGENTS))}; got {spec.get('name')!r}")
    kind = ContinuousActions if "low" in spec["actions"] else DiscreteActions
    try:
        agent = AGENTS[spec["name"]](Backbone(**spec["backbone"]), kind(**spec["actions"]), **spec["settings"])
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        # what a keyword may be is checked where it is used
        raise AgentError(f"{spec['name']} cannot be built on {spec['backbone'].get('name')}: {error}") from error
    agent.spec = spec
    return agent
