"""Kinds of films, made here by ffmpeg, against the pixels and the row that ingest must give.

A film shows four flat quarters: red, green above blue, grey. It is read as a player shows it; what
was converted for that, or looks wrong, stands in `notes`.
"""

import os
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipeline import io
from pipeline.data.executor import LocalPool
from pipeline.data.frame_file import open_frames
from pipeline.data.ingest import ingest
from pipeline.video.pictures import FITTED

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
HEIGHT, WIDTH, N_FRAMES = 36, 64, 12
RED, GREEN, BLUE, GREY = (200, 60, 40), (60, 180, 80), (40, 90, 200), (128, 128, 128)
QUARTERS = [RED, GREEN, BLUE, GREY]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
LUMA = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in QUARTERS]
GREYS = [(luma, luma, luma) for luma in LUMA]
SD, HD = "no colour matrix tagged: bt601 assumed", "no colour matrix tagged: bt709 assumed"
ON_WHITE = "alpha channel: transparent parts shown on white"
OVER_WHITE = [RED, GREEN, tuple(round(0.5 * c + 127.5) for c in BLUE), WHITE]


def tagged(matrix, name=None, limits="limited"):
    """Encoder options of a film with that matrix and range, tagged with them."""
    scale = f"scale=out_color_matrix={matrix}:out_range={limits}:flags=accurate_rnd"
    tags = f"setparams=colorspace={name or matrix}:range={'tv' if limits == 'limited' else 'pc'}"
    return ("-vf", f"{scale},format=yuv444p,{tags}", "-c:v", "ffv1")


def linear_light(transfer, primaries="bt2020", pixels="yuv444p10"):
    """Encoder options of a film in another gamut or transfer; white is 203 nits."""
    to_linear = "zscale=transfer=linear:npl=203,format=gbrpf32le"
    coded = (
        f"zscale=primaries={primaries}:transfer={transfer}:matrix=bt2020nc:range=limited:npl=203"
    )
    source = "setparams=color_primaries=bt709:color_trc=bt709,format=gbrp"
    return ("-vf", f"{source},{to_linear},{coded},format={pixels}", "-c:v", "ffv1")


def limited(pixels):
    """Options of a film whose grey or RGB levels go from 16 to 235 and are tagged so."""
    levels = ":".join(f"c{plane}=16+val*219/255" for plane in range(3))
    return ("-vf", f"format={pixels},lut={levels},setparams=range=tv", "-c:v", "ffv1")


X264 = ("-c:v", "libx264", "-qp", "4")
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none:crf=4")
PAL = ("-vf", "scale=720:576:flags=neighbor,setpts=N/25/TB", "-r", "25")
UNTAGGED_HD = ("-vf", "scale=1280:720:flags=neighbor:out_color_matrix=bt709,format=yuv444p,"
               "setparams=colorspace=unknown")  # fmt: skip
PQ, HLG = ["HDR (PQ): tone-mapped to SDR"], ["HDR (HLG): tone-mapped to SDR"]
WIDE = "wide gamut ({}): converted to BT.709"
ODD_PQ = linear_light("smpte2084", pixels="yuv420p10,crop=63:35:0:0:exact=1")
YCGCO = ("-vf", "format=gbrp,zscale=matrix=ycgco:range=limited,format=yuv444p", "-c:v", "ffv1")
FEW_COLOURS = ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none")
RGBA = ("-vf", "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':"
        "a='if(lt(Y,18),255,if(lt(X,32),128,0))'")  # fmt: skip

KINDS = {  # file: encoder options, quarters, notes
    "bt709.mkv": (tagged("bt709"), QUARTERS, []),
    "bt601.mkv": (tagged("bt601", "smpte170m"), QUARTERS, []),
    "pal.mkv": (tagged("bt601", "bt470bg"), QUARTERS, []),
    "bt2020.mkv": (tagged("bt2020", "bt2020nc"), QUARTERS, []),
    "smpte240m.mkv": (tagged("smpte240m"), QUARTERS, []),
    "full.mkv": (tagged("bt709", limits="full"), QUARTERS, []),
    "ycgco.mkv": (YCGCO, QUARTERS, []),
    "untagged.mp4": ((*X264, "-pix_fmt", "yuv444p"), QUARTERS, [SD]),
    "untagged_full.mp4": ((*X264, "-pix_fmt", "yuvj444p"), QUARTERS, [SD]),
    "untagged_hd.mp4": ((*X264, *UNTAGGED_HD, "-pix_fmt", "yuv444p"), QUARTERS, [HD]),
    "ten_bits.mp4": ((*X264, "-pix_fmt", "yuv444p10le"), QUARTERS, [SD]),
    "jpeg.avi": (("-c:v", "mjpeg", "-q:v", "1"), QUARTERS, []),
    "rgb.mkv": (("-c:v", "libx264rgb", "-qp", "0"), QUARTERS, []),
    "rgb_10.mp4": ((*X265, "-pix_fmt", "gbrp10le"), QUARTERS, []),
    "rgb_limited.mp4": ((*limited("gbrp")[:2], *X265, "-color_range", "tv"), QUARTERS, []),
    "log.mkv": (
        (*tagged("bt709")[:1], f"{tagged('bt709')[1]},setparams=color_trc=log100", "-c:v", "ffv1"),
        QUARTERS,
        [],
    ),
    "pal.dv": ((*PAL, "-pix_fmt", "yuv420p", "-c:v", "dvvideo"), QUARTERS, [SD]),
    "moving.avif": (("-c:v", "libaom-av1", "-crf", "4", "-cpu-used", "8"), QUARTERS, []),
    "grey.mkv": (("-c:v", "ffv1", "-pix_fmt", "gray"), GREYS, []),
    "grey_10.mkv": (("-c:v", "ffv1", "-pix_fmt", "gray10le"), GREYS, []),
    "grey_limited.mkv": (limited("gray"), GREYS, []),
    "palette.gif": (FEW_COLOURS, QUARTERS, [ON_WHITE]),
    "pq.mkv": (linear_light("smpte2084"), QUARTERS, PQ),
    "hlg.mkv": (linear_light("arib-std-b67"), QUARTERS, HLG),
    "pq_odd.mkv": (ODD_PQ, QUARTERS, PQ),
    "wide.mkv": (linear_light("bt709", "bt2020", "yuv444p"), QUARTERS, [WIDE.format("BT.2020")]),
    "p3.mkv": (linear_light("bt709", "smpte432", "yuv444p"), QUARTERS, [WIDE.format("P3")]),
    "qtrle.mov": ((*RGBA, "-c:v", "qtrle"), OVER_WHITE, [ON_WHITE]),
    "png.mov": ((*RGBA, "-c:v", "png"), OVER_WHITE, [ON_WHITE]),
    "ffv1.avi": ((*RGBA, "-c:v", "ffv1", "-pix_fmt", "bgra"), OVER_WHITE, [ON_WHITE]),
    "prores.mov": (
        (*RGBA, "-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"),
        OVER_WHITE,
        [SD, ON_WHITE],
    ),
    "vp9.webm": (
        (*RGBA, "-c:v", "libvpx-vp9", "-crf", "5", "-b:v", "0", "-pix_fmt", "yuva420p"),
        OVER_WHITE,
        [SD, ON_WHITE],
    ),
    "vp8.webm": (
        (*RGBA, "-c:v", "libvpx", "-b:v", "4M", "-auto-alt-ref", "0", "-pix_fmt", "yuva420p"),
        OVER_WHITE,
        [SD, ON_WHITE],
    ),
}


SOUND = ["-f", "lavfi", "-t", "3", "-i", "sine", "-itsoffset", "2"]
UNEVEN = ["-vf", "settb=1/1000,setpts='N*N/96/TB'", "-fps_mode", "passthrough"]

REMADE = {  # file: options before and after the name of untagged.mp4, quarters, row
    "turned.mp4": (
        ["-display_rotation", "90"], [], [GREEN, GREY, RED, BLUE], {"height": 64, "width": 36},
    ),
    "upside_down.mp4": (["-display_rotation", "180"], [], QUARTERS[::-1], {}),
    "anamorphic.mkv": ([], ["-aspect", "32:9"], QUARTERS, {"width": 128}),
    "late.mkv": (["-itsoffset", "10"], [], QUARTERS, {}),
    "late.ts": (["-itsoffset", "10"], [], QUARTERS, {}),
    "late.mp4": (["-itsoffset", "10"], [], QUARTERS, {}),
    "after_sound.mp4": (SOUND, ["-map", "1:v", "-map", "0:a", "-c:a", "aac"], QUARTERS, {}),
    "after_sound.mkv": (SOUND, ["-map", "1:v", "-map", "0:a", "-c:a", "aac"], QUARTERS, {}),
    "uneven.mkv": (
        [], [*UNEVEN, "-enc_time_base", "1/1000", "-c:v", "libx264", "-pix_fmt", "yuv444p"],
        QUARTERS, {"duration": 121 / 96 + 1 / 24},
    ),
}  # fmt: skip

FIELDS = {  # file: filters of a 24p film, encoder options, notes
    "whole.mkv": ("null", [], []),
    "woven.mkv": (
        "tinterlace=interleave_top", [], ["interlaced, top field first: set ingest.deinterlace"],
    ),
    "woven_bottom.mkv": (
        "tinterlace=interleave_bottom", [],
        ["interlaced, bottom field first: set ingest.deinterlace"],
    ),
    "telecined.mkv": ("telecine", [], ["telecined: set ingest.deinterlace"]),
    "tagged_whole.mpg": (
        "setfield=tff",
        ["-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2"],
        ["tagged as interlaced, but looks whole"],
    ),
    "tagged.mpg": (
        "tinterlace=interleave_top,setfield=tff",
        ["-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-q:v", "2"],
        ["interlaced, top field first: set ingest.deinterlace"],
    ),
}  # fmt: skip


def run(*arguments, pixels=None):
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-r", "24"]
    if pixels is not None:
        raw += ["-s", f"{pixels.shape[2]}x{pixels.shape[1]}", "-i", "-"]
    command = [FFMPEG, "-v", "error", "-y", *(raw if pixels is not None else []), *arguments]
    subprocess.run(command, input=None if pixels is None else pixels.tobytes(), check=True)


def quarters(height, width, n_frames=N_FRAMES):
    frames = np.zeros((n_frames, height, width, 3), np.uint8)
    for number, colour in enumerate(QUARTERS):
        rows = slice(None, height // 2) if number < 2 else slice(height // 2, None)
        columns = slice(None, width // 2) if number % 2 == 0 else slice(width // 2, None)
        frames[:, rows, columns] = colour
    return frames


@pytest.fixture(scope="module")
def done(tmp_path_factory, settings):
    """Rows by file, and a function from a file to its frames."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("frames")
    film = quarters(HEIGHT, WIDTH)
    for name, (options, _, _) in KINDS.items():
        run(*options, str(raw / name), pixels=film)
    for name, (before, after, _, _) in REMADE.items():
        run(*before, "-i", str(raw / "untagged.mp4"), "-c", "copy", *after, str(raw / name))
    moving = np.full((24, 240, 96, 3), 60, np.uint8)
    for number, frame in enumerate(moving):
        frame[:, 3 * number : 3 * number + 12] = 220
    for name, (filters, options, _) in FIELDS.items():
        run("-vf", filters, *(options or X264), str(raw / name), pixels=moving)
    joined = b""
    for shape in ((HEIGHT, WIDTH), (WIDTH, HEIGHT)):
        run(*X264, "-pix_fmt", "yuv444p", str(out / "part.ts"), pixels=quarters(*shape))
        joined += (out / "part.ts").read_bytes()
    (out / "part.ts").unlink()
    (raw / "sizes.ts").write_bytes(joined)
    ingest(raw, out, settings.ingest, LocalPool(2))
    rows = io.read_table(out / "videos.parquet", io.VIDEOS).set_index("path")
    return rows, lambda name: open_frames(out, rows["video_id"][name])


def notes(row):
    return [note for note in row["notes"].split("; ") if note]


def colours(frame, rows=(16, 48), columns=(32, 96)):
    """The middle of each quarter of a frame of 64x128."""
    return [frame[row, column].tolist() for row in rows for column in columns]


@pytest.mark.parametrize("name", [*KINDS, *REMADE])
def test_a_film_is_read_as_a_player_shows_it(done, name):
    rows, footage = done
    row = rows.loc[name]
    _, expected, said = KINDS.get(name, (None, None, [SD]))
    about = {}
    if name in REMADE:
        _, _, expected, about = REMADE[name]
    assert (row["status"], row["reason"], notes(row)) == ("ok", "", said)
    rate = 25 if name.endswith("gif") else 24  # a GIF counts hundredths of a second
    about = {"n_frames": N_FRAMES, "duration": N_FRAMES / rate} | about
    assert {key: row[key] for key in about} == pytest.approx(about, abs=0.03)
    tolerance = 8 if any(map(str.isupper, "".join(said)[:3])) else 4  # lossy, or tone-mapped
    for got, wanted in zip(colours(footage(name)[N_FRAMES // 2]), expected, strict=True):
        assert got == pytest.approx(wanted, abs=tolerance), name


@pytest.mark.parametrize("name", FIELDS)
def test_films_of_fields_are_named(done, name):
    row = done[0].loc[name]
    assert row["status"] == "ok"
    assert [note for note in notes(row) if note != SD] == FIELDS[name][2]


def test_another_size_midway_is_fitted_with_bars(done):
    rows, footage = done
    said = [SD, "picture size changes: 64x36, then 36x64, fitted with bars"]
    assert notes(rows.loc["sizes.ts"]) == said
    first, last = footage("sizes.ts")[1], footage("sizes.ts")[rows["n_frames"]["sizes.ts"] - 2]
    for frame, columns in ((first, (32, 96)), (last, (54, 74))):
        for got, wanted in zip(colours(frame, columns=columns), QUARTERS, strict=True):
            assert got == pytest.approx(wanted, abs=4)
    assert last[:, :40].max() == 0 and last[:, 88:].max() == 0


def test_ingest_says_each_kind_once(tmp_path, settings, capfd):
    (tmp_path / "raw").mkdir()
    for name in ("a.mp4", "b.mp4"):
        options = (*X264, "-pix_fmt", "yuv444p", "-metadata", f"title={name}")
        run(*options, str(tmp_path / "raw" / name), pixels=quarters(HEIGHT, WIDTH))
    ingest(tmp_path / "raw", tmp_path / "out", settings.ingest, LocalPool(1))
    assert capfd.readouterr().err.count(f"2 of 2 videos: {SD}") == 1


def test_remarks_on_pictures_are_whole_and_valid_text(tmp_path, settings, capfd):
    folder = tmp_path / "raw" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    for number, size in enumerate([(64, 36), (64, 36), (36, 64), (64, 36)]):
        picture = Image.new("RGBA", size, (200, 60, 40, 128))
        picture.save(folder / os.fsdecode(b"\xe9_%d.png" % number))
    ingest(tmp_path / "raw", tmp_path / "out", settings.ingest, LocalPool(1))
    (row,) = io.read_table(tmp_path / "out/videos.parquet", io.VIDEOS).to_dict("records")
    kinds = [note.partition(":")[0] for note in notes(row)]
    fitted = f"scaled to 36x64, {FITTED}".replace(";", ",")
    assert kinds == ["transparent, shown on white", fitted]
    assert capfd.readouterr().err.count("caf") == 2
