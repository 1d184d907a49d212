"""One ingest and its scenes in a process of their own, for `benchmarks.ingest` to time.

    python -m benchmarks.ingest_once VIDEOS OUT HEIGHT WIDTH WORKERS

Out: frames and scenes below OUT, and a line of JSON: the seconds that `scene_split` took. What was
decoded before is looked for below DVC_ROOT.
"""

import json
import sys
import time
from pathlib import Path

from pipeline import config
from pipeline.data.executor import LocalPool
from pipeline.data.ingest import ingest
from pipeline.data.scenes import split_scenes


def main(videos: str, out: str, height: str, width: str, workers: str) -> None:
    settings = config.load()
    size = settings.ingest.model_copy(update={"height": int(height), "width": int(width)})
    ingest(Path(videos), Path(out) / "frames", size, LocalPool(int(workers)))
    started = time.perf_counter()
    split_scenes(Path(out) / "frames", Path(out) / "scenes", settings.scene_split)
    print(json.dumps({"scene_split": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
