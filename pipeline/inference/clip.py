"""A clip to be drawn: given pictures, the segments between them, and the frames of both.

What generate, the web app and other callers share: pictures of any size in, frames of the output's
size out, one after the other. The networks see them at the model's size.

Alpha is drawn by the masks and flow that the networks find in the pictures put on white, or on
black where these are light. What they mix is premultiplied, so that no colour of a background stays
at the edges.
"""

import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import config, frames, runtime
from pipeline.config import Decoding
from pipeline.errors import UserError
from pipeline.inference.inbetweener import MAX_PIXELS, InBetweener, NotFinite
from pipeline.inference.keyframes import Segment, last_step
from pipeline.models.flow import MAX_EXPONENT, Easing, consistent_share, make_context
from pipeline.models.vqgan.keyframes import compose
from pipeline.video.transparency import WHITE, contrasting, over, premultiplied, straight

# Keyframes that differ by more grey levels, with a less consistent flow, are taken for a cut.
CUT_CHANGE, CUT_CONSISTENT = 12.0, 0.12
PIXEL_BYTES = 300  # of memory for a pixel that is drawn; measured at 2160x3840

TokenIds = dict[Segment, torch.Tensor]  # `T N` of the inner drawings of each segment with any


class Clip:
    """Given images, the segments between them, and the frames of both."""

    def __init__(
        self,
        model: InBetweener,
        images: dict[int, np.ndarray],
        segments: list[Segment],
        size: tuple[int, int],
    ) -> None:
        """images: uint8 `H W 3` of any size by frame; size: height and width of the output.

        With alpha all are `H W 4`, and so are the frames, if the model warps keyframes; else they
        are put on white. A model trained with `fit: crop` knows the middle of the images only, and
        the clip shows that.
        """
        self.model, self.segments, self.size = model, segments, size
        self.has_alpha = model.has_context and images[0].shape[2] == 4
        self.background = contrasting(list(images.values())) if self.has_alpha else WHITE
        height, width, fit = model.ingest.height, model.ingest.width, model.ingest.fit
        self.large, self.small = {}, {}  # uint8 of the output's size, and H W 3 of the model's
        for frame, image in images.items():
            opaque = frames.resize(over(image, self.background), *size)
            self.large[frame] = frames.canvas(opaque, height, width, fit)
            self.small[frame] = frames.resize(self.large[frame], height, width)
            if self.has_alpha:
                if image.shape[:2] != size:
                    image = straight(frames.resize(premultiplied(image), *size))
                colour = frames.canvas(image[..., :3], height, width, fit)
                alpha = frames.canvas(image[..., 3:].repeat(3, axis=2), height, width, fit)
                self.large[frame] = np.dstack([colour, alpha[..., 0]])  # bars are transparent
        self.drawn = [segment for segment in segments if segment.drawn]

    def shown(self, image: np.ndarray) -> np.ndarray:
        """A frame as it is written: without the bars of `fit: pad`."""
        if self.model.ingest.fit != "pad":
            return image
        return frames.without_bars(image, *self.size)

    def token_ids(self, decoding: Decoding, generator: torch.Generator) -> TokenIds:
        if not self.drawn:
            return {}
        first = torch.from_numpy(np.stack([self.small[part.first] for part in self.drawn]))
        last = torch.from_numpy(np.stack([self.small[part.last] for part in self.drawn]))  # B H W 3
        lengths = [segment.n_drawings for segment in self.drawn]
        ids = self.model.token_ids(first, last, lengths, decoding, generator)  # T B N
        return dict(zip(self.drawn, ids.unbind(1), strict=True))

    def frames(self, ids: TokenIds, advance: Callable[[int], object]) -> Iterator[np.ndarray]:
        """uint8 `H W 3` or 4, one after the other; `advance` is told how many were drawn."""
        for segment in self.segments:
            hold = Counter(segment.shown)
            yield from [self.shown(self.large[segment.first])] * hold[0]
            number = 0
            for part in self._draw(segment, ids, None) if segment.drawn else ():  # K H W 3
                advance(len(part))
                for image in part.numpy():
                    number += 1
                    yield from [self.shown(image)] * hold[number]
        yield self.shown(self.large[self.segments[-1].last])

    def jump(self, ids: TokenIds, advance: Callable[[int], object]) -> float:
        """How far a sample is from what it should meet in the last segment.

        From its last drawing to the last frame, in grey levels; where both ends draw towards each
        other, by how far they miss each other in the middle.
        """
        segment, model = self.segments[-1], self.model
        before = self.large[segment.first]
        if segment.drawn:
            advance(1)
            if model.has_previous:
                small = [torch.from_numpy(self.small[n]) for n in (segment.first, segment.last)]
                return model.miss(*small, ids[segment][: segment.n_drawings - 2])
            (part,) = self._draw(segment, ids, torch.tensor([segment.n_drawings - 2]))
            before = part[0].numpy()
        pair = [self.shown(before), self.shown(self.large[segment.last])]
        return last_step(np.stack([over(frame, self.background) for frame in pair]))

    def _draw(
        self, segment: Segment, ids: TokenIds, numbers: torch.Tensor | None
    ) -> Iterator[torch.Tensor]:
        ends = segment.first, segment.last
        small = [torch.from_numpy(self.small[end]) for end in ends]
        large = tuple(torch.from_numpy(self.large[end]) for end in ends)
        draw = self._draw_with_alpha if self.has_alpha else self.model.draw
        return draw(*small, segment.n_drawings, ids[segment], large, numbers)

    @torch.no_grad()
    def _draw_with_alpha(
        self,
        first: torch.Tensor,
        last: torch.Tensor,
        n: int,
        ids: torch.Tensor,
        large: tuple[torch.Tensor, torch.Tensor],
        numbers: torch.Tensor | None,
    ) -> Iterator[torch.Tensor]:
        """As `InBetweener.draw`, `K H W 4`; what residual and codes add goes to the colours."""
        model, size = self.model, tuple(large[0].shape[:2])
        flow = model.flow(first, last).resize(size).to(model.device)
        exponent = torch.tensor(model.easing.exponent(first, last), device=model.device)
        mixed = [torch.from_numpy(premultiplied(x.numpy())).to(model.device) for x in large]
        mixed = [2 * x.movedim(-1, 0)[None] - 1 for x in mixed]  # 1 4 H W
        if numbers is None:
            numbers = torch.arange(1, n - 1)
        for part in numbers.split(max(1, MAX_PIXELS // (size[0] * size[1]))):
            codes = ids[part - 1]  # K N
            with runtime.autocast(model.device, model.precision):
                context = model.context(first, last, n, part)
                output = model.tokenizer.decode_parts(codes, context)
                added = [F.pad(x, (0, 0, 0, 0, 0, 1)) for x in (output.residual, output.difference)]
                output = output._replace(residual=added[0], difference=added[1])  # K 4 H W
                expanded = [x.expand(len(part), -1, -1, -1) for x in mixed]
                enlarged = make_context(*expanded, flow, context.time, exponent, context.confidence)
                image = compose(output, enlarged)
            if not image.isfinite().all():
                raise NotFinite(f"frame {int(part[0])} or later is NaN or infinite")
            image = image.float().add(1).div(2).movedim(1, -1).cpu()  # K H W 4
            yield torch.from_numpy(straight(image.numpy()))


def timed(model: InBetweener, ease: float | None) -> InBetweener:
    """The model with a fixed timing; for 0 or None itself, with the one that it has learnt."""
    if not ease:
        return model
    if not model.has_context:
        raise UserError(f"ease {ease:g}: this model warps no keyframes; leave it as learnt")
    if not 1 <= ease <= MAX_EXPONENT:  # NaN is never in range
        timings = f"from 1, even timing, to {MAX_EXPONENT:g}, held until the middle"
        raise UserError(f"ease {ease:g}: expected {timings}, or 0, as learnt")
    model = copy.copy(model)  # others that draw with it keep their timing
    model.easing = Easing.fixed(ease)
    return model


def output_size(choice: str, image: tuple[int, int], ingest: config.FrameSize) -> tuple[int, int]:
    """Height and width of the output.

    `input`: the size of the first image; `model`: the height of the model's own frames (`ingest`),
    in the first image's aspect.
    """
    exact = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", choice)
    if exact:
        size = int(exact[1]), int(exact[2])
        if not all(16 <= side <= 8192 for side in size):
            raise UserError(f"size {choice}: expected sides from 16 to 8192")
        return size
    if choice == "model":
        return ingest.height, max(1, round(ingest.height * image[1] / image[0]))
    if choice == "input":
        return image
    raise UserError(f"size {choice}: expected model, input, or HxW such as 256x512")


def check_memory(clip: Clip, held: int) -> None:
    """UserError where drawing, tokens and the frames that a file holds need too much.

    held: bytes of these for each pixel of the output.
    """
    height, width, depth = next(iter(clip.large.values())).shape
    model, ingest = clip.model, clip.model.ingest
    tokens = model.tokenizer.tokens_per_frame
    channels = getattr(model.tokenizer, "context_channels", 0)
    longest = max((segment.n_drawings for segment in clip.drawn), default=0)
    needed = height * width * (PIXEL_BYTES * depth / 3 + held) / 1e9
    if model.has_previous:  # features of all frames and of a window; all frames at the model's size
        channels *= 3
        needed += longest * ingest.height * ingest.width * 24 / 1e9
    needed += len(clip.drawn) * longest * tokens * (16 + 4 * channels) / 1e9
    free = runtime.free_memory() / 1e9
    if needed > free:
        raise UserError(
            f"the clip needs about {needed:.1f} GB of memory, and {free:.1f} GB are free; choose a "
            "smaller size, or fewer frames"
        )


def conversions(clip: Clip, images: dict[int, np.ndarray], on: int) -> list[str]:
    """A line for each thing that is drawn otherwise than one might expect."""
    lines = []
    model, given = clip.model, images[0].shape[:2]
    shape, wished = clip.shown(next(iter(clip.large.values()))).shape[:2], clip.size
    if images[0].shape[2] == 4 and not clip.has_alpha:
        lines.append("this model warps no keyframes and draws no transparency: shown on white")
    if abs(given[0] * wished[1] - given[1] * wished[0]) > max(given):  # more than a pixel
        lines.append(
            f"the pictures of {given[0]}x{given[1]} are stretched to {wished[0]}x{wished[1]}"
        )
    if shape != wished:
        lines.append(
            f"the frames are the middle {shape[0]}x{shape[1]} of {wished[0]}x{wished[1]}: this "
            "model was trained with ingest.fit = crop"
        )
    for segment in clip.segments:
        ends = f"frames {segment.first} and {segment.last}"
        if not segment.drawn and segment.last > segment.first + 1:
            lines.append(
                f"nothing is drawn between {ends}: held on {on}, the first stays until the last"
            )
        if not segment.drawn or not model.has_context:
            continue
        first = torch.from_numpy(clip.small[segment.first])
        last = torch.from_numpy(clip.small[segment.last])
        change = float((first.float() - last.float()).abs().mean())
        if change > CUT_CHANGE and consistent_share(model.flow(first, last)) < CUT_CONSISTENT:
            lines.append(
                f"{ends} have little in common, as across a cut, and are cross-faded; cut there, "
                "or give a frame between"
            )
    return lines
