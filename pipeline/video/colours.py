"""What must be done to a film's pixels so that they look as in a player: filters, and remarks.

ffmpeg's `scale` converts by the matrix and range that a film is tagged with. What it leaves:

- An untagged matrix is guessed as players do: BT.709 in HD, else BT.601.
- HDR (PQ, HLG) is tone-mapped: 203 nits, the white of graphics (ITU-R BT.2408), is 1; what is
  brighter than half of it bends (Mobius) so that 1000 nits are white. Other wide gamuts (BT.2020,
  P3) are brought to BT.709. Both in linear light, by zimg.
- Grey and RGB in limited range, and the matrices that only zimg knows, become full-range RGB.
- Transparent pixels are shown on white.
"""

import re
from dataclasses import dataclass

from pipeline.video.folder import UNDECODABLE, Size, Unreadable

EXACT = "bitexact+accurate_rnd"  # swscale: the same bytes on every processor
FULL_COLOURS = f"scale=flags=full_chroma_int+full_chroma_inp+{EXACT}"

PIXELS = re.compile(r", (\w+)(?:\(((?:[^()]|\([^()]*\))*)\))?, [1-9]\d*x[1-9]")
NO_MATRIX = re.compile(r"gr[ae]y|ya\d|mono|pal8|xyz|bayer|.*(rgb|bgr|gbr)")
LIMITABLE = re.compile(r"gr[ae]y|gbrp")
ALPHA = re.compile(r"yuva|gbrap|rgba|bgra|argb|abgr|ya\d|yaf|pal8|vuya|uyva|ayuv")
DEPTH = re.compile(r"(9|1[0246])[lb]e$")
# WebM's alpha is a stream of its own
ALPHA_BESIDE = re.compile(r"^ +alpha_mode +: 1$", re.IGNORECASE)
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
DOLBY_VISION_ONLY = re.compile(r"DOVI configuration record:.*profile: 5\b")

SWSCALE = {"unknown", "gbr", "bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc"}
ZIMG = {"ycgco", "bt2020c", "ictcp"}
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
WIDE_GAMUTS = {"bt2020": "BT.2020", "smpte431": "P3", "smpte432": "P3"}
WHITE_NITS, PEAK_NITS = 203, 1000
HD_WIDTH, SD_HEIGHT = 1280, 576


@dataclass(frozen=True)
class Conversion:
    """ffmpeg's filters, the decoder where it is not ffmpeg's own choice, and remarks for users."""

    filters: tuple[str, ...] = ()
    decoder: str | None = None
    notes: tuple[str, ...] = ()
    field_order: str = ""  # as tagged: "top" or "bottom" first, "either", or "" for whole frames


def conversion(codec: str, stream: str, following: list[str], size: Size) -> Conversion:
    """What the pixels of a stream need, by what ffmpeg prints of it and of its side data.

    Raises Unreadable for colours that nothing here can show.
    """
    if any(map(DOLBY_VISION_ONLY.search, following)):
        raise Unreadable(UNDECODABLE, "colours in Dolby Vision (profile 5), unknown to ffmpeg")
    pixels = PIXELS.search(stream)
    if pixels is None:
        return Conversion()
    name, tags = pixels[1], (pixels[2] or "").split(", ")
    matrix, primaries, transfer = _colour_tags(tags)
    limited_range = "tv" in tags
    filters, notes = [], []
    if matrix not in SWSCALE | ZIMG:
        raise Unreadable(UNDECODABLE, f"colours in {matrix}, a matrix unknown to ffmpeg's filters")
    if transfer in ("log100", "log316"):  # `scale` refuses them, players do not heed them
        filters.append("setparams=color_trc=bt709")
    hdr, gamut = HDR.get(transfer), WIDE_GAMUTS.get(primaries)
    has_matrix = not NO_MATRIX.match(name)
    if has_matrix and matrix == "unknown":
        hd = size[1] >= HD_WIDTH or size[0] > SD_HEIGHT
        matrix = "bt2020nc" if hdr else "bt709" if hd else "smpte170m"
        shown = {"bt2020nc": "bt2020", "smpte170m": "bt601"}.get(matrix, matrix)
        notes.append(f"no colour matrix tagged: {shown} assumed")
        if matrix != "smpte170m":  # which is what `scale` takes
            filters.append(f"setparams=colorspace={matrix}")
    if limited_range and LIMITABLE.match(name):
        depth = DEPTH.search(name)
        bits = int(depth[1]) if depth else 8
        black, levels = 16 << (bits - 8), 219 << (bits - 8)
        full = f"'clip((val-{black})*{2**bits - 1}/{levels}+0.5,0,{2**bits - 1})'"
        filters.append("lut=" + ":".join(f"c{plane}={full}" for plane in range(3)))
        filters.append("setparams=range=pc")
    beside = codec in ALPHA_DECODERS and any(map(ALPHA_BESIDE.match, following))
    if beside or ALPHA.match(name):  # c·a + 1 - a: the negative on black
        negative = "negate=components=r+g+b"
        filters += [FULL_COLOURS, "format=gbrap", negative, "premultiply=inplace=1", negative]
        filters.append("format=gbrp")
        notes.append("alpha channel: transparent parts shown on white")
    if hdr or gamut or transfer == "linear":
        primaries = "bt2020" if hdr and primaries == "unknown" else primaries
        filters += _to_sdr(matrix in ZIMG and has_matrix, primaries, transfer, bool(hdr))
        notes.append(
            f"HDR ({hdr}): tone-mapped to SDR" if hdr
            else f"wide gamut ({gamut}): converted to BT.709" if gamut
            else "linear light: converted to BT.709"
        )  # fmt: skip
    elif has_matrix and matrix in ZIMG:
        filters += ["zscale=matrix=gbr:range=full", "format=gbrp"]
    return Conversion(
        tuple(filters), ALPHA_DECODERS[codec] if beside else None, tuple(notes), _field_order(tags)
    )


def _to_sdr(only_zimg: bool, primaries: str, transfer: str, hdr: bool) -> list[str]:
    """Filters that bring pictures to BT.709, through linear light."""
    transfer = transfer if hdr or transfer == "linear" else "bt709"
    primaries = primaries if primaries in WIDE_GAMUTS else "bt709"
    return [
        *([] if only_zimg else [FULL_COLOURS, "format=gbrp16"]),  # zimg knows no odd 4:2:0
        f"setparams=color_primaries={primaries}:color_trc={transfer}",
        f"zscale=matrix=gbr:range=full:transfer=linear:npl={WHITE_NITS}",
        "format=gbrpf32",
        "zscale=primaries=bt709",
        *([f"tonemap=mobius:param=0.5:desat=0:peak={PEAK_NITS / WHITE_NITS:.4f}"] * hdr),
        "zscale=transfer=bt709",
        "format=gbrp",
    ]


def _colour_tags(tags: list[str]) -> tuple[str, str, str]:
    """Matrix, primaries and transfer, "unknown" where the film does not say."""
    for tag in tags:
        if tag.count("/") == 2:
            matrix, primaries, transfer = tag.replace("reserved", "unknown").split("/")
            return matrix, primaries, transfer
        if tag in SWSCALE | ZIMG | WIDE_GAMUTS.keys():
            return tag, tag, tag
    return "unknown", "unknown", "unknown"


def _field_order(tags: list[str]) -> str:
    """Which field of a frame is shown first."""
    for tag in tags:
        if "coded first" in tag:
            return "either"  # encoders do not agree on what it says
        if tag in ("top first", "bottom first"):
            return tag.split()[0]
    return ""
