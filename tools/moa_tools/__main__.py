"""The script `moa-tools` and `python -m moa_tools`."""

from __future__ import annotations

import sys

# What the extra [convert] installs.
EXTRA = frozenset({"gguf", "numpy", "rich", "typer"})


def main() -> int:
    """Runs the command line; says what to install where the extra is missing."""
    try:
        from moa_tools.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(
            f"moa-tools: error[E_UNSUPPORTED]: {error.name} is not installed; "
            "the tools come with: pip install 'moa_rt[convert]'",
            file=sys.stderr,
        )
        return 4
    return run()


if __name__ == "__main__":
    sys.exit(main())
