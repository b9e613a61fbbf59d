#!/usr/bin/env python3
"""Cycles that one column costs per 16 x 32 weights, by llvm-mca: cycles.py LLVM_MCA PROGRAM [OBJECT...]

PROGRAM is the release build for AArch64; OBJECTs are llama.cpp's kernels, named after their processor. The loop over a
panel is found in its disassembly: the smallest one that multiplies weights by one column and converts the sums. Loops
inside it are written out as often as they run.
"""

import collections
import fractions
import re
import subprocess
import sys

# kernel: processor, its scheduling model, multiplications per 16 x 32 weights, registers of weights.
KERNELS = [
    ("neon", "q4", "cortex-a72", "cortex-a72", 64, 16),
    ("neon", "q8", "cortex-a72", "cortex-a72", 64, 32),
    # LLVM has no model of the Cortex-A76 and takes the A57's; the Neoverse N1 is the same core for servers.
    ("neon_dotprod", "q4", "cortex-a76", "neoverse-n1", 32, 16),
    ("neon_dotprod", "q8", "cortex-a76", "neoverse-n1", 32, 32),
]
BYTES = {"q4": 272, "q8": 544}
# Groups of 32 inputs whose sum becomes one float.
SPAN = {"q4": 4, "q8": 1}
# Measured by others: bytes a second that all cores together read, in GB/s, and GHz.
MEMORY = {"cortex-a72": ("Pi 4", 3.3, 1.8), "cortex-a76": ("Pi 5", 10.5, 2.4)}
# Of weights; the multipliers of q4 meet wider numbers.
MULTIPLY = re.compile(r"^((smlal2?|smull2?) v\d+\.8h|sdot) ?")
STACK = re.compile(r"\[(sp|x29)\b")

LINE = re.compile(r"^\s*([0-9a-f]+):\t(\S+)(?:\t(.*))?$")
BRANCH = re.compile(r"^(b|b\..*|cbn?z|tbn?z)$")


# The same work by llama.cpp: function, processor, model, multiplications per 16 x 32 weights.
PEERS = [
    ("ggml_vec_dot_q4_0_q8_0", "q4", "cortex-a72", "cortex-a72", 64),
    ("ggml_vec_dot_q8_0_q8_0", "q8", "cortex-a72", "cortex-a72", 64),
    ("ggml_gemv_q4_0_4x4_q8_0", "q4", "cortex-a76", "neoverse-n1", 32),
    ("ggml_gemv_q8_0_4x4_q8_0", "q8", "cortex-a76", "neoverse-n1", 32),
]


def disassemble(file):
    command = ["aarch64-linux-gnu-objdump", "-d", "-C", "--no-show-raw-insn", file]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout + "\n\n"


def function(text, name):
    start = text.index(f"{name}>:\n")
    found = [LINE.match(line) for line in text[start : text.index("\n\n", start)].split("\n")]
    return [(int(m[1], 16), m[2], re.sub(r"\s*//.*", "", m[3] or "")) for m in found if m]


def loops(code):
    """Index ranges of the backward branches, smallest first."""
    index = {address: i for i, (address, _, _) in enumerate(code)}
    found = {}
    for i, (_, name, operands) in enumerate(code):
        target = re.search(r"([0-9a-f]+) <", operands)
        if BRANCH.match(name) and target and index.get(int(target[1], 16), i) < i:
            first = index[int(target[1], 16)]
            found[first] = max(i, found.get(first, i))
    return sorted(found.items(), key=lambda loop: loop[1] - loop[0])


def counts(code):
    total = collections.Counter()
    for _, name, operands in code:
        total["multiply"] += bool(MULTIPLY.match(f"{name} {operands}"))
        if operands.startswith("q") and not STACK.search(operands):
            total["weights"] += (name in ("ldr", "ldur")) + 2 * (name in ("ldp", "ldnp"))
        total["steps"] += name == "mla" and ".4s" in operands
        total["sums"] += name == "scvtf" and ".4s" in operands
    return total


def straight(code, kind, multiplications, weights):
    """The instructions of one round of the loop over a panel, inner loops written out, and its groups of 32."""
    all_loops = loops(code)

    def groups(first, last):
        """Those of one round of a loop, by what it does once a span, once a group or for each register of weights."""
        total = counts(code[first : last + 1])
        if total["sums"]:
            return fractions.Fraction(total["sums"] * SPAN[kind], 4)
        return fractions.Fraction(total["steps"], 4) or fractions.Fraction(total["multiply"], multiplications)

    def written_out(first, last):
        text, i = [], first
        while i <= last:
            end = next((end for start, end in all_loops if start == i and first < start and end <= last), i)
            if end > i and groups(i, end):
                rounds = groups(first, last) / groups(i, end)
                if rounds.denominator > 1:
                    sys.exit(f"an inner loop runs {rounds} times")
                text += written_out(i, end) * int(rounds)
            else:
                text += code[i : end + 1]
            i = end + 1
        return text

    for first, last in all_loops:
        total = counts(code[first : last + 1])
        if not total["sums"] or not total["multiply"] or not total["weights"]:
            continue
        ratio = total["multiply"] / total["weights"]
        if not 0.85 < ratio / (multiplications / weights) < 1.15:
            continue
        text = written_out(first, last)
        if counts(text)["multiply"] == groups(first, last) * multiplications:
            return text, int(groups(first, last))
    sys.exit("no loop multiplies one column")


def cycles(code, model, mca):
    lines = []
    for _, name, operands in code:
        # A branch that is predicted, wherever it leads.
        lines.append(f"{name} {re.sub(r'[0-9a-f]+ <.*', '1f', operands)}")
    text = "\n".join(lines) + "\n1:\n"
    command = [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={model}", "-mattr=+dotprod", "-iterations=50"]
    answer = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"Total Cycles:\s+(\d+)", answer)[1]) / 50


def peer_loop(code, multiplications):
    """The smallest loop that multiplies, and the 16 x 32 weights that it takes in a round."""
    for first, last in loops(code):
        body = code[first : last + 1]
        if found := counts(body)["multiply"]:
            return body, found / multiplications
    sys.exit("no loop multiplies")


def line(name, kind, processor, model, code, groups, mca):
    board, bandwidth, clock = MEMORY[processor]
    wait = BYTES[kind] / bandwidth * clock
    print(
        f"{name:24} {processor:11} {len(code) / groups:12.0f} {cycles(code, model, mca) / groups:7.1f} {BYTES[kind]:6} "
        f"{board:>6} {wait:10.0f} {4 * wait:8.0f}"
    )


def main(mca, program, *objects):
    print(f"{'':24} {'':11} {'':12} {'':7} {'':6} cycles until memory has brought them:")
    print(f"{'':24} {'processor':11} instructions  cycles  bytes  board   one core  of four")
    text = disassemble(program)
    for tier, kind, processor, model, multiplications, weights in KERNELS:
        code, groups = straight(function(text, f"kernels::aarch64::{tier}::{kind}"), kind, multiplications, weights)
        line(f"{tier} {kind}", kind, processor, model, code, groups, mca)
    texts = {processor: "".join(disassemble(o) for o in objects if processor in o) for processor in MEMORY}
    for name, kind, processor, model, multiplications in PEERS:
        if name in texts[processor]:
            code, groups = peer_loop(function(texts[processor], name), multiplications)
            line(name, kind, processor, model, code, groups, mca)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
