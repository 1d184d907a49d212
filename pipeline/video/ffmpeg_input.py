"""How ffmpeg is given a video file, so that odd names mean themselves."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.video.folder import check_readable

PROTOCOLS = "file,pipe"  # a playlist in the folder opens no network


@dataclass(frozen=True)
class FfmpegInput:
    """What ffmpeg is given: `url` with input `options`, started in `folder` (None: anywhere)."""

    url: str
    folder: Path | None = None
    options: dict[str, str | int] = field(default_factory=dict)
    stream: int = 0  # that of the moving pictures

    def read_by(self, decoder: str | None, stream: int) -> "FfmpegInput":
        """That stream, read by a decoder of that name; None leaves the choice to ffmpeg."""
        return replace(self, options={"c:v": decoder} if decoder else {}, stream=stream)


def executable() -> str:
    """The path of ffmpeg."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


@contextmanager
def open_input(path: Path) -> Iterator[FfmpegInput]:
    """What to give ffmpeg for a path, while the context lasts. Raises Unreadable."""
    check_readable(path)
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # no valid text, as in old archives: a link stands for it
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "video").symlink_to(path.absolute())
            yield FfmpegInput("file:video", Path(folder))
        return
    yield FfmpegInput(f"file:{path}")  # a colon, dash or percent sign then means itself
