"""Warped keyframes: what moves is where it should be, what stands still is untouched."""

import pytest
import torch

from pipeline.evaluation.baselines import optical_flow
from pipeline.frames import to_float
from pipeline.models import flow as flow_module
from pipeline.models.flow import (
    EVEN,
    Context,
    Easing,
    Flow,
    FlowEstimator,
    consistent_share,
    ease,
    fit_easing,
    interpolate,
    make_context,
)

HEIGHT, WIDTH = 48, 96
DIS = FlowEstimator("dis")


def square_at(left: int) -> torch.Tensor:
    """uint8 `H W 3`: a bright square with a pattern on a dark slope."""
    picture = torch.arange(WIDTH)[None, :, None].expand(HEIGHT, WIDTH, 3).clone() // 4
    texture = torch.randint(120, 256, (16, 16, 3), generator=torch.Generator().manual_seed(0))
    picture[16:32, left : left + 16] = texture.float().mean((0, 1)).long()
    picture[20:28, left + 4 : left + 12] = texture[:8, :8]
    return picture.byte()


def centre(picture: torch.Tensor) -> float:
    """Column of the square's middle."""
    bright = picture.float().mean(-1) > 80
    return torch.where(bright)[1].float().mean().item()


def warped_clip(first, last, n, exponent=1.0):
    return interpolate(first, last, n, DIS(first.numpy(), last.numpy()), exponent)


def as_float(picture: torch.Tensor) -> torch.Tensor:
    return to_float(picture[None])


def at(time: float) -> torch.Tensor:
    return torch.full((1, 1, 1, 1), time)


def test_a_square_moves_evenly():
    clip = warped_clip(square_at(20), square_at(32), 13)
    assert clip.shape == (13, HEIGHT, WIDTH, 3) and clip.dtype == torch.uint8
    for i, picture in enumerate(clip):
        assert centre(picture) == pytest.approx(20 + 7.5 + i, abs=1.5)


def test_what_stands_still_is_byte_for_byte_the_same():
    still = square_at(40)
    assert torch.equal(warped_clip(still, still, 6), still.expand(6, -1, -1, -1))


def test_the_baseline_is_the_same_motion():
    clip = torch.stack([square_at(left) for left in range(20, 30)])
    assert torch.equal(optical_flow(clip), warped_clip(clip[0], clip[-1], 10)[1:-1])


def test_easing_by_hand():
    t = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert torch.allclose(ease(t, 1.0), t), "even timing"
    assert torch.allclose(ease(t, 2.0), torch.tensor([0, 1 / 10, 0.5, 9 / 10, 1]))
    held = ease(t, 16.0)
    assert held[1] < 1e-6 and held[3] > 1 - 1e-6 and held[2] == 0.5


def test_an_eased_square_is_late_first_and_early_then():
    clip = warped_clip(square_at(20), square_at(32), 13, exponent=3.0)
    even = warped_clip(square_at(20), square_at(32), 13)
    columns = torch.tensor([[centre(picture) for picture in frames] for frames in (clip, even)])
    assert (columns[0, 1:5] < columns[1, 1:5]).all() and (columns[0, 8:12] > columns[1, 8:12]).all()
    assert torch.equal(clip[6], even[6]) and torch.equal(clip[[0, -1]], even[[0, -1]])


def test_at_both_ends_the_context_is_the_keyframe():
    first, last = square_at(20), square_at(32)
    flow = DIS(first.numpy(), last.numpy())
    for time, wanted in ((0.0, first), (1.0, last)):
        context = make_context(as_float(first), as_float(last), flow, at(time), torch.tensor(2.0))
        assert torch.allclose(context.eased, as_float(wanted), atol=1e-5)


def test_a_wrong_flow_gives_a_cross_fade():
    """Both ends show the same place, a little brighter; the flow says that all of it moved."""
    first = as_float(square_at(40))
    last, wrong = first + 0.03, torch.zeros(1, 2, HEIGHT, WIDTH)
    wrong[:, 0] = 30.0
    context = make_context(first, last, Flow(wrong, -wrong), at(0.5), torch.tensor(1.0))
    assert (context.eased - (first + 0.015)).abs().mean() < 0.004
    assert context.confidence.max() < 0.5


def test_confidence_follows_the_size_of_the_output():
    """Measured at the model's size and enlarged, not measured anew with the same window."""
    first, last = square_at(20), square_at(44)
    flow = DIS(first.numpy(), last.numpy())
    small = make_context(as_float(first), as_float(last), flow, at(0.5), torch.tensor(1.0))
    size = (HEIGHT * 3, WIDTH * 3)
    large = [torch.nn.functional.interpolate(as_float(x), size) for x in (first, last)]
    context = make_context(*large, flow.resize(size), at(0.5), torch.tensor(1.0), small.confidence)
    back = torch.nn.functional.avg_pool2d(context.confidence, 3)
    assert (back - small.confidence).abs().mean() < 0.02
    assert context.eased.shape == (1, 3, *size)


def test_a_batch_is_warped_as_its_frames_alone():
    ends = [(square_at(20), square_at(28)), (square_at(50), square_at(44))]
    flows = DIS.pairs([(a.numpy(), b.numpy()) for a, b in ends], workers=2)
    firsts, lasts = (torch.cat([as_float(e[k]) for e in ends]) for k in (0, 1))
    times = torch.tensor([0.25, 0.5]).view(2, 1, 1, 1)
    flow = Flow(torch.cat([f.forward for f in flows]), torch.cat([f.backward for f in flows]))
    together = make_context(firsts, lasts, flow, times, torch.tensor(1.5))
    for k in range(2):
        row = slice(k, k + 1)
        alone = make_context(firsts[row], lasts[row], flows[k], times[row], torch.tensor(1.5))
        for name in Context._fields:
            both, one = getattr(together, name), getattr(alone, name)
            assert one is None or torch.allclose(both[row], one, atol=1e-3), name


@pytest.mark.parametrize("change", ["mirror", "reverse"])
def test_a_mirrored_and_a_reversed_clip_are_warped_alike(change):
    first, last = as_float(square_at(20)), as_float(square_at(32))
    flow = DIS(square_at(20).numpy(), square_at(32).numpy())
    plain = make_context(first, last, flow, at(0.3), torch.tensor(1.7))
    if change == "mirror":
        changed = make_context(
            first.flip(-1), last.flip(-1), flow.mirror(), at(0.3), torch.tensor(1.7)
        )
        assert torch.allclose(changed.eased.flip(-1), plain.eased, atol=1e-4)
    else:
        changed = make_context(last, first, flow.reverse(), at(0.7), torch.tensor(1.7))
        assert torch.allclose(changed.eased, plain.eased, atol=1e-4)
        assert torch.allclose(changed.warped_first, plain.warped_last, atol=1e-4)


def test_a_flow_for_larger_pictures_is_longer():
    flow = Flow(torch.ones(1, 2, 4, 8), -torch.ones(1, 2, 4, 8))
    large = flow.resize((8, 24))
    assert large.forward.shape == (1, 2, 8, 24)
    assert (large.forward[:, 0] == 3).all() and (large.forward[:, 1] == 2).all()
    assert (large.backward[:, 0] == -3).all() and torch.equal(
        flow.resize((4, 8)).forward, flow.forward
    )


@pytest.mark.parametrize(("method", "atol"), [("rife", 4), ("mixed", 2)])
def test_other_methods_find_the_motion_too(method, atol):
    """RIFE was not trained for the times 0 and 1: on so little texture it is a rough guess."""
    first, last = square_at(20), square_at(26)
    flow = FlowEstimator(method)(first.numpy(), last.numpy())
    assert flow.forward[0, 0, 18:30, 22:34].median() == pytest.approx(6, abs=atol)
    assert flow.backward[0, 0, 18:30, 28:40].median() == pytest.approx(-6, abs=atol)


@pytest.mark.parametrize("method", ["rife", "mixed"])
def test_the_flows_of_rife_between_the_keyframes(method):
    """Even timing, sizes, mirroring and reversal of what is interpolated between its anchors."""
    first, last = square_at(20), square_at(32)
    flow = FlowEstimator(method)(first.numpy(), last.numpy())
    assert torch.equal(Flow.unpack(flow.pack()).anchors, flow.anchors)
    a, b = as_float(first), as_float(last)

    def shown(a, b, flow, time):
        return make_context(a, b, flow, at(time), torch.tensor(2.0)).rife

    for time in (0.1, 0.5, 0.8):
        picture = (shown(a, b, flow, time)[0].movedim(0, -1) + 1) * 127.5
        assert centre(picture) == pytest.approx(27.5 + 12 * time, abs=1.5)
    plain = shown(a, b, flow, 0.3)
    mirrored = shown(a.flip(-1), b.flip(-1), flow.mirror(), 0.3).flip(-1)
    assert torch.allclose(mirrored, plain, atol=1e-4)
    assert torch.allclose(shown(b, a, flow.reverse(), 0.7), plain, atol=1e-4)
    size = (2 * HEIGHT, 2 * WIDTH)
    ends = [torch.nn.functional.interpolate(x, size) for x in (a, b)]
    large = torch.nn.functional.avg_pool2d(shown(*ends, flow.resize(size), 0.3), 2)
    assert (large - plain).abs().mean() < 0.01


# Easing: two numbers, found again in clips that keep them.


def ends(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A soft bright spot that goes a few pixels to the right, uint8 `32 64 3`; more by `seed`."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")

    def spot(column: float) -> torch.Tensor:
        bright = 220 * (-((x - column).square() + (y - 16).square()) / 40).exp()
        return (20 + bright)[..., None].expand(-1, -1, 3).byte().contiguous()

    return spot(16), spot(18 + seed)


def clips_at(easing: Easing, count: int = 10) -> tuple[list[torch.Tensor], list[Flow]]:
    flows = [DIS(a.numpy(), b.numpy()) for a, b in map(ends, range(count))]
    clips = [
        interpolate(first, last, 12, flow, easing.exponent(first, last))
        for flow, (first, last) in zip(flows, map(ends, range(count)), strict=True)
    ]
    return clips, flows


@pytest.mark.parametrize("true", [EVEN, Easing(0.7), Easing(1.1), Easing(1.0, 0.5)])
def test_the_easing_of_clips_is_found_again(true):
    fitted = fit_easing(*clips_at(true))
    for first, last in map(ends, range(10)):
        wanted = true.exponent(first, last)
        assert fitted.exponent(first, last) == pytest.approx(wanted, rel=0.25)
    assert (fitted == EVEN) == (true == EVEN)


def test_few_clips_keep_even_timing():
    assert fit_easing(*clips_at(Easing(1.0), count=7)) == EVEN
    assert fit_easing([], []) == EVEN


def test_next_to_no_gain_is_none(monkeypatch):
    """The digits of a mean shall not choose."""
    monkeypatch.setattr(
        flow_module, "_psnr_by_exponent", lambda clip, flow: [30, 30, 30, 30, 30, 30, 30.009]
    )
    assert fit_easing(*clips_at(EVEN)) == EVEN


def test_the_exponent_falls_with_the_change_within_its_limits():
    still, dark = torch.full((4, 4, 3), 90, dtype=torch.uint8), torch.zeros(4, 4, 3).byte()
    easing = Easing(pace=1.0, by_change=0.5)
    ten = still + 10
    assert easing.exponent(still, ten) == pytest.approx(2.718 * (10.5 / 10) ** -0.5, rel=1e-3)
    assert easing.exponent(still, dark) == 1.0, "never slower in the middle than at the ends"
    assert Easing(4.0).exponent(still, still) == 16.0
    assert EVEN.exponent(still, ten) == 1.0
    assert Easing.fixed(2.5).exponent(still, dark) == pytest.approx(2.5)


def test_across_a_cut_hardly_any_pixel_comes_back():
    random = torch.Generator().manual_seed(0)
    unrelated = [
        torch.randint(0, 256, (8, 16, 3), generator=random)
        .byte()
        .repeat_interleave(8, 0)
        .repeat_interleave(8, 1)
        .numpy()
        for _ in range(2)
    ]
    assert consistent_share(DIS(*unrelated)) < 0.2
    assert consistent_share(DIS(unrelated[0], unrelated[0])) == 1.0
