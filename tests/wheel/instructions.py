"""Which instructions of a library an old CPU lacks, found by giving the disassembly back to the
assembler and telling it the CPU: it knows every instruction set exactly."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

BASELINE = "baseline"
# Architecture -> where code was compiled for -> what the assembler may know there. Kernels are in a
# namespace of their instruction set's name; the flags are those of cmake/isa.cmake.
AVX2 = "+avx2+fma+f16c+bmi+bmi2"
MARCH = {
    "x86_64": {
        BASELINE: "generic64",
        "avx2": "generic64" + AVX2,
        "avx512": "generic64" + AVX2 + "+avx512f+avx512bw+avx512dq+avx512vl+avx512cd",
    },
    "aarch64": {BASELINE: "armv8-a", "neon_fp16": "armv8.2-a+fp16"},
}
TOOLS = {"x86_64": "", "aarch64": "aarch64-linux-gnu-"}
# Not in the baseline, and harmless: without the extension the first is a no-op, the next runs as
# bsf, which is what the compiler asked for, and the last is in the start-up code that asks the CPU
# for its extensions, behind that question.
HARMLESS = {"x86_64": {"endbr64", "tzcnt", "xgetbv"}, "aarch64": set[str]()}
PADDING = r"^((data16|cs|bnd|notrack|rex\.W(?= call)|repz(?= ret))\s+)+"
# Their operands are addresses, which the disassembler writes in a form of its own; all baseline.
ADDRESSED = {
    "x86_64": re.compile(r"(call|jmp|j[a-z]{1,4}|nop[wl]?)\b"),
    "aarch64": re.compile(r"(b|bl|b\.[a-z]+|cbn?z|tbn?z|adrp?|nop|udf|\.inst)\b"),
}


def disassembly(library: Path, arch: str) -> dict[str, set[str]]:
    """Every distinct instruction of the library, by what its function was compiled for."""
    text = subprocess.run(
        [TOOLS[arch] + "objdump", "-d", "-w", "--no-show-raw-insn", library],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: defaultdict[str, set[str]] = defaultdict(set)
    compiled_for = BASELINE
    for line in text.splitlines():
        if title := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            space = re.search(r"7weebill(?:4(avx2)|(?:6|10|14)(avx512)|9(neon_fp16))", title[1])
            compiled_for = space[space.lastindex or 0] if space else BASELINE
        elif instruction := re.match(r"\s+[0-9a-f]+:\t(.*)$", line):
            # without comments, notes of addresses, and prefixes that only pad
            code = re.sub(r"\s*(<.*|//.*|# .*)$", "", instruction[1])
            code = re.sub(PADDING, "", code).strip()
            if code and not ADDRESSED[arch].match(code):
                found[compiled_for].add(code)
    return found


def refused(instructions: Iterable[str], arch: str, march: str) -> list[str]:
    """Those that the assembler does not accept for `march`."""
    lines = sorted(code for code in instructions if code.split()[0] not in HARMLESS[arch])
    result = subprocess.run(
        [TOOLS[arch] + "as", f"-march={march}", "-o", "/dev/null", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
    )
    errors = re.findall(r"^\{standard input\}:(\d+): Error: (.*)$", result.stderr, re.MULTILINE)
    assert errors or result.returncode == 0, result.stderr
    return [f"{lines[int(number) - 1]}: {why}" for number, why in errors]


def beyond(library: Path, arch: str) -> list[str]:
    """Instructions that some CPU lacks on which they would be run."""
    return [
        f"{compiled_for}: {error}"
        for compiled_for, instructions in disassembly(library, arch).items()
        for error in refused(instructions, arch, MARCH[arch][compiled_for])
    ]
