"""Influence: how much the loss changes, to first order, when a head sees a shorter span.

For a query row with scores s, weights A = softmax(s), output o and output gradient dO, let
g_n = dO.v_n. Hiding the keys M leaves the weights A_n / (1 - a), a = sum_M A_n, on the others, so

    delta = dO.(o_masked - o) = (R * a - G) / (1 - a) = mean of g over the visible keys - R

with R = sum_n A_n g_n and G = sum_M A_n g_n: the joint form, exact for the whole set and first
order in the output only. The per-entry form hides one key at a time (arXiv 2406.14909, equation 3):
E_n = -(A_n / (1 - A_n)) * (g_n - R), summed over M. Both are summed as absolute values: signed sums
cancel over rows, and scored no better than chance in our trial.

A slab of query rows is read against all its keys, newest key first: prefix sums along the keys then
hold every window at once. Memory is O(N * D + slab); nothing is N x N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moa_rt import ArgumentError

from moa_tools.hf.spans import check_spans

if TYPE_CHECKING:
    import torch

Form = Literal["joint", "entry"]
FORMS: tuple[Form, ...] = ("joint", "entry")

# Elements (query heads x rows x keys) of a slab: what stays in a CPU's cache, what fills a GPU.
CPU_SLAB = 1 << 20
CUDA_SLAB = 1 << 26
# Weights are exp(s - row maximum + _SHIFT), so that float32 holds what lies up to 2 * _SHIFT below
# the maximum: keys beside a row's visible ones may carry all of its weight but e^-100. Lower scores
# count as equal.
_SHIFT = 60.0


@dataclass(frozen=True)
class AttentionGradient:
    """One layer's attention over one sequence, and the gradient of the loss by its output.

    Queries and keys after RoPE. Query head h reads KV head h // (Hq / Hkv).
    """

    query: torch.Tensor  # (Hq, N, D)
    key: torch.Tensor  # (Hkv, N, D)
    value: torch.Tensor  # (Hkv, N, D)
    grad_output: torch.Tensor  # (Hq, N, D)
    scale: float


def influence_curves(
    attention: AttentionGradient,
    spans: Sequence[int],
    sink: int,
    form: Form = "joint",
    slab_elements: int | None = None,
) -> torch.Tensor:
    """Influence of every KV head and span, float64 (Hkv, len(spans)) on the CPU.

    Entry (h, i) is the sum over the rows of the query heads of h of the absolute first-order change
    when only `sink` tokens and the last `spans[i] - sink` are seen. Statistics are float32.

    Raises ArgumentError for an unknown form or spans that do not ascend from beyond the sink.
    """
    import torch

    check_spans(spans, sink)
    if form not in FORMS:
        raise ArgumentError(f"form: got {form!r}, want one of {FORMS}")
    heads, length, _ = attention.query.shape
    kv_heads = attention.key.shape[0]
    device = attention.query.device
    if slab_elements is None:
        slab_elements = CPU_SLAB if device.type == "cpu" else CUDA_SLAB
    slabs = _Slabs(attention, torch.tensor(spans, device=device) - sink, sink)
    total = torch.zeros((heads, len(spans)), dtype=torch.float64, device=device)
    rows = max(1, slab_elements // (heads * length))
    change = slabs.joint if form == "joint" else slabs.entry
    for begin in range(spans[0], length, rows):  # the first row that the first span cuts
        total += change(begin, min(begin + rows, length)).sum(dim=1, dtype=torch.float64)
    return total.reshape(kv_heads, -1, len(spans)).sum(dim=1).cpu()


class _Slabs:
    """Rows [begin, end) of all heads against keys end - 1, ..., 0: column c is key end - 1 - c."""

    def __init__(self, attention: AttentionGradient, windows: torch.Tensor, sink: int) -> None:
        self._attention = attention
        self._keys = attention.key.float().flip(1).transpose(1, 2)  # (Hkv, D, N)
        self._values = attention.value.float().flip(1).transpose(1, 2)
        self._windows = windows
        self._sink = sink

    def joint(self, begin: int, end: int) -> torch.Tensor:
        """|delta| of every head, row and window (Hq, rows, K)."""
        weights, gains = self._weights_and_gains(begin, end)
        gains.mul_(weights)
        mass, gain = self._visible_sums(weights, begin, end), self._visible_sums(gains, begin, end)
        delta = gain[0] / mass[0] - (gain[1] / mass[1])[..., None]
        return delta.abs_().masked_fill_(~self._cut(begin, end), 0.0)

    def entry(self, begin: int, end: int) -> torch.Tensor:
        """Sum over the hidden keys of |E| of every head, row and window (Hq, rows, K)."""
        weights, gains = self._weights_and_gains(begin, end)
        # At most one weight of a row exceeds a half. For it 1 - A is the sum of all others:
        # E = -A * (g - mean of g over the others), finite as A goes to 1.
        first, at = weights.max(dim=-1, keepdim=True)
        gain = gains.gather(-1, at)
        weights.scatter_(-1, at, 0.0)
        rest = weights.sum(-1, keepdim=True)
        rest_gain = (weights * gains).sum(-1, keepdim=True)
        mass = rest + first
        mean = (rest_gain + first * gain) / mass
        single = (first / mass * (gain - rest_gain / rest)).abs_()
        effects = gains.sub_(mean).abs_().mul_(weights.div_(mass - weights))
        effects.scatter_(-1, at, single)
        hidden = effects[..., : end - self._sink].cumsum_(-1)
        seen = hidden.gather(-1, self._oldest(begin, end, weights.shape[0]))
        return (hidden[..., -1:] - seen).masked_fill_(~self._cut(begin, end), 0.0)

    def _weights_and_gains(self, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """exp(s) with a factor of each row's own, 0 for keys after the query, and g."""
        import torch

        keys, values = (part[..., -end:] for part in (self._keys, self._values))
        scores = self._product(self._attention.query, begin, end, keys) * self._attention.scale
        rows = end - begin
        future = torch.ones(rows, rows, dtype=torch.bool, device=keys.device).triu_(1).flip(1)
        corner = scores[..., :rows]
        corner.masked_fill_(future, -torch.inf)
        scores.sub_(scores.amax(-1, keepdim=True)).clamp_(min=-2 * _SHIFT).add_(_SHIFT).exp_()
        corner.masked_fill_(future, 0.0)
        return scores, self._product(self._attention.grad_output, begin, end, values)

    def _product(
        self, rows: torch.Tensor, begin: int, end: int, columns: torch.Tensor
    ) -> torch.Tensor:
        """(Hq, end - begin, keys) of rows (Hq, N, D) with columns (Hkv, D, keys)."""
        import torch

        heads, _, size = rows.shape
        part = rows[:, begin:end].float().reshape(columns.shape[0], -1, size)
        return torch.bmm(part, columns).view(heads, end - begin, -1)

    def _visible_sums(
        self, values: torch.Tensor, begin: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over what each window shows (Hq, rows, K), and over all keys (Hq, rows)."""
        newer = end - self._sink
        sink = values[..., newer:].sum(-1)
        sums = values[..., :newer].cumsum_(-1)
        shown = sums.gather(-1, self._oldest(begin, end, values.shape[0]))
        return shown + sink[..., None], sums[..., -1] + sink

    def _oldest(self, begin: int, end: int, heads: int) -> torch.Tensor:
        """Column of the oldest key of each row's window (Hq, rows, K)."""
        import torch

        query = torch.arange(begin, end, device=self._windows.device)
        columns = end - 2 - query[:, None] + self._windows
        return columns.clamp_(max=end - self._sink - 1).expand(heads, -1, -1)

    def _cut(self, begin: int, end: int) -> torch.Tensor:
        """Whether a window hides anything from a row (rows, K)."""
        import torch

        query = torch.arange(begin, end, device=self._windows.device)
        return query[:, None] - self._windows >= self._sink
