"""Play many seeds, or one again.

    python -m tests.faults.full [--seeds 2000] [--first 1] [--jobs 2]
    python -m tests.faults.full --seed 1234

Prints a line for each seed that failed, and what struck how often; exit code 1 when one failed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from syncworker.cli import logs
from syncworker.store import migrate
from tests.faults.ground import Keys, ShiftedLoop
from tests.faults.play import Failed, Rules, play
