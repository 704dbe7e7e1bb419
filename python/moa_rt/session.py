"""A conversation: one sequence that outlives its requests."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from moa_rt._core import Completion, RequestOptions, TokenEvent

if TYPE_CHECKING:
    from moa_rt.engine import Engine
    from moa_rt.prompts import Prompt


class Session:
    """A live sequence to which prompts and answers are appended. Made by `Engine.open_session`.

    Its token budget N was fixed when it was opened and with it the span of every head.
    """

    def __init__(self, engine: Engine, session_id: int, token_budget: int) -> None:
        self._engine = engine
        self._id = session_id
        self._token_budget = token_budget
        self._closed = False

    @property
    def id(self) -> int:
        """Number of the session, for `RequestOptions.session`."""
        return self._id

    @property
    def token_budget(self) -> int:
        """N, in tokens: prompts and answers together."""
        return self._token_budget

    @property
    def length(self) -> int:
        """Tokens so far, prompts and answers."""
        return self._engine._core.session_length(self._id)

    def generate(
        self,
        prompt: Prompt,
        options: RequestOptions | dict[str, Any] | None = None,
        *,
        on_token: Callable[[TokenEvent], bool | None] | None = None,
        **overrides: Any,
    ) -> Completion:
        """Appends a prompt and answers it. Options as in `Engine.generate`."""
        return self._engine.generate(
            prompt, options, on_token=on_token, **{**overrides, "session": self._id}
        )

    def rollback(self, count: int) -> None:
        """Takes back the last `count` tokens.

        Raises:
            StateError: a window has already dropped a token that would be needed again. Nothing
                is changed.
        """
        self._engine._core.rollback_session(self._id, count)

    def close(self) -> None:
        """Gives the session's cache back. Idempotent."""
        if not self._closed and not self._engine.closed:
            self._closed = True
            self._engine._core.close_session(self._id)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session(id={self._id}, token_budget={self._token_budget})"
