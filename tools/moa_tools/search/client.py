"""The solver's process as seen from ours."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from types import TracebackType
from typing import IO, Any, get_args

import numpy as np
from moa_rt import ArgumentError, InternalError, ResourceError

from moa_tools.search import pipe
from moa_tools.search.problem import Answer, Problem, Status, Task, check

# A solver looks at its clock between steps only; this much later it is given up.
_GRACE_SECONDS = 120.0
# Programs with fewer binaries are solved whole even if layers have a limit.
_SMALL = 1500


class Solver:
    """A child process with a problem; asked for one solve after the other."""

    def __init__(self, problem: Problem, solver: str) -> None:
        self._problem, self._name = problem, solver
        path = os.pathsep.join(p for p in sys.path if p)
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "moa_tools.search.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        try:
            reply = self._ask(
                {
                    "solver": solver,
                    "costs": problem.costs,
                    "use": problem.use,
                    "limits": problem.limits,
                    "layers": problem.layers,
                    "rules_per_layer": problem.rules_per_layer,
                },
                _GRACE_SECONDS,
            )
            if "missing" in reply:
                raise ArgumentError(
                    f"solver {solver}: not available: {str(reply['missing'])[:200]}; run `pip "
                    f"install 'mip{'[highs]' if solver == 'highs' else ''}'`"
                )
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def __enter__(self) -> Solver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child; safe to call twice."""
        self._process.kill()
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                try:
                    end.close()
                except BrokenPipeError:
                    continue
        self._process.wait()

    def solve(self, task: Task, *, by_layers: bool | None = None) -> Answer:
        """One solve; its answer has been checked.

        Args:
            task: what to minimise under which caps.
            by_layers: use column generation by layers if layers have a limit; None decides by size.

        Raises:
            ResourceError: the solver died or does not answer.
            InternalError: the answer breaks a row.
        """
        problem = self._problem
        if by_layers is None:
            by_layers = problem.heads * problem.use.shape[0] > _SMALL
        reply = self._ask(
            {
                "what": "solve",
                "weights": task.weights,
                "caps": task.caps,
                "gap": task.gap,
                "seconds": task.seconds,
                "by_layers": by_layers and problem.rules_per_layer > 0,
            },
            task.seconds + _GRACE_SECONDS,
        )
        status: Status = str(reply["status"])  # type: ignore[assignment]
        if status not in get_args(Status):
            raise InternalError(f"solver: unknown status {status}")
        choice = reply["choice"].astype(np.int64) if "choice" in reply else None
        if choice is not None:
            check(problem, choice, task.caps)
        return Answer(status, choice, float(reply["bound"]))

    def least_factor(self) -> float:
        """See mip_model.least_factor."""
        return float(self._ask({"what": "least_factor"}, 60 + _GRACE_SECONDS)["factor"])

    def _ask(self, message: dict[str, Any], seconds: float) -> pipe.Message:
        stdin, stdout = self._pipes()
        try:
            pipe.send(stdin, message)
            ready, _, _ = select.select([stdout], [], [], seconds)
            reply = pipe.receive(stdout) if ready else None
        except OSError:
            ready, reply = [stdout], None
        if reply is None:
            if not ready:
                self.close()
                raise ResourceError(
                    f"solver {self._name}: no answer {_GRACE_SECONDS:.0f} s after its time limit"
                )
            code = self._process.wait()
            reason = f"signal {-code}" if code < 0 else f"exit status {code}"
            raise ResourceError(
                f"solver {self._name}: its process died ({reason}); nothing written"
            )
        return reply

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None or stdin.closed:
            raise ResourceError(f"solver {self._name}: is closed")
        return stdin, stdout
