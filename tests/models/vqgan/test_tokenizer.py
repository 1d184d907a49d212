"""Tokenizer: shapes of every size, the channel rule, the linear path, and no hidden state."""

import pytest
import torch
from torch import nn

from pipeline.models.vqgan.autoencoder import (
    AttentionBlock,
    Decoder,
    Encoder,
    ResidualBlock,
    upsampling,
)
from pipeline.models.vqgan.model import LinearSkip, Tokenizer

SIZES = "vqgan.autoencoder."


def make(tiny, changes: dict, height: int = 16, width: int = 32) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(tiny({"vqgan.context": "none"} | changes).vqgan, height, width).eval()


@pytest.mark.parametrize("architecture", ["fast", "thesis"])
@pytest.mark.parametrize(
    ("height", "width", "patch", "multiplier", "upsampling", "attention"),
    [
        (16, 32, 2, [1, 2], "nearest", []),
        (16, 32, 4, [1], "bilinear", [8]),
        (32, 16, 1, [1, 2, 2], "bilinear", [8, 32]),
        (24, 40, 1, [2, 1, 3, 1], "nearest", []),
        (16, 48, 2, [1, 3], "transposed", [12]),
    ],
)
def test_shapes_there_and_back(
    tiny, height, width, patch, multiplier, upsampling, attention, architecture
):
    changes = {
        f"{SIZES}patch_size": patch,
        f"{SIZES}channels_multiplier": multiplier,
        f"{SIZES}upsampling": upsampling,
        f"{SIZES}attention_resolution": attention,
        f"{SIZES}architecture": architecture,
        "ingest.height": height,
        "ingest.width": width,
    }
    tokenizer = make(tiny, changes, height, width)
    stride = patch * 2 ** (len(multiplier) - 1)
    assert tokenizer.grid == (height // stride, width // stride)
    images = torch.rand(2, 3, height, width) * 2 - 1
    with torch.no_grad():
        codes = tokenizer.encode(images)
        drawn = tokenizer.decode(codes)
    assert codes.shape == (2, tokenizer.tokens_per_frame) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < 16
    assert drawn.shape == images.shape and drawn.abs().max() <= 1
    found = sum(isinstance(layer, AttentionBlock) for layer in tokenizer.modules())
    blocks = 3 if architecture == "thesis" else 2  # a level, of both networks
    assert found == blocks * len(attention) + 2 * bool(attention), "two at the smallest level"


def test_channels_at_a_level_are_a_multiple_of_the_base_not_of_the_level_before(tiny):
    tokenizer = make(tiny, {f"{SIZES}channels_multiplier": [2, 4, 4], f"{SIZES}patch_size": 1})
    widths = [m.conv1.out_channels for m in tokenizer.encoder.layers if hasattr(m, "conv1")]
    assert widths == [16, 32, 32, 32]  # and the last block's
    back = [m.conv1.out_channels for m in tokenizer.decoder.layers if hasattr(m, "conv1")]
    assert back == [32, 32, 32, 16]


def test_codes_are_row_by_row(tiny, untrained, moving):
    """What changes in the lower right corner of a picture changes the last code."""
    tokenizer = untrained(tiny({"vqgan.context": "none"})).tokenizer
    assert isinstance(tokenizer.linear_skip, LinearSkip)
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
    tokenizer = untrained(tiny({"vqgan.context": "none"})).tokenizer
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

    tokenizer = untrained(tiny({"vqgan.context": "none"})).tokenizer
    images = to_float(torch.cat([moving(3, seed) for seed in range(3)]))
    alone = torch.cat([tokenizer.encode(image[None]) for image in images])
    assert torch.equal(tokenizer.encode(images), alone)


FORMS = {
    "nearest": {},
    "attention": {f"{SIZES}upsampling": "bilinear", f"{SIZES}attention_resolution": [8]},
    "transposed": {f"{SIZES}upsampling": "transposed"},
}


@pytest.mark.parametrize("form", FORMS)
def test_loss_reaches_every_weight(tiny, form):
    """Without the linear path from the start; beside it the corrections start at zero."""
    changes = {f"{SIZES}architecture": "thesis"} | FORMS[form]
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


def linear(linear_skip: LinearSkip, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return linear_skip.decode(linear_skip.encode(images))


def test_linear_skip_is_as_good_as_principal_components(smooth):
    linear_skip = LinearSkip(4, 5)
    linear_skip.start(smooth)
    patches = smooth.unfold(2, 4, 4).unfold(3, 4, 4)  # B 3 h w 4 4
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1).double()  # BN 48
    mean = patches.mean(0)
    best = torch.linalg.svdvals(patches - mean)[5:].square().sum() / patches.numel()
    # A bias is one number a colour: what the mean patch has beyond that may cost more.
    uneven = (mean.view(3, 16) - mean.view(3, 16).mean(1, keepdim=True)).square().mean()
    error = (linear(linear_skip, smooth) - smooth).square().mean()
    assert best * 0.999 <= error <= best * 1.001 + uneven


@pytest.mark.parametrize("dim", [48, 60])
def test_linear_skip_of_full_width_loses_nothing(smooth, dim):
    linear_skip = LinearSkip(4, dim)
    images = smooth + 0.3 * torch.randn(smooth.shape)
    linear_skip.start(images)
    assert torch.allclose(linear(linear_skip, images), images, atol=1e-4)


def test_networks_start_as_corrections_of_the_linear_skip(tiny, smooth):
    tokenizer = make(tiny, {})
    tokenizer.linear_skip.start(smooth)
    with torch.no_grad():
        features = tokenizer.features(smooth)
        assert torch.equal(features, tokenizer.linear_skip.encode(smooth))
        drawn = tokenizer.decode_features(features)
    assert torch.equal(drawn, linear(tokenizer.linear_skip, smooth))


LAYERS = (ResidualBlock, AttentionBlock, nn.Conv2d, nn.ConvTranspose2d, nn.Sequential)


def shapes(layers: nn.Module, x: torch.Tensor) -> list[tuple[str, ...]]:
    """Name and output `C H W` of each layer that has weights."""
    found = []
    for layer in layers:
        x = layer(x)
        if isinstance(layer, LAYERS):
            found.append((type(layer).__name__, *x.shape[1:]))
    return found


def test_the_thesis_network_has_its_shapes_and_size(thesis):
    """Table 2, with the channels of its code; 25 million weights."""
    sizes = thesis.vqgan.autoencoder
    encoder, decoder = Encoder(sizes, 128).eval(), Decoder(sizes, 128).eval()
    with torch.no_grad():
        assert shapes(encoder.layers, torch.zeros(1, 3, 64, 128)) == [
            ("Conv2d", 32, 64, 128),
            ("ResidualBlock", 64, 64, 128),
            ("Sequential", 64, 32, 64),
            ("ResidualBlock", 128, 32, 64),
            ("Sequential", 128, 16, 32),
            ("ResidualBlock", 256, 16, 32),
            ("Sequential", 256, 8, 16),
            ("ResidualBlock", 256, 8, 16),
            ("AttentionBlock", 256, 8, 16),
            ("ResidualBlock", 256, 8, 16),
            ("AttentionBlock", 256, 8, 16),
            ("ResidualBlock", 256, 8, 16),
        ]
        found = shapes(decoder.layers, torch.zeros(1, 512, 8, 16))
        assert [one[1:] for one in found if one[0] == "Sequential"] == [
            (256, 16, 32),
            (256, 32, 64),
            (128, 64, 128),
        ]
        assert found[-1] == ("ResidualBlock", 64, 64, 128)
        assert sum(one[0] == "ResidualBlock" for one in found) == 2 + 2 * 4
        assert encoder(torch.zeros(1, 3, 64, 128)).shape == (1, 512, 8, 16)
        assert decoder(torch.zeros(1, 512, 8, 16)).shape == (1, 3, 64, 128)
    networks = sum(p.numel() for m in (encoder, decoder) for p in m.parameters())
    codebook = thesis.vqgan.vqvae.num_embeddings * thesis.vqgan.vqvae.embedding_dim
    assert round((networks + codebook) / 1e6) == 25


@pytest.mark.parametrize(
    ("mode", "checkered"), [("nearest", False), ("bilinear", False), ("transposed", True)]
)
def test_only_a_transposed_convolution_draws_a_checkerboard_untrained(mode, checkered):
    """Thesis, figure 46: of a map without any pattern."""
    torch.manual_seed(0)
    plain = torch.randn(1, 16, 1, 1).expand(-1, -1, 8, 8)
    with torch.no_grad():
        drawn = upsampling(16, mode)(plain)[..., 2:-2, 2:-2]
    pattern = drawn - drawn.mean((2, 3), keepdim=True)
    assert (pattern.std() > 0.5 * drawn.std()) == checkered
    again = torch.allclose(pattern[..., :-2, :-2], pattern[..., 2:, 2:], atol=1e-5)
    assert again, "every two pixels"


def test_tanh_keeps_pictures_in_range(tiny):
    decoder = make(tiny, {f"{SIZES}architecture": "thesis"}).decoder
    assert decoder(100 * torch.randn(1, 8, 4, 8)).abs().max() <= 1


def test_checkpointed_gradients_are_the_same_and_keep_less(tiny):
    """Less is kept for the backward pass, and dropout repeats its draws there."""
    changes = {
        f"{SIZES}dropout": 0.2,
        f"{SIZES}num_res_blocks": 2,
        f"{SIZES}architecture": "thesis",
    }
    found = {}
    for wanted in (False, True):
        tokenizer = make(tiny, changes | {"vqgan.vqvae.quantizer": "vq"}).train()
        tokenizer.checkpoint_gradients(wanted)
        kept = []

        def note(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            vectors = tokenizer.quantize(torch.rand(2, 3, 16, 32), torch.Generator()).vectors
            loss = tokenizer.decode_features(vectors).square().mean()
        forward = sum(kept)
        loss.backward()
        named = tokenizer.named_parameters()
        found[wanted] = forward, {name: p.grad for name, p in named if p.grad is not None}
    assert found[True][0] < 0.5 * found[False][0]
    for name, gradient in found[False][1].items():
        assert torch.allclose(gradient, found[True][1][name], atol=1e-6), name


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_linear_skip_reaches_half_a_token_into_the_neighbours(stride):
    linear_skip = LinearSkip(stride, 1)
    torch.nn.init.ones_(linear_skip.decode.weight)
    torch.nn.init.zeros_(linear_skip.decode.bias)
    one = torch.zeros(1, 1, 5, 5)
    one[0, 0, 2, 2] = 1.0
    with torch.no_grad():
        drawn = linear_skip.decode(one)[0, 0]
    reached = torch.zeros(5 * stride, 5 * stride)
    place = slice(2 * stride - stride // 2, 3 * stride + stride // 2)
    reached[place, place] = 1.0
    assert torch.equal(drawn, reached)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_training_step_runs_under_autocast(tiny, precision):
    """In bf16 the norms' gradients agree with those of float32 but for rounding."""
    changes = {f"{SIZES}architecture": "thesis", f"{SIZES}channels": 64}
    gradients = []
    for dtype in (torch.float32, precision):
        tokenizer = make(tiny, changes).train()
        torch.manual_seed(1)
        images = torch.rand(2, 3, 16, 32)
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            drawn = tokenizer.decode_features(tokenizer.features(images))
        (drawn.float() - images).square().mean().backward()
        gradients.append(tokenizer.encoder.norm.weight.grad)
    assert torch.allclose(*gradients, atol=0.1 * gradients[0].abs().max().item())
