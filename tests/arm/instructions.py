#!/usr/bin/env python3
"""Reports instructions that a plain ARMv8.0-A processor (Cortex-A72) lacks: instructions.py PROGRAM_OR_LIBRARY...

The assembler is the judge: every instruction of the disassembly is assembled again for `armv8-a`, and what it refuses is
newer. Such instructions may stand only in functions that run after a look at the processor.
"""

import collections
import re
import subprocess
import sys
import tempfile

PREFIX = "aarch64-linux-gnu-"
# Functions that are called only where the processor was found to have what they use.
GUARDED = {
    r"::neon_dotprod::": "Isa::NeonDotprod",
    r"::neon_i8mm::": "Isa::NeonI8mm",
    r"^__aarch64_(cas|ldadd|ldclr|ldeor|ldset|swp)": "libgcc and compiler-builtins look at AT_HWCAP",
    r"^crc32fast::specialized::": "crc32fast looks for crc",
    r"^half::.*_fp16$": "half looks for fp16",
    r"^(<?sha2::|cpufeatures::)": "sha2 looks for the instructions",
}
# What proves that the disassembly, the names and the judge work: in each tier, its instruction.
EXPECTED = {"::neon_dotprod::": "sdot", "::neon_i8mm::": "smmla|usmmla"}

HEADER = re.compile(r"^[0-9a-f]+ <(.*)>:$")
LINE = re.compile(r"^\s*[0-9a-f]+:\t(\S+)(?:\t(.*))?$")
TARGET = re.compile(r"\b[0-9a-f]+ <.*>$")


def disassemble(path):
    """Yields (function, instruction), with every address replaced by the current one."""
    command = [PREFIX + "objdump", "-d", "-C", "-M", "no-aliases", "--no-show-raw-insn", path]
    function = "?"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stdout:
            line = line.rstrip()
            if header := HEADER.match(line):
                function = header[1]
            elif found := LINE.match(line):
                operands = TARGET.sub(".", re.sub(r"\s*//.*", "", found[2] or ""))
                # Data between functions, and what no instruction set has.
                if not found[1].startswith((".", "udf")):
                    yield function, f"{found[1]} {operands}".strip()
    if process.returncode:
        sys.exit(f"{path}: cannot be disassembled")


def newer(instructions):
    """Those that ARMv8.0-A lacks."""
    with tempfile.NamedTemporaryFile("w", suffix=".s") as file:
        file.write("".join(f"{text}\n" for text in instructions))
        file.flush()
        command = [PREFIX + "as", "-march=armv8-a", "-o", "/dev/null", file.name]
        errors = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False).stderr
    return {instructions[int(line) - 1] for line in re.findall(r":(\d+): Error", errors)}


def check(path):
    functions = collections.defaultdict(set)
    count = 0
    for function, text in disassemble(path):
        functions[text].add(function)
        count += 1
    beyond = newer(list(functions))
    guarded, failures = collections.defaultdict(set), []
    for text in sorted(beyond):
        for function in functions[text]:
            pattern = next((pattern for pattern in GUARDED if re.search(pattern, function)), None)
            if pattern:
                guarded[pattern].add(text.split()[0])
            else:
                failures.append(f"{path}: {function}: {text}")
    for pattern, mnemonics in sorted(guarded.items()):
        print(f"{path}: {pattern}: {' '.join(sorted(mnemonics))} ({GUARDED[pattern]})")
    for pattern, mnemonic in EXPECTED.items():
        if not any(re.fullmatch(mnemonic, found) for found in guarded[pattern]):
            failures.append(f"{path}: no {mnemonic} in {pattern}: the check does not see what it must")
    print(f"{path}: {count} instructions, {len(failures)} beyond ARMv8.0-A in the wrong place")
    return failures


failures = [failure for path in sys.argv[1:] for failure in check(path)]
print("\n".join(failures))
sys.exit(bool(failures) or len(sys.argv) < 2)
