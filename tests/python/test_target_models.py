"""Real models on the target against the same models on the CPU, in the same type.

Run with --device=cuda; on the CPU with --dtype bfloat16, to see that the tests themselves hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moa_rt import AttentionPlan, Engine, ModelConfig
from numpy.typing import NDArray
from support_greedy import varied_rules
from support_prompts import TEXTS
from support_target import Target

LENGTH = 1024
NEW_TOKENS = 48
SAME_CHOICES = 0.99


def plans(config: ModelConfig) -> dict[str, AttentionPlan | None]:
    """Dense, every head half, and heads that differ from each other."""
    rules = varied_rules(config.num_hidden_layers, config.num_key_value_heads, seed=6)
    return {
        "dense": None,
        "half": AttentionPlan.uniform(config, 0.5),
        # Its narrowest rule, -32 + N / 8, keeps a token from 264 on.
        "mixed": AttentionPlan.from_rules(rules, sink_size=16, rounding=16, min_length=264),
    }


@pytest.fixture(scope="module", params=["dense", "half", "mixed"])
def engines(
    request: pytest.FixtureRequest, real_model: Path, target: Target
) -> Iterator[tuple[Engine, Engine]]:
    """On the target and on the CPU, both in the target's type."""
    plan = plans(ModelConfig.load(real_model))[request.param]
    options: dict[str, Any] = {
        "dtype": target.dtype,
        "max_seq_len": LENGTH,
        "prefill_chunk": 512,
    }
    with (
        Engine(real_model, plan, device=target.device, **options) as device,
        Engine(real_model, plan, device="cpu", **options) as cpu,
    ):
        yield device, cpu


def texts(engine: Engine) -> list[list[int]]:
    """Prompts of 4 to 60 tokens, and one that fills the longest window many times."""
    prompts = [engine.tokenizer.encode(text) for text in TEXTS]
    return [*prompts, [token for prompt in prompts for token in prompt] * 4]


def choices(logits: NDArray[np.float32]) -> NDArray[np.intp]:
    best: NDArray[np.intp] = np.argmax(logits, axis=1)
    return best


def test_greedy_choices_are_the_cpus(engines: tuple[Engine, Engine]) -> None:
    """Of the answers' tokens, each after the same text before it, 99 % are the CPU's choice."""
    device, cpu = engines
    prompts = [prompt[: LENGTH - NEW_TOKENS] for prompt in texts(device)]
    answers = device.generate(prompts, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    same = total = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        whole = prompt + answer.token_ids
        want = choices(cpu.logits(whole, budget=len(whole)))[len(prompt) - 1 : -1]
        same += int((want == np.array(answer.token_ids)).sum())
        total += len(want)
    print(f"same choice in {same} of {total} steps ({same / total:.2%})")
    assert total == len(prompts) * NEW_TOKENS
    assert same >= SAME_CHOICES * total


def test_logits_are_the_cpus(engines: tuple[Engine, Engine], target: Target) -> None:
    device, cpu = engines
    ids = texts(device)[-1][:700]
    assert target.close(device.logits(ids), cpu.logits(ids))


def test_the_same_batch_a_hundred_times_is_one_text(engines: tuple[Engine, Engine]) -> None:
    device, _ = engines
    prompts = [*texts(device)[:7], texts(device)[-1][:300]]
    seen = {
        tuple(tuple(a.token_ids) for a in device.generate(prompts, max_new_tokens=8))
        for _ in range(100)
    }
    assert len(seen) == 1


def test_a_note_is_found_as_on_the_cpu(engines: tuple[Engine, Engine]) -> None:
    """Through prefill in chunks and decode; narrow windows forget it on both."""
    filler = "The sky is blue. The grass is green. The sun is bright. " * 25
    question = f"{filler}\nThe secret number is 4821.\n\nWhat is the secret number in the text?"
    chat = [{"role": "user", "content": question}]
    device, cpu = (engine.generate(chat, max_new_tokens=24).text for engine in engines)
    assert ("4821" in device) == ("4821" in cpu), (device, cpu)
    if engines[0].plan.density(LENGTH) == 1.0:
        assert "4821" in device
