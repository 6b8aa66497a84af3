"""How fast large files are read and how much memory that takes: ``python benchmarks/reading.py [RECORDS]``.

Files of 10 000 and 100 000 records (or RECORDS and a tenth of it) are written to a temporary folder and read in
processes of their own. ``records/s`` is of ``stream``, ``of json.load`` its share of the speed with which plain
``json.load`` parses the same files, without any check. Peak memory is that of the whole process, the interpreter and
its imports included; ``json.load`` keeps the file's values, ``stream`` one record.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xmtl_ray.data import ace05, imsitu, label_studio, videollama2, voa

WORDS = ["Police", "detained", "two", "brothers", "in", "Velmora", "on", "Friday", "after", "the", "attack", "."]


def write_imsitu(folder: Path, count: int) -> list[Path]:
    """Annotations and boxes, in the same order."""
    frame = {"agent": "n10448983", "victim": "n10287213", "place": "n04215402"}
    box = {"agent": [40, 22, 210, 330], "victim": [205, 60, 371, 333], "place": [-1, -1, -1, -1]}
    return [
        _write(
            folder / "train.json", ((f"d_{n}.jpg", {"verb": "detaining", "frames": [frame] * 3}) for n in range(count))
        ),
        _write(
            folder / "swig.json",
            (
                (f"d_{n}.jpg", {"verb": "detaining", "height": 341, "width": 512, "bb": box, "frames": [frame] * 3})
                for n in range(count)
            ),
        ),
    ]


def write_voa(folder: Path, count: int) -> list[Path]:
    """Two captions per document; every tenth lacks its words, every eleventh its detections."""
    draw = random.Random(0)
    mention = {"text": "Velmora", "entity-type": "CITY", "start": 5, "end": 6}
    detected = [[[12.5, 30.1, 220.0, 470.9], 0.93, "person"] for _ in range(4)]
    names = [f"VOA_EN_NW_2016.01.02.{n // 2:07}_{n % 2}" for n in range(count)]
    captions = {"url": "https://example.org/a/first.jpg", "cap": "FILE - Police lead a man away in Velmora."}
    documents = ((f"VOA_EN_NW_2016.01.02.{n:07}", {"0": captions, "1": captions}) for n in range(count // 2))
    words = ((n, {"words": WORDS, "golden-entity-mentions": [mention]}) for n in names if draw.random() > 0.1)
    objects = ((f"{n}.jpg", detected) for n in names if draw.random() > 0.09)
    return [
        _write(folder / "img_dataset.json", documents),
        _write(folder / "text_entity.json", words),
        _write(folder / "image_entity.json", objects),
    ]


def write_list(folder: Path, count: int, row: dict[str, object]) -> list[Path]:
    """``count`` times the same record with its own id."""
    path = folder / "list.json"
    with path.open("w") as file:
        file.write("[" + ",\n".join(json.dumps({**row, "id": n}) for n in range(count)) + "]")
    return [path]


def _write(path: Path, members: Iterator[tuple[str, object]]) -> Path:
    with path.open("w") as file:
        for number, (key, value) in enumerate(members):
            file.write(("{" if not number else ",\n") + f"{json.dumps(key)}: {json.dumps(value)}")
        file.write("}")
    return path


JMEE = {
    "words": WORDS,
    "golden-entity-mentions": [{"entity-type": "ORG", "start": 0, "end": 1, "text": "Police"}],
    "golden-event-mentions": [
        {
            "event_type": "Justice:Arrest-Jail",
            "trigger": {"start": 1, "end": 2, "text": "detained"},
            "arguments": [{"role": "Agent", "start": 0, "end": 1}],
        }
    ],
}
CHAT = {
    "conversations": [{"from": "human", "value": "Extract all events."}, {"from": "gpt", "value": '{"events": []}'}]
}
SPAN = {"id": "T", "type": "labels", "value": {"start": 0, "end": 6, "text": "Police", "labels": ["launch"]}}
TASK = {"data": {"text": " ".join(WORDS)}, "annotations": [{"result": [SPAN]}]}

SOURCES: dict[str, tuple[Callable[[Path, int], list[Path]], Callable[[list[Path]], Iterator[object]]]] = {
    "imSitu and SWiG": (write_imsitu, lambda files: imsitu.stream(*files, files[0].parent / "images")),
    "VOA": (write_voa, lambda files: voa.stream(*files, files[0].parent / "image")),
    "ACE, JMEE": (lambda folder, count: write_list(folder, count, JMEE), lambda files: ace05.stream(files[0])),
    "VideoLLaMA2": (lambda folder, count: write_list(folder, count, CHAT), lambda files: videollama2.stream(files[0])),
    "Label Studio": (
        lambda folder, count: write_list(folder, count, TASK),
        lambda files: label_studio.stream(files[0]),
    ),
}


def measure(name: str, how: str, files: list[Path]) -> None:
    """In a process of its own: print records, seconds and peak MiB."""
    start, count = time.perf_counter(), 0
    if how == "stream":
        for _ in SOURCES[name][1](files):
            count += 1
    else:
        values = [json.loads(path.read_text()) for path in files]
        count = len(values[0])
    seconds = time.perf_counter() - start
    # Not ru_maxrss, which a process inherits from the one that started it.
    (peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    print(count, seconds, int(peak) / 1024)


def main(records: int) -> None:
    """Print the table."""
    print(f"{'source':16} {'records/s':>9} {'of json.load':>12}   peak MiB: stream, json.load")
    for name, (write, _) in SOURCES.items():
        rates, peaks = {}, []
        for count in (records // 10, records):
            with tempfile.TemporaryDirectory() as folder:
                files = write(Path(folder), count)
                for how in ("stream", "load"):
                    command = [sys.executable, __file__, "--measure", name, how, *map(str, files)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    read, seconds, peak = map(float, done.stdout.split())
                    rates[how] = (read / seconds, seconds)
                    peaks.append(f"{count:7} {how:6} {peak:5.0f}")
        share = rates["load"][1] / rates["stream"][1]
        print(f"{name:16} {rates['stream'][0]:9.0f} {share:12.2f}   {', '.join(peaks)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], sys.argv[3], [Path(name) for name in sys.argv[4:]])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
