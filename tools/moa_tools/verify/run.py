"""`moa-tools verify`: prompts through the runtime's rings and through a dense-masked oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from moa_rt import ArgumentError, AttentionPlan, Engine, HeadSpan, Trace
from numpy.typing import NDArray

from moa_tools.progress import Reporter, Silent
from moa_tools.verify.oracle import Oracle, masked_attention
from moa_tools.verify.report import HeadError, LogitError, VerifyReport
from moa_tools.verify.tolerance import Tolerance, tolerance

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

# The last tokens of a prompt, at most a quarter of it, are replayed as decode steps.
_DECODE_STEPS = 32
# Bound on what one trace and one block of logits hold.
_TRACE_BYTES = 1 << 30
_LOGIT_BYTES = 1 << 28


def verify(
    engine: Engine,
    oracle: Oracle,
    plan: AttentionPlan,
    prompts: Sequence[Sequence[int]],
    reporter: Reporter | None = None,
) -> VerifyReport:
    """Replays each prompt and compares logits and heads with their definition.

    A prompt runs as prefill chunks and, for its last tokens, as decode steps, its length being the
    token budget N. Two comparisons: the logits with those of the float32 model whose heads are
    masked as `plan` says; and each head's output with the mask applied to the runtime's own
    queries, keys and values of that layer, which names the head that is wrong and no other.

    Raises ArgumentError without prompts, or for one of fewer than two tokens.
    """
    reporter = reporter or Silent()
    if not prompts:
        raise ArgumentError("prompts: got none, want at least one")
    for index, prompt in enumerate(prompts):
        if len(prompt) < 2:
            raise ArgumentError(f"prompts[{index}]: got {len(prompt)} tokens, want at least 2")
    reporter.start("verify", len(prompts))
    checks = []
    try:
        for index, prompt in enumerate(prompts):
            check = _PromptCheck(engine, oracle, plan, prompt, index)
            check.run()
            checks.append(check)
            reporter.advance(1)
    finally:
        reporter.stop()
    return _summary(checks)


class _PromptCheck:
    """One prompt through both."""

    def __init__(
        self,
        engine: Engine,
        oracle: Oracle,
        plan: AttentionPlan,
        token_ids: Sequence[int],
        index: int,
    ) -> None:
        self._engine = engine
        self._oracle = oracle
        self._ids = list(token_ids)
        self._index = index
        self._spans: list[list[HeadSpan]] = plan.spans(len(self._ids))
        self._dtype = engine.options.dtype
        self.tolerance: Tolerance = tolerance(self._dtype)
        self.decode_from = len(self._ids) - min(_DECODE_STEPS, len(self._ids) // 4)
        self.logits = LogitError(-1.0, index, 0)
        self.heads: list[HeadError] = []  # against their masks, by layer and KV head
        self.strays: list[HeadError] = []  # against the float32 model, beyond its tolerance

    def run(self) -> None:
        """Fills in what the members say."""
        for first, (begin, end) in enumerate(self._layer_groups()):
            positions = self._logit_positions() if first == 0 else []
            trace = self._engine.trace(
                self._ids,
                layers=(begin, end),
                logit_positions=positions,
                decode_from=self.decode_from,
            )
            compare = partial(self._compare, trace)
            hidden = self._oracle.hidden(self._ids, self._spans, compare)
            if first == 0:
                self._compare_logits(trace.logits, hidden, positions)

    def _layer_groups(self) -> Iterator[tuple[int, int]]:
        config = self._engine.config
        layer_bytes = 4 * len(self._ids) * (config.qkv_size + config.query_size)
        size = max(1, _TRACE_BYTES // layer_bytes)
        for begin in range(0, config.num_hidden_layers, size):
            yield begin, min(begin + size, config.num_hidden_layers)

    def _logit_positions(self) -> list[int]:
        """All of them, or as many as fit, evenly, and every decode step."""
        length, vocab = len(self._ids), self._engine.config.vocab_size
        step = max(1, -(-4 * length * vocab // _TRACE_BYTES))
        return sorted({*range(0, length, step), *range(self.decode_from, length)})

    def _compare(self, trace: Trace, layer: int, wanted: torch.Tensor) -> None:
        """Both comparisons of one layer's heads; `wanted` is the float32 model's (Hq, T, D)."""
        at = layer - trace.first_layer
        if not 0 <= at < len(trace.attention):
            return
        got = self._tensor(trace.attention[at])
        query, key, value = (
            as_cached(self._tensor(part[at]), self._dtype)
            for part in (trace.query, trace.key, trace.value)
        )
        scale = float(self._engine.config.head_dim) ** -0.5
        masked = masked_attention(query, key, value, self._spans[layer], scale)
        for head, error in enumerate(_head_errors(got, masked, value)):
            self.heads.append(self._head_error(error, layer, head, self.tolerance.attention))
        for head, error in enumerate(_head_errors(got, wanted, value)):
            stray = self._head_error(error, layer, head, self.tolerance.logits)
            if stray.positions:
                self.strays.append(stray)

    def _tensor(self, array: Floats) -> torch.Tensor:
        """(T, H, D) of numpy as (H, T, D) where the oracle computes."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(array.swapaxes(0, 1))).to(self._oracle.device)

    def _head_error(self, errors: torch.Tensor, layer: int, head: int, allowed: float) -> HeadError:
        position = int(errors.argmax())
        beyond = (~(errors <= allowed)).nonzero().flatten().tolist()  # NaN is beyond, too
        where = (beyond[0], beyond[-1], len(beyond)) if beyond else ()
        return HeadError(float(errors[position]), layer, head, self._index, position, where)

    def _compare_logits(self, got: Floats, hidden: torch.Tensor, positions: Sequence[int]) -> None:
        import torch

        rows = max(1, _LOGIT_BYTES // (4 * got.shape[1]))
        for begin in range(0, len(positions), rows):
            part = list(positions[begin : begin + rows])
            wanted = self._oracle.logits(hidden[part])
            found = torch.from_numpy(got[begin : begin + len(part)]).to(wanted.device)
            errors = (found - wanted).abs().amax(dim=-1).nan_to_num(nan=float("inf"))
            at = int(errors.argmax())
            if float(errors[at]) > self.logits.value:
                self.logits = LogitError(float(errors[at]), self._index, part[at])


def as_cached(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """Float32 values rounded as caches of that type keep them."""
    import torch

    rounded: torch.Tensor = values.to(getattr(torch, dtype)).float()
    return rounded


def _head_errors(
    got: torch.Tensor, wanted: torch.Tensor, value: torch.Tensor
) -> Iterator[torch.Tensor]:
    """For each KV head the largest error of each position (T), in units of its largest |v|."""
    kv_heads = value.shape[0]
    errors = (got - wanted).abs().amax(dim=-1)  # (Hq, T)
    grouped = errors.reshape(kv_heads, -1, errors.shape[-1]).amax(dim=1)
    for head in range(kv_heads):
        yield grouped[head] / value[head].abs().max().clamp(min=1e-30)


def _summary(checks: Sequence[_PromptCheck]) -> VerifyReport:
    def place(error: HeadError) -> tuple[int, int, int]:
        return error.layer, error.kv_head, error.prompt

    def size(error: HeadError) -> float:
        return error.value if error.value == error.value else float("inf")

    heads = [error for check in checks for error in check.heads]
    wrong = sorted((error for error in heads if error.positions), key=place)
    logits = max((check.logits for check in checks), key=lambda error: error.value)
    allowed = checks[0].tolerance
    strays = sorted((error for check in checks for error in check.strays), key=place)
    stray = strays[0] if strays and not wrong and logits.value > allowed.logits else None
    return VerifyReport(
        tolerance=allowed,
        decode_from=tuple(check.decode_from for check in checks),
        logits=logits,
        attention=max(heads, key=size),
        wrong_heads=tuple(wrong),
        first_stray=stray,
    )
