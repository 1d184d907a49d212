"""The tokenizer with the previous frame as context: what it moves, and what it finds again."""

import pytest
import torch
import torch.nn.functional as F
from previous_settings import CPU, floats, sequence, settings, tokenizer

from pipeline import frames
from pipeline.evaluation.metrics.image import psnr
from pipeline.models.checkpoints import load_tokenizer, save_tokenizer
from pipeline.models.vqgan.previous import (
    BLACK,
    REACH,
    SHIFTS,
    STAYS,
    copy_patches,
    match_features,
    match_patches,
    shift,
)

IMAGES = floats(3)[0]
KEYFRAMES = IMAGES[[0, 19]].expand(2, -1, -1, -1, -1)  # B 2 3 H W


def code(down: int, right: int) -> int:
    """Of what has moved so many pixels."""
    return (REACH - down) * (2 * REACH + 1) + REACH - right


@pytest.mark.parametrize(("down", "right"), [(0, 0), (REACH, -REACH), (-1, 2)])
def test_each_shift_is_the_image_moved_by_whole_pixels(down, right):
    moved = shift(IMAGES[:1])
    moved = moved.flatten(5, 6).flatten(3, 4)[0]  # K C H W
    assert len(moved) == SHIFTS
    inner = slice(REACH, -REACH)
    expected = IMAGES[0].roll((down, right), (1, 2))
    assert torch.equal(moved[code(down, right)][:, inner, inner], expected[:, inner, inner])


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize(("down", "right"), [(0, 0), (REACH, -REACH), (-1, 2)])
def test_a_code_says_how_far_a_thing_has_moved(patch_size, down, right):
    model = tokenizer({"vqgan.patch_size": patch_size})
    thing = 2 * torch.rand(1, 1, 36, 36, generator=torch.Generator().manual_seed(0)) - 1
    before = torch.full((1, 3, 64, 64), BLACK)
    before[:, :, 14:50, 14:50] = thing
    after = before.roll((down, right), (2, 3))
    ids = model.encode(after, before).unflatten(1, model.grid)[0]
    inside = 64 // patch_size // 2
    assert (ids[inside - 1 : inside + 1, inside - 1 : inside + 1] == code(down, right)).all()


def test_what_does_not_move_has_the_code_of_no_motion():
    model = tokenizer()
    empty = torch.full((1, 3, 64, 64), BLACK)
    assert (model.encode(empty, empty) == STAYS).all(), "where all shifts fit alike"
    assert (model.encode(IMAGES[:1], IMAGES[:1]) == STAYS).all()
    before, after = empty.clone(), empty.clone()
    before[:, :, 16:32, 16:32] = after[:, :, 16:32, 18:34] = 1.0
    ids = tokenizer({"vqgan.patch_size": 8}).encode(after, before).view(8, 8)
    assert (ids[2:4, 4] == code(0, 2)).all(), "what it reaches"
    assert (ids[1] == STAYS).all() and (ids[2:4, 5] == STAYS).all(), "beside it"


def test_an_untrained_decoder_makes_the_copy_that_the_codes_ask_for():
    model = tokenizer({"vqgan.patch_size": 8})
    images, before = IMAGES[1:19], IMAGES[:18]
    ends = IMAGES[[0, 19]].expand(18, -1, -1, -1, -1)
    decoded = model.decode(model.encode(images, before), before, ends)
    as_pictures = [frames.to_uint8(x) for x in (decoded, before, images)]
    moved, held = (float(psnr(x, as_pictures[2]).mean()) for x in as_pictures[:2])
    assert moved > held + 6


def test_an_untrained_decoder_leaves_black_whatever_the_codes_say():
    model = tokenizer()
    ids = torch.randint(0, SHIFTS, (2, model.tokens_per_frame))
    nothing = torch.full((2, 3, 64, 64), BLACK)
    keyframes = torch.stack([nothing, nothing], 1)
    assert (model.decode(ids, nothing, keyframes) - nothing).abs().max() < 1e-6


def test_what_comes_next_depends_on_codes_and_the_previous_frame():
    model = tokenizer()
    ids = model.encode(IMAGES[1:3], IMAGES[:2])
    assert ids.shape == (2, 16) and int(ids.min()) >= 0 and int(ids.max()) < SHIFTS
    decoded = model.decode(ids, IMAGES[:2], KEYFRAMES)
    assert decoded.shape == (2, 3, 64, 64) and decoded.abs().max() <= 1
    assert not torch.equal(decoded, model.decode((ids + 1) % SHIFTS, IMAGES[:2], KEYFRAMES))
    assert not torch.equal(decoded, model.decode(ids, IMAGES[5:7], KEYFRAMES))
    assert not torch.equal(decoded, model.decode(ids, IMAGES[:2], KEYFRAMES.flip(0, 1).roll(3, 4)))


def test_copies_show_what_a_keyframe_holds_of_the_image():
    """A keyframe that is the image moved by odd numbers of pixels gives it back to the pixel."""
    image = floats(4)[0, :1]  # 1 3 H W
    corner = (image[0, 0] > BLACK).nonzero().amin(0)
    down, right = (3 if at < 20 else -3 for at in corner.tolist())
    moved = image.roll((down, right), (2, 3))
    copies, quality = copy_patches(image, moved, (8, 8))
    assert copies.shape == (1, 2, 3, 64, 64) and quality.shape == (1, 2, 8, 8)
    full = F.max_pool2d(image[:, :1] - BLACK, 8)[0, 0] > 0
    assert quality[0, 0][full].min() > 0.8
    assert (copies[0, 0] - image[0]).abs().mean() < 0.02
    nothing = copy_patches(image, torch.full_like(image, BLACK), (8, 8))[0]
    assert torch.equal(nothing, torch.full_like(nothing, BLACK))


def test_an_untrained_refiner_keeps_the_image():
    model = tokenizer()
    images = IMAGES[5:7]
    refined = model.refine(images, KEYFRAMES)
    assert (refined - images).abs().mean() < 0.1


def test_grey_frames_stay_grey_and_colour_is_kept_where_it_is_asked_for():
    coloured = IMAGES[:2].clone()
    coloured[:, 0] = BLACK
    for grey in (True, False):
        model = tokenizer({"vqgan.previous.grey": grey})
        keyframes = torch.stack([coloured, coloured.flip(0)], 1)
        decoded = model.decode(torch.zeros(2, 16, dtype=torch.int64), coloured, keyframes)
        assert bool((decoded[:, 0] == decoded[:, 1]).all()) == grey


@pytest.mark.parametrize(("down", "right"), [(1, 3), (-5, 2), (7, -7)])
def test_a_match_is_found_to_less_than_a_pixel(down, right):
    """Windows are compared at half the size; a parabola through the correlations says the rest."""
    ramp = torch.linspace(-3, 3, 24).square()
    image = torch.full((1, 64, 64), BLACK)
    image[0, 20:44, 20:44] += 2 * torch.exp(-0.5 * (ramp[:, None] + ramp))
    moved = image.roll((down, right), (1, 2))
    _, corners, offsets = match_patches(image, moved, (8, 8))
    token = 4 * 8 + 4  # in the middle
    found = corners[0, token, 0] + offsets[0, token, 0] - 32
    assert (found - torch.tensor([down, right])).abs().max() < 0.6


@pytest.mark.parametrize(("remaining", "share"), [(2, 0.8), (18, 0.7)])
def test_a_digit_is_found_again_in_the_last_frame(remaining, share):
    """One digit, so that each place with something of it has gone the same way."""
    right, count = 0, 0
    for seed in range(8):
        clip = frames.to_float(sequence(seed, digits=1)).mean(1)  # T H W
        corners = [(frame > BLACK).nonzero().amin(0) for frame in clip]
        way = (corners[remaining] - corners[0]).float()
        left = torch.tensor([remaining])
        found = match_features(clip[:1], clip[remaining][None], left, (8, 8))[0]  # N C
        full = clip[0].unflatten(1, (8, 8)).unflatten(0, (8, 8)).amax((1, 3)).flatten() > BLACK
        gone = found[:, 1:3] * 32  # the height of half a frame
        right += int(((gone - way).norm(dim=1) <= 3)[full].sum())
        count += int(full.sum())
    assert right / count >= share


def test_features_stand_where_the_transformer_looks_for_them():
    model, images = tokenizer(), floats(1, 2)
    known = torch.cat([images[:, :4], images[:, -1:]], 1)  # frames 0..3 and the last: K = 3
    lengths = torch.tensor([20, 20])
    ids, features = model.encode_sequence(known, lengths)
    assert ids.shape == (2, 5, 16) and features.shape == (2, 20, 16, model.context_channels)
    assert not ids[:, 0].any() and not ids[:, -1].any(), "both are given"
    assert torch.equal(ids[:, 2], model.encode(images[:, 2], images[:, 1]))
    for frame, seen in ((1, 0), (3, 2), (19, 19)):
        remaining = torch.full((2,), 19 - seen)
        expected = model.context_features(images[:, seen], images[:, 19], remaining)
        assert torch.allclose(features[:, frame], expected, atol=1e-5)
    assert not features[:, 0].any() and not features[:, 4:19].any()


def test_it_is_saved_and_loaded(tmp_path):
    model = tokenizer()
    save_tokenizer(model, settings(), tmp_path)
    loaded = load_tokenizer(tmp_path, CPU).tokenizer
    ids = model.encode(IMAGES[1:3], IMAGES[:2])
    assert torch.equal(loaded.encode(IMAGES[1:3], IMAGES[:2]), ids)
    decoded = model.decode(ids, IMAGES[:2], KEYFRAMES)
    assert torch.equal(loaded.decode(ids, IMAGES[:2], KEYFRAMES), decoded)
