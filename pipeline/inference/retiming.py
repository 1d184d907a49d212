"""When each frame of a retimed film is shown, and the frames that are drawn between its own.

    plan = make_plan(film, rate)                       a row for each frame of the output
    frames = pictures(film_frames, plan, range(0, 240), Drawer(model), advance)

A film is what its first reading found: times, drawings, cuts. Between two drawings of a scene the
motion takes the time of the first one, at most MOVING_SECONDS of it; what rests longer is held.
"""

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch

from pipeline import frames
from pipeline.errors import UserError
from pipeline.inference.clip import CUT_CHANGE, CUT_CONSISTENT
from pipeline.inference.inbetweener import InBetweener
from pipeline.models.flow import consistent_share
from pipeline.video.probe import parse_fps

MOVING_SECONDS = 1 / 6  # of a drawing on fours, at 24 frames a second
SNAP = 0.1  # of a frame: so near to a source frame, that one is shown
TIMES = 1000  # steps between two drawings
GREATEST_RATE = 240


class Film(NamedTuple):
    """What is known of a film's frames after the first reading; `first` is the number of frame 0.

    times: float64 `T`, seconds from the start of the file; new: bool `T`, a drawing that was not
    shown before; cut: bool `T`, the first of a scene. fps: of frames where they come evenly.
    """

    times: np.ndarray
    new: np.ndarray
    cut: np.ndarray
    first: int
    fps: Fraction


class Plan(NamedTuple):
    """A row for each frame of the output: frames of the film, and the share of the way between.

    Where left and right are the same frame, that one is shown.
    """

    left: np.ndarray  # int `n`, like `right`
    right: np.ndarray
    share: np.ndarray  # float64 `n`, in [0, 1)


def even_times(times: np.ndarray, fps: Fraction) -> tuple[np.ndarray, Fraction]:
    """Times without the rounding of containers, and the rate; uneven ones as they are."""
    if not uneven(times, fps):
        return times[0] + np.arange(len(times)) / float(fps), fps
    steps = np.diff(times)  # a hold may be one long step: the short ones tell the rate
    least = np.quantile(steps, 0.1)
    rate = parse_fps(f"{1 / steps[steps < 1.25 * least].mean():f}")
    near = abs(rate / fps - 1) < Fraction(1, 20)
    return times, fps if near else min(max(rate, Fraction(1)), Fraction(GREATEST_RATE))


def uneven(times: np.ndarray, fps: Fraction) -> bool:
    grid = times[0] + np.arange(len(times)) / float(fps)
    return bool(np.abs(times - grid).max() > SNAP / float(fps))


def make_plan(film: Film, rate: Fraction, on: int = 1, keep: bool = False) -> Plan:
    """What each frame of the output shows, from the film's first frame to the end of its last."""
    times, fps, n = film.times - film.times[0], float(film.fps), len(film.times)
    total = max(1, round((times[-1] + 1 / fps) * rate))
    if total > 100 * (n + GREATEST_RATE) * max(1, rate / film.fps):
        raise UserError(f"the film's {n} frames last {times[-1]:.0f} seconds: its times are broken")
    near = SNAP / float(rate)
    at = np.arange(total) / float(rate)
    if on > 1:  # counted from the scene's first frame
        scenes = times[film.cut]
        scene = scenes[np.searchsorted(scenes, at + near, "right") - 1]
        at = scene + np.round((at - scene) * float(rate)) // on * on / float(rate)
    shown = np.searchsorted(times, at + near, "right") - 1  # the frame on show
    starts = np.flatnonzero(film.new)
    drawing = np.cumsum(film.new)[shown] - 1
    ends = np.append(starts[1:], n)[drawing]  # where the next drawing comes
    follows = ends < n
    ends = np.minimum(ends, n - 1)
    follows &= ~film.cut[ends]
    leave, arrive = times[starts[drawing]], times[ends]
    span = 1 / fps if keep else max(MOVING_SECONDS, 1 / fps)
    leave = np.maximum(leave, arrive - span)
    moves = follows & (at > leave + near) & (at < arrive - near)
    left = np.searchsorted(times, leave + near, "right") - 1
    share = np.divide(at - leave, arrive - leave, out=np.zeros(total), where=moves)
    return Plan(np.where(moves, left, shown), np.where(moves, ends, shown), share)


class Drawer:
    """In-betweens of two pictures, with the decoder alone: tokens of pairs so near say nothing.

    As whole pictures are squeezed into the model's frames, also those of a model trained on crops.
    """

    def __init__(self, model: InBetweener) -> None:
        self.model, self.n_unlike = model, 0
        null = torch.full((1, model.tokenizer.tokens_per_frame), model.tokenizer.null_code)
        self._ids = null.expand(TIMES - 1, -1).to(model.device)

    def __call__(
        self, left: np.ndarray, right: np.ndarray, shares: np.ndarray
    ) -> Iterator[np.ndarray]:
        """uint8 `H W 3` twice, and one for each share; the left one where they are too unlike."""
        size = self.model.ingest
        how = "pad" if size.fit == "pad" else "squeeze"
        large, small = [], []
        for image in (left, right):
            image = frames.canvas(image, size.height, size.width, how)
            large.append(torch.from_numpy(image))
            small.append(torch.from_numpy(frames.resize(image, size.height, size.width)))
        change = float((small[0].float() - small[1].float()).abs().mean())
        unlike = change > CUT_CHANGE
        if unlike and consistent_share(self.model.flow(*small)) < CUT_CONSISTENT:
            self.n_unlike += len(shares)
            yield from [left] * len(shares)
            return
        numbers = torch.from_numpy(np.clip(np.round(shares * TIMES), 1, TIMES - 1).astype(np.int64))
        for images in self.model.draw(*small, TIMES + 1, self._ids, tuple(large), numbers):
            for image in images.numpy():  # K H W 3
                yield frames.without_bars(image, *left.shape[:2])


def pictures(
    read: Callable, plan: Plan, rows: range, draw: Callable, advance: Callable[[int], object]
) -> Iterator[np.ndarray]:
    """The output's frames of those rows; `read` gives a film's frame by number, in order.

    In-betweens of the same two frames are drawn together.
    """
    for (left, right), group in itertools.groupby(
        rows, key=lambda k: (int(plan.left[k]), int(plan.right[k]))
    ):
        group = [*group]
        if left == right:
            yield from [read(left)] * len(group)
            continue
        ends = read(left), read(right)
        shares, repeats = np.unique(plan.share[group], return_counts=True)  # ascending as they are
        for image, count in zip(draw(*ends, shares), repeats, strict=True):
            yield from [image] * count
            advance(int(count))
