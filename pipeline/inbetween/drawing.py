"""Where tokenizer and transformer meet: given ends to codes, codes to in-betweens, to pictures.

The rollout stays in token space; codes become pixels once, at the end. Two choices on the way
back to pixels (parameters `evaluate.decode` and `evaluate.detail`):

decode: `argmax` shows the likeliest code of each token; `expected` shows the mean codebook vector
under the model's distribution, which is less wrong on average and softer where the model doubts.
A model that was trained for minutes doubts too much: `sharpness` above 1 raises the distribution to
that power first, and a very large one gives `argmax`.

detail: `keys` shows each token that the model takes over from a given frame, at the same place, as
that frame's own pixels, weighted with the model's certainty. Where it is told both given frames
moved along their optical flow (`transformer.moved_keys`), a token that those have shows their
pixels, and one that only a frame at rest has, that frame's. What stands still or moves as foreseen
so stays as sharp as the given frames, and what the model draws anew comes from the tokenizer.
`none` shows the tokenizer's picture everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from pipeline import frames
from pipeline.easing import EVEN, Easing
from pipeline.errors import UserError
from pipeline.models.checkpoints import fingerprint, load_gpt, load_tokenizer
from pipeline.models.gpt.model import FrameGpt
from pipeline.models.gpt.sampling import LIKELIEST, Decoding, Drawn, draw
from pipeline.motion import Flow, between, find_flow, moved_clip, way
from pipeline.params import Evaluate, FrameSize
from pipeline.torch_setup import autocast
from pipeline.vqgan.model import Tokenizer

ENCODED = 64  # moved frames that go through the tokenizer at once


@dataclass(frozen=True)
class Style:
    """How codes become pixels; see the module's text."""

    decode: str = "expected"  # expected | argmax
    sharpness: float = 1.0  # exponent of the chances before their mean is taken
    detail: str = "keys"  # keys | none

    @classmethod
    def from_params(cls, looks: Evaluate, decoding: Decoding) -> "Style":
        """A mean over all codes would show no trace of the ones that were drawn by chance."""
        decode = "argmax" if decoding.temperature > 0 else looks.decode
        return cls(decode, looks.sharpness, looks.detail)


@dataclass(frozen=True)
class Key:
    """One picture of each clip of a batch whose tokens may be taken over."""

    codes: torch.Tensor  # B N
    shown: torch.Tensor  # float B 3 H W in [-1, 1], at the size of the output


@dataclass(frozen=True)
class Moved:
    """Both given frames of each clip of a batch, moved to the time of every frame between."""

    codes: torch.Tensor  # B T N, T the longest clip's frames
    keys: list[Key]  # first and last, at rest
    flow: Flow  # B 2 H W, at the size of the output
    n_frames: torch.Tensor  # B
    exponents: torch.Tensor  # B: of the pace, see `easing`

    def at(self, frame: int) -> Key:
        """Frames past the end of a shorter clip show its last one."""
        t = way((frame / (self.n_frames - 1)).clamp(max=1.0), self.exponents).view(-1, 1, 1, 1)
        first, last = (key.shown for key in self.keys)
        return Key(self.codes[:, frame], between(first, last, self.flow, t))


class NotFinite(UserError):
    """The networks draw values that are no numbers."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: the models are damaged or their training diverged; run `dvc repro` with a "
            "lower vqgan.trainer.gen_lr or train.lr_max"
        )


class InBetweener:
    """Both trained networks, ready to draw."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        gpt: FrameGpt,
        ingest: FrameSize,
        device: torch.device,
        precision: str,
        easing: Easing = EVEN,
    ) -> None:
        """easing: the pace at which given frames are moved (`transformer.moved_keys`)."""
        if gpt.config.num_embeddings != len(tokenizer.codebook):
            raise UserError(
                f"the transformer knows {gpt.config.num_embeddings} codes and the tokenizer has "
                f"{len(tokenizer.codebook)}: they were not trained together; run `dvc repro`"
            )
        self.tokenizer, self.gpt, self.ingest = tokenizer, gpt, ingest
        self.device, self.precision, self.easing = device, precision, easing

    @classmethod
    def load(cls, vqgan: Path, gpt: Path, device: torch.device, precision: str) -> "InBetweener":
        """Both folders as the stages leave them; UserError where they do not belong together."""
        tokenizer, ingest = load_tokenizer(vqgan, device)
        trained = load_gpt(gpt, device)
        if trained.tokenizer != fingerprint(vqgan):
            raise UserError(
                f"{gpt} was trained on the tokens of another tokenizer than {vqgan}: its codes "
                "mean other pictures; run `dvc repro`, or bring both folders of one run"
            )
        return cls(tokenizer, trained.gpt, ingest, device, precision, trained.easing)

    @torch.no_grad()
    def round_trip(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 `B H W 3` through the tokenizer and back; also the codes `B N`.

        Raises NotFinite where the network gives no numbers.
        """
        with autocast(self.device, self.precision):
            codes = self.tokenizer.encode(frames.to_float(images.to(self.device)))
            decoded = self.tokenizer.decode(codes)
        if not decoded.isfinite().all():
            raise NotFinite("the tokenizer's picture is NaN or infinite")
        return frames.to_uint8(decoded), codes

    @torch.no_grad()
    def draw(
        self,
        first: torch.Tensor,
        last: torch.Tensor,
        n_frames: list[int],
        style: Style,
        decoding: Decoding = LIKELIEST,
        generator: torch.Generator | None = None,
        large: tuple[torch.Tensor, torch.Tensor] | None = None,
        advance: Callable[[], object] | None = None,
    ) -> list[torch.Tensor]:
        """Clips with the given ends: uint8 `B H W 3` of the model's size, to `n H W 3` each.

        generator: on the CPU, for codes that are drawn by chance. `large`: both ends again in the
        size that the output shall have; their detail is what standing parts keep. `advance` is
        called after each drawn frame. Frame 0 and n-1 of each clip are the given pictures
        themselves, the large ones where there are any. Every n is at least 3. Raises NotFinite
        where the networks give no numbers, UserError where pictures are of another size than the
        model's, or the model was not trained for what `decoding` asks.
        """
        self._check(first, last, n_frames)
        lengths = torch.tensor(n_frames, device=self.device)
        ends = large or (first, last)
        with autocast(self.device, self.precision):
            keys = [self._key(*pair) for pair in zip((first, last), ends, strict=True)]
            moved = self._moved(first, last, keys, lengths) if self.gpt.config.moved_keys else None
            inner = []
            codes = (keys[0].codes, keys[1].codes)
            told = moved and moved.codes
            for drawn in draw(self.gpt, *codes, lengths, decoding, generator, told):
                here = [*keys, moved.at(len(inner) + 1)] if moved else keys
                picture = self._picture(drawn, here, style)
                if not (drawn.logits.isfinite().all() and picture.isfinite().all()):
                    raise NotFinite(f"frame {len(inner) + 1} is NaN or infinite")
                inner.append(frames.to_uint8(picture).cpu())
                if advance:
                    advance()
        clips = torch.stack(inner, 1)  # B n-2 H W 3
        return [
            torch.cat([ends[0][k : k + 1].cpu(), clips[k, : n - 2], ends[1][k : k + 1].cpu()])
            for k, n in enumerate(n_frames)
        ]

    def _check(self, first: torch.Tensor, last: torch.Tensor, n_frames: list[int]) -> None:
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

    def _key(self, given: torch.Tensor, shown: torch.Tensor) -> Key:
        codes = self.tokenizer.encode(frames.to_float(given.to(self.device)))
        return Key(codes, frames.to_float(shown.to(self.device)))

    def _moved(
        self, first: torch.Tensor, last: torch.Tensor, keys: list[Key], n_frames: torch.Tensor
    ) -> Moved:
        """The flow of each clip of a batch, found at the model's size, and its moved frames."""
        flows, exponents, clips = [], [], []
        for one, other, n in zip(first, last, n_frames.tolist(), strict=True):
            flows.append(find_flow(one.cpu().numpy(), other.cpu().numpy()))
            exponents.append(self.easing.exponent(one, other))
            clips.append(moved_clip(one, other, n, flows[-1], exponents[-1]))  # n H W 3
        pictures = frames.to_float(torch.cat(clips).to(self.device))
        codes = torch.cat([self.tokenizer.encode(part) for part in pictures.split(ENCODED)])
        lengths = n_frames.tolist()
        padded = torch.nn.utils.rnn.pad_sequence(codes.split(lengths), batch_first=True)
        flow = Flow(*(torch.cat(parts).to(self.device) for parts in zip(*flows, strict=True)))
        flow = flow.resized(keys[0].shown.shape[-2:])
        return Moved(padded, keys, flow, n_frames, torch.tensor(exponents, device=self.device))

    def _picture(self, drawn: Drawn, keys: list[Key], style: Style) -> torch.Tensor:
        """float `B 3 H W` in [-1, 1], at the size of the output."""
        chances = F.one_hot(drawn.codes, drawn.logits.shape[-1]).float()  # B N V
        if style.decode == "expected":
            chances = torch.softmax(style.sharpness * drawn.logits.float(), -1)
        size = keys[0].shown.shape[-2:]
        with torch.autocast(self.device.type, enabled=False):
            vectors = chances @ self.tokenizer.codebook  # B N D
        images = _resized(self.tokenizer.decode_vectors(vectors), size)
        if style.detail == "none":
            return images
        mixed, drawn_anew = torch.zeros_like(images), torch.ones_like(images[:, :1])
        for key, share in zip(keys, _shares([key.codes for key in keys]), strict=True):
            kept = chances.gather(2, key.codes[..., None])[..., 0] * share  # B N
            grid = kept.unflatten(1, self.tokenizer.grid)[:, None]  # B 1 h w
            mask = F.interpolate(grid, size, mode="bilinear")  # B 1 H W
            mixed, drawn_anew = mixed + mask * key.shown, drawn_anew - mask
        return mixed + drawn_anew * images


def _shares(codes: list[torch.Tensor]) -> list[torch.Tensor]:
    """How much of a token's chance each key shows, `B N`, by the codes of the keys, `B N` each.

    Both given frames share alike codes evenly. Where the moved ones have that code too they show
    all of it: they are right also about changes that are too small for another code.
    """
    (first, last), moved = codes[:2], codes[2:]
    even = 1.0 / (1 + (first == last).int())
    shares = [even, even]
    for of_moved in moved:  # one at most
        shares = [torch.where(key == of_moved, 0.0, even) for key in (first, last)]
        shares.append(torch.ones_like(even))
    return shares


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """float `B 3 H W` to another size, by a cubic."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic")
