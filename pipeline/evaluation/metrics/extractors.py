"""From frames to features: what the distances of sets compare.

Pictures, uint8 `B H W 3`, to float32 `B D`: the pooled relu5_3 of VGG16 (`fid_vgg16`), or the
InceptionV3 of the published FID behind clean-fid's resizing (`fid_inception`; Parmar et al., 2022,
arXiv:2104.11222). Clips, uint8 `T H W 3`, to the 400 logits of I3D (FVD, KVD). All in float32,
also on a GPU. Features of true frames are kept on disk by content.
"""

import contextlib
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

import numpy as np
import torch

from pipeline import frames, runtime
from pipeline.models.pretrained import i3d, inception, lpips, weights

BLOCK = 4096  # bytes that a file takes at least
DIGEST = hashlib.sha256().digest_size


class ImageFeatures(Protocol):
    """A network that sees pictures, uint8 `B H W 3` to float32 `B dim`."""

    name: str  # goes into the metric's name
    dim: int
    tag: str  # names all that its numbers depend on but the pictures

    def __call__(self, images: torch.Tensor) -> np.ndarray: ...


class VggFeatures:
    """VGG16 (ImageNet): its last ReLU before the last pooling, mean in space. No resizing."""

    name, dim = "vgg16", 512

    def __init__(self, folder: Path | None, device: torch.device) -> None:
        network = lpips.Lpips.pretrained("vgg16", folder).to(device)
        self.network = network.to(memory_format=torch.channels_last)
        self.device = device
        self.tag = _tag(self.name, weights.LPIPS_VGG16.sha256, device, lpips)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        images = frames.to_float(images.to(self.device))  # B 3 H W
        with runtime.exact():
            found = self.network.trunk_features(
                images.contiguous(memory_format=torch.channels_last)
            )
        return found.float().cpu().numpy()  # B 512


class InceptionFeatures:
    """The FID's InceptionV3 up to its last pooling, behind clean-fid's resizing to 299x299.

    The file is described in `pretrained.inception`.
    """

    name, dim = "inception", 2048

    def __init__(self, path: Path, device: torch.device) -> None:
        inception.verify(path)
        with inception.cleanfid_needed():
            runtime.repair_torchvision()
            from cleanfid import inception_torchscript, resize
        self.resize = resize.build_resizer("clean")
        network = inception_torchscript.InceptionV3W(str(path.parent), download=False)
        self.network = network.to(device).eval()
        self.device = device
        self.tag = _tag(self.name, inception.SHA256, device, inception_torchscript, resize)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        resized = np.stack([self.resize(image) for image in images.cpu().numpy()])  # B 299 299 3
        with runtime.exact():
            found = self.network(torch.from_numpy(resized).to(self.device).movedim(-1, 1))
        return found.float().cpu().numpy()  # B 2048


class VideoFeatures:
    """I3D logits of one clip. One clip a forward: its neighbours leave no trace in its numbers."""

    name, dim = "i3d", i3d.CLASSES

    def __init__(self, folder: Path | None, device: torch.device) -> None:
        self.network = i3d.I3d.pretrained(folder).to(device)
        self.device = device
        self.tag = _tag(self.name, weights.I3D_KINETICS.sha256, device, i3d)

    @torch.inference_mode()
    def __call__(self, clip: torch.Tensor) -> np.ndarray:
        """uint8 `T H W 3` to float32 `400`; ValueError for clips that are too short for I3D."""
        with runtime.exact():
            found = self.network(i3d.video_input(clip.to(self.device)))[0]
        return found.float().cpu().numpy()


def image_network(
    choice: Literal["auto", "inception", "vgg16"], folder: Path | None, device: torch.device
) -> ImageFeatures:
    """The network of the FID. `auto`: Inception where its file lies already, else VGG16.

    UserError where weights are missing or damaged.
    """
    find = {"auto": inception.find, "inception": inception.required}.get(choice)
    path = find(folder) if find else None
    return VggFeatures(folder, device) if path is None else InceptionFeatures(path, device)


def _tag(name: str, sha256: str, device: torch.device, *modules: ModuleType) -> str:
    """Name, and a hash of weights, code and whatever else may change the last bit of a feature."""
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    about = f"{sha256} {device.type} {machine} float32 {torch.__version__}"
    digest = hashlib.sha256(about.encode())
    for path in (__file__, frames.__file__, *(module.__file__ for module in modules)):
        digest.update(Path(path).read_bytes())
    return f"{name}-{digest.hexdigest()[:12]}"


class FeatureStore:
    """Features of true frames, kept from run to run: a small file each, in a folder a network.

    The key is a hash of the network's tag and of the frames' shape and bytes, so an entry is never
    out of date. Each file is an .npy and the sha256 of its bytes; what does not agree with it is
    made again. Several processes may share the folder: files appear complete or not at all.
    """

    def __init__(self, folder: Path, limit_mb: float = 256) -> None:
        self.folder, self.limit = folder, limit_mb * 2**20

    def get_or_make(
        self,
        name: str,
        given: torch.Tensor | np.ndarray,
        make: Callable[[torch.Tensor | np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Features of uint8 frames, read back bit for bit, else made by `make(given)` and kept.

        `name`: the network's `tag`. Features that are not finite are returned and not kept.
        """
        path = self.folder / name / f"{_key(name, given)}.npy"
        found = _read(path)
        if found is None:
            found = make(given)
            if np.isfinite(found).all():
                _write(path, found)
        return found

    def prune(self) -> None:
        """Deletes what was not used for longest, until the rest is within the limit."""
        entries, total = [], 0
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # another process may prune as well
                about = path.stat()
                if path.suffix == ".npy":
                    entries.append((about.st_mtime_ns, -(-about.st_size // BLOCK) * BLOCK, path))
                elif about.st_mtime < time.time() - 3600:  # left by a run that was killed
                    path.unlink()
        for _, size, path in sorted(entries, reverse=True):
            total += size
            if total > self.limit:
                path.unlink(missing_ok=True)


def _key(name: str, given: torch.Tensor | np.ndarray) -> str:
    array = np.ascontiguousarray(torch.as_tensor(given).cpu().numpy())
    assert array.dtype == np.uint8 and array.shape[-1] == 3, (array.dtype, array.shape)
    digest = hashlib.sha256(f"{name} {array.shape}".encode())
    digest.update(array)
    return digest.hexdigest()


def _read(path: Path) -> np.ndarray | None:
    """The entry, marked as used; None where there is none, or a damaged one."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    array, digest = content[:-DIGEST], content[-DIGEST:]
    if hashlib.sha256(array).digest() != digest:
        return None
    with contextlib.suppress(OSError):  # pruned by another process, or not ours to touch
        os.utime(path)
    return np.load(io.BytesIO(array), allow_pickle=False)


def _write(path: Path, features: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    array = buffer.getvalue()
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        file.write(array + hashlib.sha256(array).digest())
    Path(file.name).replace(path)
