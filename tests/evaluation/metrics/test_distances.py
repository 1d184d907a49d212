"""Distances of sets of features: by hand, against clean-fid and scikit-learn; split in half."""

import numpy as np
import pytest

from pipeline.evaluation.metrics.distances import frechet, polynomial_mmd, split_half
from pipeline.runtime import repair_torchvision

MEASURES = [frechet, polynomial_mmd]


def normal(n: int, width: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Correlated features, another mixture at each seed."""
    random = np.random.default_rng(seed)
    return random.normal(size=(n, width)) @ random.normal(size=(width, width)) + shift


def whole_diagonal(deviations: list[float]) -> np.ndarray:
    """Rows of mean 0 whose covariance (over n-1) is diagonal, with exactly these deviations."""
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * np.sqrt(3 / 4)
    return signs * deviations


def moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows.mean(0), np.cov(rows, rowvar=False)


@pytest.mark.parametrize(("n", "width"), [(50, 8), (8, 50), (20, 20)])
def test_a_set_has_no_frechet_distance_from_itself(n, width):
    rows = normal(n, width)
    assert 0 <= frechet(rows, rows.copy()) < 1e-10 * rows.var() * n


def test_constant_features_have_no_distance():
    assert frechet(np.full((5, 3), 7.0), np.full((9, 3), 7.0)) == 0
    assert frechet(np.full((5, 3), 7.0), np.full((9, 3), 5.0)) == 12  # 3 * 2^2


@pytest.mark.parametrize(("n", "width"), [(50, 4), (4, 50)])
def test_a_shifted_set_is_as_far_as_the_shift_squared(n, width):
    rows, shift = normal(n, width), np.linspace(-1, 2, width)
    assert frechet(rows, rows + shift) == pytest.approx(shift @ shift)


def test_diagonal_gaussians_by_hand():
    a, b = whole_diagonal([1.0, 2.0, 3.0]), whole_diagonal([4.0, 2.0, 0.0])
    # sum of (s1 - s2)^2
    assert frechet(a, b) == pytest.approx(9 + 0 + 9)
    assert frechet(a, b + [1, 0, 2]) == pytest.approx(18 + 5)


@pytest.mark.parametrize(("n", "width"), [(60, 6), (200, 30)])
def test_frechet_equals_clean_fid(n, width):
    repair_torchvision()
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed")
    a, b = normal(n, width, 1), normal(n + 9, width, 2, shift=0.5)
    expected = fid.frechet_distance(*(part for rows in (a, b) for part in moments(rows)))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n1", "n2", "width"), [(5, 7, 30), (40, 6, 20), (6, 40, 20), (30, 25, 9)])
def test_frechet_equals_the_formula(n1, n2, width):
    """Also where the covariances are singular: eigenvalues of S1 S2, nothing added to them."""
    a, b = normal(n1, width, 1), normal(n2, width, 2)
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    eigenvalues = np.linalg.eigvals(cov_a @ cov_b).real.clip(0)
    rank = min(n1 - 1, n2 - 1, width)
    root = np.sqrt(np.sort(eigenvalues)[-rank:]).sum()
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n1", "n2", "width"), [(30, 21, 7), (6, 9, 40)])
def test_mmd_equals_scikit_learn(n1, n2, width):
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = normal(n1, width, 1), normal(n2, width, 2, shift=0.3)
    kernel = pairwise.polynomial_kernel  # degree 3, gamma 1 / D, coef0 1
    aa, bb = (k.sum() - np.trace(k) for k in (kernel(a), kernel(b)))
    expected = aa / (n1 * (n1 - 1)) + bb / (n2 * (n2 - 1)) - 2 * kernel(a, b).mean()
    assert polynomial_mmd(a, b) == pytest.approx(expected, rel=1e-9)


def test_mmd_by_hand():
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [1.0]])
    # pairs: (1*2+1)^3 = 27, (0*1+1)^3 = 1; across: 1, 8, 1, 27
    assert polynomial_mmd(a, b) == pytest.approx(27 + 1 - 2 * 37 / 4)


def test_mmd_is_unbiased():
    """Of sets that are drawn alike its mean is 0, where the biased form's would not be."""
    random = np.random.default_rng(0)
    values = [polynomial_mmd(*random.normal(size=(2, 6, 3))) for _ in range(4000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("n1", "n2", "width"), [(30, 21, 7), (6, 9, 40)])
def test_symmetric_and_independent_of_order(measure, n1, n2, width):
    a, b = normal(n1, width, 1), normal(n2, width, 2, shift=0.3)
    value = measure(a, b)
    assert measure(b, a) == pytest.approx(value)
    random = np.random.default_rng(3)
    assert measure(random.permutation(a), random.permutation(b)) == pytest.approx(value)
    assert measure(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("measure", MEASURES)
def test_grows_with_the_difference(measure):
    a = normal(40, 10)
    noise = np.random.default_rng(1).normal(size=a.shape)
    values = [measure(a, a + step * noise + step) for step in (0.0, 1.0, 3.0, 9.0)]
    assert values == sorted(values) and len(set(values)) == 4


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_features_are_named(measure):
    a, b = normal(8, 3), normal(9, 3)
    with pytest.raises(ValueError, match="1 samples in the second set, at least 2 needed"):
        measure(a, b[:1])
    with pytest.raises(ValueError, match=r"shapes \(8, 3\) and \(9, 2\)"):
        measure(a, b[:, :2])
    b[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4 of the second set holds features that are not fin"):
        measure(a, b)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_truth_itself_lies_on_its_floor(measure):
    truth = normal(20, 6)
    half = split_half(truth, truth.copy(), measure, 7, seed=1)
    assert (half.value, half.deviation) == (half.floor, half.floor_deviation)
    assert half.deviation > 0


@pytest.mark.parametrize("measure", MEASURES)
def test_another_set_lies_above_the_floor(measure):
    truth = normal(40, 6)
    half = split_half(truth + 3, truth, measure, 10, seed=1)
    assert half.value > half.floor + 3 * half.floor_deviation


def test_halves_never_share_a_sample():
    """The rows are their own numbers: no true row stands against its own drawing."""
    rows = np.arange(9.0)[:, None]
    seen = []

    def measure(a: np.ndarray, b: np.ndarray) -> float:
        seen.append((set(a.ravel()), set(b.ravel() % 100)))
        return 0.0

    split_half(rows, rows + 100, measure, 5, seed=0)  # of 9 one is left out
    assert all(len(a) == len(b) == 4 for a, b in seen)
    assert all(not a & b for a, b in seen[::2])  # every second one is the floor
    assert len({tuple(sorted(a)) for a, _ in seen[::2]}) > 1


def test_splits_follow_the_seed():
    truth, drawn = normal(12, 5), normal(12, 5, 1)
    one, same, other = (split_half(drawn, truth, frechet, 5, seed) for seed in (1, 1, 2))
    assert one == same and one != other
    assert split_half(drawn + 1, truth, frechet, 5, 1).floor == one.floor
    assert split_half(drawn, truth, frechet, 1, 1).deviation == 0


def test_halves_of_too_few_or_unequal_rows():
    rows = normal(5, 2)
    assert split_half(rows[:4], rows[:4], frechet, 3).floor >= 0
    with pytest.raises(ValueError, match="3 samples in the first set, at least 4 needed"):
        split_half(rows[:3], rows[:3], frechet, 3)
    with pytest.raises(ValueError, match="4 generated rows and 5 true ones"):
        split_half(rows[:4], rows, frechet, 3)
