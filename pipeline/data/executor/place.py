"""The section `engine` of params.yaml, as far as it says where work runs."""

from dataclasses import dataclass, replace
from typing import Literal

RESTARTS = 2  # a task that kills its process three times would kill it for ever


@dataclass(frozen=True)
class Place:
    """Processes of this machine (local), or Ray's: of a cluster, or of this machine where no
    address is given. A cluster has as many workers as its nodes have processors."""

    kind: Literal["local", "ray"] = "local"
    workers: int = 1
    address: str = ""

    @classmethod
    def of(cls, where: "int | Place") -> "Place":
        """A number stands for so many processes of this machine."""
        return where if isinstance(where, Place) else cls(workers=where)

    def at_most(self, tasks: int) -> "Place":
        """Without processes that would have nothing to do."""
        return replace(self, workers=max(1, min(self.workers, tasks)))
