"""The web app: two pictures in a browser, the clip that `generate` draws of them, and downloads.

    python -m pipeline app                                http://127.0.0.1:7860, for this machine
    python -m pipeline app --host 0.0.0.0 --out clips     for others, too; the clips are kept

Needs gradio (requirements-app.txt), and no network. Uploads and clips lie in one folder, which is
removed at the end. The models are loaded once; one clip is drawn at a time, the others wait.
"""

import argparse
import importlib.util
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import config, frames, io, runtime
from pipeline.commands import generate
from pipeline.errors import UserError
from pipeline.inference.clip import check_memory, conversions
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.keyframes import MAX_FRAMES, N_FRAMES
from pipeline.models.gpt.sampling import resolve_mode
from pipeline.video import clip_writer
from pipeline.video.ffmpeg_input import executable
from pipeline.video.pictures import FORMATS
from pipeline.video.writer import write_video

MAX_SAMPLES = 8
LABELS = {  # of the page's fields, by generate's option
    "first": "First picture",
    "last": "Last picture",
    "frame": "Further keyframe",
    "n-frames": "Frames",
    "on": "Hold each drawing for",
    "ease": "Easing",
    "fps": "Frames a second",
    "seed": "Seed",
    "samples": "Samples",
    "best-of": "Samples",
    "temperature": "Temperature",
    "mode": "Mode",
    "out": "The clip",
    "size": "picture",
}
NUMBERS = {"n-frames": int, "on": int, "fps": float, "seed": int, "samples": int}
NUMBERS |= {"temperature": float}
PREVIEW, STRIP = "preview.mp4", "strip.png"
STRIP_COLUMNS, STRIP_ROWS, THUMB_WIDTH = 7, 3, 240
PREVIEW_WIDTHS = 640, 1280  # a small picture is enlarged, as yuv420p halves its colours
SAMPLE = Path("data/sample/episodes")
SECONDS_KEPT = 6 * 3600  # of uploads and clips, while the app runs
OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}


def main(words: list[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    for option, value, low, high in (
        ("port", arguments.port, 1, 65535),
        ("max-megapixels", arguments.max_megapixels, 0.01, 67),
        ("max-megabytes", arguments.max_megabytes, 0.01, 4000),
        ("max-frames", arguments.max_frames, 3, MAX_FRAMES),
        ("max-waiting", arguments.max_waiting, 1, 10_000),
    ):
        if value is not None and not low <= value <= high:
            raise UserError(f"--{option} {value}: expected {low} to {high}")
    settings = config.load()
    if not importlib.util.find_spec("gradio"):
        raise UserError(
            "the app needs gradio, which is not installed; run `pip install --no-deps -r "
            "requirements-app.txt`"
        )
    parent = arguments.out or Path(tempfile.gettempdir())
    try:
        io.remove_stale(parent)
        with io.temporary(parent, Path.mkdir) as folder:
            _serve(arguments, settings, folder.resolve())
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(
            f"--out {parent} cannot be written ({error.strerror}); choose another folder"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    host = "address to listen at; default: this machine alone; 0.0.0.0: all that reach it"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, help="default: the first free one from 7860")
    add("--out", type=Path, help="folder that clips are kept in; default: removed at the end")
    size = "of a given picture; default: 9, which is 4K"
    add("--max-megapixels", type=float, default=9.0, help=size)
    add("--max-megabytes", type=float, default=50.0, help="of an uploaded file; default: 50")
    add("--max-frames", type=int, default=240, help="of a clip; default: 240")
    add("--max-waiting", type=int, default=10, help="clips that wait for their turn; default: 10")
    return parser


def _serve(arguments: argparse.Namespace, settings: config.Params, folder: Path) -> None:
    """Runs until it is interrupted; what is uploaded and drawn lies in `folder`."""
    os.environ |= OFFLINE | {"GRADIO_TEMP_DIR": str(folder)}
    tempfile.tempdir = str(folder)
    model = generate.load_models(runtime.prepare(settings.base), settings.base.precision)
    studio = Studio(model, settings, folder, arguments)
    page = build(studio)
    page.queue(max_size=arguments.max_waiting, default_concurrency_limit=1)
    try:
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            max_file_size=round(arguments.max_megabytes * 1e6),
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            footer_links=["api"],
        )
        print(f"{page.local_url} is ready; Ctrl-C stops it", flush=True)
        threading.Event().wait()
    finally:
        studio.stop()
        page.close(verbose=False)


class Studio:
    """Draws clips for the page, one at a time."""

    def __init__(
        self,
        model: InBetweener,
        settings: config.Params,
        folder: Path,
        limits: argparse.Namespace,
    ) -> None:
        self.model, self.settings, self.folder, self.limits = model, settings, folder, limits
        self.learnt = model.easing
        self.turn, self.stopped = threading.Lock(), False

    def stop(self) -> None:
        """Ends the drawing under way, and waits for its end."""
        self.stopped = True
        self.turn.acquire()

    def draw(self, fields: dict[str, Any], progress: Callable) -> tuple[str, str, list[str], str]:
        """Paths of a preview, a strip and the downloads, and a text about them.

        fields: as the page sends them. Raises UserError, one sentence in the page's words.
        """
        names: dict[str, str] = {}  # of the pictures, as they were uploaded, by their path
        start = time.monotonic()
        try:
            options = self._options(fields, names)
            with self.turn, io.temporary(self.folder, Path.mkdir) as work:
                lines = self._draw(options, work, progress)
                shutil.rmtree(work / "frames")
                if self.limits.out:
                    lines.append(f"kept in {keep(work, self.limits.out)}")
                place = work.rename(tempfile.mkdtemp(dir=self.folder))
            lines[0] += f", in {time.monotonic() - start:.1f} s"
        except (UserError, OSError, MemoryError, RuntimeError) as error:
            if not isinstance(error, UserError):
                error = f"the clip could not be drawn: {getattr(error, 'strerror', 0) or error}"
            raise UserError(_in_words(str(error), names)) from None
        files = sorted(str(path) for path in place.iterdir())
        shown = [str(place / name) for name in (PREVIEW, STRIP)]
        lines = [_in_words(line, names) for line in lines]
        return *shown, [file for file in files if file not in shown], "\n".join(lines)

    def _options(self, fields: dict[str, Any], names: dict[str, str]) -> argparse.Namespace:
        """The page's fields as generate's options."""
        options = generate.parser().parse_args(["--out", "frames"])
        for option, kind in NUMBERS.items():
            setattr(options, option.replace("-", "_"), _number(option, fields[option], kind))
        if fields["ease"] not in (None, "learnt"):
            options.ease = _number("ease", fields["ease"], float)
        options.mode = fields["mode"]
        for option, limit in (("n-frames", self.limits.max_frames), ("samples", MAX_SAMPLES)):
            value = getattr(options, option.replace("-", "_"))
            if value > limit:
                raise UserError(f"--{option} {value}: expected at most {limit}")
        if options.n_frames / max(options.fps, 0.1) > clip_writer.GIF_SECONDS:
            raise UserError(
                f"--fps {options.fps:g}: the clip would last longer than {clip_writer.GIF_SECONDS} "
                "seconds; expected more frames a second"
            )
        if fields["best"]:
            options.best_of, options.samples = options.samples, 1
        for option in ("first", "last"):
            if not fields[option]:
                raise UserError(f"the {option} picture is missing; upload one")
            setattr(options, option, self._picture(fields[option], names))
        more, at = (
            fields["more"] or [],
            re.split(r"[,;\s]+", str(fields["at"] or "").strip(",; \n")),
        )
        at = [place for place in at if place]
        if len(at) != len(more):
            raise UserError(
                f"there are {len(more)} further keyframes and {len(at)} numbers of their frames; "
                "expected a number for each, such as 5, 12"
            )
        for place, file in zip(at, more, strict=True):
            options.frame.append(f"{place}={self._picture(file, names)}")
        return options

    def _picture(self, file: dict, names: dict[str, str]) -> Path:
        path = Path(file["path"])
        name = names[str(path)] = Path(file.get("orig_name") or path).name
        pixels = 0
        with suppress(Exception), Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height  # of what is broken, the reader says it
        if pixels > self.limits.max_megapixels * 1e6:
            raise UserError(
                f"{name} has {pixels / 1e6:.1f} million pixels; expected at most "
                f"{self.limits.max_megapixels:g}"
            )
        return path

    def _draw(self, options: argparse.Namespace, work: Path, progress: Callable) -> list[str]:
        """Fills the folder `work`; gives lines about the clip."""
        decoding, paths = generate.checked(options, self.settings)
        notes: list[str] = []
        images = generate.read_pictures(paths, notes.append)
        self.model.easing = self.learnt
        clip = generate.clip_to_draw(self.model, images, options, decoding)
        shown = [clip.shown(image) for image in clip.large.values()]
        n_frames = max(images) + 1
        folders = [work / "frames" / f"clip_{k + 1}" for k in range(options.samples)]
        clip_writer.check_content(folders[0], shown, n_frames, 3 * options.samples, options.fps)
        check_memory(clip, n_frames)
        total, done = generate.n_drawings(clip, options), 0

        def advance(count: int) -> None:
            nonlocal done
            if self.stopped:
                raise UserError("the app is being stopped; start it again")
            done += count
            progress((done, total), desc="drawing", unit="frames")

        advance(0)
        generate.write_clips(clip, folders, options, decoding, advance)
        samples = [sorted(folder.iterdir()) for folder in folders]
        for k, sample in enumerate(samples):
            progress((k, len(samples)), desc="writing the downloads", unit="clips")
            name = f"clip_{k + 1}" if len(samples) > 1 else "clip"
            for suffix in (".mp4", ".gif"):
                clip_writer.write_clip(
                    map(_read, sample), n_frames, work / (name + suffix), options.fps
                )
            with zipfile.ZipFile(work / f"{name}_png.zip", "w") as archive:
                for path in sample:
                    archive.write(path, f"{name}/{path.name}")
        write_video(work / PREVIEW, previews(samples), options.fps)
        strip(samples).save(work / STRIP)
        height, width = shown[0].shape[:2]
        count = f"{len(samples)} clips of " if len(samples) > 1 else ""
        return [
            f"{count}{n_frames} frames of {height}x{width} (height x width)",
            *notes,
            *conversions(clip, images, options.on),
        ]


def _number(option: str, value: Any, kind: type) -> int | float:
    try:
        number = kind(value)
        if number != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        whole = "a whole number" if kind is int else "a number"
        shown = "is empty" if value in (None, "") else str(value)[:40]
        raise UserError(f"--{option} {shown}: expected {whole}") from None
    return number


def _in_words(text: str, names: dict[str, str]) -> str:
    """A sentence of generate's with the page's labels for its options, and pictures' own names."""
    for path, name in names.items():
        text = text.replace(path, " ".join(name.split()))
    return re.sub("--([a-z-]+)", lambda found: LABELS.get(found[1], found[0]), text)


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def previews(samples: list[list[Path]]) -> Iterator[np.ndarray]:
    """Frames for a player, of even sides; several samples beside and below each other."""
    columns = math.ceil(math.sqrt(len(samples)))
    for paths in zip(*samples, strict=True):
        images = [_read(path) for path in paths]
        images += [np.full_like(images[0], 255)] * (-len(images) % columns)
        rows = [np.hstack(images[k : k + columns]) for k in range(0, len(images), columns)]
        image = np.vstack(rows)
        height, width = image.shape[:2]
        scale = np.clip(width, *PREVIEW_WIDTHS) / width
        yield frames.resize(
            image, *(2 * max(1, round(scale * side / 2)) for side in (height, width))
        )


def strip(samples: list[list[Path]]) -> Image.Image:
    """Frames with their numbers, spread over the clip; several samples below each other."""
    n_frames = len(samples[0])
    most = STRIP_COLUMNS * (STRIP_ROWS if len(samples) == 1 else 1)
    numbers = np.linspace(0, n_frames - 1, min(n_frames, most)).round().astype(int)
    shown = [(number, sample[number]) for sample in samples for number in numbers]
    columns = min(STRIP_COLUMNS, len(numbers))
    height, width = _read(shown[0][1]).shape[:2]
    height, gap, label = max(1, round(THUMB_WIDTH * height / width)), 8, 26
    step = THUMB_WIDTH + gap, height + label
    sheet = Image.new("RGBA", (columns * step[0], -(-len(shown) // columns) * step[1]))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for k, (number, path) in enumerate(shown):
        left, top = k % columns * step[0], k // columns * step[1]
        sheet.paste(Image.fromarray(frames.resize(_read(path), height, THUMB_WIDTH)), (left, top))
        draw.text((left + THUMB_WIDTH / 2, top + height + 2), str(number), "grey", font, "ma")
    return sheet


def keep(place: Path, folder: Path) -> Path:
    """Copies the downloads to the first free one of clip_0001, clip_0002, ... in `folder`."""
    number, shown = 1, shutil.ignore_patterns(PREVIEW, STRIP)
    with io.temporary(folder, Path.mkdir) as partial:
        shutil.copytree(place, partial, dirs_exist_ok=True, ignore=shown)
        while (kept := folder / f"clip_{number:04d}").exists():
            number += 1
        return partial.rename(kept)


def examples(folder: Path) -> list[list]:
    """Both ends and the length of the test clip with most motion of each episode of the sample."""
    try:
        clips = io.read_table(Path("data/clips/clips.parquet"), io.CLIPS)
        videos = io.read_table(Path("data/frames/videos.parquet"), io.VIDEOS)
    except UserError:
        return []
    clips = clips[clips.split == "test"].merge(videos[["video_id", "path", "fps"]], on="video_id")
    rows = []
    for clip in clips.sort_values("motion").groupby("video_id").tail(1).itertuples():
        ends = []
        for frame in (clip.frames[0], clip.frames[-1]):
            seconds = max(0, float((frame - 0.5) / Fraction(clip.fps)))
            ends.append(str(folder / f"{clip.video_id}_{frame}.png"))
            command = [executable(), "-v", "error", "-ss", f"{seconds:.4f}", "-i"]
            command += [f"file:{SAMPLE / clip.path}", "-frames:v", "1", ends[-1]]
            if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
                return []
        rows.append([*ends, clip.n_frames])
    return rows


def build(studio: Studio) -> Any:
    """The page, a gr.Blocks; its one public function is what `gradio_client` calls as /draw."""
    import gradio as gr

    class Page(gr.Blocks):
        async def preprocess_data(self, *arguments, **options):
            """What does not fit the fields is one sentence, too."""
            try:
                return await super().preprocess_data(*arguments, **options)
            except gr.Error:
                raise
            except Exception as error:
                raise gr.Error(str(error).partition("\n")[0], print_exception=False) from None

    def draw(
        first, last, n_frames, on, ease, fps, seed, samples, best, temperature, mode,
        more=None, at=None,
        progress=gr.Progress(),  # noqa: B008
    ):  # fmt: skip
        fields = {name.replace("_", "-"): value for name, value in locals().items()}
        try:
            return studio.draw(fields, progress)
        except UserError as error:
            raise gr.Error(str(error), 30, title="Not drawn", print_exception=False) from None

    def picture(label: str) -> gr.Image:
        sources = ["upload", "clipboard"]
        return gr.Image(label=label, type="filepath", sources=sources, buttons=[], height=240)

    decoding, model = studio.settings.evaluate.decoding, studio.model
    modes = list(dict.fromkeys(["parallel", model.gpt.config.mode]))
    hidden = {"api_visibility": "private"}
    with Page(title="Nakawari", analytics_enabled=False, delete_cache=(3600, SECONDS_KEPT)) as page:
        gr.Markdown("# Nakawari\nDraws the frames between two drawings.")
        with gr.Row():
            first, last = picture("First picture"), picture("Last picture")
            with gr.Column():
                with gr.Row():
                    n_frames = gr.Number(N_FRAMES, label="Frames", precision=0)
                    fps = gr.Number(24, label="Frames a second")
                holds = [("1 frame (ones)", 1), ("2 (twos)", 2), ("3 (threes)", 3)]
                on = gr.Radio(holds, value=1, label=LABELS["on"])
                pace = [
                    ("as learnt", "learnt"),
                    ("even", 1),
                    ("a little", 1.5),
                    ("slow in, slow out", 2),
                    ("strong", 4),
                ]
                ease = gr.Dropdown(
                    pace, value="learnt", label="Easing", interactive=model.has_context
                )
        with gr.Accordion("Further keyframes", open=False), gr.Row():
            more = gr.File(
                label="Pictures", file_count="multiple", file_types=["image"], height=140
            )
            at = gr.Textbox(
                label="Their frames, in this order",
                placeholder="5, 12",
                info="The first picture is frame 0.",
            )
        with gr.Accordion("Variants", open=False), gr.Row():
            samples = gr.Slider(1, MAX_SAMPLES, 1, step=1, label="Samples")
            best = gr.Checkbox(
                False, label="Only the best", info="The one that meets the last picture best."
            )
            temperature = gr.Slider(
                0,
                2,
                decoding.temperature,
                step=0.05,
                label="Temperature",
                info="0: always the same clip.",
            )
            seed = gr.Number(0, label="Seed", precision=0)
            mode = gr.Dropdown(
                modes, value=resolve_mode(decoding.mode, model.gpt.config), label="Mode"
            )
        with gr.Row():
            go = gr.Button("Draw", variant="primary", scale=3)
            swap = gr.Button("Swap the pictures")
            clear = gr.ClearButton(value="Clear", **hidden)
        with gr.Row():
            video = gr.Video(label="Clip", autoplay=True, loop=True, interactive=False, height=300)
            sheet = gr.Image(
                label="Strip", type="filepath", format="png", interactive=False, height=300
            )
        with gr.Row():
            files = gr.File(label="Downloads", file_count="multiple", interactive=False)
            text = gr.Textbox(label="Notes", interactive=False, lines=3)
        clear.add([first, last, more, at, video, sheet, files, text])
        inputs = [first, last, n_frames, on, ease, fps, seed, samples, best, temperature, mode]
        inputs += [more, at]
        go.click(draw, inputs, [video, sheet, files, text], preprocess=False, api_name="draw")
        pair = [first, last]
        swap.click(None, pair, pair, js="(first, last) => [last, first]", **hidden)
        warm = "(samples, heat) => samples > 1 && heat == 0 ? 1 : heat"  # else all are alike
        samples.change(None, [samples, temperature], temperature, js=warm, **hidden)
        rows = examples(studio.folder)
        if rows:
            gr.Examples(
                rows,
                [first, last, n_frames],
                label="Test clips of the sample",
                cache_examples=False,
            )
    return page
