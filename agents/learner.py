"""What a gradient step changes: the agent, its optimizer, and the running average of its weights that acts."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from agents.decision_transformer import DecisionTransformer
from agents.devices import first_line
from agents.parallel import Ranks
from agents.recording import STEPS_BEFORE, Recording
from agents.windows import Batch, WindowSampler


class LearningError(ValueError):
    """A step that cannot be taken. The message is for the user."""

    for_user = True


class Learner:
    """One optimizer over one agent, fed by one sampler.

    `acting_agent` holds the running average of the weights (Polyak and Juditsky 1992); ema_decay=0 makes it the
    weights of the last step. Every update is a pure function of the seed, the step and what `state_dict` holds.

    batch_size: windows of a step, over all processes; each of them takes its share of the very same windows, in
    `accumulate` parts one after the other, so that neither number changes what is learnt. precision: of the forward
    and backward pass. compile: torch.compile, which fuses what no kernel here does. record: on a GPU the step of a
    single process is recorded and replayed, see `agents.recording`.
    """

    def __init__(
        self,
        agent: DecisionTransformer,
        sampler: WindowSampler,
        *,
        seed: int,
        batch_size: int,
        num_steps: int,
        learning_rate: float,
        warmup_steps: int,
        schedule: Literal["constant", "cosine"],
        weight_decay: float,
        max_grad_norm: float,
        ema_decay: float,
        when_not_finite: Literal["stop", "skip"] = "stop",
        accumulate: int = 1,
        precision: Literal["float32", "bf16"] = "float32",
        compile: bool = False,
        record: bool = True,
        ranks: Ranks | None = None,
    ) -> None:
        self.agent, self.sampler, self.seed, self.batch_size = agent, sampler, seed, batch_size
        self.num_steps, self.warmup_steps, self.schedule = num_steps, warmup_steps, schedule
        self.learning_rate, self.max_grad_norm = learning_rate, max_grad_norm
        self.when_not_finite = when_not_finite
        self.ranks, self.accumulate, self.precision = ranks or Ranks(), accumulate, precision
        one_pass = self.ranks.size == accumulate == 1 and not compile and not sampler.packed
        self._records = record and one_pass and agent.device.type == "cuda"
        self._recording: Recording | None = None
        self._num_updates, self._drawn = 0, dict[int, Batch]()
        self.optimizer = torch.optim.AdamW(
            agent.parameters(),
            lr=torch.tensor(learning_rate, device=agent.device) if self._records else learning_rate,
            weight_decay=weight_decay,
            fused=True,
            capturable=self._records,
        )
        self._average = get_ema_multi_avg_fn(ema_decay)
        self._averaged = AveragedModel(agent, multi_avg_fn=self._average)
        if batch_size < self.ranks.size * accumulate:
            raise LearningError(
                f"train.batch_size must be at least one window for each of {self.ranks.size} processes and "
                f"{accumulate} parts; got {batch_size}"
            )
        self._loss: Any = _Loss(agent)
        if self.ranks.size > 1:
            with warnings.catch_warnings():  # torch 2.13 renames the keyword, and older ones know no other
                warnings.simplefilter("ignore", FutureWarning)
                self._loss = DistributedDataParallel(self._loss, broadcast_buffers=False)
        if compile:
            self._loss = torch.compile(self._loss)

    @property
    def acting_agent(self) -> DecisionTransformer:
        agent: Any = self._averaged.module
        return agent

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.agent.parameters())

    def update(self, step: int) -> dict[str, Tensor]:
        """Gradient step number `step`, from 0: the agent's metrics, the gradient's norm and the learning rate."""
        learning_rate = self._set_learning_rate(step)
        self.agent.train()
        torch.manual_seed(_noise_seed(self.seed, step, self.ranks.rank))
        if self._records and self._recording is None and self._num_updates == STEPS_BEFORE:
            self._recording = self._record(step)
        loss, metrics, gradient_norm = self._find(step) if self._recording is None else self._replay(step)
        if not math.isfinite(gradient_norm):  # nothing has been changed yet
            if self.when_not_finite == "stop":
                raise LearningError(self._explain(step, loss, gradient_norm))
            return {"skipped": torch.tensor(1.0), "loss": torch.tensor(0.0), "gradient_norm": torch.tensor(0.0)}
        if self._recording is None:
            self.optimizer.step()
            self.agent.after_update()
            self._averaged.update_parameters(self.agent)
        else:
            self._recording.apply()
        self._num_updates += 1
        return {**metrics, "gradient_norm": gradient_norm, "learning_rate": torch.tensor(learning_rate)}

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = self.learning_rate * schedule(step, self.warmup_steps, self.num_steps, self.schedule)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(learning_rate)  # in place: where a recording looks
            else:
                group["lr"] = learning_rate
        return learning_rate

    def _record(self, step: int) -> Recording:
        try:
            return Recording(self._draw(step).to(self.agent.device), self._find_in_batch, self._apply)
        except torch.OutOfMemoryError:
            raise  # has advice of its own
        except RuntimeError as error:
            raise LearningError(
                f"a step of this agent cannot be recorded as CUDA graphs ({first_line(error)}). "
                "train.record=false learns without"
            ) from error

    def _replay(self, step: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """As `_find`, from the recording; the next step's batch is drawn while the GPU works on this one."""
        assert self._recording is not None
        batch = self._drawn[step] if step in self._drawn else self._draw(step)
        loss, metrics, gradient_norm = self._recording.find(batch)
        found = loss.clone(), {name: value.clone() for name, value in metrics.items()}, gradient_norm.clone()
        self._drawn = {step + 1: self._draw(step + 1)}
        return found

    def _draw(self, step: int) -> Batch:
        return self.sampler.sample(self.batch_size, seed=self.seed, step=step).pin_memory()

    def _find_in_batch(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """What is recorded of `_find`."""
        self.optimizer.zero_grad()
        loss, metrics = self._loss_of(batch)
        loss.backward()
        return loss.detach(), metrics, self._clip_gradients()

    def _apply(self) -> None:
        """What is recorded of what follows."""
        self.optimizer.step()
        self.agent.after_update()
        slow, fast = ([x.detach() for x in agent.parameters()] for agent in (self.acting_agent, self.agent))
        self._average(slow, fast, self._averaged.n_averaged)

    def _clip_gradients(self) -> Tensor:
        groups = self.agent.parameter_groups()
        return torch.stack([clip_grad_norm_(group, self.max_grad_norm) for group in groups]).norm()

    def _loss_of(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        bf16 = self.precision == "bf16"
        # a recording must not look at weights that were rounded for another step
        with torch.autocast(self.agent.device.type, torch.bfloat16, enabled=bf16, cache_enabled=not self._records):
            found: tuple[Tensor, dict[str, Tensor]] = self._loss(batch)
        return found

    def _find(self, step: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Sets gradients, of the loss over all real steps of the batch: that loss, its metrics, the gradient's norm.

        The loss and the metrics are this process's part of them.
        """
        self.optimizer.zero_grad()
        starts = self.sampler.starts(self.batch_size, seed=self.seed, step=step)
        num_real_steps = self.sampler.num_real_steps(starts)
        parts = np.array_split(self.ranks.share(starts), self.accumulate)
        total, metrics = torch.zeros((), device=self.agent.device), dict[str, Tensor]()
        for number, part in enumerate(parts, 1):
            batch = self.sampler.windows(part).to(self.agent.device)
            weight = self.ranks.size * self.sampler.num_real_steps(part) / num_real_steps
            with self._sending_gradients(number == len(parts)):
                loss, found = self._loss_of(batch)
                (weight * loss).backward()
            total += weight * loss.detach()
            metrics = {name: weight * value + metrics.get(name, 0.0) for name, value in found.items()}
        return total, metrics, self._clip_gradients()

    @contextmanager
    def _sending_gradients(self, now: bool) -> Iterator[None]:
        """Gradients are averaged over the processes in the last part's backward pass alone."""
        if now or self.ranks.size == 1:
            yield
        else:
            with self._loss.no_sync():
                yield

    def _explain(self, step: int, loss: Tensor, gradient_norm: Tensor) -> str:
        rows = self.sampler.starts(self.batch_size, seed=self.seed, step=step)
        episodes = np.unique(np.searchsorted(self.sampler.episodes.offsets, rows, side="right") - 1)
        return (
            f"step {step + 1}: the loss is {loss.item():g} and the gradient's norm {gradient_norm.item():g}. Nothing "
            "of that step was applied, and checkpoints are from before. Its batch was of episodes "
            f"{', '.join(map(str, episodes[:40]))}. A lower optimizer.learning_rate or optimizer.max_grad_norm may "
            "help; train.when_not_finite=skip goes on without such steps."
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All that a later update depends on besides the acting agent's weights, as flat named tensors."""
        state = {f"agent.{name}": tensor for name, tensor in self.agent.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{slot}": tensor for slot, tensor in slots.items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor], acting_weights: dict[str, Tensor], num_updates: int) -> None:
        """Continues after num_updates updates, from what `state_dict` gave and the acting agent's weights."""
        self.agent.load_state_dict({k.removeprefix("agent."): v for k, v in state.items() if k.startswith("agent.")})
        slots: dict[int, dict[str, Any]] = {}
        for name in state:
            if name.startswith("optimizer."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = state[name]
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.acting_agent.load_state_dict(acting_weights)
        self._averaged.n_averaged.fill_(num_updates)
        self._recording, self._num_updates = None, 0  # it looked at the optimizer's tensors of before


def schedule(step: int, warmup_steps: int, num_steps: int, kind: str) -> float:
    """The share of the learning rate at this step: linear warm-up, then constant, or half a cosine down to zero.

    Averaged weights need no decay: the average does what a small learning rate would do, without fitting longer.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if kind == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class _Loss(nn.Module):
    """An agent's loss as a module's forward, which is what torch distributes and compiles."""

    def __init__(self, agent: DecisionTransformer) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.agent.loss(batch)


def _noise_seed(seed: int, step: int, rank: int) -> int:
    """Dropout's seed for one step: no generator state has to be carried over a stop and a resume."""
    entropy = [seed, step, rank] if rank else [seed, step]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
