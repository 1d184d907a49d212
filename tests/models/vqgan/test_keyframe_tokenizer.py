"""The tokenizer with context: it starts from the eased warp, and knows nothing but context."""

import pytest
import torch
import torch.nn.functional as F
from keyframe_settings import (
    CPU,
    HEIGHT,
    WIDTH,
    clip_context,
    clip_flow,
    randomize,
    settings,
    square_clip,
    tokenizer,
)

from pipeline import frames
from pipeline.models.checkpoints import load_tokenizer, save_tokenizer
from pipeline.models.flow import Context, Easing, make_context
from pipeline.models.vqgan.keyframes import DecoderOutput, compose

CLIP = square_clip(7)
CONTEXT = clip_context(CLIP)
WITH_RIFE = CONTEXT._replace(rife=CONTEXT.warped_last, rife_eased=CONTEXT.warped_first)
IMAGES = frames.to_float(CLIP[1:-1])
NETWORK = {"vqgan.keyframes.encoder": "network"}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def same(model, code: int = 0) -> torch.Tensor:
    """Ids of all frames, all alike."""
    return torch.full((len(IMAGES), model.tokens_per_frame), code)


def maps(model, ids: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, model.codebook).movedim(-1, 1).unflatten(2, model.grid)


def output_of(model, ids: torch.Tensor, context: Context) -> DecoderOutput:
    vectors = maps(model, ids)
    return model(vectors, torch.ones_like(vectors[:, :1]), context)


def mirrored(context: Context) -> Context:
    sign = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    flipped = Context(*(None if x is None else x.flip(-1) for x in context))
    return flipped._replace(to_first=flipped.to_first * sign, to_last=flipped.to_last * sign)


@pytest.mark.parametrize("patch", [4, 8, 16, 32])
def test_an_untrained_decoder_shows_the_warp_and_what_the_codes_say(patch):
    model = tokenizer({"vqgan.patch_size": patch})
    assert model.grid == (HEIGHT // patch, WIDTH // patch)
    alone = model.decode(same(model), CONTEXT)
    assert torch.equal(frames.to_uint8(alone), frames.to_uint8(CONTEXT.eased))
    ids = model.encode(IMAGES, CONTEXT)
    assert ids.shape == (len(IMAGES), model.tokens_per_frame) and ids.any()
    wanted = CONTEXT.eased + model.to_difference(maps(model, ids))
    decoded = model.decode(ids, CONTEXT)
    assert torch.equal(frames.to_uint8(decoded), frames.to_uint8(wanted))
    assert F.mse_loss(decoded, IMAGES) < F.mse_loss(alone, IMAGES), "codes help from the start"


def test_two_more_candidates_change_nothing_at_the_start():
    model = tokenizer({"flow.method": "mixed"})
    alone = model.decode(same(model), WITH_RIFE)
    assert torch.equal(frames.to_uint8(alone), frames.to_uint8(CONTEXT.eased))
    randomize(model)
    output = output_of(model, same(model), WITH_RIFE)
    assert output.mix.shape[1] == 8
    assert torch.allclose(output.mix.sum(1), torch.ones(()), atol=1e-5)


def test_codes_that_are_not_told():
    """The null code: at first as code 0, later another, and nothing of the code comes through."""
    model = tokenizer()
    assert model.null_code == 16
    unknown = model.decode(same(model, 16), CONTEXT)
    assert torch.equal(unknown, model.decode(same(model), CONTEXT))
    randomize(model)
    unknown = model.decode(same(model, 16), CONTEXT)
    assert not torch.allclose(unknown, model.decode(same(model), CONTEXT), atol=1e-3)
    ids = model.encode(IMAGES, CONTEXT)
    vectors = maps(model, ids)
    hidden = compose(model(vectors, torch.zeros_like(vectors[:, :1]), CONTEXT), CONTEXT)
    assert torch.equal(hidden.clamp(-1, 1), unknown)
    part = ids.clone()
    part[:, 3] = 16
    told = torch.ones_like(vectors[:, :1])
    told[:, :, 0, 3] = 0
    hidden = compose(model(vectors, told, CONTEXT), CONTEXT)
    assert torch.equal(hidden.clamp(-1, 1), model.decode(part, CONTEXT))


def test_the_first_code_stays_zero_while_the_codebook_moves():
    """Also for the second batch of a step, which the optimizer does not follow at once."""
    model = tokenizer(NETWORK).train()
    randomize(model.encoder)
    before = model.codebook.clone()
    for _ in range(4):
        model.quantize(IMAGES, CONTEXT, seeded())
        assert not model.codebook[0].any()
    assert not torch.equal(model.codebook, before)


def test_linear_codes_do_not_move_in_training():
    model = tokenizer().train()
    before = model.codebook.clone()
    model.quantize(IMAGES, CONTEXT, seeded())
    assert torch.equal(model.codebook, before)


def test_the_decoder_never_sees_the_true_frame():
    model = tokenizer()
    randomize(model)
    images = IMAGES.clone().requires_grad_()
    ids = model.encode(images, CONTEXT)
    decoded = model.decode(ids, CONTEXT)
    (gradient,) = torch.autograd.grad(decoded.sum(), images, allow_unused=True)
    assert gradient is None
    with torch.no_grad():
        images += 0.3
    assert torch.equal(model.decode(ids, CONTEXT), decoded)


def test_a_network_starts_as_the_linear_encoder_and_learns_through_the_codes():
    linear, network = tokenizer(), tokenizer(NETWORK)
    assert torch.equal(linear.encode(IMAGES, CONTEXT), network.encode(IMAGES, CONTEXT))
    quantized = network.quantize(IMAGES, CONTEXT, seeded())
    told = torch.ones_like(quantized.vectors[:, :1])
    decoded = compose(network(quantized.vectors, told, CONTEXT), CONTEXT)
    (decoded - IMAGES).square().mean().backward()
    assert network.encoder.out.weight.grad.any() and network.to_vectors.weight.grad.any()
    assert all(not p.requires_grad for p in (linear.to_vectors.weight, linear.to_difference.weight))


def test_bf16_gives_the_same_ids():
    model = tokenizer()
    with torch.autocast("cpu", torch.bfloat16):
        half = model.encode(IMAGES, clip_context(CLIP))
    assert torch.equal(half, model.encode(IMAGES, CONTEXT))


def test_shares_add_up_to_one():
    model = tokenizer()
    randomize(model, 0.5)
    mix = output_of(model, model.encode(IMAGES, CONTEXT), CONTEXT).mix
    assert mix.shape == (len(IMAGES), 6, HEIGHT, WIDTH) and mix.std() > 0.05
    assert torch.allclose(mix.sum(1), torch.ones(()), atol=1e-5)


def test_a_mirrored_context_is_drawn_mirrored():
    """By an untrained decoder; a trained one has no such symmetry, but its composition has."""
    model = tokenizer()
    plain = model.decode(same(model), CONTEXT)
    flipped = model.decode(same(model), mirrored(CONTEXT)).flip(-1)
    assert torch.equal(frames.to_uint8(flipped), frames.to_uint8(plain))
    randomize(model)
    output = output_of(model, model.encode(IMAGES, CONTEXT), CONTEXT)
    assert output.correction.std() > 0.1
    turned = [x.flip(-1) for x in output]
    turned[2] = turned[2] * torch.tensor([-1.0, 1, -1, 1]).view(1, 4, 1, 1)
    flipped = compose(DecoderOutput(*turned), mirrored(CONTEXT)).flip(-1)
    assert torch.allclose(flipped, compose(output, CONTEXT), atol=1e-3)


def resized(size: tuple[int, int], clip: torch.Tensor = CLIP) -> Context:
    """The context of the clip's frames at another size."""
    n = len(clip)
    ends = [F.interpolate(frames.to_float(clip[k][None]), size) for k in (0, -1)]
    ends = [end.expand(n - 2, -1, -1, -1) for end in ends]
    flow = clip_flow(clip).resize(size)
    return make_context(*ends, flow, CONTEXT.time, torch.tensor(1.5), CONTEXT.confidence)


def test_a_larger_frame_is_composed_alike():
    model = tokenizer()
    randomize(model)
    output = output_of(model, model.encode(IMAGES, CONTEXT), CONTEXT)
    # Noise from pixel to pixel has no larger size: what is enlarged is smooth.
    output = DecoderOutput(*(F.avg_pool2d(x, 9, 1, 4, count_include_pad=False) for x in output))
    large = compose(output, resized((2 * HEIGHT, 2 * WIDTH)))
    small = compose(output, CONTEXT)
    error = (F.avg_pool2d(large, 2) - small).abs().mean()
    assert error < 0.2 * (small - CONTEXT.eased).abs().mean()


def test_odd_sizes_are_drawn_too():
    model = tokenizer()
    randomize(model)
    small = resized((17, 31))
    decoded = model.decode(model.encode(IMAGES, CONTEXT), CONTEXT, small)
    assert decoded.shape == (len(IMAGES), 3, 17, 31) and decoded.isfinite().all()


def test_fewer_patches_than_dimensions():
    model = tokenizer({"vqgan.vqvae.embedding_dim": 40})
    model.init_from_data((IMAGES - CONTEXT.eased)[:1], seeded())
    assert model.codebook.isfinite().all() and not model.codebook[0].any()
    assert not model.to_vectors.weight[8:].any(), "8 patches have 8 components at most"
    assert model.encode(IMAGES, CONTEXT).shape == (len(IMAGES), 8)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_data_without_any_difference_start_finite_codes(value):
    model = tokenizer()
    model.init_from_data(torch.full((2, 3, HEIGHT, WIDTH), value), seeded())
    assert model.codebook.isfinite().all() and model.to_vectors.weight.isfinite().all()


def test_what_stands_still_has_no_codes_and_stays_exact():
    model = tokenizer()
    still = CLIP[:1].expand(6, -1, -1, -1)
    context, images = clip_context(still), frames.to_float(still[1:-1])
    ids = model.encode(images, context)
    assert not ids.any()
    assert torch.equal(frames.to_uint8(model.decode(ids, context)), still[1:-1])


@pytest.mark.parametrize("encoder", ["linear", "network"])
def test_a_saved_tokenizer_comes_back_with_its_flow_and_timing(tmp_path, encoder):
    changes = {"vqgan.keyframes.encoder": encoder, "flow.method": "mixed"}
    model, easing = tokenizer(changes), Easing(0.7, 0.3)
    randomize(model)
    save_tokenizer(model, settings(changes), tmp_path, easing)
    loaded = load_tokenizer(tmp_path, CPU)
    assert (loaded.flow_method, loaded.easing) == ("mixed", easing)
    assert (loaded.ingest.height, loaded.ingest.width) == (HEIGHT, WIDTH)
    ids = model.encode(IMAGES, WITH_RIFE)
    assert torch.equal(loaded.tokenizer.encode(IMAGES, WITH_RIFE), ids)
    assert torch.equal(loaded.tokenizer.decode(ids, WITH_RIFE), model.decode(ids, WITH_RIFE))
    assert not any(p.requires_grad for p in loaded.tokenizer.parameters())
