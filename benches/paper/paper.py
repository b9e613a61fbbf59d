#!/usr/bin/env python3
"""Measures Block Transformers against vanilla models in the same program; see README.md."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARK = "<!-- Below: benches/paper/run.sh -->"
BLOCK = {"5": "block_main_b4_5", "19": "block_main_b4_19", "85": "block_main_b4_85", "300": "block_main_b4_300",
         "800": "block_main_b4_800", "1.2b": "block_main_b4_1.2b"}
QUALITY = ["85:70", "300:160", "800:410", "1.2b:410"]
SIZE = ["5:31", "19:70", "85:160", "300:410"]
# The ratios of the paper on an H100 where they are known, and its claim for other models of equal quality.
PAPER = {("1.2b:410", "prefill-heavy"): "15.5 x", ("1.2b:410", "decode-heavy"): "12.2 x"}
CLAIM = "10 to 20 x"
LENGTHS = {"prefill-heavy": (2048, 128), "decode-heavy": (128, 2048)}
PARTS = [("block_decoder", "products"), ("block_decoder", "attention"), ("block_decoder", "norms"),
         ("block_decoder", "rest"), ("token_decoder", "products"), ("token_decoder", "attention"),
         ("token_decoder", "norms"), ("token_decoder", "head"), ("token_decoder", "rest")]


def preset(size, block):
    return BLOCK[size] if block else f"vanilla_{size}"


def models(pairs):
    """The models of pairs, each once, in the order of turns."""
    names = [preset(size, i == 0) for pair in pairs for i, size in enumerate(pair.split(":"))]
    return list(dict.fromkeys(names))


def call(args, *command):
    done = subprocess.run([args.program, *map(str, command)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"paper.py: exit status {done.returncode} from: {' '.join(map(str, command))}")
    return json.loads(done.stdout)


def path(args, name):
    file = args.models / f"{name}.q4.gguf"
    if not file.exists():
        part = args.models / f"{name}.part"
        subprocess.run([args.program, "synthesize", "--preset", name, "--type", "q4", "--tensor-type", "*=q4", "-o",
                        part], check=True)
        part.rename(file)
    return file


def memory(args, name, tokens):
    """Bytes of no sequence and of one more, each with a cache for `tokens` tokens."""
    blocks = tokens if name.startswith("vanilla") else tokens // 4
    def total(batch):
        found = call(args, "inspect", "-m", path(args, name), "--json", "--batch", batch, "--cache-blocks", blocks)
        return found["memory"]["total"] if "total" in found["memory"] else sum(
            found["memory"][part] for part in ("weights", "cache", "scratch"))
    # Below 128 columns the buffers that sequences share do not grow.
    few, many = total(128), total(256)
    return few - 128 * (many - few) / 128, (many - few) / 128


def available():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 40


def measure(args, name):
    """One turn of a model: the rows of bench."""
    rows = []
    bench = ["bench", "-m", path(args, name), "--json", "--profile", "--speculate", 0, "--repeats", args.repeats,
             "--decode", args.decode]
    rows += call(args, *bench, "--prefill", ",".join(map(str, args.prefill)), "--context=")
    for context in args.contexts:
        fixed, one = memory(args, name, context + 64)
        most = 32 if args.quick and context > 128 else 1 << 30
        batches = [b for b in args.batches if b <= most and fixed + (b + 2) * one < 0.8 * available()]
        rows += call(args, *bench, "--prefill=", "--context", context, "--batch", ",".join(map(str, batches)))
    return rows


def run(args, pairs):
    measured = {name: [] for name in models(pairs)}
    quiet = []
    for turn in range(args.turns):
        for name in measured:
            started = time.monotonic()
            measured[name].append(measure(args, name))
            quiet.append(os.getloadavg()[0])
            print(f"turn {turn + 1}: {name} {time.monotonic() - started:.0f} s", file=sys.stderr)
    cpu = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), "unknown")
    estimates = {name: memory(args, name, 2176) for name in measured}
    sequence = {name: {tokens: memory(args, name, tokens)[1] for tokens in (2176, 8192)} for name in measured}
    return {"cpu": cpu, "load": statistics.median(quiet), "pairs": pairs, "quick": args.quick, "decode": args.decode,
            "turns": args.turns, "measured": measured, "estimates": estimates, "sequence": sequence,
            "sizes": {name: path(args, name).stat().st_size for name in measured}}


class Model:
    """The faster turn of every figure of a model."""

    def __init__(self, name, turns, estimate):
        self.name, self.fixed, self.one = name, *estimate
        self.rows = {}
        for row in (row for turn in turns for row in turn):
            key = (row["phase"], row["batch"], row["tokens"] if row["phase"] == "prefill" else row["context"])
            if key not in self.rows or row["seconds"] < self.rows[key]["seconds"]:
                self.rows[key] = row
        self.contexts = sorted({key[2] for key in self.rows if key[0] == "decode"})

    def batches(self, context):
        return sorted(key[1] for key in self.rows if key[0] == "decode" and key[2] == context)

    def step(self, batch, context):
        """Seconds of one token of each of `batch` sequences, interpolated."""
        def at(context):
            points = [(b, self.rows["decode", b, context]) for b in self.batches(context)]
            return line([(b, row["seconds"] / row["tokens"]) for b, row in points], batch)
        wide = [c for c in self.contexts if len(self.batches(c)) > 1] if batch > 8 else self.contexts
        return line([(c, at(c)) for c in wide if c <= 2048 or batch <= 8], context)

    def prefill(self, tokens):
        """Seconds of a prompt; every prompt is a pass of its own."""
        points = [(key[2], row["seconds"]) for key, row in sorted(self.rows.items()) if key[0] == "prefill"]
        return line([(0, 0.0), *points], tokens)

    def throughput(self, batch, lengths):
        """Generated tokens a second, prompts included."""
        given, generated = lengths
        contexts = [given + generated * (i + 0.5) / 16 for i in range(16)]
        decode = statistics.mean(self.step(batch, context) for context in contexts) * generated
        return batch * generated / (batch * self.prefill(given) + decode)

    def largest(self, budget):
        return max(0, int((budget - self.fixed) / self.one))


def line(points, x):
    """Piecewise linear through points, continued at both ends."""
    if len(points) == 1:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x <= x1 or (x1, y1) == points[-1]:
            return max(y0 + (y1 - y0) * (x - x0) / (x1 - x0), 1e-9)


class Machine:
    def __init__(self, report):
        rows = [row for turns in report["measured"].values() for turn in turns for row in turn]
        self.read = statistics.median(row["memory_gb_s"] for row in rows) * 1e9
        self.multiply = statistics.median(row["multiply_adds_s"] for row in rows)

    def limit(self, row):
        """The roof over a measurement, and the share of it that was reached."""
        floors = {"weights read": row["weight_bytes"] / self.read, "cache read": row["cache_bytes"] / self.read,
                  "multiply-adds": row["multiply_adds"] / self.multiply}
        memory = floors["weights read"] + floors["cache read"]
        if floors["multiply-adds"] >= memory:
            return "multiply-adds", floors["multiply-adds"] / row["seconds"]
        name = max(("weights read", "cache read"), key=floors.get)
        return name, memory / row["seconds"]


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(a, b):
    return f"{a / b:.2f} x"


def limits(machine, model, batch, lengths):
    """What limits most of the time of a row."""
    given, generated = lengths
    prompts = batch * model.prefill(given)
    total = batch * generated / model.throughput(batch, lengths)
    if prompts > total / 2:
        rows = [row for key, row in model.rows.items() if key[0] == "prefill"]
        near = min(rows, key=lambda row: abs(row["tokens"] - given))
        phase = "prompts"
    else:
        middle = given + generated / 2
        rows = [row for key, row in model.rows.items() if key[0] == "decode"]
        near = min(rows, key=lambda row: (abs(row["context"] - middle), abs(row["batch"] - batch)))
        phase = "decoding"
    name, share = machine.limit(near)
    return f"{phase}: {name}, {share:.0%}"


def pair_models(report, pair):
    names = [preset(size, i == 0) for i, size in enumerate(pair.split(":"))]
    found = report["measured"]
    if any(name not in found for name in names):
        return None
    return [Model(name, found[name], report["estimates"][name]) for name in names]


def budgets(report, machine, pairs):
    rows = []
    for pair in pairs:
        both = pair_models(report, pair)
        if not both:
            continue
        for kind, lengths in LENGTHS.items():
            paper = PAPER.get((pair, kind), CLAIM if pair in QUALITY else "")
            for budget in (1, 2, 4, 8):
                batches = [model.largest(budget * 1e9) for model in both]
                rate = [model.throughput(batch, lengths) if batch else None for model, batch in zip(both, batches)]
                rows.append([pair, kind, f"{budget} GB", *batches, *(number(r) if r else "-" for r in rate),
                             ratio(*rate) if all(rate) else "-", paper,
                             *(limits(machine, model, batch, lengths) if batch else "does not fit"
                               for model, batch in zip(both, batches))])
    head = ["pair", "row", "budget", "batch, block", "batch, vanilla", "tok/s, block", "tok/s, vanilla", "ratio",
            "paper's ratio", "limit, block", "limit, vanilla"]
    return table(head, rows)


def grid(report, machine, pairs):
    rows = []
    for pair in pairs:
        both = pair_models(report, pair)
        if not both:
            continue
        keys = [key for key in both[0].rows if key in both[1].rows]
        for key in sorted(keys, key=lambda key: (key[0] != "prefill", key[2], key[1])):
            phase, batch, length = key
            row = [model.rows[key] for model in both]
            marks = [machine.limit(r) for r in row]
            rows.append([pair, f"{phase} {length}", batch, *(number(r["tok_s"]) for r in row),
                         ratio(*(r["tok_s"] for r in row)), *(f"{name}, {share:.0%}" for name, share in marks)])
    head = ["pair", "phase and context", "batch", "tok/s, block", "tok/s, vanilla", "ratio", "limit, block",
            "limit, vanilla"]
    return table(head, rows)


def parts(report):
    rows = []
    for name, turns in report["measured"].items():
        model = Model(name, turns, report["estimates"][name])
        for key in (("prefill", 1, 2048), ("decode", 1, 128), ("decode", 32, 128), ("decode", 32, 2048)):
            row = model.rows.get(key)
            if not row:
                continue
            profile = row["profile"]
            seconds = [profile[decoder][part] for decoder, part in PARTS] + [profile["choice"]]
            total = sum(seconds)
            each = 1e3 * row["seconds"] / row["tokens"]
            rows.append([name, f"{key[0]} {key[2]}", key[1], number(each), *(f"{s / total:.0%}" for s in seconds)])
    head = ["model", "phase and context", "batch", "ms a token step", "block products", "attention", "norms",
            "rest", "token products", "attention", "norms", "head", "rest", "choice of tokens"]
    return table(head, rows)


def memory_table(report):
    rows = []
    for name, by_length in report["sequence"].items():
        mb = {int(tokens): bytes / 1e6 for tokens, bytes in by_length.items()}
        rows.append([name, number(report["sizes"][name] / 1e6), number(mb[2176]), number(mb[8192])])
    return table(["model", "file, MB", "a sequence of 2176 tokens, MB", "of 8192, MB"], rows)


def svg(title, panels):
    """Lines in panels: [(x name, [(name, points)])]; x is drawn by its order."""
    colors = ["#1b6ca8", "#c8553d", "#4f772d", "#7b2d8e", "#b08900", "#444444", "#2a9d8f", "#9d0208"]
    width, height, left, top = 420, 300, 60, 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{len(panels) * (left + width + 20)}" '
           f'height="{top + height + 45}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>']
    for index, (x_name, lines) in enumerate(panels):
        x0 = index * (left + width + 20) + left
        xs = sorted({x for _, points in lines for x, _ in points})
        most = max((y for _, points in lines for _, y in points), default=1) * 1.15
        place = {x: x0 + (i + 0.5) * width / len(xs) for i, x in enumerate(xs)}
        out.append(f'<path d="M{x0},{top}V{top + height}H{x0 + width}" fill="none" stroke="black"/>')
        out.append(f'<text x="{x0}" y="14">{title}</text>')
        out.append(f'<text x="{x0 + width / 2}" y="{top + height + 38}" text-anchor="middle">{x_name}</text>')
        for x in xs:
            out.append(f'<text x="{place[x]:.0f}" y="{top + height + 18}" text-anchor="middle">{x}</text>')
        for tick in range(1, 5):
            y = top + height - tick / 4.6 * height
            out.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end">{number(most * tick / 4.6)}</text>')
        for i, (name, points) in enumerate(lines):
            color = colors[i % len(colors)]
            at = [(place[x], top + height - y / most * height) for x, y in points]
            out.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in at)}" fill="none" '
                       f'stroke="{color}" stroke-width="2"/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in at]
            out.append(f'<text x="{x0 + 12}" y="{top + 14 * (i + 1)}" fill="{color}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])


def drawings(report, pairs):
    """Ratios against batch by context, and rates of the best-known pair."""
    by_context, by_budget = {}, {kind: [] for kind in LENGTHS}
    for pair in pairs:
        both = pair_models(report, pair)
        if not both:
            continue
        for context in both[0].contexts:
            common = [b for b in both[0].batches(context) if b in both[1].batches(context)]
            points = [(b, both[0].rows["decode", b, context]["tok_s"] / both[1].rows["decode", b, context]["tok_s"])
                      for b in common]
            by_context.setdefault(context, []).append((pair, points))
        for kind, lengths in LENGTHS.items():
            points = []
            for budget in (1, 2, 4, 8):
                batches = [model.largest(budget * 1e9) for model in both]
                if all(batches):
                    rate = [model.throughput(batch, lengths) for model, batch in zip(both, batches)]
                    points.append((budget, rate[0] / rate[1]))
            by_budget[kind].append((pair, points))
    decode = [(f"batch, {context} tokens of context", lines) for context, lines in sorted(by_context.items())]
    budget = [(f"GB of memory, {kind}", lines) for kind, lines in by_budget.items()]
    return svg("decode: block / vanilla, tokens a second", decode), svg("block / vanilla, tokens a second", budget)


def write(report, folder):
    machine = Machine(report)
    pairs = report["pairs"]
    quality, size = [p for p in pairs if p in QUALITY], [p for p in pairs if p in SIZE]
    mode = " with `--quick`" if report["quick"] else ""
    text = [MARK, "", "## The run", "",
            f"{report['cpu']}, {len(os.sched_getaffinity(0))} threads, {report['turns']} turns{mode}, load average "
            f"{report['load']:.1f}.", f"Roofline: {machine.read / 1e9:.1f} GB/s of memory reads, "
            f"{machine.multiply / 1e9:.0f} G int8 multiply-adds a second of the q4 kernel from the caches.", "",
            "## Equal quality, largest batch in a memory budget", "", *budgets(report, machine, quality),
            "## Equal size, largest batch in a memory budget", "", *budgets(report, machine, size),
            "## Equal quality, by batch and context", "", *grid(report, machine, quality),
            "## Equal size, by batch and context", "", *grid(report, machine, size),
            "## Time by part", "", *parts(report), "## Memory", "", *memory_table(report)]
    document = folder / "paper.md"
    before = document.read_text().split(MARK)[0] if document.exists() else "# The paper's tables\n\n"
    document.write_text(before + "\n".join(text).rstrip() + "\n")
    decode, budget = drawings(report, quality)
    (folder / "paper-decode.svg").write_text(decode)
    (folder / "paper-budget.svg").write_text(budget)


def numbers(text):
    return [int(item) for item in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", help="the program cinderblock")
    parser.add_argument("--models", type=pathlib.Path, help="folder of the models, which are made where missing")
    parser.add_argument("--quick", action="store_true", help="fewer points, in about 10 minutes")
    parser.add_argument("--pairs", default=",".join(QUALITY + SIZE), help="block:vanilla, separated by commas")
    parser.add_argument("--turns", type=int, help="turns of every model (3; quick: 2)")
    parser.add_argument("--batches", type=numbers, help="(1,8,32,128)")
    parser.add_argument("--contexts", type=numbers, help="(128,512,1024,2048,4096,8192; quick: 128,2048)")
    parser.add_argument("--prefill", type=numbers, help="(128,512,2048,8192; quick: 128,2048)")
    parser.add_argument("--json", type=pathlib.Path, help="write everything measured there")
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="write the tables of such a file")
    parser.add_argument("--docs", type=pathlib.Path, default=ROOT / "docs", help="folder of paper.md and its plots")
    args = parser.parse_args()
    if args.source:
        return write(json.loads(args.source.read_text()), args.docs)
    if not args.program or not args.models:
        parser.error("--program and --models are needed, or --from")
    args.repeats, args.decode = (1, 8) if args.quick else (3, 32)
    args.turns = args.turns or (2 if args.quick else 3)
    args.batches = args.batches or [1, 8, 32, 128]
    args.contexts = args.contexts or ([128, 2048] if args.quick else [128, 512, 1024, 2048, 4096, 8192])
    args.prefill = args.prefill or ([128, 2048] if args.quick else [128, 512, 2048, 8192])
    report = run(args, args.pairs.split(","))
    if args.json:
        args.json.write_text(json.dumps(report) + "\n")
    write(report, args.docs)


if __name__ == "__main__":
    main()
