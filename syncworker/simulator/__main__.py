"""`python -m syncworker.simulator`: the sandbox bank as a program of its own."""

import sys

from syncworker import private
from syncworker.simulator.process import main

if __name__ == "__main__":
    private.narrow()
    sys.exit(main())
