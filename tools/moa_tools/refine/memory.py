"""What to say when memory ran out: what would truly take less of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from moa_rt import ModelConfig, ResourceError

from moa_tools.gates.memory import longest_that_fits, predict_memory
from moa_tools.hf.numeric_type import ITEM_BYTES
from moa_tools.profile.memory import CAUTION, free_bytes, is_out_of_memory
from moa_tools.refine.batches import batch_size
from moa_tools.refine.options import RefineOptions


@contextmanager
def out_of_memory_named(
    config: ModelConfig, lengths: Sequence[int], options: RefineOptions
) -> Iterator[None]:
    """Makes an allocation that failed inside a ResourceError with what may fit."""
    free = free_bytes(options.device)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"refine: {_what_may_fit(config, lengths, options, free)}") from error


def _what_may_fit(
    config: ModelConfig, lengths: Sequence[int], options: RefineOptions, free: int
) -> str:
    """Smaller batches where there can be, and one sample ought to fit; else a shorter length.

    `free`: bytes before the model was loaded.
    """
    longest, device = max(lengths), options.device
    item = ITEM_BYTES[options.torch_dtype]
    most = max(n * batch_size(n, options.tokens) for n in lengths)
    smaller = max(longest, most // 2)
    if smaller < most and predict_memory(config, longest, 1, item, device) <= free:
        return f"batch_tokens: got {options.tokens} on {device}: out of memory; {smaller} may fit"
    fits = longest_that_fits(config, 1, item, device, free, int(CAUTION * longest))
    hint = f"length {fits} may fit" if fits > 0 else "no length would: the weights do not fit"
    count = batch_size(longest, options.tokens)
    what = "1 sample" if count == 1 else f"{count} samples"
    return f"{what} of length {longest} on {device}: out of memory; {hint}"
