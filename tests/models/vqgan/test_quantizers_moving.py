"""Moving codebooks: averages by hand, dead codes, the sphere, and several processes."""

import threading
from functools import partial

import pytest
import torch

from pipeline.models.vqgan.quantizers.moving import DECAY, FRESH_COUNT, SMALL
from pipeline.models.vqgan.quantizers.search import nearest

MOVING = ("ema", "vq_l2")


def flat(features: torch.Tensor) -> torch.Tensor:
    return features.movedim(1, -1).flatten(0, 2)


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize("kind", MOVING)
def test_a_codebook_moves_in_training(started, seeded, kind):
    made, features = started(kind)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.train()(features + 0.5, seeded())
    assert all(not torch.equal(before[name], v) for name, v in made.state_dict().items())


def test_moving_averages_by_hand(quantizer, seeded):
    """One code, credited with FRESH_COUNT vectors at 0, sees four vectors at 1."""
    made = quantizer(num_embeddings=2, embedding_dim=1)
    made.start(torch.tensor([[0.0], [100.0]]), seeded())
    low = int(made.codebook.argmin())
    made.train()(torch.ones(1, 1, 2, 2), seeded())
    count = DECAY * FRESH_COUNT + (1 - DECAY) * 4
    assert float(made.counts[low]) == pytest.approx(count)
    assert float(made.codebook[low]) == pytest.approx((1 - DECAY) * 4 / count)
    assert float(made.codebook[1 - low]) == pytest.approx(100.0), "unused: stays for now"


def test_averages_on_the_sphere_by_hand(quantizer, seeded):
    """A code at (1, 0) sees four vectors at (0.6, 0.8), whatever their lengths."""
    made = quantizer("vq_l2", num_embeddings=2, embedding_dim=2)
    made.start(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), seeded())
    right = int(made.codebook[:, 0].argmax())
    lengths = torch.tensor([0.1, 1.0, 2.0, 50.0])
    made.train()((torch.tensor([[0.6], [0.8]]) * lengths).view(1, 2, 2, 2), seeded())
    old, new = DECAY * FRESH_COUNT, (1 - DECAY) * 4
    wanted = unit(torch.tensor([[old + new * 0.6, new * 0.8]]))
    assert torch.allclose(made.codebook[right], wanted[0], atol=1e-6)
    assert float(made.counts[right]) == pytest.approx(old + new)


def test_a_codebook_follows_its_vectors(quantizer, seeded):
    """Three far clusters move on, and each code goes with its own to the new mean."""
    made = quantizer(num_embeddings=3, embedding_dim=1)
    vectors = torch.tensor([-10.2, -9.8, -0.1, 0.1, 9.6, 10.4])
    made.start(vectors[:, None], seeded())
    moved = (vectors + 1).view(1, 1, 2, 3)
    made.train()
    for _ in range(400):
        made(moved, seeded())
    wanted = torch.tensor([-9.0, 1.0, 11.0])
    assert torch.allclose(made.codebook.flatten().sort().values, wanted, atol=1e-2)


@pytest.mark.parametrize("kind", MOVING)
def test_a_dead_code_restarts_at_a_vector_of_the_batch_with_new_statistics(started, seeded, kind):
    made, features = started(kind)
    features[:, 0] = features[:, 0].abs() + 0.1  # nothing lies at the other side
    away = torch.tensor([-1.0, 0.0, 0.0])
    far = away if kind == "vq_l2" else 1e3 * away
    with torch.no_grad():
        made.codebook[3] = far
        made.sums[3] = FRESH_COUNT * far
    made.train()
    steps = 0
    while torch.allclose(made.codebook[3], far) and steps < 500:
        made(features, seeded(steps))
        steps += 1
    assert 10 < steps < 500, "not at once, but in time"
    vectors = flat(unit(features) if kind == "vq_l2" else features)
    assert (made.codebook[3] - vectors).abs().sum(1).min() < 1e-5
    assert float(made.counts[3]) == FRESH_COUNT
    assert torch.allclose(made.sums[3], FRESH_COUNT * made.codebook[3])
    made(features, seeded())
    assert made.codebook[3, 0] > 0, "the old average does not pull it back"


def test_restarts_go_where_the_error_is(quantizer, seeded):
    """One patch of a hundred is not flat, and it is the one that misses a code."""
    made = quantizer(num_embeddings=2, embedding_dim=2)
    made.start(torch.zeros(4, 2), seeded())
    features = torch.zeros(1, 2, 10, 10)
    features[0, :, 4, 4] = 7.0
    made.train()
    for step in range(200):
        made(features, seeded(step))
    ends = nearest(torch.tensor([[7.0, 7.0], [0.0, 0.0]]), made.codebook)
    assert ends[0] != ends[1]


@pytest.mark.parametrize("kind", MOVING)
def test_start_uses_nearly_all_codes_where_most_vectors_are_alike(quantizer, seeded, kind):
    made = quantizer(kind, num_embeddings=64, embedding_dim=4)
    alike = torch.zeros(3000, 4)  # most of a cartoon
    vectors = torch.cat([alike, torch.randn(1000, 4, generator=seeded(3))])
    made.start(vectors, seeded())
    found = made.eval()(vectors.T.view(1, 4, 40, 100), seeded())
    assert len(found.codes.unique()) >= 60
    own = unit(vectors[3000:]) if kind == "vq_l2" else vectors[3000:]
    error = (found.vectors.view(4, -1).T[3000:] - own).square().sum(1).mean()
    assert error < 0.25 * own.square().sum(1).mean()


@pytest.mark.parametrize("kind", MOVING)
def test_start_is_a_function_of_the_generator(quantizer, seeded, kind):
    vectors = torch.randn(200, 3, generator=seeded(1))
    books = []
    for seed in (0, 0, 1):
        made = quantizer(kind)
        made.start(vectors, seeded(seed))
        books.append(made.codebook.clone())
    assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


def test_all_codes_stay_on_the_sphere(quantizer, seeded):
    """Also with features at 0, which have no direction, and with opposite ones that cancel out."""
    made = quantizer("vq_l2", num_embeddings=8, embedding_dim=4)
    assert torch.allclose(made.codebook.norm(dim=1), torch.ones(8))
    features = torch.randn(1, 4, 6, 6, generator=seeded(1))
    features[..., :2] = 0.0
    features[..., 2:4] = -features[..., 4:]
    made.start(flat(features), seeded())
    made.train()
    for step in range(60):
        made(features * (1 - 2 * (step % 2)), seeded(step))
        assert torch.allclose(made.codebook.norm(dim=1), torch.ones(8), atol=1e-6), step


def test_features_near_zero_get_no_wild_gradient_on_the_sphere(started, seeded):
    made, features = started("vq_l2")
    features[0, :, 0, 0] = 0.0
    features[0, :, 0, 1] = torch.tensor([SMALL / 10, 0.0, 0.0])
    features.requires_grad_()
    found = made(features, seeded())
    (found.vectors.sum() + found.commitment_loss).backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad[0, :, 0, :2].abs().max() == 0 and features.grad[0, :, 1].abs().max() > 0


@pytest.mark.parametrize("kind", MOVING)
def test_two_processes_move_their_codebooks_as_one_with_the_whole_batch(started, seeded, kind):
    one, features = started(kind)
    pair = [started(kind)[0] for _ in range(2)]
    keys = list(one.state_dict())
    barrier, rows = threading.Barrier(2, timeout=20), [None, None]

    def gather(index: int, own: torch.Tensor) -> torch.Tensor:
        rows[index] = own
        barrier.wait()
        whole = torch.cat(rows)
        barrier.wait()
        return whole

    def train(index: int) -> None:
        generator = seeded(9)
        pair[index].gather = partial(gather, index)
        for step in range(40):
            pair[index](features[index : index + 1] + 0.1 * step, generator)

    threads = [threading.Thread(target=train, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    generator = seeded(9)
    for step in range(40):  # long enough for codes to die
        one(features + 0.1 * step, generator)
    for thread in threads:
        thread.join()
    for name in keys:
        values = [made.state_dict()[name] for made in (one, *pair)]
        assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2]), name
    assert list(pair[0].state_dict()) == keys
