"""`python -m moa_tools`."""

import sys

from moa_tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
