"""What a verification found, and how a person is told."""

from __future__ import annotations

from dataclasses import dataclass

from moa_tools.verify.tolerance import Tolerance


@dataclass(frozen=True)
class LogitError:
    """The largest difference of logits, and where."""

    value: float
    prompt: int
    position: int


@dataclass(frozen=True)
class HeadError:
    """A KV head's largest error in one prompt; `value` in units of its largest |v|.

    `positions` are those beyond the tolerance (first, last, how many), empty if none is.
    """

    value: float
    layer: int
    kv_head: int
    prompt: int
    position: int
    positions: tuple[int, int, int] | tuple[()] = ()


@dataclass(frozen=True)
class VerifyReport:
    """The worst errors over all prompts.

    Attributes:
        logits: against the float32 model under the plan's masks.
        attention: the worst head, against the mask over the runtime's own queries, keys, values.
        wrong_heads: every head beyond the tolerance, by layer, KV head and prompt. An error in one
            layer does not show in the next: each is compared on its own inputs.
        first_stray: where the logits differ but every head obeys its mask, the first head whose
            output is not the float32 model's; None otherwise.
    """

    tolerance: Tolerance
    decode_from: tuple[int, ...]
    logits: LogitError
    attention: HeadError
    wrong_heads: tuple[HeadError, ...]
    first_stray: HeadError | None

    @property
    def ok(self) -> bool:
        """Whether everything is within the table."""
        return not self.wrong_heads and self.logits.value <= self.tolerance.logits

    def text(self) -> str:
        """Lines for a person; the last one is the verdict."""
        head = self.attention
        lines = [
            f"largest attention error {head.value:.1e} (tolerance {self.tolerance.attention:g}) "
            f"at layer {head.layer}, KV head {head.kv_head}, prompt {head.prompt}, "
            f"position {head.position}"
        ]
        if self.wrong_heads:
            lines += self._wrong_lines()
        elif self.first_stray is not None:
            stray = self.first_stray
            lines.append(
                f"every head obeys its mask; the first output to stray from the float32 model is "
                f"layer {stray.layer}, KV head {stray.kv_head} (prompt {stray.prompt}, position "
                f"{stray.position}): look at what feeds it: norm, projection, RoPE, the layer "
                "before"
            )
        logits = self.logits
        lines.append(
            f"largest logit error {logits.value:.1e} (tolerance {self.tolerance.logits:g}) at "
            f"prompt {logits.prompt}, position {logits.position}: {'ok' if self.ok else 'WRONG'}"
        )
        return "\n".join(lines)

    def _wrong_lines(self) -> list[str]:
        heads = {(error.layer, error.kv_head) for error in self.wrong_heads}
        first = self.wrong_heads[0]
        lines = [
            f"first wrong head: layer {first.layer}, KV head {first.kv_head} "
            f"(of {len(heads)} that differ)"
        ]
        for error in self.wrong_heads:
            if (error.layer, error.kv_head) != (first.layer, first.kv_head) or not error.positions:
                continue
            begin, end, count = error.positions
            step = "a decode step" if begin >= self.decode_from[error.prompt] else "prefill"
            lines.append(
                f"  prompt {error.prompt}: error {error.value:.1e} at position {error.position}; "
                f"{count} positions from {begin} ({step}) to {end}"
            )
        return lines
