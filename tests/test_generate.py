"""`python -m pipeline.generate`: two pictures in, a clip out; wrong input gets a sentence."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline import frames, generate
from pipeline.errors import UserError
from pipeline.trained.tokenizer import save_tokenizer
from pipeline.trained.transformer import save_gpt


@pytest.fixture
def project(tmp_path, monkeypatch, tiny, untrained):
    """A folder with params.yaml, random models and the pictures a.png and b.png of 30x50."""

    def make(**changes) -> Path:
        settings = tiny({name.replace("__", "."): value for name, value in changes.items()})
        with (tmp_path / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(settings.model_dump(), file)
        model = untrained(settings)
        save_tokenizer(model.tokenizer, settings, tmp_path / "models/vqgan")
        save_gpt(model.gpt, tmp_path / "models/gpt2")
        for name, seed in (("a", 0), ("b", 1)):
            random = np.random.default_rng(seed)
            save(tmp_path / f"{name}.png", random.integers(1, 256, (30, 50, 3), np.uint8))
        monkeypatch.chdir(tmp_path)
        return tmp_path

    return make


def save(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def main(*options: str, out: str = "clip", first: str = "a.png") -> None:
    generate.main(["--first", first, "--last", "b.png", "--out", out, *options])


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


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
            picture = frames.even(frames.canvas(picture, 16, 32, "crop"))
        assert np.array_equal(shown, picture)
    assert all(image.shape == clip[0].shape for image in clip)
    assert not np.array_equal(clip[1], clip[0])


@pytest.mark.parametrize(("out", "count"), [("clip.mp4", 6), ("new/clip.MP4", 3)])
def test_an_mp4_has_all_frames_in_the_pictures_size(project, out, count):
    folder = project()
    main("--n-frames", str(count), out=out)
    reader = imageio_ffmpeg.read_frames(str(folder / out))
    assert next(reader)["size"] == (50, 30)
    assert len(list(reader)) == count
    assert not list((folder / out).parent.glob("*.partial"))


def test_a_gif_has_all_frames(project):
    folder = project()
    main("--n-frames", "6", "--fps", "10", out="clip.gif")
    with Image.open(folder / "clip.gif") as gif:
        assert gif.n_frames == 6 and gif.size == (50, 30) and gif.info["duration"] == 100


def test_a_gif_shows_a_held_picture_as_long_as_all_its_frames(tmp_path):
    clip = np.zeros((5, 20, 20, 3), np.uint8)
    clip[3:] = 200
    generate.write_clip(clip, tmp_path / "clip.gif", 20)
    with Image.open(tmp_path / "clip.gif") as gif:
        shown = 0
        for number in range(gif.n_frames):
            gif.seek(number)
            shown += gif.info["duration"]
    assert shown == 5 * 50


def test_a_frame_s_pixels_reach_the_files(tmp_path):
    clip = np.random.default_rng(0).integers(0, 256, (3, 16, 18, 3), np.uint8)
    generate.write_clip(clip, tmp_path / "deep/clip", 24)
    for number, frame in enumerate(clip):
        assert np.array_equal(read(tmp_path / f"deep/clip/frame_{number:04d}.png"), frame)
    generate.write_clip(clip[:2], tmp_path / "deep/clip", 24)
    names = sorted(path.name for path in (tmp_path / "deep/clip").iterdir())
    assert names == ["frame_0000.png", "frame_0001.png"], "the earlier, longer clip is gone"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["clip"]


@pytest.mark.parametrize("name", ["clip", "clip.gif", "clip.mp4"])
def test_a_failure_leaves_nothing(tmp_path, name):
    broken = [np.zeros((16, 16, 3), np.uint8), "no picture"]
    with pytest.raises(Exception):  # noqa: B017 each format fails in its own way
        generate.write_clip(broken, tmp_path / name, 24)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wish", "picture", "size"),
    [
        ("input", (30, 50), (30, 50)),
        ("input", (31, 51), (30, 50)),  # H.264 has no odd numbers
        ("input", (5, 400), (16, 400)),
        ("model", (30, 50), (16, 26)),  # the model's height, the picture's aspect: 26.7 wide
        ("model", (90, 90), (16, 16)),
        ("64x128", (30, 50), (64, 128)),
        ("65x129", (30, 50), (64, 128)),
        ("16x8192", (30, 50), (16, 8192)),
    ],
)
def test_sizes_of_the_output(tiny, wish, picture, size):
    assert generate.output_size(wish, picture, tiny().ingest) == size


@pytest.mark.parametrize(
    "wish", ["large", "64", "64x", "15x64", "64x8193", "-64x64", "64 x 64", ""]
)
def test_other_sizes_are_refused(tiny, wish):
    with pytest.raises(UserError, match=rf"--size {wish}: expected"):
        generate.output_size(wish, (30, 50), tiny().ingest)


def test_the_size_model_and_a_wish_are_obeyed(project):
    folder = project(ingest__fit="squeeze")
    for wish, size in (("model", (16, 26)), ("20x40", (20, 40))):
        main("--n-frames", "3", "--size", wish)
        assert read(folder / "clip/frame_0001.png").shape[:2] == size


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
        (["--n-frames", "2"], "--n-frames 2: expected at least 3"),
        (["--temperature", "-1"], "--temperature -1: expected 0 or more"),
        (["--fps", "0"], "--fps 0: expected more than 0"),
        (["--fps", "nan"], "--fps nan: expected more than 0"),
        (["--size", "huge"], "--size huge: expected model, input, or HxW"),
        (["--out", "clip.avi"], r"--out clip\.avi: expected a name ending in \.mp4 or \.gif"),
        (["--out", "full"], r"--out full holds notes\.txt; expected a new folder"),
        (["--out", "file"], "--out file is a file; expected a new or empty folder"),
        (["--out", "folder.mp4"], r"--out folder\.mp4 is a folder; expected the name of a file"),
        (["--first", "none.png"], r"none\.png does not exist; expected a picture"),
        (["--first", "broken.png"], r"broken\.png cannot be read as a picture"),
        (["--first", "empty.png"], r"empty\.png cannot be read as a picture"),
    ],
)
def test_wrong_input_gets_a_sentence_and_nothing_is_written(project, options, words):
    folder = project()
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "file").write_text("mine")
    for name in ("full", "folder.mp4"):
        (folder / name).mkdir()
    (folder / "full/notes.txt").write_text("mine")
    (folder / "full/frame_0000.png").write_bytes(b"old")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(UserError, match=words):
        main(*options)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("lacking", ["vqgan", "gpt2"])
def test_missing_models_are_named(project, lacking):
    folder = project()
    (folder / f"models/{lacking}/model.safetensors").unlink()
    with pytest.raises(
        UserError, match=rf"^models/{lacking} hold no trained model; run `dvc repro`"
    ):
        main()
    assert not (folder / "clip").exists()


def test_transparent_rotated_and_grey_pictures_are_read(tmp_path):
    half = np.zeros((4, 6, 4), np.uint8)
    half[:, 3:] = (10, 20, 30, 255)
    image = generate.read_picture(save(tmp_path / "alpha.png", half))
    assert (image[:, :3] == 255).all() and (image[:, 3:] == (10, 20, 30)).all()
    grey = generate.read_picture(save(tmp_path / "grey.png", np.full((4, 6), 77, np.uint8)))
    assert grey.shape == (4, 6, 3) and (grey == 77).all()
    upright = Image.fromarray(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
    exif = upright.getexif()
    exif[0x0112] = 6  # turn right when shown
    upright.save(tmp_path / "turned.png", exif=exif)
    turned = generate.read_picture(tmp_path / "turned.png")
    assert np.array_equal(turned, np.rot90(np.asarray(upright), -1))
    assert turned.flags.writeable, "PyTorch warns people of arrays that are not"
