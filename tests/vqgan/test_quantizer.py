"""Quantizer: nearest codes, where gradients go, and a codebook that keeps all its codes in use."""

import pytest
import torch

from pipeline.params import Vqvae
from pipeline.vqgan.quantizer import DECAY, FRESH_COUNT, Quantizer, nearest


def make(kind: str = "ema", size: int = 16, dim: int = 4, beta: float = 0.25) -> Quantizer:
    torch.manual_seed(0)
    fields = {"quantizer": kind, "beta": beta, "num_embeddings": size, "embedding_dim": dim}
    return Quantizer(Vqvae(**fields))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def started(spread: float = 1.0, **sizes) -> tuple[Quantizer, torch.Tensor]:
    """An `ema` quantizer whose codebook starts from the features `2 D 8 8` given beside it."""
    quantizer = make(**sizes)
    features = spread * torch.randn(2, quantizer.codebook.shape[1], 8, 8, generator=seeded(1))
    quantizer.start(features.movedim(1, -1).flatten(0, 2), seeded())
    return quantizer, features


@pytest.mark.parametrize("rows", [1, 7, 64, 4096])
def test_nearest_equals_all_distances(rows):
    vectors, codebook = torch.randn(64, 5), torch.randn(23, 5)
    wanted = torch.cdist(vectors.double(), codebook.double()).argmin(1)
    assert torch.equal(nearest(vectors, codebook, rows), wanted)


def test_ties_take_the_first_code():
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.zeros(3, 2), codebook).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", ["ema", "vq"])
def test_what_comes_out_are_codebook_vectors_at_the_features_places(kind):
    quantizer = make(kind).eval()
    features = torch.randn(2, 4, 3, 5)
    found = quantizer(features, seeded())
    assert found.codes.shape == (2, 3, 5) and found.codes.dtype == torch.int64
    assert torch.allclose(found.vectors[1, :, 2, 4], quantizer.codebook[found.codes[1, 2, 4]])
    assert torch.allclose(found.vectors, quantizer.lookup(found.codes), atol=1e-6)
    point = features[1, :, 2, 4]
    assert found.codes[1, 2, 4] == (quantizer.codebook - point).square().sum(1).argmin()


@pytest.mark.parametrize("kind", ["ema", "vq"])
def test_gradient_goes_straight_through(kind):
    """The features get the gradient that a loss has at the quantized vectors."""
    quantizer = make(kind).eval()
    features = torch.randn(1, 4, 3, 3, requires_grad=True)
    found = quantizer(features, seeded())
    found.vectors.retain_grad()
    (found.vectors**3).sum().backward()
    assert torch.equal(features.grad, found.vectors.grad)
    assert torch.allclose(features.grad, 3 * quantizer.lookup(found.codes) ** 2, atol=1e-6)
    assert quantizer.codebook.grad is None


def test_losses_by_hand_and_each_trains_its_own_side():
    quantizer = make("vq", size=2, dim=1, beta=0.5)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0], [10.0]]))
    features = torch.tensor([1.0, 8.0]).view(1, 1, 1, 2).requires_grad_()
    found = quantizer(features, seeded())
    assert found.codebook_loss.item() == pytest.approx((1 + 4) / 2)
    assert found.commitment_loss.item() == pytest.approx(0.5 * (1 + 4) / 2)
    found.codebook_loss.backward()
    assert features.grad is None
    assert quantizer.codebook.grad.flatten().tolist() == [-1.0, 2.0]
    quantizer.codebook.grad = None
    found.commitment_loss.backward()
    assert quantizer.codebook.grad is None
    assert features.grad.flatten().tolist() == [0.5, -1.0]


def test_a_moving_codebook_has_no_gradient_and_no_loss():
    quantizer, features = started()
    found = quantizer(features.requires_grad_(), seeded())
    assert not quantizer.codebook.requires_grad and float(found.codebook_loss) == 0.0
    (found.vectors.sum() + found.commitment_loss).backward()
    assert quantizer.codebook.grad is None and features.grad.abs().sum() > 0


def test_a_codebook_moves_in_training_only():
    quantizer, features = started()
    other = features + 0.5
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(other, seeded())
    assert all(torch.equal(before[name], v) for name, v in quantizer.state_dict().items())
    quantizer.train()(other, seeded())
    assert all(not torch.equal(before[name], v) for name, v in quantizer.state_dict().items())


def test_moving_averages_by_hand():
    """One code, credited with FRESH_COUNT vectors at 0, sees four vectors at 1."""
    quantizer = make(size=2, dim=1)
    quantizer.start(torch.tensor([[0.0], [100.0]]), seeded())
    low = int(quantizer.codebook.argmin())
    quantizer.train()(torch.ones(1, 1, 2, 2), seeded())
    count = DECAY * FRESH_COUNT + (1 - DECAY) * 4
    assert float(quantizer.counts[low]) == pytest.approx(count)
    assert float(quantizer.codebook[low]) == pytest.approx((1 - DECAY) * 4 / count)
    assert float(quantizer.codebook[1 - low]) == pytest.approx(100.0), "unused: stays for now"


def test_a_codebook_follows_its_vectors():
    """Three far clusters move on, and each code goes with its own to the new mean."""
    quantizer = make(size=3, dim=1)
    vectors = torch.tensor([-10.2, -9.8, -0.1, 0.1, 9.6, 10.4])
    quantizer.start(vectors[:, None], seeded())
    moved = (vectors + 1).view(1, 1, 2, 3)
    quantizer.train()
    for _ in range(400):
        quantizer(moved, seeded())
    wanted = torch.tensor([-9.0, 1.0, 11.0])
    assert torch.allclose(quantizer.codebook.flatten().sort().values, wanted, atol=1e-2)


def test_a_dead_code_restarts_at_a_vector_of_the_batch_with_new_statistics():
    quantizer, features = started()
    with torch.no_grad():
        quantizer.codebook[3] = 1e3
        quantizer.sums[3] = 1e3 * FRESH_COUNT
    quantizer.train()
    steps = 0
    while quantizer.codebook[3].abs().max() > 100 and steps < 500:
        quantizer(features, seeded(steps))
        steps += 1
    assert 10 < steps < 500, "not at once, but in time"
    vectors = features.movedim(1, -1).flatten(0, 2)
    assert (quantizer.codebook[3] - vectors).abs().sum(1).min() < 1e-5
    assert float(quantizer.counts[3]) == FRESH_COUNT
    assert torch.allclose(quantizer.sums[3], FRESH_COUNT * quantizer.codebook[3])
    quantizer(features, seeded())
    assert quantizer.codebook[3].abs().max() < 10, "the old average does not pull it back"


def test_restarts_go_where_the_error_is():
    """One patch of a hundred is not flat, and it is the one that misses a code."""
    quantizer = make(size=2, dim=2)
    quantizer.start(torch.zeros(4, 2), seeded())
    features = torch.zeros(1, 2, 10, 10)
    features[0, :, 4, 4] = 7.0
    quantizer.train()
    for step in range(200):
        quantizer(features, seeded(step))
    assert nearest(torch.full((1, 2), 7.0), quantizer.codebook) != nearest(
        torch.zeros(1, 2), quantizer.codebook
    )


def test_start_uses_nearly_all_codes_on_spread_data():
    quantizer = make(size=64)
    flat = torch.zeros(3000, 4)  # most of a cartoon
    vectors = torch.cat([flat, torch.randn(1000, 4, generator=seeded(3))])
    quantizer.start(vectors, seeded())
    used = nearest(vectors, quantizer.codebook).unique()
    assert len(used) >= 60
    error = (vectors - quantizer.codebook[nearest(vectors, quantizer.codebook)]).square().mean()
    assert error < 0.25 * vectors.square().mean()


def test_start_is_a_function_of_the_generator():
    vectors = torch.randn(200, 4)
    books = []
    for seed in (0, 0, 1):
        quantizer = make()
        quantizer.start(vectors, seeded(seed))
        books.append(quantizer.codebook.clone())
    assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


def test_bf16_does_not_change_the_choice_of_codes():
    """Near codes far from the origin: a product in bf16 would confuse them."""
    quantizer = make(size=64, dim=8).eval()
    generator = torch.Generator().manual_seed(0)
    near = 14.0 + 0.2 * torch.randn(64, 8, generator=generator)
    quantizer.codebook.data.copy_(near)
    features = near.T.reshape(1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        codes = quantizer(features, generator).codes
    wanted = torch.arange(64)
    assert torch.equal(codes.flatten(), wanted)
