"""What it costs to score a prediction file of M2E2's size under all protocols, as a user's process does.

    python benchmarks/scoring.py

Invented documents with as many rows, events, boxes and pairs as the whole benchmark, and with the tags and parses that
its files carry and nobody scores. Times are given as ratios to loading the same files with ``json.load``.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xmtl_ray.data import m2e2
from xmtl_ray.evaluation.baselines import BASELINES
from xmtl_ray.evaluation.m2e2 import score_by_document
from xmtl_ray.evaluation.protocols import SIDE_BY_SIDE
from xmtl_ray.evaluation.significance import differences, intervals
from xmtl_ray.events import predictions
from xmtl_ray.events.ontology import m2e2 as schema

DOCUMENTS, SENTENCES, EVENTS, IMAGES = 234, 6205, 1297, 391


def invent(folder: Path) -> None:
    """Writes the five files."""
    rng = random.Random(0)
    types = schema().roles_of
    rows: list[list[dict]] = [[], []]
    images: list[dict] = [{}, {}]
    pairs = []
    for index in range(SENTENCES):
        document = f"DOC_{index % DOCUMENTS}"
        words = [f"word{rng.randrange(5000)}" for _ in range(max(6, int(rng.gauss(28, 10))))]
        events = []
        if index < EVENTS:
            kind = rng.choice(list(types))
            place = rng.randrange(len(words) - 1)
            roles = [(rng.choice(types[kind]), rng.randrange(len(words) - 1)) for _ in range(rng.choice([1, 1, 2]))]
            events = [
                {
                    "event_type": kind,
                    "trigger": {"start": place, "end": place + 1, "text": words[place]},
                    "arguments": [
                        {"role": role, "start": at, "end": at + 1, "text": words[at], "entity-type": "PER"}
                        for role, at in roles
                    ],
                }
            ]
        rows[index < 192].append(
            {
                "sentence_id": f"{document}_{index}",
                "sentence": " ".join(words)[:-1],
                "words": words,
                "pos-tags": ["NN" for _ in words],
                "lemma": words,
                "combined-parsing": [f"nmod:of/dep={i}/gov={i // 2}" for i in range(len(words))],
                "golden-entity-mentions": [
                    {"entity-type": "PER", "start": a["start"], "end": a["end"], "text": a["text"]}
                    for event in events
                    for a in event["arguments"]
                ],
                "golden-event-mentions": events,
                "image": [f"{document}_0.jpg"],
            }
        )
    for index in range(IMAGES):
        kind = rng.choice(list(types))
        boxes: dict[str, list] = {}
        for _ in range(rng.choice([2, 3, 4, 5])):
            x, y = rng.randrange(500), rng.randrange(300)
            box = ["1", x, y, x + rng.randrange(20, 300), y + rng.randrange(20, 300)]
            boxes.setdefault(rng.choice(types[kind]), []).append(box)
        name = f"DOC_{index % DOCUMENTS}_{index // DOCUMENTS}"
        images[index < 203][name] = {"event_type": kind, "role": boxes}
        if index < 203:
            told = rows[1][index % len(rows[1])]["sentence_id"]
            if told.rpartition("_")[0] == name.rpartition("_")[0]:
                pairs.append(f"{told}\t{name}.jpg\t{kind}")
    for kind, own, shown in zip(("only", "multimedia"), rows, images, strict=True):
        (folder / f"text_{kind}_event.json").write_text(json.dumps(own))
        (folder / f"image_{kind}_event.json").write_text(json.dumps(shown))
    (folder / "crossmedia_coref.txt").write_text("\n".join(pairs) + "\n")


def best(action, times: int = 5) -> float:
    """Shortest of some wall times, in seconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        invent(folder)
        files = sorted(folder.glob("*.json"))
        size = sum(file.stat().st_size for file in files) / 2**20
        documents = m2e2.read(folder)
        found = BASELINES["gold-all-pairs"](documents)
        predictions.write(folder / "pred.json", found)
        load = best(lambda: [json.loads(file.read_text()) for file in files])
        scores = {name: score_by_document(documents, found, name) for name in SIDE_BY_SIDE}
        other = score_by_document(documents, BASELINES["gold-same-type"](documents), "strict")
        rows = [
            ("json.load of the gold", load),
            ("read gold", best(lambda: m2e2.read(folder))),
            ("read predictions", best(lambda: predictions.read(folder / "pred.json"))),
            *((f"score, {name}", best(lambda n=name: score_by_document(documents, found, n))) for name in scores),
            ("intervals of one protocol", best(lambda: intervals(scores["strict"]), 2)),
            ("paired test of one protocol", best(lambda: differences(scores["strict"], other), 2)),
        ]
        command = [sys.executable, "-m", "xmtl_ray", "evaluate", "m2e2", "--gold", str(folder)]
        command += ["--pred", str(folder / "pred.json"), "--json"]
        rows.append(
            (
                "the whole process, all protocols",
                best(lambda: subprocess.run(command, check=True, capture_output=True), 3),
            )
        )
        print(f"{SENTENCES} rows, {IMAGES} images, {size:.1f} MiB of gold")
        for name, seconds in rows:
            print(f"{name:36} {1000 * seconds:8.1f} ms {seconds / load:6.2f} x json.load")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"the process: {(used.ru_utime + used.ru_stime) / 3:.2f} CPU seconds, peak {used.ru_maxrss / 1024:.0f} MiB"
        )


if __name__ == "__main__":
    main()
