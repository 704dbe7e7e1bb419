"""A training that was interrupted: its state on disk, to go on to the same result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from moa_rt import FormatError, ResourceError

from moa_tools.files import io_errors, write_atomic
from moa_tools.gates.training import Trainer

_LOSSES = "losses"


class Partial:
    """A safetensors file with the numbers of `Trainer`, bound to its provenance.

    What an interruption leaves in the trainer may be half a step: only what `keep` was given
    between two steps is ever saved.
    """

    def __init__(self, path: Path, origin: dict[str, str]) -> None:
        self._path = path
        self._key = json.dumps(origin, sort_keys=True)
        self._kept: bytes | None = None  # not on disk yet

    def keep(self, trainer: Trainer) -> None:
        """Remembers where the trainer stands after a step: some kB, in memory."""
        from safetensors.torch import save

        tensors = {f"state.{name}": value for name, value in _tensors(trainer).items()}
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self._kept = save(plain, {"origin": self._key})

    def save(self) -> bool:
        """Replaces the file by what was kept last; False if it is there already, or nothing is.

        Raises IoError or ResourceError.
        """
        if self._kept is None:
            return False
        write_atomic(self._path, self._kept)
        self._kept = None
        return True

    def restore(self, trainer: Trainer) -> bool:
        """Puts the saved numbers into a fresh trainer; False if there are none of this run."""
        from safetensors import SafetensorError, safe_open

        if not self._path.exists():
            return False
        try:
            with io_errors(self._path, "open"), safe_open(self._path, "pt") as file:
                if (file.metadata() or {}).get("origin") != self._key:
                    return False
                found = {name: file.get_tensor(f"state.{name}") for name in _names(trainer)}
        except SafetensorError as error:
            raise FormatError(f"{self._path}: {error}; remove it to begin anew") from error
        _put(trainer, found)
        return True

    def remove(self) -> None:
        """Forgets the file."""
        self._path.unlink(missing_ok=True)


def _names(trainer: Trainer) -> list[str]:
    worth = [f"worth.{length}" for length in trainer.lengths]
    return ["parameters", "mean", "square", "step", _LOSSES, *worth]


def _tensors(trainer: Trainer) -> dict[str, Any]:
    state = trainer.state
    moments = trainer.optimizer.state[state.parameters]
    if not moments:
        raise ResourceError("gates: nothing to save before the first step")
    worth = {f"worth.{n}": value for n, value in state.worth.items()}
    return {
        "parameters": state.parameters,
        "mean": moments["exp_avg"],
        "square": moments["exp_avg_sq"],
        "step": torch.tensor(state.step),
        _LOSSES: torch.tensor(state.losses, dtype=torch.float64),
        **worth,
    }


def _put(trainer: Trainer, found: dict[str, Any]) -> None:
    state = trainer.state
    with torch.no_grad():
        state.parameters.copy_(found["parameters"])
    state.step = int(found["step"])
    state.losses = [(a, b, c) for a, b, c in found[_LOSSES].tolist()]
    for n in trainer.lengths:
        state.worth[n].copy_(found[f"worth.{n}"])
    trainer.optimizer.state[state.parameters] = {
        "step": torch.tensor(float(state.step)),
        "exp_avg": found["mean"],
        "exp_avg_sq": found["square"],
    }
