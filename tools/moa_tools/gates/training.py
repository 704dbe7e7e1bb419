"""Training the gates: all heads compete for a budget that shrinks from dense to sparse.

At every step the prices decide what each head keeps with which probability, so that the mean span
is exactly the step's budget; the loss is the divergence from the dense model; Adam moves the
prices. A band is worth the share of the targets at which its head still keeps it when the gates
have settled there, and as much again for the share of all steps that it was kept, which ranks the
bands between two targets: one worth for every budget.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from moa_rt import NumericError
from torch.utils.checkpoint import checkpoint

from moa_tools.gates import prices
from moa_tools.gates.knapsack import keep_probabilities, probabilities
from moa_tools.gates.mixture import Bands, mixture_attention
from moa_tools.gates.objective import Lesson, divergence, token_batch
from moa_tools.gates.options import GatesOptions
from moa_tools.gates.schedule import Schedule
from moa_tools.hf.attention import hidden_states, layer_attention

if TYPE_CHECKING:
    from torch import Tensor

# The sigmoid's width where the worth is taken, as a share of the step's: nearly the rounded plan.
_ROUNDED = 0.1
# How much of the worth is earned on the way: with less of it the plans are the same, and so many
# bands are worth the same that the integer program is slow.
_ON_THE_WAY = 0.5
# Elements of one float32 buffer over query rows and keys.
_CPU_SLAB, _CUDA_SLAB = 1 << 23, 1 << 27


@dataclass
class State:
    """Everything that a step changes."""

    parameters: Tensor
    worth: dict[int, Tensor]  # by length, (layers, KV heads, K - 1)
    step: int = 0
    losses: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Pools:
    """Lessons by objective for each length."""

    lessons: dict[int, dict[str, list[Lesson]]]

    def draw(self, step: int, length: int, options: GatesOptions) -> list[Lesson]:
        """The batch of a step: answers and a share of plain text, each pool in a shuffled round.

        It depends on step and seed alone, so an interrupted run goes on as it would have.
        """
        pools = self.lessons[length]
        language = 0
        if "language" in pools:
            language = max(1, options.batch_size // 4)
        if "retrieval" not in pools:
            language = options.batch_size
        counts = {"retrieval": options.batch_size - language, "language": language}
        chosen: list[Lesson] = []
        turn = step // len(self.lessons)
        for objective, count in counts.items():
            for index in range(turn * count, (turn + 1) * count):
                pool = pools[objective]
                order = list(range(len(pool)))
                random.Random(f"{options.seed}/{objective}/{length}/{index // len(pool)}").shuffle(
                    order
                )
                chosen.append(pool[order[index % len(pool)]])
        return chosen


def chunk_size(length: int, heads: int, batch: int, device: str) -> int:
    """Query rows a time: a quarter of them, so that little is computed above the diagonal.

    Fewer where the buffers would outgrow the device's usual size.
    """
    slab = _CPU_SLAB if device == "cpu" else _CUDA_SLAB
    rows = min(max(256, length // 4), slab // (heads * batch * length))
    return max(64, rows // 64 * 64)


@contextmanager
def checkpointed_layers(model: Any) -> Iterator[None]:
    """Within it a layer keeps its input alone, and is computed again for its gradients."""
    layers = list(model.model.layers)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class Trainer:
    """Steps of Adam on the prices of one model."""

    def __init__(
        self,
        model: Any,
        pools: Pools,
        options: GatesOptions,
        shape: tuple[int, int, int],
        save_memory: bool = True,
    ) -> None:
        """`shape`: layers, KV heads, query heads. `save_memory`: compute every layer twice."""
        self._model, self._pools, self._options = model, pools, options
        self._layers = checkpointed_layers if save_memory else nullcontext
        layers, kv_heads, self._heads = shape
        self.lengths = sorted(pools.lessons)
        self.grids = {n: prices.grid(n, options.sink) for n in self.lengths}
        # A few hundred numbers: they stay on the CPU, where a knapsack takes no launches.
        parameters = prices.fresh(layers, kv_heads).requires_grad_()
        worth = {
            n: torch.zeros(layers, kv_heads, len(at.spans) - 1) for n, at in self.grids.items()
        }
        self.schedule = Schedule(options)
        self.state = State(parameters, worth)
        self.optimizer = torch.optim.Adam([parameters], options.learning_rate, betas=(0.9, 0.98))

    def keep(self, length: int, step: int, temperature: float) -> Tensor:
        """P(head keeps band) at a step's budget: (layers, KV heads, K - 1)."""
        at = self.grids[length]
        price = prices.prices_at(self.state.parameters, at)
        density = self.schedule.density(step, at)
        return keep_probabilities(price, at.spans, density, temperature)[0]

    @contextmanager
    def gated(self, length: int, chance: Tensor) -> Iterator[None]:
        """Within it heads keep each span with a chance (layers, KV heads, K).

        The backward pass belongs inside as well: it computes the layers again.
        """
        at, options = self.grids[length], self._options
        rows = chunk_size(length, self._heads, options.batch_size, options.device)
        bands = Bands(at.spans, options.sink, rows)
        chance = chance.to(self._model.device)

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            return mixture_attention(q, k, v, chance[layer], bands, scale=scale)

        with layer_attention(self._model, attention), self._layers(self._model):
            yield

    def loss(self, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
        """Mean divergence on answers and on plain text, under the attention in force."""
        ids = token_batch([lesson.sample for lesson in lessons], self._model.device)
        hidden = hidden_states(self._model, ids)
        each = [divergence(self._model, h, x) for h, x in zip(hidden, lessons, strict=True)]
        total = {"retrieval": hidden.new_zeros((), dtype=torch.float32)}
        total["language"] = total["retrieval"].clone()
        names = [lesson.sample.objective for lesson in lessons]
        for name, value in zip(names, each, strict=True):
            total[name] = total[name] + value / names.count(name)
        return total["retrieval"], total["language"]

    def step(self) -> None:
        """One step. Raises NumericError if the loss is not finite."""
        state, options = self.state, self._options
        length = self.lengths[state.step % len(self.lengths)]
        lessons = self._pools.draw(state.step, length, options)
        kept = self.keep(length, state.step, self.schedule.temperature(state.step))
        self.optimizer.param_groups[0]["lr"] = self.schedule.learning_rate(state.step)
        self.optimizer.zero_grad()
        with self.gated(length, probabilities(kept)):
            retrieval, language = self.loss(lessons)
            loss = retrieval + options.language_weight * language
            if not torch.isfinite(loss):
                names = ", ".join(lesson.sample.id for lesson in lessons)
                raise NumericError(
                    f"gates: step {state.step}: samples {names[:200]}: loss: got {loss.item()}, "
                    "want a finite number"
                )
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._earn()
        at = self.schedule.density(state.step, self.grids[length])
        state.losses.append((at, retrieval.item(), language.item()))
        state.step += 1

    @torch.no_grad()
    def _earn(self) -> None:
        """Adds to the worth what the nearly rounded plans of this step keep."""
        step, schedule = self.state.step, self.schedule
        share = _ON_THE_WAY / self._options.step_count
        if schedule.settled(step):
            share += (1 - _ON_THE_WAY) / schedule.rests
        for n in self.lengths:
            kept = self.keep(n, step, _ROUNDED * schedule.temperature(step))
            self.state.worth[n] += share * kept
