"""The web app: two pictures in a browser, the clip that `generate` draws of them, and downloads.

    python -m pipeline app                                http://127.0.0.1:7860, for this machine
    python -m pipeline app --host 0.0.0.0 --out clips     for others, too; the clips are kept

Needs gradio (requirements-app.txt), and no network. Uploads and clips lie in one folder, which is
removed at the end. The models are loaded once; one clip is drawn at a time, the others wait.
"""

import argparse
import importlib.util
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from pipeline import config, io, runtime
from pipeline.commands import generate
from pipeline.commands.studio import LABELS, MAX_SAMPLES, MODES, Studio
from pipeline.errors import UserError, exit_code
from pipeline.inference.keyframes import N_FRAMES
from pipeline.models.gpt.sampling import resolve_mode
from pipeline.video import clip_writer
from pipeline.video.ffmpeg_input import LIMITS, executable

HOLDS = [("ones", 1), ("twos", 2), ("threes", 3)]
PACES = [("as learnt", "learnt"), ("even", 1), ("slow in, slow out", 2), ("more so", 4)]
EXAMPLES, SAMPLE = 3, Path("data/sample/episodes")
SECONDS_KEPT = 6 * 3600  # of uploads and clips, while the app runs
OFFLINE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}


def main(words: list[str] | None = None) -> None:
    try:
        with served(parser().parse_args(words)) as address:
            print(f"{address} is ready; Ctrl-C stops it", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        sys.exit(exit_code(error))


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
        ends = ffmpeg.input(f"file:{SAMPLE / clip.path}", ss=f"{seconds:.4f}", **LIMITS)
        ends = ends.filter("select", f"eq(n,0)+eq(n,{last - first})")
        names = str(folder / f"{clip.video_id}_%d.png")
        try:
            ends.output(names, vframes=2, fps_mode="passthrough").run(executable(), quiet=True)
        except ffmpeg.Error:
            return []
        rows.append([names % 1, names % 2, clip.n_frames])
    return rows


def checked_blocks(studio: Studio) -> type:
    """gr.Blocks whose fields are checked: what does not fit is one sentence, nothing is fetched."""
    import gradio as gr
    from gradio_client.utils import is_file_obj_with_meta, traverse

    class Page(gr.Blocks):
        async def preprocess_data(self, *arguments, **options):
            try:
                traverse(arguments[1], studio.uploaded, is_file_obj_with_meta)  # of addresses, too
                return await super().preprocess_data(*arguments, **options)
            except gr.Error:
                raise
            except Exception as error:
                words = str(error).partition("\n")[0]
                if not isinstance(error, UserError):
                    words = f"a field cannot be read ({words}); see Use via API"
                raise gr.Error(words, print_exception=False) from None

    return Page


def build(studio: Studio) -> Any:
    """The page, a gr.Blocks; its one public function is what `gradio_client` calls as /draw."""
    import gradio as gr

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
    options = {"analytics_enabled": False, "delete_cache": (3600, SECONDS_KEPT)}
    with checked_blocks(studio)(title="Nakawari", **options) as page:
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
            wide = {"interactive": False, "height": 320}
            video = gr.Video(label="Clip", autoplay=True, loop=True, buttons=[], **wide)
            sheet = gr.Image(label="Strip", buttons=["fullscreen", "download"], **wide)
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
