"""Small films for the tests of `pipeline.data`: as frame files, and as video files."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline import config
from pipeline.data.detector_features import FrameTerms
from pipeline.data.frame_file import FrameFile, write_frames


@pytest.fixture(scope="session", autouse=True)
def tests_store(tmp_path_factory):
    """Decoded videos of the tests are kept apart, never in the project's own store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("root")))
        yield


@pytest.fixture(autouse=True)
def own_store(tests_store, tmp_path_factory, monkeypatch):
    """Each test begins with an empty store."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("root")))


@pytest.fixture(scope="session")
def settings() -> config.Params:
    return config.load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def frame_file(tmp_path):
    """uint8 `T H W 3` to a FrameFile, in batches as ingest writes them; 24 frames a second."""

    def write(
        images: np.ndarray, name: str = "film", batch: int = 7, about: dict[str, str] | None = None
    ) -> FrameFile:
        path = tmp_path / f"{name}.arrow"
        terms = FrameTerms()
        with write_frames(path, *images.shape[1:3], about=about) as out:
            for start in range(0, len(images), batch):
                part = images[start : start + batch]
                times = np.arange(start, start + len(part)) / 24
                out.append(part, terms.measure(part, part, times))
        return FrameFile(path)

    return write


@pytest.fixture(scope="session")
def make_video():
    """uint8 `T H W 3` to a video file; lossless unless other options are given."""
    import imageio_ffmpeg

    def make(path: Path, images: np.ndarray, *options: str, fps: int = 24) -> Path:
        height, width = images.shape[1:3]
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps)]
        chosen = options or ("-c:v", "ffv1")
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *raw, "-i", "-", *chosen]
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, str(path)], input=images.tobytes(), check=True)
        return path

    return make
