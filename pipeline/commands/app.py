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
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import config, frames, io, runtime
from pipeline.commands import generate
from pipeline.errors import UserError
from pipeline.inference.clip import check_memory, conversions
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.keyframes import N_FRAMES
from pipeline.models.gpt.sampling import resolve_mode
from pipeline.video import clip_writer
from pipeline.video.ffmpeg_input import executable
from pipeline.video.pictures import FORMATS
from pipeline.video.writer import write_video

MAX_SAMPLES, MAX_FPS = 8, 240
LABELS = {  # of generate's options, on the page and in its messages
    "first": "First picture",
    "last": "Last picture",
    "frame": "Keyframe",
    "n_frames": "Frames",
    "on": "Drawings held on",
    "ease": "Easing",
    "fps": "Frames a second",
    "seed": "Seed",
    "samples": "Samples",
    "best_of": "Samples",
    "temperature": "Temperature",
    "mode": "Mode",
    "out": "The clip",
    "size": "picture",
}
HOLDS = [("ones", 1), ("twos", 2), ("threes", 3)]
MODES = "parallel", "maskgit"
PACES = [("as learnt", "learnt"), ("even", 1), ("slow in, slow out", 2), ("more so", 4)]
PREVIEW, STRIP = "preview.mp4", "strip.png"
PREVIEW_WIDTHS = 640, 1280  # a small picture is enlarged, as yuv420p halves its colours
STRIP_COLUMNS, STRIP_ROWS, THUMB_WIDTH = 5, 4, 256
EXAMPLES, SAMPLE = 3, Path("data/sample/episodes")
SECONDS_KEPT = 6 * 3600  # of uploads and clips, while the app runs
OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}


def main(words: list[str] | None = None) -> None:
    with served(parser().parse_args(words)) as address:
        print(f"{address} is ready; Ctrl-C stops it", flush=True)
        threading.Event().wait()


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m pipeline app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    host = "address to listen at; default: this machine alone; 0.0.0.0: all that reach it"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, help="default: the first free one from 7860")
    add("--out", type=Path, help="folder that clips are kept in; default: removed at the end")
    size = "of a given picture; default: 9, which is 4K"
    add("--max-megapixels", type=float, default=9.0, help=size)
    add("--max-megabytes", type=float, default=50.0, help="of an uploaded file; default: 50")
    add("--max-frames", type=int, default=240, help="of a clip; default: 240")
    add("--max-waiting", type=int, default=10, help="clips that wait for their turn; default: 10")
    return options


def _check(arguments: argparse.Namespace) -> None:
    for option, value, low, high in (
        ("port", arguments.port, 1, 65535),
        ("max-megapixels", arguments.max_megapixels, 0.01, 67),
        ("max-megabytes", arguments.max_megabytes, 0.01, 4000),
        ("max-frames", arguments.max_frames, 3, clip_writer.GIF_SECONDS),
        ("max-waiting", arguments.max_waiting, 1, 10_000),
    ):
        if value is not None and not low <= value <= high:
            raise UserError(f"--{option} {value}: expected {low} to {high}")
    if not importlib.util.find_spec("gradio"):
        raise UserError(
            "the app needs gradio, which is not installed; run `pip install --no-deps -r "
            "requirements-app.txt`"
        )
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    try:
        socket.create_server((arguments.host, arguments.port or 0), family=family).close()
    except OSError as error:
        where = arguments.host + (f" --port {arguments.port}" if arguments.port else "")
        reason = error.strerror.partition(" (")[0]
        raise UserError(
            f"--host {where}: nothing can listen there ({reason}); choose another"
        ) from None


@contextmanager
def served(arguments: argparse.Namespace) -> Iterator[str]:
    """Listens, and gives the address; at the end no file is left but the clips in --out."""
    _check(arguments)
    settings = config.load()
    parent = arguments.out or Path(tempfile.gettempdir())
    with ExitStack() as stack:
        try:
            io.remove_stale(parent)
            folder = stack.enter_context(io.temporary(parent, Path.mkdir)).resolve()
        except OSError as error:
            raise UserError(
                f"--out {parent} cannot be written ({error.strerror}); choose another folder"
            ) from None
        os.environ |= OFFLINE | {"GRADIO_TEMP_DIR": str(folder)}
        tempfile.tempdir = str(folder)
        model = generate.load_models(runtime.prepare(settings.base), settings.base.precision)
        import gradio
        from starlette.responses import PlainTextResponse

        def refuse(request: Any, error: OSError) -> PlainTextResponse:
            return PlainTextResponse(f"the file cannot be stored ({error.strerror})", 507)

        studio = Studio(model, settings, folder, arguments)
        page = build(studio)
        page.queue(max_size=arguments.max_waiting, default_concurrency_limit=1)
        stack.callback(page.close, verbose=False)
        stack.callback(studio.stop)
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            max_file_size=round(arguments.max_megabytes * 1e6),
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"]),
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            footer_links=["api"],
            app_kwargs={"exception_handlers": {OSError: refuse}},
        )
        yield page.local_url


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
        """Ends the drawing under way, and waits for its end; predicting tokens may take longer."""
        self.stopped = True
        self.turn.acquire(timeout=10)  # seconds; after them nothing is written any more

    def draw(self, fields: dict[str, Any], progress: Callable) -> tuple[str, str, list[str], str]:
        """Paths of a preview, a strip and the downloads, and lines about them.

        fields: as the page sends them. Raises UserError, one sentence in the page's words.
        """
        names: dict[str, str] = {}
        try:
            options = self._options(fields, names)
            with self.turn, io.temporary(self.folder, Path.mkdir) as work:
                files, lines = self._draw(options, work, progress)
                if self.limits.out:
                    lines.append(f"kept in {keep(files, self.limits.out)}")
                place = work.rename(tempfile.mkdtemp(dir=self.folder))
        except (UserError, OSError, MemoryError) as error:
            if isinstance(error, OSError):
                error = f"the clip could not be written ({error.strerror}); free some space"
            raise UserError(_in_words(str(error), names)) from None
        shown = [str(place / name) for name in (PREVIEW, STRIP)]
        downloads = [str(place / file.name) for file in files]
        return *shown, downloads, _in_words("\n".join(lines), names)

    def _options(self, fields: dict[str, Any], names: dict[str, str]) -> argparse.Namespace:
        """The fields as generate's options; `names` gets the pictures' own names by path."""
        options, best = generate.parser().parse_args(["--out", "frames"]), bool(fields["best"])
        for name, kind, low, high in (
            ("n_frames", int, 3, self.limits.max_frames),
            ("on", int, -math.inf, math.inf),  # generate knows the limits
            ("fps", float, 1, MAX_FPS),
            ("seed", int, -math.inf, math.inf),
            ("samples", int, 1 + best, MAX_SAMPLES),
            ("temperature", float, -math.inf, math.inf),
            ("ease", float, -math.inf, math.inf),
        ):
            value = fields[name]
            if name == "ease" and value in (None, "", "learnt"):
                continue
            number = _number(name, value, kind)
            if not low <= number <= high:
                raise UserError(f"--{name} {generate.short(number)}: expected {low} to {high}")
            setattr(options, name, number)
        if best:
            options.best_of, options.samples = options.samples, 1
        options.mode = fields["mode"]
        if options.mode not in MODES:
            raise UserError(f"--mode {options.mode}: expected {' or '.join(MODES)}")
        for name in ("first", "last"):
            if not (fields[name] or {}).get("path"):
                raise UserError(f"the {name} picture is missing; upload one")
            setattr(options, name, self._picture(fields[name], names))
        more, at = fields["more"] or [], re.findall(r"[^,;\s]+", str(fields["at"] or ""))
        if len(at) != len(more) or not all(re.fullmatch("[0-9]{1,9}", number) for number in at):
            raise UserError(
                f"frames of the further keyframes: {' '.join(at) or 'none'}; expected a number for "
                f"each of the {len(more)} pictures, such as 5, 12"
            )
        for number, file in zip(at, more, strict=True):
            options.frame.append(f"{number}={self._picture(file, names)}")
        return options

    def _picture(self, file: dict, names: dict[str, str]) -> Path:
        path = Path(file["path"])
        name = re.sub(r"[<>&\s]+", " ", Path(file.get("orig_name") or path).name)  # no HTML
        names[str(path)], pixels = name, 0
        with suppress(Exception), Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height  # of what is broken, the reader says it
        if pixels > self.limits.max_megapixels * 1e6:
            raise UserError(
                f"{name} has {pixels / 1e6:.3g} million pixels; expected at most "
                f"{self.limits.max_megapixels:g} million"
            )
        return path

    def _draw(
        self, options: argparse.Namespace, work: Path, progress: Callable
    ) -> tuple[list[Path], list[str]]:
        """Fills the folder `work`; gives the downloads in it, and lines about them."""
        decoding, paths = generate.checked(options, self.settings)
        notes: list[str] = []
        images = generate.read_pictures(paths, notes.append)
        self.model.easing = self.learnt
        clip = generate.clip_to_draw(self.model, images, options, decoding)
        shown = [clip.shown(image) for image in clip.large.values()]
        n_frames = max(images) + 1
        check_memory(clip, n_frames)
        total, done = generate.n_drawings(clip, options), 0

        def advance(count: int) -> None:
            nonlocal done
            if self.stopped:
                raise UserError("the app is being stopped; start it again")
            done += count
            progress((done, total), desc="drawing", unit="frames")

        with io.temporary(work, Path.mkdir) as frames_folder:
            names = [f"clip_{k + 1}" for k in range(options.samples)]
            if options.samples == 1:
                names = ["clip"]
            folders = [frames_folder / name for name in names]
            clip_writer.check_content(folders[0], shown, n_frames, 3 * len(names), options.fps)
            advance(0)
            generate.write_clips(clip, folders, options, decoding, advance)
            progress(None, desc="writing the downloads")
            samples = [sorted(folder.iterdir()) for folder in folders]
            write_video(work / PREVIEW, previews(samples), options.fps)
            strip(samples).save(work / STRIP)
            files = []
            for name, sample in zip(names, samples, strict=True):
                for path in (work / f"{name}.mp4", work / f"{name}.gif"):
                    clip_writer.write_clip(map(_read, sample), n_frames, path, options.fps)
                    files.append(path)
                archive = shutil.make_archive(work / f"{name}_png", "zip", frames_folder, name)
                files.append(Path(archive))
        height, width = shown[0].shape[:2]
        lines = [f"{n_frames} frames of {width} x {height} pixels"]
        return files, [*lines, *notes, *conversions(clip, images, options.on)]


def _number(name: str, value: Any, kind: type) -> int | float:
    try:
        number = kind(value)
        if isinstance(value, float) and number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        whole = "a whole number" if kind is int else "a number"
        shown = "is empty" if value in (None, "") else generate.short(value)
        raise UserError(f"--{name} {shown}: expected {whole}") from None
    return number


def _in_words(text: str, names: dict[str, str]) -> str:
    """generate's sentence with the page's labels for its options, and the pictures' own names."""
    for path, name in names.items():
        text = text.replace(path, name)
    text = re.sub(rf" {re.escape(tempfile.gettempdir())}\S*", "", text)
    return re.sub(
        "--([a-z_-]+)", lambda found: LABELS.get(found[1].replace("-", "_"), found[0]), text
    )


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
    height, gap, label = max(1, round(THUMB_WIDTH * height / width)), 8, 32
    step = THUMB_WIDTH + gap, height + label
    sheet = Image.new("RGBA", (columns * step[0], -(-len(shown) // columns) * step[1]))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(26)
    for k, (number, path) in enumerate(shown):
        left, top = k % columns * step[0], k // columns * step[1]
        sheet.paste(Image.fromarray(frames.resize(_read(path), height, THUMB_WIDTH)), (left, top))
        draw.text((left + THUMB_WIDTH / 2, top + height + 2), str(number), "grey", font, "ma")
    return sheet


def keep(files: list[Path], folder: Path) -> Path:
    """Copies finished clips to the first free one of clip_0001, clip_0002, ... in `folder`."""
    number = 1
    with io.temporary(folder, Path.mkdir) as partial:
        for file in files:
            shutil.copy(file, partial)
        while (kept := folder / f"clip_{number:04d}").exists():
            number += 1
        return partial.rename(kept)


def examples(folder: Path) -> list[list]:
    """Both ends and the length of a few test clips of the sample: those with most motion."""
    try:
        clips = io.read_table(Path("data/clips/clips.parquet"), io.CLIPS)
        videos = io.read_table(Path("data/frames/videos.parquet"), io.VIDEOS)
    except UserError:
        return []
    clips = clips[clips.split == "test"].merge(videos[["video_id", "path", "fps"]], on="video_id")
    clips = clips.sort_values("motion").groupby("video_id").tail(1)  # one an episode
    rows = []
    for clip in clips.tail(EXAMPLES).itertuples():
        first, *_, last = clip.frames
        seconds = max(0.0, float((first - 0.5) / Fraction(clip.fps)))
        both = ffmpeg.input(f"file:{SAMPLE / clip.path}", ss=f"{seconds:.4f}")
        both = both.filter("select", f"eq(n,0)+eq(n,{last - first})")
        names = str(folder / f"{clip.video_id}_%d.png")
        try:
            both.output(names, vframes=2, fps_mode="passthrough").run(executable(), quiet=True)
        except ffmpeg.Error:
            return []
        rows.append([names % 1, names % 2, clip.n_frames])
    return rows


def build(studio: Studio) -> Any:
    """The page, a gr.Blocks; its one public function is what `gradio_client` calls as /draw."""
    import gradio as gr

    class Page(gr.Blocks):
        async def preprocess_data(self, *arguments, **options):
            """What does not fit the fields is one sentence, too; nothing is fetched."""
            if "'path': 'http" in str(arguments[1]):
                raise gr.Error("expected pictures as files, no addresses", print_exception=False)
            try:
                return await super().preprocess_data(*arguments, **options)
            except gr.Error:
                raise
            except Exception as error:
                reason = f"a field cannot be read ({str(error).splitlines()[0]})"
                raise gr.Error(f"{reason}; see Use via API", print_exception=False) from None

    def draw(
        first, last, n_frames, on, ease, fps, seed, samples, best, temperature, mode,
        more=None, at=None,
        progress=gr.Progress(),  # noqa: B008
    ):  # fmt: skip
        fields = dict(locals())
        try:
            return studio.draw(fields, progress)
        except UserError as error:
            raise gr.Error(str(error), 30, print_exception=False) from None

    def picture(name: str) -> gr.Image:
        sources, height = ["upload", "clipboard"], 280
        return gr.Image(label=LABELS[name], sources=sources, buttons=[], height=height)

    def number(name: str, value: float, **options) -> gr.Number:
        return gr.Number(value, label=LABELS[name], min_width=80, **options)

    decoding, gpt = studio.settings.evaluate.decoding, studio.model.gpt.config
    default = resolve_mode(decoding.mode, gpt)
    modes = [mode for mode in MODES if mode in ("parallel", gpt.mode)]
    several, hidden = {"file_count": "multiple"}, {"api_visibility": "private"}
    with Page(title="Nakawari", analytics_enabled=False, delete_cache=(3600, SECONDS_KEPT)) as page:
        gr.Markdown("# Nakawari draws the frames between two drawings")
        with gr.Row():
            first, last = picture("first"), picture("last")
            with gr.Column():
                with gr.Row():
                    n_frames = number("n_frames", N_FRAMES, precision=0)
                    fps = number("fps", 24)
                on = gr.Radio(HOLDS, value=1, label=LABELS["on"])
                ease = gr.Dropdown(PACES, value="learnt", label=LABELS["ease"])
        with gr.Row():
            with gr.Accordion("Further keyframes", open=False):
                more = gr.File(label="Pictures", file_types=["image"], height=140, **several)
                order = "In the order of the pictures; the first picture is frame 0"
                at = gr.Textbox(label="Their frames", info=order, placeholder="5, 12")
            with gr.Accordion("Variants", open=False):
                with gr.Row():
                    samples = gr.Slider(1, MAX_SAMPLES, 1, step=1, label=LABELS["samples"])
                    best = gr.Checkbox(label="Only the one that meets the last picture best")
                heat = "0: always the same clip; 1: each sample and seed another"
                start, label = decoding.temperature, LABELS["temperature"]
                temperature = gr.Slider(0, 2, start, step=0.05, label=label, info=heat)
                with gr.Row():
                    seed = number("seed", 0, precision=0)
                    mode = gr.Dropdown(modes, value=default, label=LABELS["mode"])
        with gr.Row():
            go = gr.Button("Draw", variant="primary", scale=3)
            swap, clear = gr.Button("Swap the pictures"), gr.ClearButton(value="Clear", **hidden)
        with gr.Row():
            seen = {"interactive": False, "height": 320}
            video = gr.Video(label="Clip", autoplay=True, loop=True, buttons=[], **seen)
            sheet = gr.Image(label="Strip", buttons=["fullscreen", "download"], **seen)
        with gr.Row():
            with gr.Column():
                files = gr.File(label="Downloads", interactive=False, **several)
                text = gr.Textbox(label="Notes", interactive=False, lines=3)
            if rows := examples(studio.folder):
                with gr.Column():
                    gr.Examples(
                        rows, [first, last, n_frames], label="Test clips", cache_examples=False
                    )
        shown, pair = [video, sheet, files, text], [first, last]
        clear.add([*pair, more, at, *shown])
        inputs = [*pair, n_frames, on, ease, fps, seed, samples, best, temperature, mode, more, at]
        go.click(draw, inputs, shown, preprocess=False, show_progress_on=video, api_name="draw")
        swap.click(None, pair, pair, js="(first, last) => [last, first]", **hidden)
        warm = "(samples, heat) => samples > 1 && heat == 0 ? 1 : heat"  # else all are alike
        samples.change(None, [samples, temperature], temperature, js=warm, **hidden)
    return page
