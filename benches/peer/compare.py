#!/usr/bin/env python3
"""Compares cinderblock with llama.cpp on one machine and prints a table of ratios.

Both programs run in turn (ours, peer, ours, peer, ...), each turn in a fresh process, and a figure is the
median of its turns. A run during which other programs took more than --disturbance of the processors is
repeated: threads that wait for each other slow down many times over when they must share a core,
so such a run says nothing. `run.sh` builds what this needs and calls it.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time


@dataclasses.dataclass
class Row:
    name: str
    phase: str
    context: int  # tokens in the cache before decoding; for prefill the length of the prompt
    batches: list  # those that ours tries; the best counts
    peer_batches: list
    flash: list  # the peer's flash attention: 0, 1, or both, of which the better counts
    target: float = None  # the ratio to reach without AMX
    target_amx: float = None  # and with it


ROWS = [
    Row("prefill 512", "prefill", 512, [1], [1], [1]),
    Row("prefill 2048", "prefill", 2048, [1], [1], [1], 5, 10),
    Row("decode, context 0", "decode", 0, [1], [1], [0]),
    Row("decode, context 1024", "decode", 1024, [1], [1], [0], 1, 1),
    Row("decode, context 2000", "decode", 2000, [1], [1], [0], 1.35, 1.35),
    Row("best batch, context 1024", "decode", 1024, [1, 2, 4, 8, 16, 32, 64, 128], [1, 2, 4, 8, 16, 32], [0, 1], 5, 12),
    Row("batch 32, context 128", "decode", 128, [32], [32], [0], 2, 4),
]


def busy():
    """Processor seconds that the whole machine has spent, those that a hypervisor took away included."""
    stat = pathlib.Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def spent():
    """Processor seconds that the programs started here have spent."""
    times = os.times()
    return times.children_user + times.children_system


def wait_for_quiet(args):
    """Waits until the others leave the processors alone for a second, as long as --patience lasts."""
    while busy() is not None and args.patience > 0:
        before = busy()
        time.sleep(1)
        if busy() - before <= args.disturbance * os.cpu_count():
            break
        args.patience -= 1


def run(args, command):
    """Runs a program until it was left alone, at most --patience seconds for all runs; returns its JSON."""
    command = list(map(str, command))
    while True:
        wait_for_quiet(args)
        all_before, own_before, start = busy(), spent(), time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        seconds = time.monotonic() - start
        if done.returncode:
            sys.exit(f"compare.py: exit status {done.returncode} from: {' '.join(command)}")
        if all_before is None:
            break
        others = (busy() - all_before - (spent() - own_before)) / (seconds * os.cpu_count())
        if others <= args.disturbance:
            break
        if args.patience <= 0:
            args.disturbed += 1
            break
        args.patience -= seconds
        print(f"  disturbed: others took {others:.0%} of the processors, once more", file=sys.stderr)
    return json.loads(done.stdout)


def run_ours(args, row):
    """Measures one row once: {setting: tok/s}, a setting being named as it is printed."""
    prefill = row.phase == "prefill"
    measured = run(args, [
        args.ours, "bench", "-m", args.ours_model, "--json", "--speculate", 0, "--repeats", 1, "--threads", args.threads,
        "--decode", args.decode, "--batch", ",".join(map(str, row.batches)),
        "--prefill", row.context if prefill else "", "--context", "" if prefill else row.context,
    ])
    args.isa = next((m["isa"] for m in measured if "isa" in m), None)
    length = "tokens" if prefill else "context"
    found = {
        f"batch {m['batch']}": m["tok_s"]
        for m in measured
        if m["phase"] == row.phase and m[length] == row.context and m["batch"] in row.batches
    }
    if len(found) != len(row.batches):
        sys.exit(f"compare.py: cinderblock bench measured {sorted(found)} for '{row.name}'")
    return found


def run_peer(args, row):
    prefill = row.phase == "prefill"
    amount = ["-n", row.context] if prefill else ["-n", args.decode, "-c", row.context]
    found = {}
    for batch in row.peer_batches:
        for flash in row.flash:
            command = [args.peer, "-m", args.peer_model, "-t", args.threads, "-p", row.phase, *amount]
            measured = run(args, [*command, "-b", batch, "-f", flash])
            found[f"batch {batch}, flash attention {'on' if flash else 'off'}"] = measured["tok_s"]
            args.peer_system = measured["system"]
    return found


def summarize(turns):
    """The best setting by its median over the turns, with all that was measured."""
    settings = {name: [turn[name] for turn in turns] for name in turns[0]}
    best = max(settings, key=lambda name: statistics.median(settings[name]))
    values = settings[best]
    median = statistics.median(values)
    return {
        "tok_s": median, "setting": best, "spread": (max(values) - min(values)) / median, "all": settings,
    }


def processor():
    """The model's name and whether it has AMX."""
    name, flags = "unknown", []
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() == "flags":
            flags = value.split()
    return name, "amx_int8" in flags


def table(rows):
    """The rows as aligned text."""
    def figure(side):
        return [f"{side['tok_s']:.1f}", f"{50 * side['spread']:.0f}%"] if side else ["-", "-"]

    def times(value):
        return f"{value:.2f}x" if value else "-"

    lines = [["row", "ours tok/s", "+-", "peer tok/s", "+-", "ratio", "target", "met"]]
    for row in rows:
        met = "disturbed" if row["disturbed_runs"] else {True: "yes", False: "no", None: "-"}[row["met"]]
        ratios = [times(row["ratio"]), times(row["target"])]
        lines.append([row["row"], *figure(row["ours"]), *figure(row["peer"]), *ratios, met])
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--ours", help="the program cinderblock; without it only the peer is measured")
    parser.add_argument("--ours-model", help="its model")
    parser.add_argument("--same-model", action="store_true", help="both run the same model: the target is 1 in every row")
    parser.add_argument("--peer", required=True, help="the program built from peer.c")
    parser.add_argument("--peer-model", required=True, help="its model")
    parser.add_argument("--peer-version", default="unknown", help="what to call the peer's version")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3, help="turns of each program for each row (3)")
    parser.add_argument("--decode", type=int, default=32, help="tokens to decode for each sequence (32)")
    parser.add_argument("--rows", default="", help="only rows whose name contains this text")
    parser.add_argument("--disturbance", type=float, default=0.03, help="share of the processors (0.03)")
    parser.add_argument("--patience", type=float, default=900, help="seconds to wait and repeat in all (900)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured there as JSON; - prints it instead")
    args = parser.parse_args()
    if args.ours and not args.ours_model:
        parser.error("--ours needs --ours-model")
    args.disturbed, args.isa, args.peer_system = 0, None, None
    return args


def main():
    args = arguments()
    cpu, amx = processor()
    rows = []
    for row in ROWS:
        if args.rows not in row.name:
            continue
        ours, peer, disturbed = [], [], args.disturbed
        for turn in range(args.repeats):
            print(f"{row.name}: turn {turn + 1} of {args.repeats}", file=sys.stderr)
            if args.ours:
                ours.append(run_ours(args, row))
            peer.append(run_peer(args, row))
            print(f"  ours {ours[-1] if ours else '-'}\n  peer {peer[-1]}", file=sys.stderr)
        ours, peer = summarize(ours) if ours else None, summarize(peer)
        ratio = ours["tok_s"] / peer["tok_s"] if ours else None
        target = row.target_amx if amx else row.target
        if args.same_model:
            target = 1
        # A figure from a disturbed run neither meets nor misses a target.
        disturbed = args.disturbed - disturbed
        met = ratio >= target if ratio and target and not disturbed else None
        rows.append({
            "row": row.name, "ours": ours, "peer": peer, "ratio": ratio, "target": target, "met": met,
            "disturbed_runs": disturbed,
        })

    report = {
        "cpu": cpu, "amx": amx, "threads": args.threads, "repeats": args.repeats, "isa": args.isa,
        "peer_version": args.peer_version, "peer_system": args.peer_system, "disturbed_runs": args.disturbed,
        "rows": rows,
    }
    if args.json == "-":
        print(json.dumps(report, indent=1))
        return
    print(f"{cpu}, {'with' if amx else 'without'} AMX, {args.threads} threads, median of {args.repeats}")
    print(f"peer: {args.peer_version}; ours: {args.isa or 'not measured'}")
    table(rows)
    for row in rows:
        for who in ("ours", "peer"):
            if row[who] and len(row[who]["all"]) > 1:
                print(f"{row['row']}, {who}: best with {row[who]['setting']}")
    if args.disturbed:
        print(f"{args.disturbed} runs were disturbed by other programs; their rows are to be measured again")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
