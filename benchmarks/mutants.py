"""How broken input is handled: mutants read, refused with a DataError, or neither, per source.

``python benchmarks/mutants.py [SEED]``; the mutators are those of the tests.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))

from mutants import targets, tried


def main(seed: int) -> int:
    """Print the table; the number of mutants that were neither read nor refused."""
    failures = []
    print(f"{'source':20} {'handled':>8} {'tried':>6} {'read':>6} {'refused':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, target) in enumerate(targets().items()):
            score = tried(Path(folder) / str(number), target, seed)
            print(f"{name:20} {score.read + score.refused:8} {score.tried:6} {score.read:6} {score.refused:8}")
            failures += score.failures
    print("\n".join(failures))
    return len(failures)


if __name__ == "__main__":
    sys.exit(min(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0), 1))
