"""VideoLLaMA2 on one GPU: the QLoRA step, the same by transformers' Trainer, answers, towers; all in ten minutes.

    python benchmarks/gpu_videollama2.py --json gpu.json                          # VideoLLaMA2.1; --family videollama2
    python benchmarks/gpu_videollama2.py --budget 300 --sections ceilings,step,plain
    python benchmarks/gpu_videollama2.py --tiny --device cpu                      # does it run? a minute on a CPU

Weights are random, in the released shapes: nothing is fetched. Neither Ray nor DeepSpeed is needed: steps are those of
the project's engine in one process. What is needed is listed first, with its version or as missing; a section that
lacks a package is not run, and says so. On a machine that has only PyTorch and transformers, and that cannot fetch
anything, bring the rest as wheels (54 MB; for the Python that is there, here 3.12):

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp -d wheels \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \\
        bitsandbytes==0.50.2 peft==0.21.2 accelerate==1.15.0 timm==1.0.31 liger-kernel==0.8.5 xgrammar==0.2.8 \\
        apache-tvm-ffi pydantic==2.14.3 pydantic-core==2.50.4 annotated-types typing-inspection typing-extensions \\
        cachetools
    # there:
    python -m pip install --no-index --no-deps --no-compile --target /tmp/site wheels/*.whl
    PYTHONPATH=/tmp/site python benchmarks/gpu_videollama2.py --json gpu.json

Each section runs in a process of its own, so that one that fails, or is ended when its time is up, takes nothing from
the others: what it had measured by then is told. ``--budget`` is shared between the sections; what one leaves is for
the next ones. JSON is written anew after each.

  ceilings    the largest product and the fastest copy, which utilisation is told against
  step        the project's step at paper B's setting: r 128, alpha 256, NF4 with double quantisation, sequences of
              9,300 places with one video of 16 frames, adapters and connector learnt, bf16 autocast, AdamW; batch 1
              and 2, with activations recomputed and kept; and conversations mixed as the paper's, packed into a row
  plain       the same batches by transformers' Trainer, PEFT and bitsandbytes as one sets them up (``gpu_peer``)
  liger       ours with liger's loss; the plain one with liger's kernels
  generation  64 answers of 200 tokens to prompts of 500 words and an image, greedy, with and without the grammar of
              event JSON
  tower       frames a second; images as one frame and, as the original has it, as 16

Steps, seconds and peaks are medians of up to 20 after 2 of warm-up, by CUDA events; two batches in turn. FLOPs are
counted (``gpu_flops``), utilisation is of what the mathematics asks for, without recomputation, over the product that
was measured in the same run. Not enough memory is a result. Losses of the first five steps, without dropout, must
agree between ours and the others (``TOLERANCE``), or the script ends with status 1: only the same work is compared.
A mean length is not in the paper, so its samples a second stand beside ours for the order of magnitude only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = {"ceilings": 60, "step": 110, "plain": 110, "liger": 150, "generation": 110, "tower": 45}
"""Section → its share of the budget."""
_MODEL = ("torch", "transformers", "timm", "bitsandbytes", "peft", "pydantic", "PyYAML", "cachetools", "pyarrow")
NEEDS = {
    "ceilings": _MODEL,
    "step": _MODEL,
    "plain": (*_MODEL, "accelerate"),
    "liger": (*_MODEL, "accelerate", "liger-kernel"),
    "generation": (*_MODEL, "xgrammar", "apache-tvm-ffi"),
    "tower": _MODEL,
}
"""Section → packages."""
LEAST_S = 45
"""A section has no less: much of it is Python's start. With less left it is not begun."""
TOLERANCE = 1e-3, 1e-2
"""Relative difference of losses: with the same weights, and after updates, over which bf16's rounding grows (ours with
torch's and with liger's loss, which begin alike to 1e-7, are 1.4e-3 apart after four)."""
PUBLISHED = {
    "paper B, VideoLLaMA2": "1.57 samples/s (VideoLLaMA2.1 1.69), two A100-40GB, mean length not told",
    "NeMo AutoModel": "14,110 tok/s, LoRA r 16 in bf16 of Qwen2.5-7B, one H100, 2 x 4,096, nothing recomputed",
    "LLaMA-Factory": "QLoRA of Llama-2-7B, r 8, 1,024 places, one A100: HF 2,415 tok/s, unsloth 3,726 tok/s",
    "TensorRT-LLM": "3,538 new tok/s, Llama-3.1-8B FP8, one H200, 2,048 + 128 tokens, many requests in flight",
}
"""Others' figures, theirs and unchecked, none of the same work."""


def versions() -> dict[str, str | None]:
    """Package → its version; None where it is missing."""
    found: dict[str, str | None] = {}
    for name in sorted({name for needed in NEEDS.values() for name in needed} | {"triton", "tokenizers"}):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """Of this working tree; None where git does not know."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(asked, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def child(sections: Sequence[str], arguments: argparse.Namespace, rows: Path, until: float) -> None:
    """Measure ``sections`` in this process, each row a line of the file ``rows``."""
    sys.path.insert(0, str(ROOT))
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch finds no GPU here; --tiny --device cpu shows that everything runs")
    import gpu_clock
    import gpu_sections

    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")

    def report(row: dict[str, Any]) -> None:
        with rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"  {json.dumps(row)[:240]}", flush=True)

    report({"device": gpu_clock.device_facts(device), "clocks_before": gpu_clock.clocks()})
    for number, section in enumerate(sections):
        share = (until - time.time()) / (len(sections) - number)
        bench = gpu_sections.Bench(arguments.family, arguments.tiny, device, report, time.time() + share)
        gpu_sections.SECTIONS[section](bench)
        gpu_clock.release(device)
        report({"done": section})


def run(sections: Sequence[str], arguments: argparse.Namespace, box: float) -> tuple[list[dict[str, Any]], str]:
    """Rows of ``sections``, measured in a process that has ``box`` seconds, and how that ended ("" if well)."""
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = Path(folder) / "rows.jsonl", Path(folder) / "errors.txt"
        until = time.time() + box * 0.9 - 3  # what is begun then may end
        command = [sys.executable, __file__, "--child", f"{rows}:{until}", "--sections", ",".join(sections)]
        command += ["--family", arguments.family, "--device", arguments.device, *["--tiny"] * arguments.tiny]
        with errors.open("w") as log:
            process = subprocess.Popen(command, stdout=sys.stderr, stderr=log)
            try:
                status = process.wait(box)
                ended = "" if status == 0 else f"failed: {_last(errors)}"
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                ended = f"cut after {box:.0f} s"
        sys.stderr.write(errors.read_text(encoding="utf-8", errors="replace"))
        lines = rows.read_text(encoding="utf-8").splitlines() if rows.exists() else []
    return [json.loads(line) for line in lines], ended


def _last(file: Path) -> str:
    """The last error that a log names, or else its last line."""
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return (named or lines or ["nothing was said"])[-1].strip()


def why_not(section: str, found: Mapping[str, str | None], device: str) -> str | None:
    """Why a section cannot run here; None where it can."""
    if missing := [name for name in NEEDS[section] if found[name] is None]:
        return f"not run: {', '.join(missing)} not installed, see --help on wheels"
    if section == "liger" and device == "cpu":
        return "not run: liger's kernels need a GPU"
    return None


def measure(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """All sections, one process each; on a CPU they share one, whose start is most of their time."""
    started = time.time()
    wanted = []
    for section in arguments.sections:
        if (why := why_not(section, results["versions"], arguments.device)) is None:
            wanted.append(section)
        else:
            results["sections"][section] = {"status": why}
    runs = [wanted] * bool(wanted) if arguments.device == "cpu" else [[section] for section in wanted]
    for number, sections in enumerate(runs):
        left = arguments.budget - (time.time() - started)
        weight = sum(WEIGHTS[section] for later in runs[number:] for section in later)
        box = max(LEAST_S, left * sum(WEIGHTS[section] for section in sections) / weight)
        if left < LEAST_S:
            results["sections"] |= {section: {"status": f"not run: {max(0, left):.0f} s left"} for section in sections}
            continue
        began = time.time()
        rows, ended = run(sections, arguments, box)
        done = {row["done"] for row in rows if "done" in row}
        for section in sections:
            status = "done" if section in done else ended
            results["sections"][section] = {"status": status, "box_s": box, "took_s": time.time() - began}
        for row in rows:
            if "device" in row:
                results["device"], results["clocks_before"][sections[0]] = row["device"], row["clocks_before"]
        if not results["device"] and ended.startswith("failed"):  # before anything was measured, as the next one would
            results["sections"] |= {section: {"status": ended} for later in runs[number:] for section in later}
            return
        results["rows"] += [row for row in rows if "section" in row]
        finish(results)
        write(arguments, results)


def finish(results: dict[str, Any]) -> None:
    """Utilisation of each row, and ours beside the others."""
    rows = results["rows"]
    products = [row["rate"] for row in rows if row["section"] == "ceilings" and row["unit"] == "FLOP/s"]
    for row in rows:
        if products and "model_flop" in row and "s" in row:
            row["utilisation"] = row["model_flop"] / row["s"] / products[0]
            if "hardware_flop" in row:
                row["hardware_utilisation"] = row["hardware_flop"] / row["s"] / products[0]
    by_name = {(row["section"], row["name"]): row for row in rows}
    found: dict[str, Any] = {}
    pairs = [(("step", f"ours, batch {n}"), ("plain", f"plain, batch {n}")) for n in (1, 2)]
    pairs += [(("liger", f"ours, batch {n}"), ("liger", f"plain + liger, batch {n}")) for n in (1, 2)]
    pairs += [(("liger", f"ours, batch {n}"), ("step", f"ours, batch {n}")) for n in (1, 2)]
    for one, other in pairs:
        if one in by_name and other in by_name:
            name = f"{one[0]}: {one[1]} / {other[0]}: {other[1]}"
            found[name] = {
                "times_as_fast": _ratio(by_name[one], by_name[other], "rate"),
                "share_of_peak": _ratio(by_name[one], by_name[other], "peak_gib"),
            }
    greedy, held = (by_name.get(("generation", name)) for name in ("greedy", "greedy, event JSON"))
    if greedy and held:
        found["cost of the grammar's mask"] = {"share_of_time": held["s"] / greedy["s"] - 1}
    once, repeated = (by_name.get(("tower", f"images, {name}")) for name in ("one frame each", "repeated"))
    if once and repeated:
        found["images, one frame each / repeated"] = {"times_as_fast": once["rate"] / repeated["rate"]}
    results["comparisons"] = found
    losses = {f"{row['section']}: {row['name']}": row["losses"] for row in rows if "losses" in row}
    if (ours := losses.get("step: first losses")) is not None:
        differences = {
            name: [abs(a - b) / abs(b) for a, b in zip(ours, other, strict=True)] for name, other in losses.items()
        }
        results["relative_loss_differences"] = differences
        first, later = TOLERANCE
        results["losses_agree"] = all(one[0] <= first and max(one[1:]) <= later for one in differences.values())


def _ratio(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> float | None:
    """None where either is not known, e.g. for want of memory."""
    return one[key] / other[key] if one.get(key) and other.get(key) else None


def write(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """To the file that was asked for, if any."""
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


SCALES = (("FLOP/s", 1e12, "TFLOP/s"), ("B/s", 1e12, "TB/s"))


def show(results: dict[str, Any]) -> Iterator[str]:
    """The table, line by line."""
    scale = "tiny shapes, no measurement of anything" if results["tiny"] else "released shapes"
    yield f"{results['family']}, {scale}; {results['device'].get('name', 'no device')}"
    yield f"{'section':10} {'':36} {'s':>9} {'rate':>9} {'':9} {'used':>6} {'peak GiB':>8} {'planned':>7}  more"
    for row in results["rows"]:
        name = f"{row['section']:10} {row['name']:36}"
        if row.get("out_of_memory"):
            yield f"{name} {'out of memory':44} {_cell(row.get('planned_gib'), 7, 1)}"
        if "s" not in row:
            continue
        rate, unit = row.get("rate"), row.get("unit", "")
        for plain, factor, larger in SCALES:
            if unit == plain:
                rate, unit = rate / factor, larger
        cells = [f"{name} {row['s']:9.4f}", f"{_cell(rate, 9, 1)} {unit:9}"]
        used = row.get("utilisation")
        cells += [f"{used:6.1%}" if used is not None else f"{'-':>6}", _cell(row.get("peak_gib"), 8, 1)]
        cells.append(_cell(row.get("planned_gib"), 7, 1))
        more = [f"{row['samples_per_s']:.2f} samples/s"] if "samples_per_s" in row else []
        more += [f"{row['requests_per_s']:.2f} requests/s"] if "requests_per_s" in row else []
        yield " ".join([*cells, " " + ", ".join(more)]).rstrip()
    for name, ratios in results["comparisons"].items():
        told = (f"{key.replace('_', ' ')} {value:.3f}" for key, value in ratios.items() if value is not None)
        yield f"{name}: {', '.join(told) or 'not known'}"
    for name, (first, *later) in results.get("relative_loss_differences", {}).items():
        if name != "step: first losses":
            yield f"losses differ from ours by {first:.1e}, after updates by {max(later):.1e}: {name}"
    for name, how in results["sections"].items():
        if how["status"] != "done":
            yield f"{name}: {how['status']}"
    if not results["tiny"]:
        yield from (f"published: {name}: {told}" for name, told in PUBLISHED.items())


def _cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width},.{digits}f}"


def main(arguments: argparse.Namespace) -> int:
    """Measure, print, and say whether losses agreed and whether anything failed."""
    results: dict[str, Any] = {
        "commit": commit(), "python": sys.version.split()[0], "versions": versions(), "family": arguments.family,
        "tiny": arguments.tiny, "budget_s": arguments.budget, "tolerance": TOLERANCE, "device": {},
        "clocks_before": {}, "sections": {}, "rows": [], "comparisons": {}, "published": PUBLISHED,
    }  # fmt: skip
    known = (f"{name} {version or 'MISSING'}" for name, version in results["versions"].items())
    print(f"python {results['python']}, {', '.join(known)}; commit {results['commit']}", flush=True)
    measure(arguments, results)
    write(arguments, results)
    print("\n".join(show(results)))
    failed = [name for name, how in results["sections"].items() if how["status"].startswith("failed")]
    return int(bool(failed) or not results.get("losses_agree", True))


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--family", choices=("videollama21", "videollama2"), default="videollama21")
    found.add_argument("--budget", type=float, default=540, metavar="S", help="seconds of everything (default: 540)")
    found.add_argument("--sections", type=_sections, default=list(WEIGHTS), help="names, with commas between")
    found.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only with --tiny")
    found.add_argument("--tiny", action="store_true", help="everything with tiny shapes, to see that it runs")
    found.add_argument("--json", type=Path, metavar="FILE", help="write all that was found here")
    found.add_argument("--child", help=argparse.SUPPRESS)
    return found


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in WEIGHTS]:
        raise argparse.ArgumentTypeError(f"found {', '.join(unknown)}, expected some of {', '.join(WEIGHTS)}")
    return names


if __name__ == "__main__":
    asked = parser().parse_args()
    if asked.device == "cpu" and not asked.tiny:
        sys.exit("--device cpu: the released shapes need a GPU; add --tiny")
    if asked.child:
        rows_file, _, end = asked.child.rpartition(":")
        child(asked.sections, asked, Path(rows_file), float(end))
    else:
        sys.exit(main(asked))
