"""What this machine's processor knows, without importing torch."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BF16 = {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"}  # names of its instructions


def words() -> set[str] | None:
    """Vendor and instruction sets in small letters; None where they cannot be found out."""
    try:
        return set(CPUINFO.read_text("utf-8").lower().split())
    except OSError:
        return None


def knows_bf16() -> bool | None:
    """Whether there are bf16 instructions; None where that cannot be found out."""
    known = words()
    return None if known is None else bool(known & BF16)


def gains_from_bf16() -> bool:
    """Whether convolutions and products are faster in bf16 than in float32.

    With Intel's AMX, and with AMD's AVX512-BF16 (three times as fast). Intel's AVX512-BF16 alone
    loses: a training step took 1.7 (tokenizer) and 1.4 times (transformer) as long.
    """
    known = words() or set()
    return "amx_bf16" in known or {"avx512_bf16", "authenticamd"} <= known
