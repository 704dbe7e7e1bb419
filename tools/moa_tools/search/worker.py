"""The solver's own process: `python -m moa_tools.search.worker` between two pipes.

A native solver that runs out of memory or crashes then takes this process with it and no other.
Standard output carries messages (see pipe.py) and nothing else.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from moa_tools.search.pipe import Message, receive, send


def _answer(problem: Any, message: Message, solver: Any) -> dict[str, Any]:
    from moa_tools.search import decompose, mip_model
    from moa_tools.search.problem import Task

    if str(message["what"]) == "least_factor":
        return {"factor": mip_model.least_factor(problem, solver)}
    task = Task(
        message["weights"], message["caps"], float(message["gap"]), float(message["seconds"])
    )
    by_layers = bool(message["by_layers"]) and decompose.can_solve(problem)
    solve = decompose.solve if by_layers else mip_model.solve_plain
    answer = solve(problem, task, solver)
    fields: dict[str, Any] = {"status": answer.status, "bound": answer.bound}
    if answer.choice is not None:
        fields["choice"] = answer.choice
    return fields


def main() -> None:
    """Takes the problem first, then tasks, and ends when the pipe does."""
    output = os.fdopen(os.dup(1), "wb")
    # Solvers print to standard output now and then.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    start = receive(sys.stdin.buffer)
    if start is None:
        return
    try:
        from moa_tools.search import mip_model
        from moa_tools.search.problem import Problem
    except ImportError as error:
        send(output, {"missing": str(error)})
        return
    solver: Any = str(start["solver"])
    problem = Problem(
        start["costs"],
        start["use"],
        start["limits"],
        int(start["layers"]),
        int(start["rules_per_layer"]),
    )
    try:
        mip_model.new_model(solver)
    except mip_model.SolverMissingError as error:
        send(output, {"missing": str(error)})
        return
    send(output, {"ready": True})
    while (message := receive(sys.stdin.buffer)) is not None:
        send(output, _answer(problem, message, solver))


if __name__ == "__main__":
    main()
