"""Size against loss of quantized models: this project's and those of Python's `gguf` package, on the same weights,
through the same evaluation.

usage: run.py CHECKPOINT_DIR CALIBRATION_TEXT HELD_OUT_IDS [--bits 4.3,4.5,4.6,5,5.3,6,8.5] [--tokens N] [--work DIR]
Run from the repository after `cargo build --release`, with a Python that has gguf and numpy. Writes
docs/quantization.svg and prints the table of docs/quantization.md. What --work already holds is not made again.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

PROGRAM = "target/release/cinderblock"
PEERS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def once(path, make):
    if not path.exists():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--bits", default="4.3,4.5,4.6,5,5.3,6,8.5")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--work", type=Path, default=Path("target/quantization"))
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    exact = work / "exact.gguf"
    if not exact.exists():
        run(PROGRAM, "quantize", options.checkpoint, "-o", exact, "--type", "bf16")

    def measure(model):
        return json.loads(
            run(PROGRAM, "perplexity", "-m", model, "--reference", exact, "--tokens-file", options.held_out, "--json")
        )["reference"]

    def own(name, *arguments):
        def make():
            model = work / f"{name}.gguf"
            summary = json.loads(run(PROGRAM, "quantize", options.checkpoint, "-o", model, "--json", *arguments))
            return {"bits": summary["bits_per_weight"], "bytes": summary["bytes"], "seconds": summary["seconds"]} | measure(model)

        return once(work / f"{name}.json", make)

    def peer(kind):
        def make():
            folder, model = work / kind, work / f"{kind}.gguf"
            python = [sys.executable, Path(__file__).parent / "peer.py", options.checkpoint, kind, folder]
            done = subprocess.run(python, capture_output=True, text=True)
            if done.returncode:
                return {"refused": done.stderr.strip().splitlines()[-1]}
            run(PROGRAM, "quantize", folder, "-o", model, "--type", "f32")
            return {"bits": float(done.stdout), "bytes": None} | measure(model)

        return once(work / f"{kind}.json", make)

    calibrate = ["--calibrate", options.calibration, "--calibration-tokens", options.tokens]
    rows = [(f"`--bits {bits}`", own(f"bits{bits}", "--bits", bits, *calibrate)) for bits in options.bits.split(",")]
    rows.append(("q4 without text, all matrices", own("plain", "--tensor-type", "*=q4")))
    rows.append(("`--type q4` without text", own("q4", "--type", "q4")))
    rows.append(("`--type q8` without text", own("q8", "--type", "q8")))
    rows += [(f"gguf {kind}", peer(kind)) for kind in PEERS]
    print("| | bits a weight | file | perplexity | mean KL | p99 KL | top-1 |\n|---|---|---|---|---|---|---|")
    for name, row in rows:
        if "refused" in row:
            print(f"| {name} | {row['refused']} |", file=sys.stderr)
            continue
        size = f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else ""
        ratio, error = 100 * (row["perplexity_ratio"] - 1), 100 * row["perplexity_ratio_standard_error"]
        print(
            f"| {name} | {row['bits']:.3f} | {size} | {ratio:+.3f} ± {error:.3f} % | {row['kl_mean']:.5f} "
            f"| {row['kl_p99']:.4f} | {100 * row['top1_agreement']:.1f} % |"
        )
    Path("docs/quantization.svg").write_text(plot([(name, row) for name, row in rows if "refused" not in row]))


def plot(rows):
    """Mean divergence over bits a weight; the divergence is logarithmic."""
    width, height, left, top = 640, 360, 70, 20
    low, high = -4.5, -1.5
    x = lambda bits: left + (bits - 4) / 5.5 * (width - left - 20)
    y = lambda kl: top + (high - math.log10(kl)) / (high - low) * (height - top - 50)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for bits in range(4, 10):
        out.append(f'<text x="{x(bits):.0f}" y="{height - 30}" text-anchor="middle">{bits}</text>')
        out.append(f'<path d="M{x(bits):.0f} {top}V{height - 50}" stroke="#ddd"/>')
    for kl in (1e-4, 1e-3, 1e-2):
        out.append(f'<text x="{left - 8}" y="{y(kl) + 4:.0f}" text-anchor="end">{kl:g}</text>')
        out.append(f'<path d="M{left} {y(kl):.0f}H{width - 20}" stroke="#ddd"/>')
    out.append(f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">bits a weight, all tensors</text>')
    out.append(f'<text transform="translate(16 {height / 2}) rotate(-90)" text-anchor="middle">mean KL to bf16</text>')
    kinds = [("--bits", "#1b6ca8", "calibrated"), ("without", "#4f772d", "without text"), ("gguf", "#c8553d", "gguf package")]
    for at, (part, color, label) in enumerate(kinds):
        points = [(row["bits"], row["kl_mean"], name) for name, row in rows if part in name]
        if part == "--bits":
            line = " ".join(f"{x(bits):.1f},{y(kl):.1f}" for bits, kl, _ in points)
            out.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        for bits, kl, name in points:
            out.append(f'<circle cx="{x(bits):.1f}" cy="{y(kl):.1f}" r="4" fill="{color}"><title>{name.replace("`", "")}</title></circle>')
            if part == "gguf":
                out.append(f'<text x="{x(bits) + 7:.0f}" y="{y(kl) + 4:.0f}">{name.removeprefix("gguf ")}</text>')
        out.append(f'<circle cx="{width - 150}" cy="{top + 12 + 18 * at}" r="4" fill="{color}"/>')
        out.append(f'<text x="{width - 140}" y="{top + 16 + 18 * at}">{label}</text>')
    return "\n".join(out + ["</svg>\n"])


main()
