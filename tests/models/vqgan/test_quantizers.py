"""Quantizers: shapes, float32, where gradients go, no hidden state, and what moves the codebook."""

import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from pipeline.models.vqgan.quantizers import DECAY, FRESH_COUNT, nearest

KINDS = ("ema", "vq")
BETA = 0.25


def lookup(made, codes: torch.Tensor) -> torch.Tensor:
    return F.embedding(codes, made.codebook).movedim(-1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_types_and_lookup(started, seeded, kind):
    made, _ = started(kind)
    features = torch.randn(2, 3, 4, 5, generator=seeded(5))
    quantized = made.eval()(features, seeded())
    codes = quantized.codes
    assert codes.shape == (2, 4, 5) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < made.size == len(made.codebook) == 24
    assert quantized.vectors.shape == features.shape and made.codebook.shape == (24, 3)
    assert torch.allclose(quantized.vectors, lookup(made, codes), atol=1e-6)
    assert torch.allclose(quantized.vectors[1, :, 2, 4], made.codebook[codes[1, 2, 4]], atol=1e-6)
    distances = (made.codebook[:, :, None, None] - features[1]).square().sum(1)  # V h w
    assert torch.equal(codes[1], distances.argmin(0))
    for loss in (quantized.commitment_loss, quantized.codebook_loss):
        assert loss.shape == () and loss >= 0
    for value in (*quantized[:1], *quantized[2:], made.codebook):
        assert value.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_bf16_features_change_no_type_and_no_code(started, seeded, kind):
    made, features = started(kind)
    features = features.bfloat16()
    wanted = made.eval()(features.float(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        found = made(features, seeded())
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_near_codes_far_from_the_origin_are_told_apart_under_autocast(quantizer, seeded):
    """A product in bf16 would confuse them."""
    made = quantizer(num_embeddings=64, embedding_dim=8).eval()
    near = 14.0 + 0.2 * torch.randn(64, 8, generator=seeded())
    made.codebook.copy_(near)
    with torch.autocast("cpu", torch.bfloat16):
        codes = made(near.T.reshape(1, 8, 8, 8), seeded()).codes
    assert torch.equal(codes.flatten(), torch.arange(64))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_goes_straight_through(started, seeded, kind):
    """The features get the gradient that a loss has at the quantized vectors."""
    made, features = started(kind)
    quantized = made.eval()(features.requires_grad_(), seeded())
    (quantized.vectors**3).sum().backward()
    assert torch.allclose(features.grad, 3 * lookup(made, quantized.codes) ** 2, atol=1e-5)
    assert all(p.grad is None for p in made.parameters()), "the codebook learns from its loss only"


def test_a_codebook_of_averages_is_a_buffer_without_a_loss(started, seeded):
    made, features = started()
    quantized = made(features.requires_grad_(), seeded())
    assert not list(made.parameters()) and "codebook" in dict(made.named_buffers())
    assert float(quantized.codebook_loss) == 0.0
    (quantized.vectors.square().sum() + quantized.commitment_loss).backward()
    assert features.grad.abs().sum() > 0 and made.codebook.grad is None


def test_losses_by_hand(quantizer, seeded):
    made = quantizer("vq", num_embeddings=2, embedding_dim=1, beta=0.5)
    with torch.no_grad():
        made.codebook.copy_(torch.tensor([[0.0], [10.0]]))
    features = torch.tensor([1.0, 8.0]).view(1, 1, 1, 2).requires_grad_()
    quantized = made(features, seeded())
    assert quantized.codes.flatten().tolist() == [0, 1]
    assert quantized.codebook_loss.item() == pytest.approx((1 + 4) / 2)
    assert quantized.commitment_loss.item() == pytest.approx(0.5 * (1 + 4) / 2)
    quantized.codebook_loss.backward()
    assert features.grad is None
    assert made.codebook.grad.flatten().tolist() == [-1.0, 2.0]
    quantized.commitment_loss.backward()
    assert features.grad.flatten().tolist() == [0.5, -1.0]
    assert made.codebook.grad.flatten().tolist() == [-1.0, 2.0], "from its own loss only"


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_changes_nothing(started, seeded, kind):
    made, features = started(kind)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    generator = seeded()
    made.eval()(features + 0.5, generator)
    after = made.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes(started, seeded, kind):
    def run() -> list[torch.Tensor]:
        made, features = started(kind)
        generator = seeded(2)
        for step in range(3):
            quantized = made(features + step, generator)
        return [*quantized, *made.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_gives_the_same_codes(started, quantizer, seeded, kind):
    made, features = started(kind)
    other = quantizer(kind, seed=7)
    other.load_state_dict(made.state_dict(), strict=True)
    pair = [q.eval()(features, seeded()) for q in (made, other)]
    assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))
    assert torch.equal(made.codebook, other.codebook)


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_fits_the_codes_to_the_features(quantizer, seeded, kind):
    """Far from the origin, long in one direction: most codes are used, the error is small."""
    made = quantizer(kind, num_embeddings=64)
    vectors = torch.randn(4000, 3, generator=seeded(3)) * torch.tensor([4.0, 1.0, 0.3])
    vectors = vectors + torch.tensor([20.0, -3.0, 0.0])
    made.init_from_data(vectors, seeded())
    quantized = made.eval()(vectors.T.view(1, 3, 40, 100), seeded())
    error = (quantized.vectors.view(3, -1).T - vectors).square().sum(1).mean()
    assert error < 0.3 * (vectors - vectors.mean(0)).square().sum(1).mean()
    assert len(quantized.codes.unique()) >= 60


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_uses_nearly_all_codes_where_most_vectors_are_alike(quantizer, seeded, kind):
    made = quantizer(kind, num_embeddings=64, embedding_dim=4)
    alike = torch.zeros(3000, 4)  # most of a cartoon
    vectors = torch.cat([alike, torch.randn(1000, 4, generator=seeded(3))])
    made.init_from_data(vectors, seeded())
    quantized = made.eval()(vectors.T.view(1, 4, 40, 100), seeded())
    assert len(quantized.codes.unique()) >= 60
    own = vectors[3000:]
    error = (quantized.vectors.view(4, -1).T[3000:] - own).square().sum(1).mean()
    assert error < 0.25 * own.square().sum(1).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_the_start_is_a_function_of_the_generator(quantizer, seeded, kind):
    vectors = torch.randn(200, 3, generator=seeded(1))
    books = []
    for seed in (0, 0, 1):
        made = quantizer(kind)
        made.init_from_data(vectors, seeded(seed))
        books.append(made.codebook.detach().clone())
    assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_left_to_the_loss(started, seeded, kind):
    """Codes stay inside the codebook, so that what stops the training is the loss, by name."""
    made, features = started(kind)
    features[0, 0, 0, 0] = torch.nan
    quantized = made.eval()(features, seeded())
    assert quantized.codes.min() >= 0 and quantized.codes.max() < made.size
    assert (quantized.vectors.sum() + quantized.commitment_loss).isnan()


def test_the_thesis_codebook_starts_as_kerass(quantizer):
    codebook = quantizer("vq", num_embeddings=4096).codebook
    assert codebook.abs().max() <= 0.05 and codebook.std().item() == pytest.approx(0.0289, rel=0.02)


def test_a_codebook_of_averages_moves_in_training(started, seeded):
    made, features = started()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.train()(features + 0.5, seeded())
    assert all(not torch.equal(before[name], v) for name, v in made.state_dict().items())


def test_moving_averages_by_hand(quantizer, seeded):
    """One code, credited with FRESH_COUNT vectors at 0, sees four vectors at 1."""
    made = quantizer(num_embeddings=2, embedding_dim=1)
    made.init_from_data(torch.tensor([[0.0], [100.0]]), seeded())
    low = int(made.codebook.argmin())
    made.train()(torch.ones(1, 1, 2, 2), seeded())
    count = DECAY * FRESH_COUNT + (1 - DECAY) * 4
    assert float(made.counts[low]) == pytest.approx(count)
    assert float(made.codebook[low]) == pytest.approx((1 - DECAY) * 4 / count)
    assert float(made.codebook[1 - low]) == pytest.approx(100.0), "unused: stays for now"


def test_a_codebook_follows_its_vectors(quantizer, seeded):
    """Three far clusters move on, and each code goes with its own to the new mean."""
    made = quantizer(num_embeddings=3, embedding_dim=1)
    vectors = torch.tensor([-10.2, -9.8, -0.1, 0.1, 9.6, 10.4])
    made.init_from_data(vectors[:, None], seeded())
    moved = (vectors + 1).view(1, 1, 2, 3)
    made.train()
    for _ in range(400):
        made(moved, seeded())
    wanted = torch.tensor([-9.0, 1.0, 11.0])
    assert torch.allclose(made.codebook.flatten().sort().values, wanted, atol=1e-2)


def test_a_dead_code_restarts_at_a_vector_of_the_batch_with_new_statistics(started, seeded):
    made, features = started()
    features[:, 0] = features[:, 0].abs() + 0.1  # nothing lies at the other side
    far = torch.tensor([-1e3, 0.0, 0.0])
    made.codebook[3] = far
    made.sums[3] = FRESH_COUNT * far
    made.train()
    steps = 0
    while torch.allclose(made.codebook[3], far) and steps < 500:
        made(features, seeded(steps))
        steps += 1
    assert 10 < steps < 500, "not at once, but in time"
    vectors = features.movedim(1, -1).flatten(0, 2)
    assert (made.codebook[3] - vectors).abs().sum(1).min() < 1e-5
    assert float(made.counts[3]) == FRESH_COUNT
    assert torch.allclose(made.sums[3], FRESH_COUNT * made.codebook[3])
    made(features, seeded())
    assert made.codebook[3, 0] > 0, "the old average does not pull it back"


def test_restarts_go_where_the_error_is(quantizer, seeded):
    """One patch of a hundred is not flat, and it is the one that misses a code."""
    made = quantizer(num_embeddings=2, embedding_dim=2)
    made.init_from_data(torch.zeros(4, 2), seeded())
    features = torch.zeros(1, 2, 10, 10)
    features[0, :, 4, 4] = 7.0
    made.train()
    for step in range(200):
        made(features, seeded(step))
    ends = nearest(torch.tensor([[7.0, 7.0], [0.0, 0.0]]), made.codebook)
    assert ends[0] != ends[1]


def test_two_processes_move_their_codebooks_as_one_with_the_whole_batch(started, seeded):
    one, features = started()
    pair = [started()[0] for _ in range(2)]
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


def test_moving_averages_are_those_of_vector_quantize_pytorch(started, seeded):
    """Codes, vectors, gradients, losses and the codebook, over steps in which no code dies."""
    reference = pytest.importorskip("vector_quantize_pytorch")
    features = torch.randn(2, 3, 8, 8, generator=seeded(4)).requires_grad_()
    ours, _ = started(num_embeddings=8, beta=BETA)
    theirs = reference.VectorQuantize(
        3, 8, decay=DECAY, eps=1e-12, rotation_trick=False, commitment_weight=BETA,
        threshold_ema_dead_code=0, accept_image_fmap=True,
    )  # fmt: skip
    state = theirs._codebook
    state.embed.copy_(ours.codebook[None])
    state.embed_avg.copy_(ours.sums[None])
    state.cluster_size.copy_(ours.counts[None])
    for step in range(5):
        moved = features + 0.1 * step
        quantized = ours(moved, seeded())
        vectors, codes, loss = theirs(moved)
        assert torch.equal(quantized.codes, codes)
        assert torch.allclose(quantized.vectors, vectors, atol=1e-5)
        assert torch.allclose(quantized.commitment_loss, loss.squeeze(), atol=1e-6)
        (own,) = torch.autograd.grad((quantized.vectors**3).sum(), features, retain_graph=True)
        (other,) = torch.autograd.grad((vectors**3).sum(), features, retain_graph=True)
        assert torch.allclose(own, other, atol=1e-4)
        assert torch.allclose(ours.codebook, theirs.codebook, atol=1e-5)
        assert torch.allclose(ours.counts, state.cluster_size[0], atol=1e-5)
        assert torch.allclose(ours.sums, state.embed_avg[0], atol=1e-5)
