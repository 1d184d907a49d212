"""What a node of a cluster must have in common with the machine that a run is started on."""

import contextlib
import importlib.metadata
import os
import platform
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("numpy", "opencv-python-headless", "pyarrow", "imageio-ffmpeg")  # make the bytes
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Home:
    """Where a run was started: workers go there, and say so where it is another place."""

    folder: Path
    mark: Path | None  # a file there, for as long as the run lasts
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def here(cls, shared: bool) -> "Home":
        """`shared`: workers on other machines have to see the mark."""
        mark = Path.cwd() / ".store" / f"run-{uuid.uuid4().hex}.mark" if shared else None
        if mark is not None:
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
        return cls(Path.cwd(), mark, versions())

    @property
    def python_path(self) -> str:
        """For `import pipeline` in a worker: the code of this run, not one installed there."""
        return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    def enter(self) -> None:
        """In a worker: relative paths mean there what they mean here. Raises a UserError."""
        node = f"engine.kind = ray, node {socket.gethostname()}"
        if not self.folder.is_dir() or (self.mark is not None and not self.mark.is_file()):
            raise UserError(
                f"{node}: {self.folder} is not the folder that the run was started in; put the "
                "project on a file system that all nodes share, at the same path"
            )
        mine = dict(versions())
        other = [f"{k} {mine[k]} instead of {v}" for k, v in self.versions if mine[k] != v]
        if other:
            raise UserError(
                f"{node}: {', '.join(other)}, so its frames may differ; start Ray there in the "
                "same environment"
            )
        os.chdir(self.folder)

    def leave(self) -> None:
        if self.mark is not None:
            self.mark.unlink(missing_ok=True)


def versions() -> tuple[tuple[str, str], ...]:
    """Of Python and the packages that frames and shards are made with."""
    found = [("Python", platform.python_version())]
    for name in DISTRIBUTIONS:
        version = "none"
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
        found.append((name, version))
    return tuple(found)


def reachable(address: str) -> None:
    """Raises an OSError for a host and port where nobody listens: Ray itself waits for minutes."""
    if host := re.fullmatch(r"(?:ray://)?(\[[^\]]+\]|[^:/\[]+):(\d+)", address):
        socket.create_connection((host[1].strip("[]"), int(host[2])), CONNECT_SECONDS).close()
