"""Answers as iterators, several of which may share one engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType

from moa_rt import _core
from moa_rt._core import RequestOptions, TokenEvent
from moa_rt.prompts import TokenIds


class EventRouter:
    """Hands the events of each step to the streams they belong to, and keeps the others."""

    def __init__(self, core: _core.Engine) -> None:
        self._core = core
        self._lock = threading.RLock()  # re-entrant: a signal handler may close a stream
        self._mailboxes: dict[int, deque[TokenEvent]] = {}
        self._unclaimed: deque[TokenEvent] = deque()
        self._dropped: set[int] = set()  # requests whose last events nobody wants

    @property
    def has_events(self) -> bool:
        """Whether `step` has something to give without working."""
        return bool(self._unclaimed)

    def step(self) -> list[TokenEvent]:
        """One step of the engine; events that belong to no stream."""
        with self._lock:
            self.work()
            events = list(self._unclaimed)
            self._unclaimed.clear()
            return events

    def work(self) -> None:
        """One step of the engine."""
        with self._lock:
            for event in self._core.step():
                self._sort(event)

    def _sort(self, event: TokenEvent) -> None:
        if event.request in self._dropped:
            if event.finish_reason is not None:
                self._dropped.discard(event.request)
        else:
            self._mailboxes.get(event.request, self._unclaimed).append(event)

    def open(self, prompt: TokenIds, options: RequestOptions) -> Stream:
        """Submits a prompt whose events nobody else gets."""
        with self._lock:
            request = self._core.submit(prompt, options)
            self._mailboxes[request] = deque()
        return Stream(self, request)

    def next_event(self, request: int) -> TokenEvent:
        """The next event of a stream, after as many steps as it takes."""
        mailbox = self._mailboxes[request]
        while not mailbox:
            with self._lock:
                if not mailbox:
                    self.work()
        return mailbox.popleft()

    def close(self, request: int, finished: bool) -> None:
        """Forgets a stream; unless it has finished its request is cancelled."""
        if self._mailboxes.pop(request, None) is not None and not finished:
            self._dropped.add(request)
            self._core.cancel(request)


class Stream(Iterator[TokenEvent]):
    """Events of one request, as `Engine.stream` gives them. The last has a finish reason.

    Closing or dropping it before cancels the request.
    """

    def __init__(self, router: EventRouter, request: int) -> None:
        self._router = router
        self._request = request
        self._open = True

    @property
    def request(self) -> int:
        """Number of the request."""
        return self._request

    def __next__(self) -> TokenEvent:
        """The next event. Raises the error of a request that failed."""
        if not self._open:
            raise StopIteration
        event = self._router.next_event(self._request)
        if event.finish_reason is not None:
            self._open = False
            self._router.close(self._request, finished=True)
        if event.error is not None:
            raise event.error
        return event

    def close(self) -> None:
        """Cancels the request if it still runs. Idempotent."""
        if self._open:
            self._open = False
            self._router.close(self._request, finished=False)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        """An iterator that was dropped half way lets its request go."""
        if getattr(self, "_open", False):
            self.close()
