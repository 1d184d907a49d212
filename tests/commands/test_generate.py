"""`python -m pipeline generate`: pictures in, a clip out; wrong input gets a sentence."""

import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from ruamel.yaml import YAML
from tiny_settings import decoding_with

from pipeline import frames, runtime
from pipeline.commands import generate
from pipeline.errors import UserError
from pipeline.inference import clip, inbetweener
from pipeline.inference.clip import output_size
from pipeline.inference.inbetweener import InBetweener
from pipeline.inference.keyframes import last_step
from pipeline.sample.episode import episode_script
from pipeline.sample.shooting import shoot


def save(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def drawn(monkeypatch) -> list[dict]:
    """The arguments of each call of `InBetweener.token_ids`, which works as ever."""
    calls, token_ids = [], InBetweener.token_ids

    def record(self, first, last, n_frames, decoding, generator):
        calls.append({"n_frames": n_frames, "decoding": decoding})
        return token_ids(self, first, last, n_frames, decoding, generator)

    monkeypatch.setattr(InBetweener, "token_ids", record)
    return calls


def main(*options: str, out: str = "clip", first: str = "a.png") -> None:
    usual = {"--first": first, "--last": "b.png", "--out": out}
    given = [x for name, value in usual.items() if name not in options for x in (name, value)]
    generate.main([*given, *options])


def frame_options(**pictures: str) -> list[str]:
    """`--frame 0=a.png ...` of `_0="a"`."""
    numbered = ((name.strip("_"), picture) for name, picture in pictures.items())
    return [x for number, name in numbered for x in ("--frame", f"{number}={name}.png")]


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def clip_in(folder: Path) -> np.ndarray:
    """uint8 `n H W 3` of frame_0000.png, ..."""
    return np.stack([read(path) for path in sorted(folder.glob("frame_*.png"))])


def decoded(path: Path) -> np.ndarray:
    """uint8 `n H W 3` of a video."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


def psnr(shown: np.ndarray, truth: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(1e-9, np.mean((shown.astype(float) - truth) ** 2)))


@pytest.mark.parametrize("fit", ["squeeze", "crop", "pad"])
def test_a_folder_begins_and_ends_with_the_given_pictures(project, fit):
    folder = project(ingest__fit=fit)
    main("--n-frames", "5")
    names = sorted(path.name for path in (folder / "clip").iterdir())
    assert names == [f"frame_{k:04d}.png" for k in range(5)]
    clip = [read(folder / "clip" / name) for name in names]
    for shown, name in ((clip[0], "a.png"), (clip[-1], "b.png")):
        picture = read(folder / name)
        if fit == "crop":  # 30x50 to the aspect 1:2: rows are cut
            picture = frames.canvas(picture, 16, 32, "crop")
        assert np.array_equal(shown, picture)
    assert all(image.shape == clip[0].shape for image in clip)
    assert not np.array_equal(clip[1], clip[0])


@pytest.mark.parametrize("on", ["1", "2", "3"])
@pytest.mark.parametrize("fit", ["squeeze", "crop", "pad"])
def test_given_frames_stand_at_their_numbers(project, fit, on):
    folder = project(ingest__fit=fit)
    given = {0: "a", 4: "mid", 5: "b", 9: "a"}
    options = frame_options(**{f"_{number}": name for number, name in given.items()})
    generate.main([*options, "--on", on, "--out", "clip"])
    clip = clip_in(folder / "clip")
    assert len(clip) == 10
    for number, name in given.items():
        picture = read(folder / f"{name}.png")
        if fit == "crop":
            picture = frames.canvas(picture, 16, 32, "crop")
        assert np.array_equal(clip[number], picture)


def test_segments_are_clips_of_their_own_drawn_together(project, drawn):
    folder = project()
    generate.main([*frame_options(_0="a", _4="mid", _5="a", _11="b"), "--out", "clip"])
    assert [call["n_frames"] for call in drawn] == [[5, 7]]  # neighbours need no drawing
    whole = clip_in(folder / "clip").astype(int)
    for first, last, start, end in (("a", "mid", 0, 4), ("a", "b", 5, 11)):
        generate.main([*frame_options(_0=first, **{f"_{end - start}": last}), "--out", "part"])
        part = clip_in(folder / "part")
        assert np.abs(whole[start : end + 1] - part).max() <= 1  # the last digit of a float


def test_first_and_last_are_short_for_frames(project):
    folder = project()
    main("--n-frames", "7", *frame_options(_3="mid"))
    short = clip_in(folder / "clip")
    generate.main([*frame_options(_6="b", _0="a", _3="mid"), "--out", "clip"])
    assert np.array_equal(clip_in(folder / "clip"), short)


@pytest.mark.parametrize(
    ("on", "shown"),
    [
        ("1", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("2", [0, 0, 1, 1, 2, 2, 3, 4]),
        ("3", [0, 0, 0, 1, 1, 1, 2, 3]),
        ("4", [0, 0, 0, 0, 1, 1, 1, 2]),
    ],
)
def test_on_twos_is_a_shorter_clip_held(project, drawn, on, shown):
    folder = project()
    main("--n-frames", "8", "--on", on)
    held = clip_in(folder / "clip")
    main("--n-frames", str(max(shown) + 1))
    assert drawn[0]["n_frames"] == drawn[1]["n_frames"] == [max(shown) + 1]
    assert np.array_equal(held, clip_in(folder / "clip")[shown])


def test_on_more_frames_than_there_are_nothing_is_drawn(project, drawn, capsys):
    folder = project()
    main("--n-frames", "5", "--on", "4")
    clip = clip_in(folder / "clip")
    assert not drawn
    assert all(np.array_equal(frame, read(folder / "a.png")) for frame in clip[:4])
    assert np.array_equal(clip[4], read(folder / "b.png"))
    assert "nothing is drawn between frames 0 and 4: held on 4" in capsys.readouterr().err


def test_size_model_is_that_of_the_model_not_of_the_parameters(project):
    folder = project()
    yaml = YAML(typ="safe")
    content = yaml.load((folder / "params.yaml").read_text())
    content["ingest"]["height"] *= 2
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(content, file)
    main("--n-frames", "3", "--size", "model")
    assert clip_in(folder / "clip").shape[1] == 16


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("", {}),
        ("--mode parallel", {"mode": "parallel"}),
        ("--steps 2", {"steps": 2}),
        ("--temperature 0.7 --top-k 0", {"temperature": 0.7, "top_k": 0}),
        ("--top-p 1", {"top_p": 1.0}),
    ],
)
def test_options_go_over_the_parameters(project, drawn, options, changes):
    usual = {"mode": "maskgit", "steps": 5, "temperature": 0.0, "top_k": 3, "top_p": 0.9}
    usual["min_confidence"] = 0.0
    project(train__mode="maskgit", evaluate__decoding=usual)
    main("--n-frames", "4", *options.split())
    (call,) = drawn
    assert call["decoding"] == decoding_with(**usual | changes)


@pytest.mark.parametrize("context", ["keyframes", "none"])
@pytest.mark.parametrize("mode", ["parallel", "maskgit"])
def test_every_mode_draws(project, mode, context):
    folder = project(train__mode="maskgit", vqgan__context=context)
    main("--n-frames", "4", "--mode", mode, "--temperature", "1")
    assert len(clip_in(folder / "clip")) == 4


def test_what_the_model_was_not_trained_for_is_said(project):
    folder = project()
    with pytest.raises(UserError, match="train it with -S train"):
        main("--mode", "maskgit")
    assert not (folder / "clip").exists()


def test_a_pace_of_ones_own(project, monkeypatch):
    """Nearly held, the first inner frame is nearly the first given one."""

    def as_foreseen(gpt, first, cond, decoding, generator):
        return iter([torch.zeros_like(first)] * (int(cond.n_frames.max()) - 2))

    monkeypatch.setattr(inbetweener, "generate", as_foreseen)
    folder = project()
    for ease in ("1", "16"):
        main("--n-frames", "8", "--ease", ease, out=f"at_{ease}")
    main("--n-frames", "8")
    learnt, even, held = (clip_in(folder / name) for name in ("clip", "at_1", "at_16"))
    steps = [psnr(clip[1], clip[0]) for clip in (even, learnt, held)]
    assert steps[0] + 0.5 < steps[1] < steps[2] - 0.5


def test_without_context_there_is_no_pace(project):
    folder = project(vqgan__context="none")
    with pytest.raises(UserError, match="ease 2: this model warps no keyframes"):
        main("--ease", "2")
    assert not (folder / "clip").exists()


def test_best_of_keeps_the_sample_that_meets_the_last_frame_best(project):
    folder = project()
    options = ["--n-frames", "4", "--temperature", "1", "--seed", "5"]
    main(*options, "--best-of", "3", out="best")
    main(*options, "--samples", "3")
    samples = [clip_in(folder / f"clip_{k}") for k in (1, 2, 3)]
    jumps = [last_step(clip) for clip in samples]
    assert len(set(jumps)) == 3
    assert np.array_equal(clip_in(folder / "best"), samples[int(np.argmin(jumps))])
    assert not list(folder.glob("best_*")), "one clip under its own name"


@pytest.mark.parametrize("out", ["clip", "new/clip.mp4", "clip.gif", "clip.webp"])
def test_samples_are_numbered_clips(project, out):
    folder = project()
    main("--n-frames", "4", "--temperature", "1", "--samples", "3", out=out)
    place = (folder / out).parent
    names = {f"{Path(out).stem}_{k}{Path(out).suffix}" for k in (1, 2, 3)}
    assert names <= {path.name for path in place.iterdir()} and not (folder / out).exists()


def test_a_sample_is_a_clip_with_a_seed_of_its_own(project):
    folder = project()
    main("--n-frames", "4", "--temperature", "1", "--samples", "3", "--seed", "5")
    samples = [clip_in(folder / f"clip_{k}") for k in (1, 2, 3)]
    assert not np.array_equal(samples[0], samples[1])
    main("--n-frames", "4", "--temperature", "1", "--seed", "7")
    assert np.array_equal(clip_in(folder / "clip"), samples[2])


def test_all_samples_are_checked_before_one_is_drawn(project, drawn):
    folder = project()
    (folder / "clip_2").write_text("mine")
    with pytest.raises(UserError, match="--out clip_2 is a file"):
        main("--temperature", "1", "--samples", "2")
    assert not drawn and not (folder / "clip_1").exists()


def cartoon(height: int, width: int, settings) -> list[np.ndarray]:
    """Three frames of a scene of the sample."""
    scene = episode_script(settings.sample_episodes, 1, 2)[1]
    film = [picture for picture, _ in shoot(scene, 24, height, width)]
    return [film[0], film[len(film) // 2], film[-1]]


def shapes(height: int, width: int, settings) -> list[np.ndarray]:
    """Flat, saturated discs with outlines, without soft edges: the hardest for halved colour."""
    pictures = []
    for shift in range(3):
        picture = np.full((height, width, 3), (240, 220, 40), np.uint8)
        for k, colour in enumerate(((220, 20, 30), (20, 60, 220), (10, 160, 60))):
            middle = (width * (k + 1) // 4 + shift * width // 12, height // 2)
            cv2.circle(picture, middle, height // 5, colour, -1)
            cv2.circle(picture, middle, height // 5, (20, 15, 20), max(1, height // 80))
        pictures.append(picture)
    return pictures


def noise(height: int, width: int, settings) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (3, height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(64, 128), (144, 256)])
@pytest.mark.parametrize("pictures", [cartoon, shapes, noise])
def test_given_frames_keep_40_db_in_an_mp4(project, tiny, pictures, size):
    """And all of it in PNG; with half the colour resolution it were 30 dB, and 13 of the noise."""
    folder, given = project(), dict(zip((0, 5, 9), pictures(*size, tiny()), strict=True))
    options = []
    for number, picture in given.items():
        save(folder / f"{number}.png", picture)
        options += ["--frame", f"{number}={number}.png"]
    for out, least in (("clip", np.inf), ("clip.mp4", 40)):
        generate.main([*options, "--out", out])
        clip = clip_in(folder / out) if out == "clip" else decoded(folder / out)
        assert len(clip) == 10
        for number, picture in given.items():
            exact = np.array_equal(clip[number], picture)
            assert exact or psnr(clip[number], picture) >= least, (number, out)


@pytest.mark.parametrize("out", ["clip.gif", "clip.webp"])
def test_an_animation_has_all_frames(project, out):
    folder = project()
    main("--n-frames", "6", "--fps", "10", out=out)
    with Image.open(folder / out) as film:
        film.load()
        assert film.n_frames == 6 and film.size == (50, 30) and film.info["duration"] == 100


RED = (200, 40, 30)


@pytest.fixture
def sprites(project, monkeypatch):
    """A red square goes over transparency, which hides a colour; the networks add none."""

    def as_foreseen(gpt, first, cond, decoding, generator):
        return iter([torch.zeros_like(first)] * (int(cond.n_frames.max()) - 2))

    def make(hidden=(0, 255, 0), colour=RED, **changes) -> Path:
        monkeypatch.setattr(inbetweener, "generate", as_foreseen)
        folder = project(**changes)
        for left, name in ((6, "a"), (16, "b")):
            picture = np.full((30, 50, 4), (*hidden, 0), np.uint8)
            picture[8:22, left : left + 20] = (*colour, 255)
            picture[8:22, left + 20] = (*colour, 100)
            save(folder / f"{name}.png", picture)
        return folder

    return make


def alpha_clip(out: Path) -> np.ndarray:
    """uint8 `n H W 4` of a folder or a WebP."""
    if out.is_dir():
        return clip_in(out)
    with Image.open(out) as film:
        return np.stack([np.asarray(f.convert("RGBA")) for f in ImageSequence.Iterator(film)])


def on(clip: np.ndarray, colour: int) -> np.ndarray:
    return clip[..., :3] * (clip[..., 3:] / 255) + colour * (1 - clip[..., 3:] / 255)


@pytest.mark.parametrize("out", ["clip", "clip.webp"])
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("", {}),
        ("--size 60x100", {}),
        ("--size 16x32", {}),  # the model's own
        ("", {"ingest__fit": "pad"}),
        ("--size model", {"ingest__fit": "pad"}),
        ("--temperature 1 --best-of 2", {"ingest__fit": "crop"}),
        ("", {"hidden": (255, 255, 255)}),
        ("", {"colour": (250, 250, 250)}),  # nothing of it would be seen on white
    ],
)
def test_a_sprite_has_no_colour_of_a_background_at_its_edges(sprites, out, options, changes):
    folder, colour = sprites(**changes), changes.get("colour", RED)
    main("--n-frames", "7", *options.split(), out=out)
    clip = alpha_clip(folder / out)
    assert clip.shape[0] == 7 and clip.shape[3] == 4
    seen = clip[..., 3] > 20
    assert np.abs(clip[seen][:, :3].astype(int) - colour).max() <= 6, "rounding of thin pixels"
    assert np.abs(on(clip, 0) - np.array(colour) * (clip[..., 3:] / 255)).max() <= 1.5
    middle = clip[3, ..., 3].astype(int)
    assert middle.max() > 200 and 0 < (middle > 127).mean() < 0.5 and middle[:2].max() < 20
    if not options:  # the given frames are the pictures
        for number, name in ((0, "a"), (6, "b")):
            picture = read(folder / f"{name}.png")
            assert np.array_equal(clip[number, ..., 3], picture[..., 3])
            assert np.array_equal(on(clip, 9)[number], on(picture, 9))


@pytest.mark.parametrize(("colour", "level"), [("white", 255), ("#404040", 64)])
@pytest.mark.parametrize("out", ["clip", "clip.webp", "clip.mp4", "clip.gif"])
def test_transparent_parts_are_put_on_a_colour(sprites, capsys, out, colour, level):
    folder = sprites()
    main("--n-frames", "5", "--background", colour, out=out)
    assert f"a.png, b.png: transparent, shown on {colour}\n" in capsys.readouterr().err
    main("--n-frames", "5", out="alpha")
    assert "transparent" not in capsys.readouterr().err
    if out in ("clip.mp4", "clip.gif"):
        with Image.open(folder / out) if out == "clip.gif" else nullcontext() as film:
            clip = np.asarray(film.convert("RGB"))[None] if film else decoded(folder / out)
    else:
        clip = alpha_clip(folder / out)[..., :3]
    wanted = on(alpha_clip(folder / "alpha"), level)
    assert np.abs(clip[0] - wanted[0]).mean() < (4 if "mp4" in out else 1)
    if level == 255 and "." not in out:  # the networks saw white in both
        assert np.abs(clip - wanted).max() <= 2


@pytest.mark.parametrize(("out", "words"), [("clip.mp4", "shown on white"), ("clip", "")])
def test_opaque_and_wholly_transparent_pictures(sprites, capsys, out, words):
    folder = sprites()
    save(folder / "mid.png", np.zeros((40, 50, 4), np.uint8))
    save(folder / "b.png", np.full((30, 50, 3), 90, np.uint8))
    main("--n-frames", "7", *frame_options(_3="mid"), out=out)
    said = capsys.readouterr().err
    assert ("mid.png: transparent, wholly: white" in said) == bool(words)
    assert "mid.png (40x50): scaled to 30x50" in said and words in said
    if not words:
        alpha = clip_in(folder / out)[..., 3]
        assert alpha[0].any() and not alpha[3].any() and alpha[6].min() == 255


def test_a_model_without_warps_draws_no_alpha(sprites, capsys):
    folder = sprites(vqgan__context="none")
    main("--n-frames", "4")
    assert clip_in(folder / "clip").shape[-1] == 3
    assert np.array_equal(clip_in(folder / "clip")[0][0, 0], [255] * 3)
    assert "draws no transparency" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wish", "picture", "size"),
    [
        ("input", (30, 50), (30, 50)),
        ("input", (31, 51), (31, 51)),
        ("input", (5, 400), (5, 400)),
        ("model", (30, 50), (16, 27)),  # the model's height, the picture's aspect: 26.7 wide
        ("model", (400, 5), (16, 1)),
        ("model", (90, 90), (16, 16)),
        ("64x128", (30, 50), (64, 128)),
        ("65x129", (30, 50), (65, 129)),
        ("16x8192", (30, 50), (16, 8192)),
    ],
)
def test_sizes_of_the_output(tiny, wish, picture, size):
    assert output_size(wish, picture, tiny().ingest) == size


@pytest.mark.parametrize(
    "wish", ["large", "64", "64x", "15x64", "64x8193", "-64x64", "64 x 64", "9" * 5000 + "x64", ""]
)
def test_other_sizes_are_refused(tiny, wish):
    with pytest.raises(UserError, match=rf"size {wish[:99]}.*: expected"):
        output_size(wish, (30, 50), tiny().ingest)


@pytest.mark.parametrize(
    ("wish", "size", "said"),
    [
        ("model", (16, 27), ""),
        ("60x100", (60, 100), ""),
        ("17x28", (17, 28), ""),  # 28.3 wide: no stretch that one sees
        ("20x40", (20, 40), "the pictures of 30x50 are stretched to 20x40\n"),
        ("50x30", (50, 30), "the pictures of 30x50 are stretched to 50x30\n"),
    ],
)
def test_the_size_model_and_a_wish_are_obeyed(project, capsys, wish, size, said):
    folder = project(ingest__fit="squeeze")
    main("--n-frames", "3", "--size", wish)
    assert read(folder / "clip/frame_0001.png").shape[:2] == size
    error = capsys.readouterr().err
    assert said in error and ("stretched" in error) == bool(said)


def test_a_seed_is_a_clip_at_a_temperature(project):
    folder = project()
    found = []
    for seed in ("1", "1", "2"):
        main("--n-frames", "4", "--temperature", "1", "--seed", seed)
        found.append(np.stack([read(folder / f"clip/frame_{k:04d}.png") for k in range(4)]))
    assert np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--frame", "mid.png"], r"--frame mid\.png: expected INDEX=PICTURE"),
        (["--frame", "3=none.png", "--n-frames", "9"], r"none\.png does not exist"),
        (["--frame", "0=mid.png", "--n-frames", "9"], "frame 0 is given twice"),
        (["--steps", "3"], "--steps 3: mode parallel has no steps"),
        (["--samples", "2"], "--samples 2: expected 1 at temperature 0.*; add --temperature 1"),
        (["--best-of", "2"], "--best-of 2: expected a temperature above 0.*; add --temperature 1"),
        (
            ["--best-of", "2", "--samples", "2", "--temperature", "1"],
            "--best-of 2: expected no --samples",
        ),
        (["--top-k", "3"], "--top-k 3: expected a temperature above 0.*; add --temperature 1"),
        (["--top-p", "0.5"], "--top-p 0.5: expected a temperature above 0.*; add --temperature 1"),
        (["--min-confidence", "1", "--temperature", "1"], "--min-confidence 1: expected temperat"),
        (["--out", ".", "--temperature", "1", "--samples", "2"], r"--out \.: expected a name"),
        (["--size", "2048x2048"], "the clip needs about .* GB of memory, and .* are free"),
        (["--size", "huge"], "size huge: expected model, input, or HxW"),
        (["--out", "clip.avi"], r"--out clip\.avi: expected a name ending in \.mp4, \.gif or"),
        (["--out", "a.webp"], r"--out a\.webp exists and is no clip of this program"),
        *(
            (["--background", colour], f"--background {re.escape(colour)}: expected an opaque col")
            for colour in ("pale", "", "#12", "#ff00ff80", "9", "rgb(300,0,0)", "re\nd", "x" * 999)
        ),
        (["--first", "a.png", "--first", "mid.png"], r"--first mid\.png is given twice; leave one"),
        (["--last", "a.png", "--la", "b.png"], r"--last b\.png is given twice; leave one out"),
        (["--out", "x", "--out=y"], "--out y is given twice; leave one out"),
        (["--fps", "12", "--fps", "12"], r"--fps 12\.0 is given twice; leave one out"),
        (["--out", "full"], r"--out full holds frame_0000\.png; expected a new folder"),
        (["--out", "file"], "--out file is a file; expected a new or empty folder"),
        (["--out", "folder.mp4"], r"--out folder\.mp4 is a folder; expected the name of a file"),
        (["--first", "none.png"], r"none\.png does not exist; expected a PNG, JPEG"),
        (["--first", "broken.png"], r"broken\.png cannot be read: broken: .*; expected a PNG"),
        (["--first", "empty.png"], r"empty\.png cannot be read: empty file; expected a PNG"),
    ],
)
def test_wrong_input_gets_a_sentence_and_nothing_is_written(project, monkeypatch, options, words):
    folder = project()
    monkeypatch.setattr(runtime, "free_memory", lambda: 2**30)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "file").write_text("mine")
    save(folder / "a.webp", read(folder / "a.png"))
    for name in ("full", "folder.mp4"):
        (folder / name).mkdir()
    (folder / "full/notes.txt").write_text("mine")
    (folder / "full/frame_0000.png").write_bytes(b"old")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(UserError, match=words):
        main(*options)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


RANGES = {  # of each option: what is in it, what lies beside it
    "n-frames": (["3"], ["2", "0", "-1", "100001", "9" * 400], "3 to 100000"),
    "on": (["1", "100000"], ["0", "-1", "100001", "9" * 400], "1 to 100000"),
    "fps": (["0.1", "240"], ["0", "-1", "0.09", "241", "1e-300", "1e400", "nan", "-inf"], "0.1 to"),
    "steps": ([], ["0", "-1", "1001"], "1 to 1000"),
    "temperature": (["0", "0.01", "100"], ["-1", "1e-9", "101", "inf", "nan"], "0, or 0.01 to 100"),
    "top-k": (["0"], ["-1", "9" * 400], "0 or more"),
    "top-p": (["1"], ["0", "-1", "1.1", "1e-300", "nan", "inf"], "0.001 to 1"),
    "min-confidence": (["0", "1"], ["-0.1", "1.1", "nan", "inf"], "0 to 1"),
    "seed": (["0", "-5", str(2**62)], [str(2**63), "-" + "9" * 400], "-4611686018427387904 to"),
    "samples": (["1"], ["0", "-1", "10001", "9" * 400], "1 to 10000"),
    "best-of": ([], ["1", "0", "-1", "10001", "9" * 400], "2 to 10000"),
    "ease": (["1", "16"], ["0.9", "0", "-1", "16.1", "nan", "inf"], "from 1, even timing, to 16"),
}


@pytest.mark.parametrize("option", RANGES)
def test_numbers_have_ranges(project, option):
    folder, (inside, outside, words) = project(), RANGES[option]
    for value in inside:
        options = {"n-frames": "4", option: value}
        main(*(f"--{name}={number}" for name, number in options.items()))
    shutil.rmtree(folder / "clip", ignore_errors=True)
    for value in outside:
        with pytest.raises(UserError, match=f"--{option} .*: expected {words}"):
            main(f"--{option}={value}")
    assert not (folder / "clip").exists()


@pytest.mark.parametrize("lacking", ["vqgan", "gpt2"])
def test_missing_models_are_named(project, lacking):
    folder = project()
    (folder / f"models/{lacking}/model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"^no trained model in models/{lacking}; run `dvc repro`"):
        main()
    assert not (folder / "clip").exists()


def test_an_output_in_place_of_a_given_picture_is_refused(project):
    root = project()
    given = save(root / "in.gif", read(root / "a.png"))
    before = given.read_bytes()
    with pytest.raises(UserError, match=r"--out in\.gif would replace the given picture in\.gif"):
        main("--n-frames", "3", out="in.gif", first="in.gif")
    assert given.read_bytes() == before


@pytest.mark.parametrize(("share", "named"), [(0.05, True), (0.6, False)])
def test_keyframes_with_nothing_in_common_are_named(project, capsys, monkeypatch, share, named):
    monkeypatch.setattr(clip, "consistent_share", lambda flow: share)
    monkeypatch.setattr(clip, "CUT_CHANGE", 0.0)
    project()
    main("--n-frames", "4")
    assert ("frames 0 and 3 have little in common" in capsys.readouterr().err) == named
