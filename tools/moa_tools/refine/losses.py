"""What a plan loses against the dense model: its true loss, and its first order in every head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moa_tools.gates.mixture import Bands, mixture_attention
from moa_tools.gates.training import checkpointed_layers
from moa_tools.hf.attention import hidden_states, layer_attention
from moa_tools.refine.attention import span_attention
from moa_tools.refine.batches import ANSWERS, TEXT, Batch, row_losses, rows_of
from moa_tools.search.problem import Floats, Ints

if TYPE_CHECKING:
    from torch import Tensor

Spans = Mapping[int, Ints]  # by length, (layers, KV heads)
_CHUNK = 512


def sample_losses(model: Any, batch: Batch, hidden: Tensor, grad: bool = False) -> Tensor:
    """Losses (B,) from final states (B, T, hidden).

    Answers: 1 - exp(-KL of all tokens that are looked up), about the chance that the answer is
    lost. Text: the mean of KL and of what the text itself becomes less likely. Summaries: KL.
    """
    student = hidden.flatten(0, 1)[batch.at]
    each = []
    for rows in rows_of(batch):
        args = (model.lm_head, student[rows], batch, rows)
        far, lost = (
            checkpoint(row_losses, *args, use_reentrant=False) if grad else row_losses(*args)
        )
        each.append((far + lost) / 2 if batch.part == TEXT else far)
    zero = torch.zeros(batch.count, device=student.device)
    total = zero.index_add(0, batch.owner, torch.cat(each))
    if batch.part == ANSWERS:
        return -torch.expm1(-total)
    return total / torch.bincount(batch.owner, minlength=batch.count)


@contextmanager
def _from_layer(model: Any, first: int) -> Iterator[None]:
    layers = model.model.layers
    model.model.layers = nn.ModuleList(list(layers)[first:])
    try:
        yield
    finally:
        model.model.layers = layers


class Bench:
    """Losses of plans over batches.

    With `remember` the inputs of all layers under a base plan are kept, and other plans are
    computed from the first layer on in which they differ from it.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Batch],
        sink: int,
        remember: bool = True,
        save_memory: bool = False,
    ) -> None:
        """`save_memory`: compute every layer twice where derivatives are taken."""
        self._model, self._batches, self._sink = model, batches, sink
        self._remember = remember
        self._layers = checkpointed_layers if save_memory else nullcontext
        self._base: Spans = {}
        self._inputs: dict[int, list[Tensor]] = {}

    @property
    def parts(self) -> list[str]:
        """Names of the losses, "answers@2048" and so on."""
        return sorted({batch.name for batch in self._batches})

    def third(self) -> list[int]:
        """Every third batch of each part and length, the first one in any case."""
        return self._every(3)

    def half(self) -> list[int]:
        """Every second one."""
        return self._every(2)

    def _every(self, step: int) -> list[int]:
        seen: dict[str, int] = {}
        chosen = []
        for index, batch in enumerate(self._batches):
            count = seen.get(batch.name, 0)
            seen[batch.name] = count + 1
            if count % step == 0:
                chosen.append(index)
        return chosen

    def set_base(self, spans: Spans) -> None:
        """Plans to come are near this one."""
        if self._remember and not self._is_base(spans):
            self._base, self._inputs = dict(spans), {}

    def _is_base(self, spans: Spans) -> bool:
        base = self._base
        return bool(base) and all((spans[n] == base[n]).all() for n in spans)

    def _attention(self, spans: Ints, sink: int) -> Any:
        table = torch.tensor(spans, dtype=torch.int32, device=self._model.device)

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            return span_attention(q, k, v, table[layer], sink, scale)

        return layer_attention(self._model, attention)

    @torch.no_grad()
    def losses(
        self, spans: Spans, only: Sequence[int] | None = None, sink: int | None = None
    ) -> dict[str, float]:
        """Mean loss of every part and length, over the batches in `only` or all of them."""
        found: dict[str, list[float]] = {}
        for index in range(len(self._batches)) if only is None else only:
            batch = self._batches[index]
            near = bool(self._base) and sink is None
            first = self._first_change(spans[batch.length], batch.length) if near else 0
            if near and index not in self._inputs:
                with self._attention(self._base[batch.length], self._sink):
                    self._inputs[index] = self._layer_inputs(batch)
            with self._attention(spans[batch.length], self._sink if sink is None else sink):
                hidden = self._states(batch, index, first)
            found.setdefault(batch.name, []).extend(
                sample_losses(self._model, batch, hidden).double().tolist()
            )
        return {name: float(np.mean(values)) for name, values in found.items()}

    def _first_change(self, spans: Ints, length: int) -> int:
        """The first layer that is not the base's; the last one if all are."""
        same = (spans == self._base[length]).all(1)
        return len(same) - 1 if same.all() else int(np.argmin(same))

    def _states(self, batch: Batch, index: int, first: int) -> Tensor:
        if first == 0:
            return hidden_states(self._model, batch.ids)
        with _from_layer(self._model, first):
            states: Tensor = self._model.model(
                inputs_embeds=self._inputs[index][first], use_cache=False
            ).last_hidden_state
        return states

    def _layer_inputs(self, batch: Batch) -> list[Tensor]:
        inputs: list[Tensor] = []

        def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs.append((args[0] if args else kwargs["hidden_states"]).clone())

        layers = self._model.model.layers
        hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
        try:
            hidden_states(self._model, batch.ids)
        finally:
            for hook in hooks:
                hook.remove()
        return inputs

    def first_order(
        self, spans: Spans, knots: Mapping[int, Sequence[int]], only: Sequence[int]
    ) -> dict[str, Floats]:
        """Derivatives (layers, KV heads, K) of every part and length, at spans that are knots.

        By the share of a head's attention that has each of the knots as its span.
        """
        sums: dict[str, Floats] = {}
        counts: dict[str, int] = {}
        for index in only:
            batch = self._batches[index]
            grid = np.array(knots[batch.length])
            chance = torch.tensor(
                spans[batch.length][..., None] == grid,
                dtype=torch.float32,
                device=self._model.device,
            ).requires_grad_()
            bands = Bands(tuple(grid.tolist()), self._sink, _CHUNK)

            def attention(
                layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float,
                chance: Tensor = chance, bands: Bands = bands,
            ) -> Tensor:  # fmt: skip
                return mixture_attention(q, k, v, chance[layer], bands, scale=scale)

            with layer_attention(self._model, attention), self._layers(self._model):
                hidden = hidden_states(self._model, batch.ids)
                losses = sample_losses(self._model, batch, hidden, grad=True)
                losses.sum().backward()  # type: ignore[no-untyped-call]
            grad = (
                np.zeros(chance.shape)
                if chance.grad is None
                else chance.grad.double().cpu().numpy()
            )
            sums[batch.name] = sums.get(batch.name, 0.0) + grad
            counts[batch.name] = counts.get(batch.name, 0) + batch.count
        return {name: value / counts[name] for name, value in sums.items()}
