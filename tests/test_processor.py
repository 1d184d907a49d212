"""Which processors gain from bf16: by what /proc/cpuinfo says of them."""

import pytest

from pipeline import processor


@pytest.mark.parametrize(
    ("text", "knows", "gains"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx2 avx512f avx512_bf16\n", True, True),
        ("vendor_id : GenuineIntel\nflags : fpu avx512f avx512_bf16\n", True, False),
        ("vendor_id : GenuineIntel\nflags : fpu avx512_bf16 amx_bf16 amx_tile\n", True, True),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2\n", False, False),
        (None, None, False),  # no such file: macOS, Windows
    ],
)
def test_bf16(tmp_path, monkeypatch, text, knows, gains):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "CPUINFO", path)
    if text is not None:
        path.write_text(text)
    assert processor.knows_bf16() is knows
    assert processor.gains_from_bf16() is gains
