"""Whether the frames of a film are woven of two moments, and how they become whole pictures.

A film says so itself, or it shows: ffmpeg's idet compares lines with those of the frames beside.
While a film is decoded every fifth frame is compared (2 % of the time of ingest), just to name it;
before it is deinterlaced, frames at a few places. Telecined film, 24 frames a second shown as 60
fields, repeats a field in two frames of five.
"""

import re
import subprocess
from collections import Counter
from fractions import Fraction

from pipeline.video.ffmpeg_input import FfmpegInput, executable

# Of moving frames so much nearer are lines of another frame; fine lines that move reach 1.1.
IDET = "format=yuv420p,idet=intl_thres=1.2"
# The part of a filter graph that watches a film without changing it.
WATCH = f"split[seen][film];[seen]select='lt(mod(n,150),30)',{IDET},nullsink;[film]null"
PLACE_FRAMES = 48  # looked at in one place
PLACE_SECONDS, MAX_PLACES = 2, 20  # a place each so many seconds: all of a short film
MIN_LINES = 200  # interlaced footage has more; in small pictures fine lines look woven
MIN_FRAMES = 4  # so many combed frames are no chance
REPEATS = 0.1  # a combed frame: 0.2 to 0.6 in telecined film, 0.01 elsewhere
TELECINE = Fraction(4, 5)  # of its frames are film
PARITY = {"top": "tff", "bottom": "bff"}

COUNTS = re.compile(r"(Repeated Fields|Single frame detection):(.*)$", re.MULTILINE)
COUNT = re.compile(r"(\w+): +(\d+)")


def look(source: FfmpegInput, duration: float | None, fps: Fraction) -> str:
    """What ffmpeg prints of frames at a few places of a film; for `verdict`."""
    n_places = max(1, min(MAX_PLACES, int((duration or 0) / PLACE_SECONDS)))
    command = [executable(), "-nostdin", "-hide_banner", "-nostats"]
    for number in range(n_places):
        at = (duration or 0) * (number + 0.5) / n_places - float(PLACE_FRAMES / fps / 2)
        seek = ["-noaccurate_seek", "-ss", f"{at:.3f}"] if at > 1 else []
        command += ["-threads", "1", *seek, *source.words]
    for number in range(n_places):
        command += ["-map", f"{number}:{source.stream}", "-vf", IDET]
        command += ["-frames:v", str(PLACE_FRAMES), "-fps_mode", "passthrough", "-f", "null", "-"]
    process = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=source.folder,
        check=False,  # a place that cannot be decoded says nothing
    )
    return process.stderr.decode("utf-8", "replace")


def verdict(printed: str, tagged: str) -> tuple[str, bool]:
    """The first field ("top", "bottom", "either", or "" for whole frames), and if it is telecined.

    From all that idet `printed` of it, and from its tag where that says too little.
    """
    counts = Counter()
    for line in COUNTS.finditer(printed):
        for name, number in COUNT.findall(line[2]):
            counts[name] += int(number)
    other, combed = sorted((counts["TFF"], counts["BFF"]))
    if combed < MIN_FRAMES or combed <= counts["Progressive"] + 2 * other:
        looks_whole = counts["Progressive"] >= MIN_FRAMES
        return "" if looks_whole else tagged, False
    order = "top" if counts["TFF"] == combed else "bottom"
    return order, counts["Top"] + counts["Bottom"] > REPEATS * combed


def remarks(order: str, telecined: bool, tagged: str, outcome: str) -> list[str]:
    """What is said of a film, and what was done or can be done; nothing of whole frames."""
    if not order:
        return ["tagged as interlaced, but looks whole"] if tagged else []
    first = f", {order} field first" if order in PARITY else ""
    return [f"telecined: {outcome}" if telecined else f"interlaced{first}: {outcome}"]


def whole_pictures(order: str, tagged: str, telecined: bool) -> list[str]:
    """Filters that make whole pictures; frames that are tagged as whole, in films that are not
    seen to be interlaced, stay as they are."""
    if telecined:  # the frames of the film again: every fifth one is dropped
        matched = f"fieldmatch=order={PARITY[order]}:combmatch=full"
        return [matched, "bwdif=mode=send_frame:deint=interlaced", "decimate"]
    if order and not tagged:
        return [f"bwdif=mode=send_frame:parity={PARITY[order]}:deint=all"]
    return ["bwdif=mode=send_frame:deint=interlaced"]
