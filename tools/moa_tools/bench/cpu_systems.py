"""Contenders of a CPU run: each reads a prompt, then makes tokens greedily, at batch 1."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moa_rt import AttentionPlan, Engine

from moa_tools.bench import decode_run
from moa_tools.bench.cpu_rows import Timing
from moa_tools.bench.decode_run import Setting

# What a system does once: the prompt's ids in, its times out.
Contender = Callable[[list[int]], Timing]


@dataclass(frozen=True)
class Task:
    """What all contenders do: `steps` tokens after `prompt`, on `threads` threads."""

    model_dir: Path
    prompt: int
    steps: int
    threads: int

    @property
    def budget(self) -> int:
        """Tokens that a sequence may reach."""
        return self.prompt + self.steps + 8


def open_ours(task: Task, plan: AttentionPlan, stack: ExitStack) -> tuple[Contender, Engine]:
    """Our engine under `plan`."""
    engine = stack.enter_context(
        Engine(
            task.model_dir,
            plan,
            max_batch=1,
            max_seq_len=task.budget,
            num_threads=task.threads,
            force_plan=True,
        )
    )
    setting = Setting(1, task.prompt, task.budget - task.prompt, task.steps)

    def run(_ids: list[int]) -> Timing:
        out = decode_run.run(engine, setting, sampling=decode_run.GREEDY)
        # The mean of a repetition's steps, as of every peer's; the median is of repetitions.
        return Timing(out.prefill_seconds, out.mean_step_seconds)

    return run, engine


def _torch_contender(task: Task, dtype: str, compiled: bool) -> Contender:
    import torch
    from transformers import DynamicCache

    from moa_tools.hf.load import load_model

    torch.set_num_threads(task.threads)
    model, _ = load_model(task.model_dir, dtype=dtype)
    # Compiled for prompts and steps apart; the cache's length changes, so shapes stay symbolic.
    forward: Any = torch.compile(model.forward, dynamic=True) if compiled else model.forward

    def run(ids: list[int]) -> Timing:
        with torch.inference_mode():
            cache = DynamicCache()
            prompt = torch.tensor([ids])
            begin = time.perf_counter()
            out = forward(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            middle = time.perf_counter()
            for _ in range(task.steps):
                out = forward(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
                token = out.logits[:, -1:].argmax(-1)
            end = time.perf_counter()
        return Timing(middle - begin, (end - middle) / task.steps)

    return run


def _llama_cpp(task: Task, stack: ExitStack, flash: bool) -> Contender:
    from llama_cpp import Llama

    from moa_tools.bench.gguf_export import export

    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="moa-bench-"))
    path = export(task.model_dir, Path(directory) / "model.gguf")
    model: Any = Llama(
        str(path),
        n_ctx=task.budget,
        n_batch=512,
        n_threads=task.threads,
        n_threads_batch=task.threads,
        flash_attn=flash,
        verbose=False,
    )
    stack.callback(model.close)

    def run(ids: list[int]) -> Timing:
        model.reset()
        begin = time.perf_counter()
        model.eval(ids)
        middle = time.perf_counter()
        for i in range(task.steps):  # which tokens they are does not change the time
            model.eval([ids[i % len(ids)]])
        end = time.perf_counter()
        return Timing(middle - begin, (end - middle) / task.steps)

    return run


PEERS: dict[str, Callable[[Task, ExitStack], Contender]] = {
    "transformers bf16 eager": lambda task, _: _torch_contender(task, "bfloat16", False),
    "transformers fp32 eager": lambda task, _: _torch_contender(task, "float32", False),
    "transformers bf16 compiled": lambda task, _: _torch_contender(task, "bfloat16", True),
    "llama.cpp": lambda task, stack: _llama_cpp(task, stack, False),
    "llama.cpp flash attention": lambda task, stack: _llama_cpp(task, stack, True),
}
