"""Hugging Face transformers as a peer: dynamic cache, and static cache with torch.compile.

Random weights of the same shape, real prefill in groups of sequences that fit, then decode steps
with sampling. A step is timed in thirds of the run: waiting after each would slow it down. The
allocator may grow its segments: without that, a cache that grows leaves holes and batches are less.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

from moa_tools.bench.decode_run import Setting
from moa_tools.bench.end_rows import SECTION, rates
from moa_tools.bench.record import Missing, Row
from moa_tools.bench.roofline import element_bytes, step_weight_bytes
from moa_tools.bench.shapes import Shape
from moa_tools.bench.statistics import Rounds

DYNAMIC, STATIC = "transformers dynamic cache", "transformers static cache + compile"
_GROUP_TOKENS = 8192  # of prompts in one prefill call
_RETRIES = 4


def build(shape: Shape, device: str, dtype: str) -> Any:
    """The model with random weights, made on the device itself."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        **{
            k: v
            for k, v in shape.config_json(dtype).items()
            if k not in ("architectures", "model_type", "torch_dtype", "rope_scaling", "rope_theta")
        },
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )
    factory: Any = transformers.AutoModelForCausalLM
    with torch.device(device):
        model = factory.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.eval()


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def sample(logits: Any) -> Any:
    """(B, 1) tokens drawn at temperature 0.8 and top-p 0.95 from logits (B, 1, V)."""
    import torch

    scaled = logits[:, -1].float() / 0.8
    values, order = scaled.sort(dim=-1, descending=True)
    kept = values.softmax(-1)
    kept = kept.masked_fill(kept.cumsum(-1) - kept > 0.95, 0.0)
    return order.gather(1, torch.multinomial(kept, 1))


def _prefill(model: Any, prompts: Any, keep: Callable[[int, list[tuple[Any, Any]]], None]) -> Any:
    """First tokens (B, 1).

    `keep` takes each group's first sequence and its keys and values (g, KV, T, D), layer by layer.
    """
    import torch
    from transformers import DynamicCache

    count = max(1, _GROUP_TOKENS // prompts.shape[1])
    tokens = []
    for start in range(0, prompts.shape[0], count):
        cache = DynamicCache()
        ids = prompts[start : start + count]
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        keep(start, [(layer.keys, layer.values) for layer in cache.layers])
        tokens.append(sample(out.logits))
    return torch.cat(tokens)


def _first_token_seconds(model: Any, prompt: Any, repeats: int = 2) -> float:
    """Shortest time from a prompt (1, T) to its first sampled token, alone on an idle device."""
    times = []
    for _ in range(repeats):
        _synchronize(str(prompt.device))
        begin = time.perf_counter()
        _prefill(model, prompt, lambda _start, _layers: None)
        _synchronize(str(prompt.device))
        times.append(time.perf_counter() - begin)
    return min(times)


def _dynamic(model: Any, prompts: Any, _budget: int) -> tuple[Callable[[Any], Any], Any]:
    import torch
    from transformers import DynamicCache

    groups: list[list[tuple[Any, Any]]] = []
    tokens = _prefill(model, prompts, lambda _start, layers: groups.append(layers))
    pairs: list[tuple[Any, Any]] = []
    for index in range(len(groups[0])):  # layer by layer, freeing what has been joined
        parts = [group[index] for group in groups]
        pairs.append((torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])))
        for group in groups:
            group[index] = (None, None)
        del parts
    cache = DynamicCache()
    for index, (keys, values) in enumerate(pairs):
        cache.update(keys, values, index)
        pairs[index] = (None, None)

    def step(ids: Any) -> Any:
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return sample(out.logits)

    return step, tokens


def _static(model: Any, prompts: Any, budget: int) -> tuple[Callable[[Any], Any], Any]:
    import torch
    from transformers import StaticCache

    config = model.config
    batch, length = prompts.shape
    cache = StaticCache(config=config, max_cache_len=budget)
    cache.early_initialization(
        batch, config.num_key_value_heads, config.head_dim, model.dtype, prompts.device
    )

    def keep(start: int, layers: list[tuple[Any, Any]]) -> None:
        for layer, (keys, values) in zip(cache.layers, layers, strict=True):
            layer.keys[start : start + keys.shape[0], :, :length].copy_(keys)
            layer.values[start : start + keys.shape[0], :, :length].copy_(values)

    tokens = _prefill(model, prompts, keep)
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length.fill_(length)
    cuda = str(prompts.device).startswith("cuda")
    mode: dict[str, Any] = {"mode": "reduce-overhead"} if cuda else {"backend": "eager"}
    forward: Any = torch.compile(model.forward, fullgraph=True, dynamic=False, **mode)
    position = torch.full((batch, 1), length, device=prompts.device)

    def step(ids: Any) -> Any:
        out = forward(ids, past_key_values=cache, position_ids=position, use_cache=True)
        position.add_(1)
        return sample(out.logits)

    return step, tokens


PEERS = {DYNAMIC: _dynamic, STATIC: _static}


def decode(model: Any, system: str, setting: Setting) -> tuple[Rounds, float]:
    """Seconds a step in three rounds, and seconds to the first token of one prompt alone."""
    import torch

    device = str(model.device)
    generator = torch.Generator(device=device).manual_seed(1)
    size = (setting.batch, setting.prompt)
    prompts = torch.randint(3, model.config.vocab_size, size, device=device, generator=generator)
    with torch.inference_mode():
        first = _first_token_seconds(model, prompts[:1])
        step, tokens = PEERS[system](model, prompts, setting.budget)
        for _ in range(setting.dropped):
            tokens = step(tokens)
        rounds = []
        third = max(1, (setting.steps - setting.dropped) // 3)
        for _ in range(3):
            _synchronize(device)
            begin = time.perf_counter()
            for _ in range(third):
                tokens = step(tokens)
            _synchronize(device)
            rounds.append(((time.perf_counter() - begin) / third,))
    return Rounds(tuple(rounds)), first


def sequence_bytes(shape: Shape, tokens: int, dtype: str) -> int:
    """Keys and values of one sequence."""
    return (
        shape.num_hidden_layers
        * shape.num_key_value_heads
        * shape.head_dim
        * tokens
        * 2
        * element_bytes(dtype)
    )


def _clean() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _grow_segments() -> None:
    """Lets the allocator map memory to where its segments end, where the driver can."""
    import torch

    old: Any = getattr(torch.cuda.memory, "_set_allocator_settings", None)
    change: Any = getattr(torch._C, "_accelerator_setAllocatorSettings", old)
    if change is None:
        return
    change("expandable_segments:True")
    try:
        torch.empty(1 << 20, device="cuda")
    except RuntimeError:
        change("expandable_segments:False")


def first_batch(shape: Shape, system: str, setting: Setting, free_bytes: int, dtype: str) -> int:
    """What to try first: as many sequences of the whole budget as fit beside 3 GiB of activations.

    A cache that grows is copied layer by layer; one that does not stands beside a group's prompts.
    """
    one = sequence_bytes(shape, setting.budget, dtype)
    free_bytes -= 3 << 30
    if system == DYNAMIC:
        one += 2 * one // shape.num_hidden_layers
    else:
        free_bytes -= sequence_bytes(shape, max(_GROUP_TOKENS, setting.prompt), dtype)
    return max(1, free_bytes // one)


def measure(
    shape: Shape,
    system: str,
    setting: Setting,
    device: str,
    name: str,
    read_bytes_a_second: float,
    dtype: str = "bfloat16",
) -> Iterator[Row | Missing]:
    """One row at the peer's own largest batch (`setting.batch` 0), or at the batch given."""
    import torch

    cuda = device.startswith("cuda")
    if cuda:
        _grow_segments()
    model = build(shape, device, dtype)
    free = torch.cuda.mem_get_info()[0] if cuda else 8 << 30
    batch = setting.batch or first_batch(shape, system, setting, free, dtype)
    for attempt in range(_RETRIES):
        now = Setting(batch, setting.prompt, setting.room, setting.steps)
        try:
            rounds, first = decode(model, system, now)
            break
        except torch.cuda.OutOfMemoryError as error:
            if setting.batch or attempt + 1 == _RETRIES or batch == 1:
                yield Missing(f"{system} {shape.name}", str(error).split("\n")[0][:200])
                return
            batch = max(1, batch * 9 // 10)
        _clean()
    yield _row(shape, system, now, rounds, first, name, read_bytes_a_second, dtype)


def _row(
    shape: Shape,
    system: str,
    setting: Setting,
    rounds: Rounds,
    first: float,
    name: str,
    read_bytes_a_second: float,
    dtype: str,
) -> Row:
    import torch

    length = setting.prompt + setting.steps // 2
    size = step_weight_bytes(shape.config(dtype), dtype)
    size += setting.batch * sequence_bytes(shape, length, dtype)
    figures = rates(setting.batch, rounds, size, read_bytes_a_second)
    figures["first_token_ms"] = first * 1e3
    if torch.cuda.is_available():
        figures["allocator_peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
        free, total = torch.cuda.mem_get_info()
        figures["device_used_GiB"] = (total - free) / 2**30
    case: dict[str, str | int | float] = {
        "model": shape.name,
        "setting": name,
        "plan": "dense",
        "density": 1.0,
        "batch": setting.batch,
        "full": 1,
    }
    return Row(SECTION, system, case, figures, rounds.seconds)
