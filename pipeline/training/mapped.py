"""Arrays that may be larger than memory: appended to a file, then mapped.

The optical flow of a season takes 40 GB, its context features 20 GB. The system takes mapped memory
back where it needs room.
"""

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import naming
from pipeline.io import project_root


class MappedArray:
    """Rows of one shape and type, or numbers one behind the other.

    With a path, what an earlier process appended there is the beginning. Else the file lies below
    `<DVC_ROOT>/.store` and is gone with its process, also with one that was killed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or project_root() / ".store"
        folder = path.parent if path else self.path
        folder.mkdir(parents=True, exist_ok=True)
        temporary = partial(tempfile.TemporaryFile, dir=folder)
        self._file = path.open("a+b") if path else temporary()
        self._keeps = path is not None

    def whole_rows(self, row_bytes: int) -> int:
        """How many rows there are; what is left of another one is cut off."""
        rows = self._file.seek(0, os.SEEK_END) // row_bytes
        self._file.truncate(rows * row_bytes)
        self._file.seek(0, os.SEEK_END)
        return rows

    def append(self, values: np.ndarray) -> None:
        """An OSError where the disk is full, which mapped memory could not raise."""
        try:
            self._file.write(np.ascontiguousarray(values).data)
            self._file.flush()
            if self._keeps:
                os.fsync(self._file.fileno())  # else a power cut could leave rows of zeros
        except OSError as error:
            raise naming(error, self.path) from None

    def tensor(self, dtype: type[np.generic], *shape: int) -> torch.Tensor:
        """All that was appended; of a shape with one -1. Do not write into it."""
        if not self._file.tell():
            return torch.from_numpy(np.empty(0, dtype)).view([max(0, n) for n in shape])
        values = np.memmap(self._file, dtype, "r+")  # else Linux grants no more than it has memory
        return torch.from_numpy(values).view(shape)
