"""Engine: a decoder with its weights, its KV caches and its running requests."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeAlias, Union, overload

import numpy as np

from moa_rt import _core, plans
from moa_rt._core import (
    AttentionPlan,
    Completion,
    EngineOptions,
    EngineStats,
    MemoryPrediction,
    MemoryReport,
    ModelConfig,
    RequestOptions,
    TokenEvent,
    Tokenizer,
)
from moa_rt.errors import ArgumentError, StateError
from moa_rt.prompts import Chat, Prompt, TokenIds, is_batch, to_token_ids
from moa_rt.session import Session
from moa_rt.stream import EventRouter, Stream
from moa_rt.trace import Trace, make_trace

PathLike: TypeAlias = Union[str, "os.PathLike[str]"]
Options: TypeAlias = RequestOptions | Mapping[str, Any]
TokenCallback: TypeAlias = Callable[[TokenEvent], bool | None]


class Engine:
    """A decoder with its weights, its KV caches and its running requests.

    An engine may be used from several threads: calls are serialised. While it works, Python's lock
    is released and Ctrl-C is answered: the requests of the interrupted call are cancelled and the
    engine stays usable. It cannot be pickled, copied or used in a forked child.

    Args:
        model_dir: directory written by ``moa-tools convert``.
        plan: spans of the attention heads: an `AttentionPlan`, the path of a plan file, "auto" for
            the plan that ships with the package for this very model, or None for a dense model.
        device: "cpu", "cuda" or "cuda:<index>".
        dtype: type of matrices and KV caches: "auto" (as stored), "bfloat16", "float32" (CPU
            only) or "float16" (GPU only).
        max_batch: requests that run at the same time; more of them wait.
        max_seq_len: longest token budget (prompt and answer), None for the model's own limit.
        num_threads: None for one for each available core.
        prefill_chunk: tokens of prompts processed in one step.
        force_plan: accept a plan whose fingerprint is another model's of the same shape.
        max_queue: requests that may wait; `submit` refuses one more with BusyError.
        kv_cache_bytes: bound on all KV caches together, None for what memory allows and at most
            ``max_batch`` sequences of ``max_seq_len`` tokens. A GPU's are taken at once.
        cpu_isa: "auto", "portable", "avx2", "avx512" or "avx512_bf16".
        density: with plan "auto", share of the dense KV bytes that the plan keeps; None for 0.5.

    Raises:
        IoError, FormatError, UnsupportedError, MismatchError: the model directory or the plan is
            not what it should be; the message names file, item and field.
        ResourceError: weights and scratch do not fit into memory; nothing has been read yet.
        ArgumentError: an option is out of bounds, or no plan ships for the model and density.
        DeviceError: the device is missing, too old or lost, or this build has no CUDA.
    """

    def __init__(
        self,
        model_dir: PathLike,
        plan: AttentionPlan | PathLike | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        max_batch: int = 8,
        max_seq_len: int | None = None,
        num_threads: int | None = None,
        prefill_chunk: int = 256,
        *,
        force_plan: bool = False,
        max_queue: int = 4096,
        kv_cache_bytes: int | None = None,
        cpu_isa: str = "auto",
        density: float | None = None,
    ) -> None:
        self._core = _core.Engine(
            model_dir,
            EngineOptions(
                plan=_resolve_plan(model_dir, plan, density),
                device=device,
                dtype=dtype,
                max_batch=max_batch,
                max_seq_len=max_seq_len,
                num_threads=num_threads,
                prefill_chunk=prefill_chunk,
                force_plan=force_plan,
                max_queue=max_queue,
                kv_cache_bytes=kv_cache_bytes,
                cpu_isa=cpu_isa,
            ),
        )
        self._router = EventRouter(self._core)
        # Also runs when the interpreter ends: no thread may then be inside the engine.
        self._finalizer = weakref.finalize(self, self._core.shutdown)

    # --- generating

    @overload
    def generate(
        self,
        prompts: str | Chat | TokenIds,
        options: Options | None = None,
        *,
        on_token: TokenCallback | None = None,
        **overrides: Any,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompts: Sequence[str] | Sequence[Chat] | Sequence[TokenIds] | Sequence[Prompt],
        options: Options | Sequence[Options] | None = None,
        *,
        on_token: TokenCallback | None = None,
        **overrides: Any,
    ) -> list[Completion]: ...

    def generate(
        self,
        prompts: Any,
        options: Any = None,
        *,
        on_token: TokenCallback | None = None,
        **overrides: Any,
    ) -> Completion | list[Completion]:
        """Answers one prompt or many; more than ``max_batch`` of them wait for their turn.

        Args:
            prompts: a text, a chat (list of ``{"role": ..., "content": ...}``) or token ids (list,
                tuple or one-dimensional integer array); or a list of these, which gives a list of
                completions in the same order. Special tokens spelled in a text are plain text.
            options: `RequestOptions` or a dict of its fields; for a list of prompts also a list
                with one for each.
            on_token: called after each step with a `TokenEvent` whose ``request`` is the index of
                the prompt. Returning False cancels that request. If it raises, its request ends,
                the others go on and the exception is raised again at the end; KeyboardInterrupt
                and SystemExit end the call at once.
            **overrides: fields of `RequestOptions`, on top of `options`: ``max_new_tokens`` (256;
                None: up to the limit), ``min_new_tokens``, ``temperature`` (0: greedy), ``top_k``,
                ``top_p``, ``min_p``, ``repetition_penalty``, ``presence_penalty``,
                ``frequency_penalty``, ``logit_bias`` ({id: bias}), ``seed``, ``stop`` (text or
                list of texts; the output ends before the first), ``stop_token_ids``,
                ``ignore_eos``, ``truncate_left``, ``logprobs`` (None; k: also of the k likeliest),
                ``deadline_seconds``.

        Returns:
            A `Completion` or a list of them, with ``text``, ``token_ids``, ``finish_reason``
            ("stop", "length", "cancelled" or "error"), ``logprobs``, ``prompt_tokens`` and
            ``completion_tokens``. A request of a list that failed has its exception in ``error``;
            a single one raises it.

        Raises:
            ArgumentError: a prompt or an option is out of bounds; nothing has been generated.
            ResourceError: a sequence can never fit, with the missing bytes.
            StateError: closed, in a forked child, or called from a callback.
        """
        if not is_batch(prompts):
            one = self._core.generate(
                [self._token_ids(prompts, "prompt")],
                [_make_options(options, overrides, "options")],
                on_token,
            )[0]
            if one.error is not None:
                raise one.error
            return one
        ids = [self._token_ids(p, f"prompts[{i}]") for i, p in enumerate(prompts)]
        return self._core.generate(ids, _spread_options(options, overrides, len(ids)), on_token)

    def stream(self, prompt: Prompt, options: Options | None = None, **overrides: Any) -> Stream:
        """Answers one prompt as an iterator of events, the last of which has a finish reason.

        Several streams and submitted requests may be open at once; each runs whenever any of them
        is asked for its next event. A stream that is closed or dropped cancels its request.
        """
        return self._router.open(
            self._token_ids(prompt, "prompt"), _make_options(options, overrides, "options")
        )

    # --- step by step

    def submit(self, prompt: Prompt, options: Options | None = None, **overrides: Any) -> int:
        """Queues one prompt and returns the number of its request, which its events carry.

        Its token budget N, prompt and ``max_new_tokens`` together, fixes its spans for good.

        Raises:
            ArgumentError, ResourceError, StateError: as `generate`.
            BusyError: ``max_queue`` requests wait already.
        """
        return self._core.submit(
            self._token_ids(prompt, "prompt"), _make_options(options, overrides, "options")
        )

    def step(self) -> list[TokenEvent]:
        """Runs one prefill chunk or one decode step over all requests and says what happened.

        Returns an empty list when there is nothing to do.
        """
        return self._router.step()

    def cancel(self, request: int) -> None:
        """Ends a request before the next step. Unknown and finished ones are ignored."""
        self._core.cancel(request)

    @property
    def has_work(self) -> bool:
        """Whether a request is queued or running, or `step` has events to give."""
        return self._router.has_events or self._core.has_work()

    def open_session(self, token_budget: int) -> Session:
        """Opens a conversation of at most `token_budget` tokens, its N.

        Raises:
            ArgumentError: the budget is out of bounds.
            BusyError, ResourceError: its cache does not fit now, or never.
        """
        return Session(self, self._core.open_session(token_budget), token_budget)

    # --- checking

    def score(
        self, token_ids: TokenIds, *, budget: int | None = None
    ) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """Natural-log probability of each next token, float32 (T - 1).

        Entry i is that of ``token_ids[i + 1]`` given ``token_ids[0..i]``. `budget` is the N that
        fixes the spans, None for T.
        """
        return self._core.score(token_ids, budget)

    def logits(
        self, token_ids: TokenIds, *, budget: int | None = None
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Logits of every position, float32 (T, vocab_size). For checking, not for speed."""
        return self._core.logits(token_ids, budget)

    def trace(
        self,
        token_ids: TokenIds,
        *,
        layers: tuple[int, int] | None = None,
        logit_positions: Sequence[int] = (),
        decode_from: int | None = None,
        budget: int | None = None,
    ) -> Trace:
        """What the layers computed in one pass, through the same kernels and caches as ever.

        Args:
            token_ids: the text.
            layers: [begin, end) of the layers to keep, None for all.
            logit_positions: ascending positions whose logits to keep.
            decode_from: positions from here on run one at a time, as an answer does; all before
                them run in chunks, as a prompt does. None: everything in chunks.
            budget: the N that fixes the spans, None for the number of tokens.
        """
        begin, end = layers if layers is not None else (0, self.config.num_hidden_layers)
        parts = _core.trace(
            self._core, token_ids, begin, end, list(logit_positions), decode_from, budget
        )
        return make_trace(begin, *parts, self.config.num_key_value_heads)

    # --- what it is

    @property
    def memory(self) -> MemoryReport:
        """Bytes: weights, KV caches, scratch."""
        return self._core.memory

    @property
    def stats(self) -> EngineStats:
        """Steps, tokens, seconds and bytes since the engine was opened."""
        return self._core.stats

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises StateError if it has none."""
        return self._core.tokenizer

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self._core.config

    @property
    def plan(self) -> AttentionPlan:
        """The spans in use; a dense plan if none was given."""
        return self._core.plan

    @property
    def options(self) -> EngineOptions:
        """The options in use: no None left and, but for cpu_isa, no "auto"."""
        return self._core.options

    # --- end

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._core.closed

    def close(self) -> None:
        """Cancels what runs and frees everything. Idempotent.

        From a callback or a signal handler it takes effect when the running call returns.
        """
        self._core.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Engine cannot be pickled or copied: it owns threads and memory")

    def __repr__(self) -> str:
        if self.closed:
            return "<moa_rt.Engine closed>"
        options = self.options
        return (
            f"<moa_rt.Engine {self.config.model_type} on {options.device} in {options.dtype}, "
            f"max_batch={options.max_batch}, max_seq_len={options.max_seq_len}>"
        )

    def _token_ids(self, prompt: Prompt, name: str) -> TokenIds:
        try:
            tokenizer: Tokenizer | None = self._core.tokenizer
        except StateError:
            tokenizer = None
        limit = self._core.options.max_seq_len
        assert limit is not None
        return to_token_ids(prompt, tokenizer, limit, name)


def predict_memory(
    model_dir: PathLike,
    plan: AttentionPlan | PathLike | None = None,
    *,
    density: float | None = None,
    **options: Any,
) -> MemoryPrediction:
    """Bytes an `Engine` with these options will need. No weight is read."""
    return _core.predict_memory(
        model_dir, EngineOptions(plan=_resolve_plan(model_dir, plan, density), **options)
    )


def _resolve_plan(
    model_dir: PathLike, plan: AttentionPlan | PathLike | None, density: float | None
) -> AttentionPlan | PathLike | None:
    """Puts the shipped plan in place of "auto"; a file of that name is "./auto"."""
    if isinstance(plan, str) and plan == "auto":
        return plans.find(ModelConfig.load(model_dir), density)
    if density is not None:
        raise ArgumentError('density: is for plan "auto"; AttentionPlan.uniform has one of its own')
    return plan


def _make_options(options: Options | None, overrides: dict[str, Any], name: str) -> RequestOptions:
    if options is None:
        return RequestOptions(**overrides)
    if isinstance(options, Mapping):
        return RequestOptions(**{**options, **overrides})
    if not isinstance(options, RequestOptions):
        raise ArgumentError(f"{name}: got {type(options).__name__}, want RequestOptions or a dict")
    if not overrides:
        return options
    fields = {field: getattr(options, field) for field in RequestOptions.FIELDS}
    return RequestOptions(**{**fields, **overrides})


def _spread_options(options: Any, overrides: dict[str, Any], count: int) -> list[RequestOptions]:
    if not isinstance(options, (list, tuple)):
        return [_make_options(options, overrides, "options")] * count
    if len(options) != count:
        raise ArgumentError(
            f"options: got {len(options)} entries, want one for each of the {count} prompts"
        )
    return [_make_options(o, overrides, f"options[{i}]") for i, o in enumerate(options)]
