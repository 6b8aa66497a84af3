"""How long reading a model's answer takes: the tests' damaged answers, and answers of a megabyte.

    python benchmarks/parse_answers.py

Prints the slowest of the small ones and each large one, in milliseconds of CPU time, best of three: the bound is 50.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/events"))

from answers import large, small

from xmtl_ray.events.json_format import parse


def milliseconds(text):
    """Best of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        state = parse(text).state
        times.append(time.process_time() - started)
    return 1000 * min(times), state


if __name__ == "__main__":
    mutants = small(2000)
    slowest, text = max((milliseconds(mutant)[0], mutant) for mutant in mutants)
    print(f"{slowest:8.2f} ms  slowest of {len(mutants)} small ones, {len(text)} characters")
    for name, answer in large().items():
        took, state = milliseconds(answer)
        print(f"{took:8.2f} ms  {name} ({state})")
