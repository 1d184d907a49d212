"""Equality with vector-quantize-pytorch, where it has the same method."""

import pytest
import torch
from torch import nn

from pipeline.models.vqgan.quantizers.gradients import rotated
from pipeline.models.vqgan.quantizers.moving import DECAY

reference = pytest.importorskip(
    "vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed"
)
BETA = 0.25


@pytest.fixture
def features(seeded) -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=seeded(4)).requires_grad_()


def rows(maps: torch.Tensor) -> torch.Tensor:
    return maps.movedim(1, -1).flatten(1, 2)  # B D h w -> B hw D


def of_cubes(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad((values**3).sum(), features, retain_graph=True)
    return gradient


def test_rotation(seeded):
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    a, b, gradient = torch.randn(3, 2, 6, 4, 4, generator=seeded())
    a.requires_grad_()
    theirs = rotate_to(rows(a), rows(b))
    assert torch.allclose(rows(rotated(a, b)), theirs, atol=1e-5)
    pulled = [
        torch.autograd.grad(values, a, by)[0]
        for values, by in ((rotated(a, b), gradient), (theirs, rows(gradient)))
    ]
    assert torch.allclose(*pulled, atol=1e-5)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("kind", ["ema", "vq_l2"])
def test_moving_codebooks(started, seeded, features, kind, rotation):
    """Codes, vectors, gradients, losses and the codebook, over steps in which no code dies."""
    ours, _ = started(kind, num_embeddings=8, rotation_trick=rotation, beta=BETA)
    theirs = reference.VectorQuantize(
        3, 8, decay=DECAY, eps=1e-12, use_cosine_sim=kind == "vq_l2", rotation_trick=rotation,
        commitment_weight=BETA, threshold_ema_dead_code=0, accept_image_fmap=True,
    )  # fmt: skip
    state = theirs._codebook
    state.embed.copy_(ours.codebook[None])
    state.embed_avg.copy_(ours.sums[None])
    state.cluster_size.copy_(ours.counts[None])
    for step in range(5):
        moved = features + 0.1 * step
        found = ours(moved, seeded())
        vectors, codes, loss = theirs(moved)
        assert torch.equal(found.codes, codes)
        assert torch.allclose(found.vectors, vectors, atol=1e-5)
        assert torch.allclose(found.commitment_loss, loss.squeeze(), atol=1e-6)
        gradients = (of_cubes(x, features) for x in (found.vectors, vectors))
        assert torch.allclose(*gradients, atol=1e-4)
        assert torch.allclose(ours.codebook, theirs.codebook, atol=1e-5)
        assert torch.allclose(ours.counts, state.cluster_size[0], atol=1e-5)
        assert torch.allclose(ours.sums, state.embed_avg[0], atol=1e-5)


@pytest.mark.parametrize("rotation", [False, True])
def test_simvq(started, seeded, features, rotation):
    ours, _ = started("simvq", rotation_trick=rotation, beta=BETA)
    theirs = reference.SimVQ(
        3, 24, codebook_transform=nn.Linear(3, 3), channel_first=True, rotation_trick=rotation,
        input_to_quantize_commit_loss_weight=BETA,
    )  # fmt: skip
    theirs.frozen_codebook.copy_(ours.frozen)
    theirs.code_transform.load_state_dict(ours.map.state_dict())
    found = ours(features, seeded())
    vectors, codes, loss = theirs(features)
    assert torch.equal(found.codes, codes)
    assert torch.allclose(found.vectors, vectors, atol=1e-5)
    assert torch.allclose(found.commitment_loss + found.codebook_loss, loss)
    assert torch.allclose(*(of_cubes(x, features) for x in (found.vectors, vectors)), atol=1e-4)
    assert torch.allclose(ours.codebook, theirs.codebook)
    (found.commitment_loss + found.codebook_loss).backward()
    loss.backward()
    for mine, other in zip(ours.map.parameters(), theirs.code_transform.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-6)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [4, 4, 4], [3, 7, 16]])
def test_fsq(quantizer, seeded, levels):
    """The same grid. Its bound is wider by 0.2 %, so a few features fall into the next cell."""
    ours, theirs = quantizer("fsq", fsq_levels=levels), reference.FSQ(levels)
    assert torch.allclose(ours.codebook, theirs.implicit_codebook)
    features = torch.randn(4, len(levels), 16, 16, generator=seeded()).requires_grad_()
    found, (vectors, codes) = ours(features, seeded()), theirs(features)
    same = found.codes == codes
    assert same.float().mean() > 0.98
    assert torch.allclose(found.vectors.movedim(1, -1)[same], vectors.movedim(1, -1)[same])
    apart = (found.vectors - vectors).abs() * ours.width[:, None, None]
    assert apart.max() < 1.001
    slopes = [torch.autograd.grad(x.sum(), features)[0] for x in (found.vectors, vectors)]
    assert torch.allclose(*slopes, atol=0.01)
