"""How broken input is handled: mutants read, refused with a DataError, or neither, per source.

``python benchmarks/mutants.py [SEED] [--json]``; the mutators are those of the tests. The memory is what this process,
which does nothing else, came to hold at most beyond what it began with.
"""

import json
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))

from mutants import targets, tried


def main(seed: int, as_json: bool) -> int:
    """Print the table; the number of mutants that were neither read nor refused."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: tried(Path(folder) / str(number), target, seed)
            for number, (name, target) in enumerate(targets().items())
        }
    memory_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    failures = [failure for score in found.values() for failure in score.failures]
    if as_json:
        print(json.dumps({"scores": {name: vars(score) for name, score in found.items()}, "memory_mib": memory_mib}))
        return len(failures)
    print(f"{'source':20} {'handled':>8} {'tried':>6} {'read':>6} {'refused':>8}")
    for name, score in found.items():
        print(f"{name:20} {score.read + score.refused:8} {score.tried:6} {score.read:6} {score.refused:8}")
    print("\n".join([*failures, f"memory: {memory_mib:.0f} MiB more at most"]))
    return len(failures)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    sys.exit(min(main(int(arguments[0]) if arguments else 0, "--json" in sys.argv), 1))
