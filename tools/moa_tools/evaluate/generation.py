"""Answers of an engine to a batch of questions, graded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moa_tools.evaluate.engines import Answer, EvalEngine
from moa_tools.evaluate.items import Item
from moa_tools.evaluate.suite import Record

_KEPT = 200  # characters of an answer that go into the records


def answers(
    engine: EvalEngine, prompts: Sequence[object], options: Sequence[dict[str, object]]
) -> list[Answer]:
    """Greedy answers in order. Raises what the first failed request failed with."""
    made: list[Answer] = engine.generate(list(prompts), list(options))
    for answer in made:
        if answer.error is not None:
            raise answer.error
    return made


def ask(
    engine: EvalEngine,
    items: Sequence[Item],
    grade: Callable[[str, Sequence[str]], float],
    stop: Sequence[str],
) -> list[Record]:
    """Generates freely and grades the text."""
    options: list[dict[str, object]] = [
        {"max_new_tokens": item.max_new_tokens, "stop": list(stop)} for item in items
    ]
    made = answers(engine, [item.prompt_ids for item in items], options)
    return [
        {
            "id": item.id,
            "depth": item.depth,
            "score": round(grade(answer.text, item.gold), 6),
            "answer": answer.text[:_KEPT],
        }
        for item, answer in zip(items, made, strict=True)
    ]


def ask_exactly(engine: EvalEngine, items: Sequence[Item]) -> list[Record]:
    """Whether every token of the right answer is the likeliest one after those before it.

    That is the same as: greedy decoding, end of text ignored, gives exactly those tokens. So it
    costs a prefill and a few batched steps, and no (T, vocab) array.
    """
    options: list[dict[str, object]] = [
        {"max_new_tokens": item.max_new_tokens, "ignore_eos": True} for item in items
    ]
    made = answers(engine, [item.prompt_ids for item in items], options)
    return [
        {
            "id": item.id,
            "depth": item.depth,
            "score": float(tuple(answer.token_ids) == item.gold_ids),
            "answer": answer.text[:_KEPT],
        }
        for item, answer in zip(items, made, strict=True)
    ]
