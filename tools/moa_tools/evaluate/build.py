"""From what the user asked for to a run: plans, data and suites."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moa_rt import ArgumentError, ModelConfig, Tokenizer

from moa_tools.evaluate import divergence, effective, perplexity
from moa_tools.evaluate.items import Grid
from moa_tools.evaluate.longbench import suites as longbench
from moa_tools.evaluate.plans import EvalPlan
from moa_tools.evaluate.prompts import Kit
from moa_tools.evaluate.retrieval import GENERATORS
from moa_tools.evaluate.retrieval_suite import RetrievalSuite
from moa_tools.evaluate.suite import Suite
from moa_tools.text import Document, builtin_documents, sentences, user_documents

NAMES = (
    *GENERATORS,
    perplexity.NAME,
    divergence.NAME,
    effective.NAME,
    longbench.LONGBENCH,
    longbench.LVEVAL,
)

# Suites, and the options of the command that say what these alone measure.
_BENCHMARKS = (longbench.LONGBENCH, longbench.LVEVAL)
_OPTIONS_OF: dict[tuple[str, ...], tuple[str, ...]] = {
    (*GENERATORS, effective.NAME): ("lengths",),
    (perplexity.NAME,): ("text", "text_length", "texts"),
    (divergence.NAME,): ("prompts", "prompt_tokens", "answer_tokens"),
    (effective.NAME,): ("mean_span", "ladder", "retrieval", "threshold"),
    (longbench.LONGBENCH,): ("longbench",),
    (longbench.LVEVAL,): ("lveval",),
    _BENCHMARKS: ("benchmark_prompts", "benchmark_lengths", "context", "limit"),
}


@dataclass(frozen=True)
class Request:
    """The settings of all suites."""

    suites: tuple[str, ...]  # "passkey", or "lines:2" with the number of facts
    lengths: tuple[int, ...] = (2048, 4096)
    grid: Grid = field(default_factory=Grid)
    texts: tuple[Path, ...] = ()  # perplexity; empty: held-out text that ships with Python
    text_length: int = 4096
    text_count: int = 8
    prompts: tuple[Path, ...] = ()  # divergence; empty: held-out text, to be summarised
    prompt_tokens: int = 2048
    prompt_count: int = 8
    answer_tokens: int = 64
    rules: effective.Rules = field(default_factory=effective.Rules)
    benchmark: longbench.Settings = field(default_factory=longbench.Settings)
    task_tokens: int = 16384  # tokens of prompts between two entries of the journal


def _parse(spec: str, grid: Grid) -> tuple[str, Grid]:
    name, separator, facts = spec.partition(":")
    if name not in NAMES:
        raise ArgumentError(f"--suite: got {name!r}, want one of {', '.join(NAMES)}")
    if not separator:
        return name, grid
    if not facts.isascii() or not facts.isdecimal() or name not in {*GENERATORS, effective.NAME}:
        raise ArgumentError(f"--suite: got {spec!r}, want SUITE or SUITE:FACTS, as lines:4")
    return name, replace(grid, facts=int(facts))


def check_readers(given: Collection[str], suites: Sequence[str]) -> None:
    """Raises ArgumentError if an option was given that none of the suites asked for reads."""
    names = {spec.partition(":")[0] for spec in suites}
    for readers, options in _OPTIONS_OF.items():
        unread = [option for option in options if option in given]
        if unread and not names.intersection(readers):
            raise ArgumentError(
                f"--{unread[0].replace('_', '-')}: got a value for {', '.join(readers)}, "
                f"want it left out: --suite is {','.join(suites)}"
            )


def check(request: Request) -> None:
    """Bounds of everything that no suite checks. Raises ArgumentError."""
    grid = request.grid
    for name, value, least in (
        ("--samples", grid.samples, 1),
        ("--depths", grid.depths, 1),
        ("--facts", grid.facts, 0),
        ("--texts", request.text_count, 1),
        ("--text-length", request.text_length, 16),
        ("--prompt-count", request.prompt_count, 1),
        ("--prompt-tokens", request.prompt_tokens, 2),
    ):
        if value < least:
            raise ArgumentError(f"{name}: got {value}, want at least {least}")
    if not request.suites:
        raise ArgumentError("--suite: got none, want at least one")
    names = [spec.partition(":")[0] for spec in request.suites]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"--suite: got {name!r} twice")
    if not request.lengths or min(request.lengths) < 1:
        raise ArgumentError(f"--lengths: got {list(request.lengths)}, want positive numbers")


def build_suites(
    request: Request, config: ModelConfig, tokenizer: Tokenizer, plans: Sequence[EvalPlan]
) -> tuple[Suite, ...]:
    """The suites with all their data, in the order asked for.

    Raises ArgumentError (unknown suite, too short a length, no data), IoError and FormatError (the
    user's files).
    """
    check(request)
    heldout = builtin_documents("prose", "heldout")
    kit = Kit(tokenizer, [s for document in heldout for s in sentences(document.text)])
    made: list[Suite] = []
    for spec in request.suites:
        name, grid = _parse(spec, request.grid)
        if name in GENERATORS:
            made.append(RetrievalSuite(name, kit, grid, request.lengths, request.task_tokens))
        elif name == perplexity.NAME:
            texts = user_documents(request.texts) if request.texts else heldout
            length = min(request.text_length, config.max_position_embeddings)
            made.append(perplexity.PerplexitySuite(tokenizer, texts, length, request.text_count))
        elif name == divergence.NAME:
            made.append(_divergence(request, config, tokenizer, plans, heldout))
        elif name == effective.NAME:
            longest = config.max_position_embeddings
            if not request.rules.ladder:
                longest = min(max(request.lengths), longest)
            made.append(
                effective.EffectiveSuite(
                    kit,
                    grid,
                    config,
                    plans,
                    request.rules,
                    longest=longest,
                    task_tokens=request.task_tokens,
                )
            )
        else:
            made.append(longbench.make(name, request.benchmark, tokenizer, request.task_tokens))
    return tuple(made)


def _divergence(
    request: Request,
    config: ModelConfig,
    tokenizer: Tokenizer,
    plans: Sequence[EvalPlan],
    heldout: Sequence[Document],
) -> Suite:
    if request.prompts:
        prompts = user_documents(request.prompts)
    else:
        chosen = sorted(heldout, key=lambda d: (-len(d.text), d.name))[: request.prompt_count]
        prompts = [Document(d.name, f"{d.text}\n\nSummarise the text above.") for d in chosen]
    return divergence.DivergenceSuite(
        tokenizer,
        prompts,
        plans[0],
        max_tokens=min(request.prompt_tokens, config.max_position_embeddings),
        answer_tokens=request.answer_tokens,
    )
