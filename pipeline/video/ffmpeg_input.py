"""How ffmpeg is given a video file: odd names mean themselves, and nothing else is opened.

A file chooses its demuxer by its content. Those of playlists (HLS, DASH, concat, SDP, IMF, VobSub),
scripts (AviSynth) and drawings (SVG) open what the file names, so only formats that hold their
pictures themselves are allowed.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.video.folder import MAX_PIXELS, check_readable

FILMS = (
    "mov,matroska,avi,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,evc,av1,obu,ivf,"
    "vc1,vc1test,asf,flv,live_flv,kux,rm,ogg,gif,apng,webp_anim,jpegxl_anim,mxf,gxf,lxf,dv,dnxhd,"
    "dirac,cavsvideo,avs2,avs3,nut,nuv,nsv,wtv,dhav,swf,mjpeg,smjpeg,yuv4mpegpipe,flic,roq,smk,bink"
)
NO_FILMS = "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe,ico,mp3,wav,aac,flac"  # named
LIMITS = {
    "protocol_whitelist": "file",
    "format_whitelist": f"{FILMS},{NO_FILMS}",
    "max_pixels": MAX_PIXELS,
}


@dataclass(frozen=True)
class FfmpegInput:
    """What ffmpeg is given: `url` with input `options`, started in `folder` (None: anywhere)."""

    url: str
    folder: Path | None = None
    options: dict[str, str | int] = field(default_factory=LIMITS.copy)
    stream: int = 0  # that of the moving pictures

    def read_by(self, decoder: str | None, stream: int) -> "FfmpegInput":
        """That stream, read by a decoder of that name; None leaves the choice to ffmpeg."""
        chosen = {"c:v": decoder} if decoder else {}
        return replace(self, options=self.options | chosen, stream=stream)

    @property
    def words(self) -> list[str]:
        """The input's part of a command line."""
        options = [word for name, value in self.options.items() for word in (f"-{name}", value)]
        return [*map(str, options), "-i", self.url]


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
