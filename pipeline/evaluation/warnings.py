"""What a reader must know beside the numbers: the verdict, what was left out, warnings."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.io import write_json


@dataclass
class Notes:
    """Collected while measuring, said on stderr, written to `evaluation/notes.json`."""

    left_out: dict[str, str] = field(default_factory=dict)  # metric to reason
    warnings: list[str] = field(default_factory=list)
    verdict: str = ""  # whether the model beats the baselines, in words
    networks: dict[str, str] = field(default_factory=dict)  # measure to the network behind it

    def leave_out(self, metric: str, reason: str) -> None:
        self.left_out[metric] = reason
        print(f"evaluate: {metric} left out: {reason}", file=sys.stderr, flush=True)

    def warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            print(f"evaluate: {sentence}", file=sys.stderr, flush=True)

    def write(self, path: Path) -> None:
        write_json(path, vars(self))
