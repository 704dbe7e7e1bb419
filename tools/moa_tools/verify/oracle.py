"""The dense-masked oracle: every score is computed, then masked by the definition.

A query q sees a key k iff k <= q and (k < sink or q - k < window). Nothing here asks the runtime
what a head sees; only how many tokens a rule keeps at N comes from the plan. Rows are taken in
blocks, so memory is O(T * block).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from moa_tools.hf.attention import hidden_states, layer_attention

if TYPE_CHECKING:
    import torch
    from moa_rt import HeadSpan

    # (layer, attention output (Hq, T, D)), called for every layer of a pass.
    LayerSink: TypeAlias = Callable[[int, torch.Tensor], None]

_BLOCK = 128  # query rows at a time


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spans: Sequence[HeadSpan],
    scale: float,
) -> torch.Tensor:
    """Attention of query (Hq, T, D) over key, value (Hkv, T, D), head by head: (Hq, T, D)."""
    import torch

    groups = query.shape[0] // key.shape[0]
    length = query.shape[1]
    out = torch.empty_like(query)
    k = torch.arange(length, device=query.device)[None, :]
    for begin in range(0, length, _BLOCK):
        rows = slice(begin, min(begin + _BLOCK, length))
        q = torch.arange(rows.start, rows.stop, device=query.device)[:, None]
        for head, span in enumerate(spans):
            mask = (k <= q) & ((k < span.sink) | (q - k < span.window))
            part = query[head * groups : (head + 1) * groups, rows]
            scores = (part @ key[head].T) * scale
            weights = torch.softmax(scores.masked_fill(~mask, -math.inf), dim=-1)
            out[head * groups : (head + 1) * groups, rows] = weights @ value[head]
    return out


class Oracle:
    """A transformers model in float32 whose every KV head sees what the plan gives it."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        found: torch.device = next(self._model.parameters()).device
        return found

    def hidden(
        self, token_ids: Sequence[int], spans: Sequence[Sequence[HeadSpan]], sink: LayerSink
    ) -> torch.Tensor:
        """Final hidden states (T, hidden) under `spans` (layer by KV head)."""
        import torch

        def attend(
            layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
        ) -> torch.Tensor:
            out = masked_attention(query[0], key[0], value[0], spans[layer], scale)
            sink(layer, out)
            return out[None]

        ids = torch.tensor([list(token_ids)], device=self.device)
        with torch.no_grad(), layer_attention(self._model, attend):
            return hidden_states(self._model, ids)[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of some rows of hidden states: float32 (rows, vocab_size)."""
        import torch

        with torch.no_grad():
            out: torch.Tensor = self._model.lm_head(hidden)
        return out.float()
