"""Tokenizer: shapes of every size, the channel rule, the linear shortcut, and no hidden state."""

import pytest
import torch
from torch import nn

from pipeline.vqgan.blocks import AttentionBlock
from pipeline.vqgan.discriminator import Discriminator
from pipeline.vqgan.model import Shortcut, Tokenizer

SIZES = "vqgan.autoencoder."


def make(tiny, changes: dict, height: int = 16, width: int = 32) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(tiny(changes).vqgan, height, width).eval()


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize(
    ("height", "width", "patch", "multiplier", "upsampling", "attention"),
    [
        (16, 32, 2, [1, 2], "nearest", []),
        (16, 32, 4, [1], "bilinear", [4]),
        (32, 16, 1, [1, 2, 2], "bilinear", [8, 32]),
        (24, 40, 1, [2, 1, 3, 1], "nearest", []),
    ],
)
def test_shapes_there_and_back(
    tiny, height, width, patch, multiplier, upsampling, attention, shortcut
):
    changes = {
        f"{SIZES}patch_size": patch,
        f"{SIZES}channels_multiplier": multiplier,
        f"{SIZES}upsampling": upsampling,
        f"{SIZES}attention_resolution": attention,
        f"{SIZES}shortcut": shortcut,
        "ingest.height": height,
        "ingest.width": width,
    }
    tokenizer = make(tiny, changes, height, width)
    stride = patch * 2 ** (len(multiplier) - 1)
    assert tokenizer.grid == (height // stride, width // stride) == tiny(changes).grid
    images = torch.rand(2, 3, height, width) * 2 - 1
    with torch.no_grad():
        codes = tokenizer.encode(images)
        drawn = tokenizer.decode(codes)
    assert codes.shape == (2, tokenizer.tokens_per_frame) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < 16
    assert drawn.shape == images.shape and drawn.abs().max() <= 1
    found = sum(isinstance(layer, AttentionBlock) for layer in tokenizer.modules())
    assert found == 2 * len(attention), "one in the encoder, one in the decoder"


def test_channels_at_a_level_are_a_multiple_of_the_base_not_of_the_level_before(tiny):
    tokenizer = make(tiny, {f"{SIZES}channels_multiplier": [2, 4, 4], f"{SIZES}patch_size": 1})
    widths = [m.conv1.out_channels for m in tokenizer.encoder.layers if hasattr(m, "conv1")]
    assert widths == [16, 32, 32, 32]  # and the last block's
    back = [m.conv1.out_channels for m in tokenizer.decoder.layers if hasattr(m, "conv1")]
    assert back == [32, 32, 32, 16]


def test_codes_are_row_by_row(tiny, untrained, moving):
    """What changes in the lower right corner of a picture changes the last code."""
    tokenizer = untrained(tiny()).tokenizer
    assert isinstance(tokenizer.shortcut, Shortcut)
    nn.init.zeros_(tokenizer.before.weight)  # the linear path alone sees one token's pixels
    image = torch.zeros(1, 3, 16, 32)
    other = image.clone()
    other[..., -4:, -4:] = 1.0
    changed = (tokenizer.encode(image) != tokenizer.encode(other))[0]
    assert changed.nonzero().flatten().tolist() == [4 * 8 - 1]
    codes = tokenizer.encode(other)
    nn.init.zeros_(tokenizer.decoder.out.weight)
    difference = (tokenizer.decode(codes) - tokenizer.decode(tokenizer.encode(image))).abs()
    assert difference[..., -4:, -4:].max() > 0 and difference[..., :-4, :].max() < 1e-6


def test_mean_vectors_decode_as_codes_do(tiny, untrained, moving):
    tokenizer = untrained(tiny()).tokenizer
    codes = torch.randint(0, 16, (2, 32), generator=torch.Generator().manual_seed(0))
    sure = nn.functional.one_hot(codes, 16).float() @ tokenizer.codebook
    assert torch.allclose(tokenizer.decode_vectors(sure), tokenizer.decode(codes), atol=1e-6)


def test_encoding_in_training_mode_is_refused(tiny):
    with pytest.raises(AssertionError, match="training mode"):
        make(tiny, {}).train().encode(torch.zeros(1, 3, 16, 32))


@pytest.mark.parametrize("kind", ["ema", "vq"])
def test_evaluation_changes_nothing(tiny, kind):
    tokenizer = make(tiny, {"vqgan.vqvae.quantizer": kind})
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    for _ in range(2):
        codes = tokenizer.encode(torch.rand(3, 3, 16, 32))
        tokenizer.decode(codes)
    assert all(torch.equal(before[name], v) for name, v in tokenizer.state_dict().items())


def test_a_picture_is_encoded_the_same_in_any_batch(tiny, untrained, moving):
    from pipeline.frames import to_float

    tokenizer = untrained(tiny()).tokenizer
    images = to_float(torch.cat([moving(3, seed) for seed in range(3)]))
    alone = torch.cat([tokenizer.encode(image[None]) for image in images])
    assert torch.equal(tokenizer.encode(images), alone)


def test_loss_reaches_every_weight(tiny):
    """Without a shortcut from the start; with it the corrections start at zero and learn first."""
    changes = {f"{SIZES}shortcut": False, f"{SIZES}attention_resolution": [4]}
    tokenizer = make(tiny, changes | {"vqgan.vqvae.quantizer": "vq"}).train()
    quantized = tokenizer.quantize(torch.rand(2, 3, 16, 32), torch.Generator())
    drawn = tokenizer.decode_features(quantized.vectors)
    (drawn.square().sum() + quantized.codebook_loss + quantized.commitment_loss).backward()
    for name, value in tokenizer.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name


@pytest.fixture
def smooth(moving) -> torch.Tensor:
    from pipeline.frames import to_float

    return to_float(torch.cat([moving(6, seed) for seed in range(5)]))


def linear(shortcut: Shortcut, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return shortcut.decode(shortcut.encode(images))


def test_shortcut_starts_better_than_the_mean_picture(smooth):
    error = []
    for dim in (1, 3, 6, 12):
        shortcut = Shortcut(4, dim)
        shortcut.start(smooth)
        error.append(float((linear(shortcut, smooth) - smooth).square().mean()))
    by_mean = float((smooth - smooth.mean(0)).square().mean())
    assert error == sorted(error, reverse=True) and error[1] < 0.5 * by_mean


def test_shortcut_is_as_good_as_principal_components(smooth):
    shortcut = Shortcut(4, 5)
    shortcut.start(smooth)
    patches = smooth.unfold(2, 4, 4).unfold(3, 4, 4)  # B 3 h w 4 4
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1).double()  # BN 48
    mean = patches.mean(0)
    best = torch.linalg.svdvals(patches - mean)[5:].square().sum() / patches.numel()
    # A bias is one number a colour: what the mean patch has beyond that may cost more.
    uneven = (mean.view(3, 16) - mean.view(3, 16).mean(1, keepdim=True)).square().mean()
    error = (linear(shortcut, smooth) - smooth).square().mean()
    assert best * 0.999 <= error <= best * 1.001 + uneven


@pytest.mark.parametrize("dim", [48, 60])
def test_shortcut_of_full_width_loses_nothing(smooth, dim):
    shortcut = Shortcut(4, dim)
    images = smooth + 0.3 * torch.randn(smooth.shape)
    shortcut.start(images)
    assert torch.allclose(linear(shortcut, images), images, atol=1e-4)


def test_networks_start_as_corrections_of_the_shortcut(tiny, smooth):
    tokenizer = make(tiny, {})
    tokenizer.shortcut.start(smooth)
    with torch.no_grad():
        features = tokenizer.features(smooth)
        assert torch.equal(features, tokenizer.shortcut.encode(smooth))
        drawn = tokenizer.decode_features(features)
    assert torch.equal(drawn, linear(tokenizer.shortcut, smooth))


@pytest.mark.parametrize(("layers", "size", "sees"), [(1, 14, 16), (2, 14, 34), (3, 6, 70)])
def test_discriminator_gives_a_map_and_each_logit_sees_its_patch(tiny, layers, size, sees):
    settings = tiny({"vqgan.discriminator.num_layers": layers}).vqgan.discriminator
    torch.manual_seed(0)
    judge, side = Discriminator(settings), {1: 32, 2: 64, 3: 64}[layers]
    assert judge(torch.rand(2, 3, side, side)).shape == (2, 1, size, size)
    for number, layer in enumerate(judge.layers):
        if isinstance(layer, nn.GroupNorm):  # its statistics are of the whole picture
            judge.layers[number] = nn.Identity()
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    logits = judge(image)[0, 0]
    logits[tuple(n // 2 for n in logits.shape)].backward()
    rows, columns = image.grad.abs().sum((0, 1)).nonzero().T
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == sees


def test_discriminator_is_the_same_in_training_and_evaluation(tiny):
    judge = Discriminator(tiny().vqgan.discriminator)
    images = torch.rand(3, 3, 16, 32)
    assert torch.equal(judge.train()(images), judge.eval()(images))
    assert torch.allclose(judge(images)[:1], judge(images[:1]), atol=1e-5)
