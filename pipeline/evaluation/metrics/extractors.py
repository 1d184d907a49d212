"""From frames to features: what FID, FVD and KVD compare. All in float32, also on a GPU.

Images, uint8 `B H W 3`, to float32 `B D`: the pooled relu5_3 of VGG16 (`fid_vgg16`), or the
InceptionV3 of the published FID behind clean-fid's resizing (`fid_inception`; Parmar et al., 2022,
arXiv:2104.11222). Clips, uint8 `T H W 3`, to the 400 logits of I3D (FVD, KVD).
"""

from typing import Literal, Protocol

import numpy as np
import torch

from pipeline import frames, runtime
from pipeline.models.pretrained import i3d, inception
from pipeline.models.pretrained.lpips import Lpips


class ImageFeatures(Protocol):
    """A network on images, uint8 `B H W 3` to float32 `B dim`."""

    name: str  # goes into the metric's name
    dim: int

    def __call__(self, images: torch.Tensor) -> np.ndarray: ...


class VggFeatures:
    """VGG16 (ImageNet): its last ReLU before the last pooling, mean over space. No resizing."""

    name, dim = "vgg16", 512

    def __init__(self, device: torch.device) -> None:
        self.network = Lpips.pretrained("vgg16").to(device, memory_format=torch.channels_last)
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        images = frames.to_float(images.to(self.device))  # B 3 H W
        images = images.contiguous(memory_format=torch.channels_last)
        with runtime.exact():
            return self.network.trunk_features(images).float().cpu().numpy()  # B 512


class InceptionFeatures:
    """The FID's InceptionV3 up to its last pooling, behind clean-fid's resizing to 299x299."""

    name, dim = "inception", 2048

    def __init__(self, device: torch.device) -> None:
        path = inception.verified()
        with inception.cleanfid_needed():
            runtime.repair_torchvision()
            from cleanfid import inception_torchscript, resize
        self.resize = resize.build_resizer("clean")
        network = inception_torchscript.InceptionV3W(str(path.parent), download=False)
        self.network, self.device = network.to(device).eval(), device

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        resized = np.stack([self.resize(image) for image in images.cpu().numpy()])  # B 299 299 3
        with runtime.exact():
            features = self.network(torch.from_numpy(resized).to(self.device).movedim(-1, 1))
        return features.float().cpu().numpy()  # B 2048


class VideoFeatures:
    """I3D logits of one clip a forward pass, so that they do not depend on other clips."""

    name, dim = "i3d", i3d.CLASSES

    def __init__(self, device: torch.device) -> None:
        self.network, self.device = i3d.I3d.pretrained().to(device), device

    @torch.inference_mode()
    def __call__(self, clip: torch.Tensor) -> np.ndarray:
        """uint8 `T H W 3` to float32 `400`; ValueError for clips that are too short for I3D."""
        with runtime.exact():
            return self.network(i3d.video_input(clip.to(self.device)))[0].float().cpu().numpy()


def image_network(name: Literal["inception", "vgg16"], device: torch.device) -> ImageFeatures:
    """The network of the FID; UserError where weights are missing or damaged."""
    return VggFeatures(device) if name == "vgg16" else InceptionFeatures(device)
