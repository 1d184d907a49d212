"""Typed parameters: `params.yaml` in, frozen objects out, every mistake named at once.

A key that is unknown, missing, of another type or out of range is reported with its value and what
is allowed, and so are values that contradict each other. Nothing in this folder computes a result:
no stage depends on it.
"""

import difflib
import reprlib
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import CollectionNode

from pipeline.config.params import Params
from pipeline.config.sections import (
    AdversarialLoss,
    Autoencoder,
    Base,
    ClipChunk,
    ClipFilters,
    Count,
    Decoding,
    Discriminator,
    Engine,
    Evaluate,
    FlowSection,
    FrameSize,
    FrameSubsample,
    Ingest,
    Layers,
    MovingMnist,
    Number,
    Probability,
    SampleEpisodes,
    SceneSplit,
    Section,
    Train,
    Transformer,
    Vqgan,
    VqganLoss,
    VqganTrainer,
    Vqvae,
)
from pipeline.errors import UserError, read_text

__all__ = [
    "PARAMS_FILE",
    "AdversarialLoss",
    "Autoencoder",
    "Base",
    "ClipChunk",
    "ClipFilters",
    "Count",
    "Decoding",
    "Discriminator",
    "Engine",
    "Evaluate",
    "FlowSection",
    "FrameSize",
    "FrameSubsample",
    "Ingest",
    "Layers",
    "MovingMnist",
    "Number",
    "Params",
    "Probability",
    "SampleEpisodes",
    "SceneSplit",
    "Section",
    "Train",
    "Transformer",
    "Vqgan",
    "VqganLoss",
    "VqganTrainer",
    "Vqvae",
    "load",
    "parse",
    "read_yaml",
]

PARAMS_FILE = Path("params.yaml")
MOST_BYTES = 2**17  # of a YAML file
MOST_MISTAKES = 20  # lines of an error


def read_yaml(path: Path = PARAMS_FILE, loader: YAML | None = None) -> dict:
    """The mapping in a YAML 1.2 file (the dialect that DVC reads and writes), plain by default."""
    loader = loader or YAML(typ="safe", pure=True)
    loader.Composer = _WrittenOut
    try:
        if (size := path.stat().st_size) > MOST_BYTES:  # the parser's time grows with its square
            raise UserError(f"{path} has {size} bytes; expected at most {MOST_BYTES}")
        content = loader.load(read_text(path))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; run this from the root of the project, where params.yaml lies"
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:  # also a number of 5,000 digits
        reason = " ".join(str(error).partition("To suppress")[0].split())
        reason = reason.replace('in "<unicode string>", ', "in ")
        raise UserError(f"{path} is no valid YAML: {reason}; mend it there") from None
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a value" if content else "nothing"
        raise UserError(f"{path} holds {kind}, expected sections with keys")
    return content


class _WrittenOut(Composer):
    """Refuses what refers to itself, or grows from line to line: it has no end."""

    def compose_node(self, parent: object, index: object) -> object:
        if self.parser.check_event(AliasEvent):
            node = self.anchors.get(self.parser.peek_event().anchor)
            if isinstance(node, CollectionNode):
                raise YAMLError("a section or a list is repeated by an anchor; write it out")
        return super().compose_node(parent, index)


def load(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks all parameters; raises one UserError that names every mistake."""
    return parse(read_yaml(path), path)


def parse(content: dict, path: Path = PARAMS_FILE) -> Params:
    """Checks a mapping as `load` does; `path` is only named in the error.

    What two sections contradict each other in is named once each section is fine by itself.
    """
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        items = error.errors()
    missing = [_dotted(item["loc"]) for item in items if item["type"] == "missing"]
    mistakes = [line for item in items for line in _describe(item, missing)]
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    if len(mistakes) > MOST_MISTAKES:
        mistakes[MOST_MISTAKES:] = [f"and {len(mistakes) - MOST_MISTAKES} more"]
    raise UserError(f"{count} in {path}:\n" + "\n".join(f"  {line}" for line in mistakes))


def _dotted(place: tuple) -> str:
    return ".".join(str(part) for part in place)


def _describe(item: dict, missing: list[str]) -> list[str]:
    """missing: keys, of which an unknown one may be a misspelling."""
    key = _dotted(item["loc"])
    short = reprlib.Repr()
    short.maxstring = short.maxother = 100
    shown = short.repr(item["input"])
    match item["type"]:
        case "broken_rules":
            return item["msg"].splitlines()
        case "extra_forbidden":
            near = difflib.get_close_matches(key, missing, 1, 0.75)
            near = near or difflib.get_close_matches(key, _keys(Params), 1, 0.75)
            remedy = f"did you mean {near[0]}?" if near else "remove it or correct its spelling"
            if key in near:
                remedy = "write each part of its name in a section of its own"
            return [f"{key[:100]}: unknown key; {remedy}".replace("\n", " ")]
        case "missing":
            return [f"{key}: missing; copy it from the project's params.yaml"]
        case "string_pattern_mismatch":
            return [f"{key} = {shown}: expected text without a zero byte"]
        case "invalid_key":
            return [f"{key}: expected the name of a key, text"]
        case "model_type":
            return [f"{key} = {shown}: expected keys and values"]
    expected = item["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    expected = expected.removeprefix("String should have ")
    return [f"{key} = {shown}: expected {expected}"]


def _keys(section: type[Section], prefix: str = "") -> list[str]:
    """The dotted names of a section's keys, with those of its sections."""
    names = []
    for name, field in section.model_fields.items():
        names.append(f"{prefix}{name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += _keys(field.annotation, f"{prefix}{name}.")
    return names
