"""LPIPS of clips (Zhang et al., 2018), each different picture seen by the network once.

Held drawings, and the baselines that hold a frame, repeat pictures to the byte: their features are
computed once. Frames are uint8 `T H W 3`, distances `T`, 0 for equal pictures.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline import frames, runtime
from pipeline.models.pretrained.lpips import Lpips


@dataclass(frozen=True)
class Seen:
    """Features of a clip's different pictures, and which of them each frame is."""

    maps: list[torch.Tensor]  # a level each: U C' H' W'
    index: torch.Tensor  # T


class Perceptual:
    """LPIPS on one device, in float32."""

    def __init__(self, network: str, folder: Path | None, device: torch.device) -> None:
        self.lpips = Lpips.pretrained(network, folder).to(device)
        self.lpips = self.lpips.to(memory_format=torch.channels_last)
        self.device = device

    @torch.inference_mode()
    def see(self, clip: torch.Tensor) -> Seen:
        """Features of uint8 `T H W 3`."""
        places, index = _distinct(clip)
        images = frames.to_float(clip[places].to(self.device))  # U 3 H W
        images = images.contiguous(memory_format=torch.channels_last)
        with runtime.exact():
            return Seen(self.lpips.features(images), index.to(self.device))

    @torch.inference_mode()
    def distance(self, one: Seen, other: Seen) -> torch.Tensor:
        """float32 `T`: each pair of different pictures is compared once."""
        pairs, index = torch.stack([one.index, other.index]).unique(dim=1, return_inverse=True)
        ours = [level[pairs[0]] for level in one.maps]
        theirs = [level[pairs[1]] for level in other.maps]
        return self.lpips.distance(ours, theirs)[index].cpu()


def _distinct(clip: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Places of the different pictures, and for each frame the number of its picture."""
    known: dict[bytes, int] = {}
    places, index = [], []
    for place, frame in enumerate(clip.numpy()):
        number = known.setdefault(frame.tobytes(), len(known))
        if number == len(places):
            places.append(place)
        index.append(number)
    return places, torch.tensor(index)
