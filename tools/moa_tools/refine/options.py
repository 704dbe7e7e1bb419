"""What a refinement is asked for, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moa_rt import ArgumentError

from moa_tools.hf.numeric_type import check_dtype, dtype_in_use


@dataclass(frozen=True)
class RefineOptions:
    """How to refine.

    Attributes:
        density: share of the dense KV bytes at every length; None: what the first plan says.
        lengths: buckets of the calibration set to use; all if empty.
        budget_lengths: at which the density holds as well.
        max_samples: at most so many of each task and length.
        device: "cpu", "cuda" or "cuda:<index>".
        dtype: of weights and activations; "auto": bfloat16 on a GPU, else float32.
        epochs: how often all heads are tried alone anew; a round of moves follows each.
        rounds: of moves in an epoch, at most.
        alone: at most so many moves of single heads an epoch.
        text_weight, beyond_weight: of a nat of text against an answer, below and above the loss
            of the uniform plan of equal bytes.
        batch_tokens: tokens of a batch; None: 32768 on a GPU, 4096 on a CPU.
        rows: at most so many positions of a sample count.
        seconds: no new measurement begins later; None: no limit. With one, results depend on the
            machine's speed.
        solver: "cbc" or "highs".
    """

    density: float | None = None
    lengths: tuple[int, ...] = ()
    budget_lengths: tuple[int, ...] = ()
    max_samples: int | None = None
    device: str = "cpu"
    dtype: str = "auto"
    epochs: int = 2
    rounds: int = 10
    alone: int = 256
    text_weight: float = 0.5
    beyond_weight: float = 2.0
    batch_tokens: int | None = None
    rows: int = 256
    seconds: float | None = None
    solver: str = "cbc"

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if self.solver not in ("cbc", "highs"):
            raise ArgumentError(f"solver: got {self.solver[:100]!r}, want cbc or highs")
        if self.density is not None and not 0 < self.density < 1:
            raise ArgumentError(f"density: got {self.density}, want a share in (0, 1)")
        for name, low in (
            ("max_samples", 1), ("epochs", 1), ("rounds", 1), ("alone", 1), ("batch_tokens", 1),
            ("rows", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < low:
                raise ArgumentError(f"{name}: got {value}, want at least {low}")
        if not 0 <= self.text_weight <= self.beyond_weight < math.inf:
            raise ArgumentError(
                f"text weights: got {self.text_weight} below and {self.beyond_weight} above the "
                "uniform plan, want 0 <= below <= above"
            )
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ArgumentError(f"seconds: got {self.seconds}, want a positive number")

    @property
    def torch_dtype(self) -> str:
        """The type in use."""
        return dtype_in_use(self.dtype, self.device)

    @property
    def tokens(self) -> int:
        """Tokens of a batch in use."""
        return self.batch_tokens or (4096 if self.device == "cpu" else 32768)
