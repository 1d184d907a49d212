"""Arrays that may be larger than memory: appended to a file without a name, then mapped.

The optical flow of a season takes 40 GB, its context features 20 GB. The system takes mapped memory
back where it needs room. The file lies below `<DVC_ROOT>/.store` and is gone with its process, also
with one that was killed.
"""

import tempfile

import numpy as np
import torch

from pipeline.errors import naming
from pipeline.io import project_root


class MappedArray:
    """Rows of one shape and type, or numbers one behind the other."""

    def __init__(self) -> None:
        self.folder = project_root() / ".store"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115

    def append(self, values: np.ndarray) -> None:
        """An OSError where the disk is full, which mapped memory could not raise."""
        try:
            self._file.write(np.ascontiguousarray(values).data)
            self._file.flush()
        except OSError as error:
            raise naming(error, self.folder) from None

    def tensor(self, dtype: type[np.generic], *shape: int) -> torch.Tensor:
        """All that was appended; of a shape with one -1. Do not write into it."""
        if not self._file.tell():
            return torch.from_numpy(np.empty(0, dtype)).view([max(0, n) for n in shape])
        values = np.memmap(self._file, dtype, "r+")  # else Linux grants no more than it has memory
        return torch.from_numpy(values).view(shape)
