"""Nearest codes: the plain form's answers, in a fraction of its memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.vqgan.quantizers import nearest

MEASURE = """
import torch
from benchmarks.quantizer import plain, extra_peak
from pipeline.models.vqgan.quantizers import nearest
torch.set_num_threads(1)
vectors, codebook = torch.randn(8192, 128), torch.randn(50257, 128)
print(extra_peak(lambda: nearest(vectors, codebook), vectors.device))
print(torch.equal(nearest(vectors[:512], codebook), plain(vectors[:512], codebook)))
"""


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    size=st.integers(1, 40),
    dim=st.integers(1, 5),
    side=st.integers(1, 50),
    seed=st.integers(0, 999),
)
def test_equals_all_distances(n, size, dim, side, seed):
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers: products are exact, and ties are common.
    vectors = torch.randint(-2, 3, (n, dim), generator=generator).float()
    codebook = torch.randint(-2, 3, (size, dim), generator=generator).float()
    wanted = (vectors[:, None] - codebook).square().sum(2).argmin(1)
    found = nearest(vectors, codebook, side)
    assert found.dtype == torch.int64 and torch.equal(found, wanted)


@pytest.mark.parametrize("side", [1, 2, 1024])
def test_ties_take_the_first_code(side):
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest(torch.zeros(3, 2), codebook, side).tolist() == [1, 1, 1]


def test_blocks_do_not_change_a_distance():
    """Not to the last bit: the same codes, whatever the batch that a vector stands in."""
    vectors = torch.randn(3000, 32, generator=torch.Generator().manual_seed(0))
    codebook = 1e-3 * torch.randn(2500, 32, generator=torch.Generator().manual_seed(1))
    whole = (codebook.square().sum(1).mul(0.5) - vectors @ codebook.T).argmin(1)
    assert torch.equal(nearest(vectors, codebook), whole)
    assert torch.equal(nearest(vectors[:7], codebook), whole[:7])


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="no /proc to measure peaks with"
)
def test_memory_stays_small_with_all_codes_of_the_thesis():
    """50,257 codes of 128 dimensions, 8,192 vectors: all distances would be 1.6 GB."""
    command = [sys.executable, "-c", MEASURE]
    root = Path(__file__).parents[3]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    megabytes, equal = told.split()
    assert equal == "True" and 0 < float(megabytes) < 200
