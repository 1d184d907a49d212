"""What holds for every quantizer: shapes, float32, where gradients go, and no hidden state."""

import pytest
import torch
from torch import nn

KINDS = ("ema", "vq", "vq_l2", "simvq", "fsq")
NEAREST = KINDS[:4]


def unit(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(features, dim=1)


@pytest.mark.parametrize(
    ("kind", "rotation"), [*((kind, False) for kind in KINDS), *((kind, True) for kind in NEAREST)]
)
def test_shapes_types_and_lookup(started, seeded, kind, rotation):
    made, _ = started(kind, rotation_trick=rotation)
    features = torch.randn(2, 3, 4, 5, generator=seeded(5))
    found = made.eval()(features, seeded())
    assert found.codes.shape == (2, 4, 5) and found.codes.dtype == torch.int64
    assert found.codes.min() >= 0 and found.codes.max() < made.size == len(made.codebook) == 24
    assert found.vectors.shape == features.shape and made.codebook.shape == (24, 3)
    assert torch.allclose(found.vectors, made.lookup(found.codes), atol=1e-6)
    assert torch.allclose(found.vectors[1, :, 2, 4], made.codebook[found.codes[1, 2, 4]], atol=1e-6)
    for loss in (found.commitment_loss, found.codebook_loss):
        assert loss.shape == () and loss >= 0
    for value in (found.vectors, found.commitment_loss, found.codebook_loss, made.codebook):
        assert value.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_bf16_features_change_no_type_and_no_code(started, seeded, kind):
    made, features = started(kind)
    features = features.bfloat16()
    wanted = made.eval()(features.float(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        found = made(features, seeded())
        assert made.codebook.dtype == made.lookup(found.codes).dtype == torch.float32
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_near_codes_far_from_the_origin_are_told_apart_under_autocast(quantizer, seeded):
    """A product in bf16 would confuse them."""
    made = quantizer(num_embeddings=64, embedding_dim=8).eval()
    near = 14.0 + 0.2 * torch.randn(64, 8, generator=seeded())
    made.codebook.data.copy_(near)
    with torch.autocast("cpu", torch.bfloat16):
        codes = made(near.T.reshape(1, 8, 8, 8), seeded()).codes
    assert torch.equal(codes.flatten(), torch.arange(64))


@pytest.mark.parametrize("kind", NEAREST)
def test_each_feature_gets_its_nearest_code(started, seeded, kind):
    made, features = started(kind)
    found = made.eval()(features, seeded())
    placed = unit(features) if kind == "vq_l2" else features
    for b, i, j in ((0, 0, 0), (1, 3, 7), (1, 7, 2)):
        distances = (made.codebook - placed[b, :, i, j]).square().sum(1)
        assert found.codes[b, i, j] == distances.argmin()


@pytest.mark.parametrize("kind", NEAREST)
def test_gradient_goes_straight_through(started, seeded, kind):
    """What is quantized gets the gradient that a loss has at the quantized vectors."""
    made, features = started(kind)
    features.requires_grad_()
    found = made.eval()(features, seeded())
    found.vectors.retain_grad()
    (found.vectors**3).sum().backward()
    decoders = found.vectors.grad
    assert torch.allclose(decoders, 3 * made.lookup(found.codes) ** 2, atol=1e-5)
    if kind == "vq_l2":  # then on through the normalisation
        (decoders,) = torch.autograd.grad(unit(features), features, decoders)
    assert torch.allclose(features.grad, decoders, atol=1e-6)
    assert all(p.grad is None for p in made.parameters()), "the codebook learns from its loss only"


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("kind", ["vq", "simvq"])
def test_codebook_learns_from_its_own_loss_only(started, seeded, kind, rotation):
    made, features = started(kind, rotation_trick=rotation)
    learned = [p for p in made.parameters() if p.requires_grad]
    found = made(features.requires_grad_(), seeded())
    found.codebook_loss.backward()
    assert features.grad is None and all(p.grad.abs().sum() > 0 for p in learned)
    for p in learned:
        p.grad = None
    found = made(features, seeded())
    (found.vectors.square().sum() + found.commitment_loss).backward()
    assert features.grad.abs().sum() > 0 and all(p.grad is None for p in learned)


@pytest.mark.parametrize("kind", ["ema", "vq_l2", "fsq"])
def test_codebooks_without_gradient_have_no_loss(started, seeded, kind):
    made, features = started(kind)
    found = made(features.requires_grad_(), seeded())
    assert not any(p.requires_grad for p in made.parameters())
    assert float(found.codebook_loss) == 0.0
    (found.vectors.square().sum() + found.commitment_loss).backward()
    assert features.grad.abs().sum() > 0 and made.codebook.grad is None


@pytest.mark.parametrize("kind", ["vq", "simvq"])
def test_losses_by_hand(quantizer, seeded, kind):
    made = quantizer(kind, num_embeddings=2, embedding_dim=1, beta=0.5)
    with torch.no_grad():
        if kind == "simvq":
            made.frozen.copy_(torch.tensor([[0.0], [5.0]]))
            made.map.weight.fill_(2.0)
            made.map.bias.fill_(0.0)
        else:
            made.codebook.copy_(torch.tensor([[0.0], [10.0]]))
    features = torch.tensor([1.0, 8.0]).view(1, 1, 1, 2).requires_grad_()
    found = made(features, seeded())
    assert found.codes.flatten().tolist() == [0, 1]
    assert found.codebook_loss.item() == pytest.approx((1 + 4) / 2)
    assert found.commitment_loss.item() == pytest.approx(0.5 * (1 + 4) / 2)
    found.codebook_loss.backward()
    if kind == "simvq":
        assert made.map.weight.grad.item() == pytest.approx(2 * 5)  # d/dw (5w - 8)^2 / 2, w = 2
        assert made.map.bias.grad.item() == pytest.approx(-1 + 2)
    else:
        assert made.codebook.grad.flatten().tolist() == [-1.0, 2.0]
    found.commitment_loss.backward()
    assert features.grad.flatten().tolist() == [0.5, -1.0]


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
            found = made(features + step, generator)
        return [*found, *made.state_dict().values(), made.codebook]

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
def test_start_fits_the_codes_to_the_features(quantizer, seeded, kind):
    """Far from the origin, long in one direction: most codes are used, the error is small."""
    made = quantizer(kind, num_embeddings=64, fsq_levels=[4, 4, 4])
    vectors = torch.randn(4000, 3, generator=seeded(3)) * torch.tensor([4.0, 1.0, 0.3])
    vectors = vectors + torch.tensor([20.0, -3.0, 0.0]) * (kind != "vq_l2")
    made.start(vectors, seeded())
    found = made.eval()(vectors.T.view(1, 3, 40, 100), seeded())
    wanted = vectors / vectors.norm(dim=1, keepdim=True) if kind == "vq_l2" else vectors
    lost = (found.vectors.view(3, -1).T - wanted).square().sum(1).mean()
    assert lost < 0.3 * (wanted - wanted.mean(0)).square().sum(1).mean()
    assert len(found.codes.unique()) >= 60


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_left_to_the_loss(started, seeded, kind):
    """Codes stay inside the codebook, so that what stops the training is the loss, by name."""
    made, features = started(kind)
    features[0, 0, 0, 0] = torch.nan
    found = made.eval()(features, seeded())
    assert found.codes.min() >= 0 and found.codes.max() < made.size
    assert (found.vectors.sum() + found.commitment_loss).isnan()


def test_the_thesis_codebook_starts_as_kerass(quantizer):
    codebook = quantizer("vq", num_embeddings=4096).codebook
    assert codebook.abs().max() <= 0.05 and codebook.std().item() == pytest.approx(0.0289, rel=0.02)


def test_simvq_trains_its_map_and_never_its_codes(started, seeded):
    made, features = started("simvq")
    assert [name for name, _ in made.named_parameters()] == ["map.weight", "map.bias"]
    assert "frozen" in made.state_dict()
    before, codebook = made.frozen.clone(), made.codebook.detach().clone()
    adam = torch.optim.Adam(made.parameters(), lr=0.1)
    made(features, seeded()).codebook_loss.backward()
    adam.step()
    assert torch.equal(made.frozen, before)
    assert (made.codebook - codebook).abs().sum(1).min() > 0, "every code moves"


def test_simvq_starts_with_mean_and_covariance_of_the_features(quantizer, seeded):
    made = quantizer("simvq", num_embeddings=20_000)
    turn = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 0.1]])
    vectors = torch.randn(5000, 3, generator=seeded()) @ turn + torch.tensor([5.0, 0.0, -1.0])
    made.start(vectors, seeded())
    codebook = made.codebook.detach()
    assert torch.allclose(codebook.mean(0), vectors.mean(0), atol=0.1)
    assert torch.allclose(torch.cov(codebook.T), torch.cov(vectors.T), atol=0.15)
