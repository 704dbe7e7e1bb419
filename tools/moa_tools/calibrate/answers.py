"""The dense model's own answers, and whether they hold what was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from moa_rt import Engine, RequestOptions, ResourceError, Tokenizer

from moa_tools.calibrate.exercises import Draft
from moa_tools.progress import Reporter

# A greedy answer that says the same three tokens over and over teaches nothing.
_MIN_DISTINCT = 0.5


def holds_truth(answer: str, truths: Sequence[str]) -> bool:
    """Whether every truth is in the answer, as a word of its own; case is all one."""

    def plain(text: str) -> str:
        return re.sub(r"(?<=\d),(?=\d{3}\b)", "", " ".join(text.lower().split()))

    text = plain(answer)
    return all(
        re.search(rf"(?<![a-z0-9]){re.escape(plain(truth))}(?![a-z0-9])", text) for truth in truths
    )


def trim(tokenizer: Tokenizer, ids: Sequence[int], truths: Sequence[str]) -> list[int]:
    """A right answer up to the end of the line in which its last truth stands, or 8 tokens on.

    What a small model says then has nothing to do with the text any more.
    """
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        if holds_truth(tokenizer.decode(ids[:middle], skip_special=True), truths):
            high = middle
        else:
            low = middle + 1
    for end in range(low, min(low + 8, len(ids))):
        if "\n" in tokenizer.decode(ids[low - 1 : end], skip_special=True):
            return list(ids[:end])
    return list(ids[: low + 8])


def repeats(ids: Sequence[int]) -> bool:
    """Whether more than half of the runs of three tokens were said before."""
    runs = list(zip(ids, ids[1:], ids[2:], strict=False))
    return len(runs) > 8 and len(set(runs)) < _MIN_DISTINCT * len(runs)


def generate(engine: Engine, drafts: Sequence[Draft], reporter: Reporter) -> list[list[int]]:
    """Greedy answers, end token included where the model gave one.

    Raises ResourceError if a sequence does not fit, and the error of a request that failed.
    """
    options = [
        RequestOptions(max_new_tokens=draft.room, temperature=0.0, stop=list(draft.stop))
        for draft in drafts
    ]

    def on_token(event: object) -> None:
        if getattr(event, "finish_reason", None) is not None:
            reporter.advance(1)

    done = engine.generate([draft.prompt_ids for draft in drafts], options, on_token=on_token)
    for completion in done:
        if completion.error is not None:
            raise completion.error
    return [list(completion.token_ids) for completion in done]


def explain_memory(
    error: Exception, model_dir: Path, length: int, device: str, dtype: str
) -> ResourceError:
    """The error with the longest power of two that does fit, found by opening caches of it."""
    fits = length // 2
    while fits >= 64:
        try:
            with Engine(model_dir, device=device, dtype=dtype, max_batch=1, max_seq_len=fits) as e:
                e.open_session(fits).close()
            break
        except (ResourceError, MemoryError):
            fits //= 2
    hint = f"length {fits} fits" if fits >= 64 else "no length fits"
    return ResourceError(f"length {length}: out of memory on {device}; {hint} ({error})")
