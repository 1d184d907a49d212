"""Draws the frames between two keyframes with both trained networks.

    model = InBetweener.load(Path("models/vqgan"), Path("models/gpt2"), device, precision)
    clips = model.generate(first, last, [20])

The transformer works on token ids; pixels are composed once, at the end. With a tokenizer without
context (the thesis' form) that is its picture, enlarged to the output's size. With keyframes as
context, masks and flow are predicted at the model's size and enlarged, and mix the given pictures
at the output's size, so that these keep their resolution. With the previous frame as context each
frame is decoded before the next one's tokens are predicted, from both keyframes towards the middle:
the tokens of the second half say what becomes of the frame after.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline import frames
from pipeline.config import Decoding, FrameSize
from pipeline.errors import UserError
from pipeline.models.checkpoints import load_tokenizer
from pipeline.models.flow import (
    EVEN,
    Context,
    Easing,
    Flow,
    FlowEstimator,
    interpolate,
    make_context,
)
from pipeline.models.gpt.checkpoint import load_gpt
from pipeline.models.gpt.model import Conditioning, FrameGpt
from pipeline.models.gpt.sampling import GREEDY, generate, predict, resolve_mode
from pipeline.models.vqgan.keyframes import KeyframeTokenizer
from pipeline.models.vqgan.model import Tokenizer
from pipeline.models.vqgan.previous import PreviousTokenizer
from pipeline.runtime import autocast

MAX_PIXELS = 2**19  # of the frames that are composed at once: bounds the memory
CACHED_FLOWS = 64  # pairs of keyframes whose flow is kept


class NotFinite(UserError):
    """The networks give values that are no numbers."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: the models are damaged or their training diverged; run `dvc repro` with a "
            "lower vqgan.trainer.gen_lr or train.lr_max"
        )


class InBetweener:
    """Tokenizer and transformer of one run, ready to generate."""

    def __init__(
        self,
        tokenizer: Tokenizer | KeyframeTokenizer | PreviousTokenizer,
        gpt: FrameGpt,
        ingest: FrameSize,
        device: torch.device,
        precision: str,
        flow_method: str = "dis",
        easing: Easing = EVEN,
    ) -> None:
        """easing: the timing of warped keyframes; a fixed one may be set before drawing."""
        self.tokenizer, self.gpt, self.ingest = tokenizer, gpt, ingest
        self.device, self.precision, self.easing = device, precision, easing
        self.flow_method = flow_method
        self.estimator = FlowEstimator(flow_method, device)
        self._flows: OrderedDict[bytes, Flow] = OrderedDict()

    @classmethod
    def load(cls, vqgan: Path, gpt: Path, device: torch.device, precision: str) -> "InBetweener":
        """Both folders as the stages leave them; UserError where they do not belong together."""
        saved = load_tokenizer(vqgan, device)
        transformer, trained_on = load_gpt(gpt, device)
        if trained_on != saved.sha256:
            raise UserError(
                f"{gpt} was trained on the tokens of another tokenizer than {vqgan}: its codes "
                "mean other pictures; run `dvc repro`, or bring both folders of one run"
            )
        return cls(
            saved.tokenizer,
            transformer,
            saved.ingest,
            device,
            precision,
            saved.flow_method,
            saved.easing,
        )

    @property
    def has_context(self) -> bool:
        """Whether the tokenizer sees the warped keyframes (`vqgan.context: keyframes`)."""
        return isinstance(self.tokenizer, KeyframeTokenizer)

    @property
    def has_previous(self) -> bool:
        """Whether a frame is decoded from its neighbour (`vqgan.context: previous`)."""
        return isinstance(self.tokenizer, PreviousTokenizer)

    @torch.no_grad()
    def generate(
        self,
        first: torch.Tensor,
        last: torch.Tensor,
        n_frames: Sequence[int],
        decoding: Decoding = GREEDY,
        generator: torch.Generator | None = None,
        large: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Clips between keyframes: uint8 `B H W 3` of the model's size, to `n H W 3` each.

        large: the keyframes at the size of the output. Frames 0 and n-1 of each clip are the given
        pictures themselves. Raises what `token_ids` and `draw` raise.
        """
        ids = self.token_ids(first, last, n_frames, decoding, generator)
        return self._clips(first, last, n_frames, ids, large)

    @torch.no_grad()
    def token_ids(
        self,
        first: torch.Tensor,
        last: torch.Tensor,
        n_frames: Sequence[int],
        decoding: Decoding = GREEDY,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Token ids `T B N` of the inner frames between keyframes uint8 `B H W 3`, T = longest - 2.

        generator: on the CPU, for temperatures above 0. Every n is at least 3. Raises UserError
        where the keyframes are of another size than the model's, or the model was not trained for
        what `decoding` asks.
        """
        self._check(first, last, n_frames)
        resolve_mode(decoding.mode, self.gpt.config)
        lengths = torch.tensor(n_frames, device=self.device)
        with autocast(self.device, self.precision):
            if self.has_context:
                # At times 0 and 1 the eased warp is the keyframe itself: code 0 everywhere.
                tokens = self.tokenizer.tokens_per_frame
                first_ids = last_ids = torch.zeros(
                    len(first), tokens, dtype=torch.int64, device=self.device
                )
                features = self._features(first, last, n_frames)
            elif self.has_previous:
                return self._token_ids_by_frame(first, last, lengths, decoding, generator)
            else:
                first_ids = self.tokenizer.encode(frames.to_float(first.to(self.device)))
                last_ids = self.tokenizer.encode(frames.to_float(last.to(self.device)))
                features = None
                # without context there is no null code
                decoding = decoding.model_copy(update={"min_confidence": 0.0})
            given = Conditioning(last_ids, lengths, features)
            return torch.stack(list(generate(self.gpt, first_ids, given, decoding, generator)))

    @torch.no_grad()
    def draw(
        self,
        first: torch.Tensor,
        last: torch.Tensor,
        n_frames: int,
        ids: torch.Tensor,
        large: tuple[torch.Tensor, torch.Tensor] | None = None,
        numbers: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """The inner frames of one clip, uint8 `K H W 3` at a time, so that few are held in memory.

        With the previous frame as context all are held at the model's size.

        first, last: `H W 3` of the model's size; ids `T N`; large: keyframes at the size of the
        output; numbers: draws these frames only. Raises NotFinite where the networks give no
        numbers.
        """
        shown = large or (first, last)
        if numbers is None:
            numbers = torch.arange(1, n_frames - 1)
        if self.has_previous:
            ends = [frames.to_float(x[None].to(self.device)) for x in (first, last)]
            followed = self._follow(*ends, ids[: n_frames - 2])  # T 3 H W
        for part in numbers.split(max(1, MAX_PIXELS // shown[0][..., 0].numel())):
            codes = ids[part - 1]  # K N
            with autocast(self.device, self.precision):
                if self.has_previous:
                    image = enlarged(followed[part - 1], shown[0])
                elif self.has_context:
                    image = self._compose(codes, part, n_frames, first, last, shown)
                else:
                    image = enlarged(self.tokenizer.decode(codes), shown[0])
            if not image.isfinite().all():
                raise NotFinite(f"frame {int(part[0])} or later is NaN or infinite")
            yield frames.to_uint8(image).cpu()

    @torch.no_grad()
    def without_codes(
        self, first: torch.Tensor, last: torch.Tensor, n_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        """The decoder alone, without codes: the baseline of tokens and transformer."""
        assert self.has_context
        size = (max(n_frames), len(first), self.tokenizer.tokens_per_frame)
        ids = torch.full(size, self.tokenizer.null_code, device=self.device)
        return self._clips(first, last, n_frames, ids, None)

    @torch.no_grad()
    def untrained(
        self, first: torch.Tensor, last: torch.Tensor, n_frames: Sequence[int]
    ) -> list[torch.Tensor]:
        """What the networks start from: the keyframes warped to the eased time, and mixed."""
        clips = []
        for a, b, n in zip(first.cpu(), last.cpu(), n_frames, strict=True):
            clips.append(interpolate(a, b, n, self.flow(a, b), self.easing.exponent(a, b)))
        return clips

    @torch.no_grad()
    def round_trip(self, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """True clip uint8 `n H W 3`: its inner frames through the tokenizer, uint8 `n-2 H W 3`.

        Also their ids `n-2 N`. The result of a transformer without error.
        """
        images = frames.to_float(clip.to(self.device))
        inner = images[1:-1]
        with autocast(self.device, self.precision):
            if self.has_previous:
                from_first, from_last = halves(len(inner))
                neighbours = torch.cat([images[:from_first], images[len(clip) - from_last :]])
                ids = self.tokenizer.encode(inner, neighbours)
                decoded = self._follow(images[:1], images[-1:], ids)
            elif self.has_context:
                numbers = torch.arange(1, len(clip) - 1)
                context = self.context(clip[0], clip[-1], len(clip), numbers)
                ids = self.tokenizer.encode(inner, context)
                decoded = self.tokenizer.decode(ids, context)
            else:
                ids = self.tokenizer.encode(inner)
                decoded = self.tokenizer.decode(ids)
        if not decoded.isfinite().all():
            raise NotFinite("the tokenizer's picture is NaN or infinite")
        return frames.to_uint8(decoded).cpu(), ids.cpu()

    @torch.no_grad()
    def miss(self, first: torch.Tensor, last: torch.Tensor, ids: torch.Tensor) -> float:
        """With the previous frame as context: how far both sides of a clip miss each other.

        first, last: uint8 `H W 3` of the model's size; ids `T N` of all inner frames. The mean
        squared difference, on [-1, 1], of each side's next frame, if its motion went on, and the
        other side's latest.
        """
        ends = [frames.to_float(x[None].to(self.device)) for x in (first, last)]
        from_first, from_last = halves(len(ids))
        with autocast(self.device, self.precision):
            sides = [ends[0], *self._one_side(*ends, ids[:from_first])]
            others = [ends[1], *self._one_side(*ends[::-1], ids[len(ids) - from_last :].flip(0))]
            latest = torch.cat([sides[-1], others[-1]])  # 2 3 H W
            codes = ids[from_first - 1 : from_first + 1].to(self.device)  # S N: of sides that moved
            keyframes = torch.stack([torch.cat(ends), torch.cat(ends[::-1])])  # 2 2 3 H W
            moved = latest[: len(codes)], keyframes[: len(codes)]
            following = self.tokenizer.decode(codes, *moved)  # S 3 H W
        return float((following - latest.flip(0)[: len(codes)]).square().mean())

    @torch.no_grad()
    def given_frame(self, frame: torch.Tensor) -> torch.Tensor:
        """A keyframe uint8 `1 H W 3` as the tokenizer shows it: with context, exactly."""
        if self.has_context or self.has_previous:
            return frame
        with autocast(self.device, self.precision):
            image = frames.to_float(frame.to(self.device))
            return frames.to_uint8(self.tokenizer.decode(self.tokenizer.encode(image))).cpu()

    def flow(self, first: torch.Tensor, last: torch.Tensor) -> Flow:
        """Between keyframes uint8 `H W 3` of the model's size, on the CPU."""
        a, b = first.cpu().numpy(), last.cpu().numpy()
        key = a.tobytes() + b.tobytes()
        if key not in self._flows:
            self._flows[key] = self.estimator(a, b)
            if len(self._flows) > CACHED_FLOWS:
                self._flows.popitem(last=False)
        return self._flows[key]

    def context(
        self, first: torch.Tensor, last: torch.Tensor, n_frames: int, numbers: torch.Tensor
    ) -> Context:
        """Of the frames `numbers` (K) of a clip between keyframes uint8 `H W 3`."""
        flow = self.flow(first, last).to(self.device)
        ends = [frames.to_float(x[None].to(self.device)) for x in (first, last)]
        time = (numbers / (n_frames - 1)).view(-1, 1, 1, 1).to(self.device)
        exponent = torch.tensor(self.easing.exponent(first, last), device=self.device)
        ends = [x.expand(len(numbers), -1, -1, -1) for x in ends]
        return make_context(*ends, flow, time, exponent)

    def _token_ids_by_frame(
        self,
        first: torch.Tensor,
        last: torch.Tensor,
        lengths: torch.Tensor,
        decoding: Decoding,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """`T B N`: with the previous frame as context, features are those of decoded frames.

        Both ends draw towards each other, a frame in each step: what is known of the way grows on
        both sides, and no frame is further from a given one than half the clip. To the transformer
        each step is a part of a clip, as in training; the second side plays backwards.
        """
        tokenizer, generator = self.tokenizer, generator or torch.Generator().manual_seed(0)
        # without warps there is no null code
        decoding = decoding.model_copy(update={"min_confidence": 0.0})
        count, longest = len(first), int(lengths.max())
        n_frames = lengths.repeat(2)  # 2B: of the first side and the second
        images = frames.to_float(torch.cat([first, last]).to(self.device))[:, None]  # 2B K 3 H W
        keyframes = torch.cat([images, images.roll(count, 0)], 1)
        nothing = torch.zeros(
            2 * count, tokenizer.tokens_per_frame, dtype=torch.int64, device=self.device
        )
        ids = [nothing]
        for step in range((longest - 1) // 2):
            start = max(0, step - self.gpt.config.window)  # the oldest frame that is read
            length = (n_frames - step - start).clamp(min=images.shape[1] + 2)
            features = tokenizer.sequence_features(images, images[:, -1].roll(count, 0), length)
            window = torch.stack([nothing, *ids[start + 1 :]], 1)  # 2B T N
            given = Conditioning(nothing, length, features.float())
            ids.append(predict(self.gpt, window, given, decoding, generator))
            parts = zip(
                ids[-1].split(64), images[:, -1].split(64), keyframes.split(64), strict=True
            )
            following = torch.cat([tokenizer.decode(*part) for part in parts])
            images = torch.cat([images, following[:, None]], 1)[:, -self.gpt.config.window - 1 :]
        drawn = torch.stack(ids[1:], 1)  # 2B S N
        joined = drawn.new_zeros(longest - 2, count, drawn.shape[2])
        for k, n in enumerate(lengths.tolist()):
            from_first, from_last = halves(n - 2)
            ways = drawn[k, :from_first], drawn[count + k, :from_last].flip(0)
            joined[: n - 2, k] = torch.cat(ways)
        return joined

    def _follow(self, first: torch.Tensor, last: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Frames `T 3 H W` from ids `T N` and keyframes `1 3 H W`, each from its neighbour."""
        from_first, _ = halves(len(ids))
        with autocast(self.device, self.precision):
            of_first = self._one_side(first, last, ids[:from_first])
            of_last = self._one_side(last, first, ids[from_first:].flip(0))
        return torch.cat([*of_first, *reversed(of_last)])

    def _one_side(
        self, image: torch.Tensor, other: torch.Tensor, ids: torch.Tensor
    ) -> list[torch.Tensor]:
        """Frames `1 3 H W` from ids `T N`, from one keyframe on towards the other."""
        keyframes, images = torch.stack([image, other], 1), []
        for codes in ids:
            image = self.tokenizer.decode(codes[None].to(self.device), image, keyframes)
            images.append(image)
        return images

    def _features(
        self, first: torch.Tensor, last: torch.Tensor, n_frames: Sequence[int]
    ) -> torch.Tensor:
        """Context features of all frames, `B T N C`, zeros past the end of a shorter clip."""
        clips = []
        chunk = max(1, MAX_PIXELS // first[0, ..., 0].numel())
        for a, b, n in zip(first, last, n_frames, strict=True):
            parts = torch.arange(n).split(chunk)
            clips.append(
                torch.cat(
                    [self.tokenizer.context_features(self.context(a, b, n, part)) for part in parts]
                )
            )
        return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)

    def _clips(
        self,
        first: torch.Tensor,
        last: torch.Tensor,
        n_frames: Sequence[int],
        ids: torch.Tensor,
        large: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> list[torch.Tensor]:
        """Ids `T B N` to clips uint8 `n H W 3`, at the output's size."""
        shown = large or (first, last)
        clips = []
        for k, n in enumerate(n_frames):
            ends = shown[0][k], shown[1][k]
            inner = self.draw(first[k], last[k], n, ids[: n - 2, k], ends)
            clips.append(torch.cat([ends[0][None].cpu(), *inner, ends[1][None].cpu()]))
        return clips

    def _compose(
        self,
        codes: torch.Tensor,
        numbers: torch.Tensor,
        n: int,
        first: torch.Tensor,
        last: torch.Tensor,
        shown: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Frames `numbers` with ids `K N`: float `K 3 H W` at the size of `shown`."""
        context = self.context(first, last, n, numbers)
        if shown[0].shape == first.shape:
            return self.tokenizer.decode(codes, context)
        size = tuple(shown[0].shape[:2])
        flow = self.flow(first, last).resize(size).to(self.device)
        ends = [frames.to_float(x[None].to(self.device)) for x in shown]
        ends = [x.expand(len(numbers), -1, -1, -1) for x in ends]
        exponent = torch.tensor(self.easing.exponent(first, last), device=self.device)
        enlarged = make_context(*ends, flow, context.time, exponent, context.confidence)
        # Warped anew with the corrected flow; 200 MB at 2160x3840.
        enlarged = enlarged._replace(warped_first=None, warped_last=None)
        return self.tokenizer.decode(codes, context, enlarged)

    def _check(self, first: torch.Tensor, last: torch.Tensor, n_frames: Sequence[int]) -> None:
        assert len(first) == len(last) == len(n_frames), (first.shape, last.shape, n_frames)
        height, width = self.ingest.height, self.ingest.width
        for name, frame in (("first", first), ("last", last)):
            if frame.shape[1:] != (height, width, 3):
                raise UserError(
                    f"the {name} frame is {frame.shape[1]}x{frame.shape[2]} pixels, and the models "
                    f"were trained for {height}x{width}; fit it to that size"
                )
        if min(n_frames) < 3:
            raise UserError(
                f"a clip of {min(n_frames)} frames: expected at least 3, both given ones and one "
                "between"
            )


def halves(n_inner: int) -> tuple[int, int]:
    """How many inner frames are drawn from the first keyframe, and from the last one."""
    return n_inner - n_inner // 2, n_inner // 2


def enlarged(images: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Images `B 3 H W` at the size of `shown`, `H W 3`."""
    size = tuple(shown.shape[:2])
    return images if images.shape[-2:] == size else F.interpolate(images, size, mode="bicubic")
