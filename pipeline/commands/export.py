"""Writes the trained model as a folder that travels, with a model card made from the run.

    python -m pipeline export FOLDER --license mit --data "own films of 2024" --rights "all ours"
    python -m pipeline export FOLDER --license mit ... --push USER/MODEL

In: models/ of a finished run, its metrics/, and dvc.lock, which names the parameters. Out: FOLDER
with the networks as safetensors and JSON, and README.md, the card (model_card.md) with the metadata
of the Hugging Face hub. What only the user knows, the data and its rights, stands there as it was
said, or as not said. Another machine reads the folder by `pipeline.inference.hub.from_pretrained`.
"""

import argparse
import difflib
import hashlib
import json
import re
import sys
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pipeline import config, tracking
from pipeline.errors import UserError
from pipeline.inference import hub
from pipeline.io import flatten, read_json, require_file
from pipeline.models.pretrained.weights import RIFE

MODELS, METRICS, LOCK = Path("models"), Path("metrics"), Path("dvc.lock")
TEMPLATE = Path(__file__).with_name("model_card.md")
SAMPLE = "data/sample/episodes"
TRAININGS = {"vqgan": "vqgan_train", "gpt2": "gpt2_train"}  # sub-folder: stage
NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
TAGS = ["animation", "in-betweening", "frame-interpolation", "vqgan", "gpt2"]
LICENSES = (  # that the hub takes (huggingface.co/docs/hub/repositories-licenses), by family
    *("apache-2.0", "mit", "afl-3.0", "artistic-2.0", "bsl-1.0", "ecl-2.0", "isc", "ncsa", "zlib"),
    *("bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "postgresql", "unlicense"),
    *("openrail", "openrail++", "bigscience-openrail-m", "creativeml-openrail-m", "wtfpl", "pddl"),
    *("bigscience-bloom-rail-1.0", "bigcode-openrail-m", "c-uda", "lgpl-lr", "lppl-1.3c", "ms-pl"),
    *("cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0"),
    *("cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0"),
    *("epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "mpl-2.0", "osl-3.0", "ofl-1.1", "gfdl"),
    *("agpl-3.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "odc-by", "odbl"),
    *("unknown", "other"),
)


def main(words: list[str] | None = None) -> None:
    arguments = parser().parse_args(words)
    _check(arguments)
    hub.require_place(arguments.folder)
    if arguments.push:
        hub.require_login(arguments.push)
    model = hub.from_pretrained(MODELS)
    hub.save_pretrained(model, arguments.folder, model_card(arguments))
    print(f"{arguments.folder}: the model and its card, {arguments.folder / hub.CARD}")
    if arguments.push:
        print(hub.push_to_hub(arguments.folder, arguments.push, arguments.private))


def model_card(arguments: argparse.Namespace) -> str:
    """The text of README.md: the hub's metadata in YAML, and the card in Markdown."""
    numbers, parameters = read_json(METRICS / "evaluate.json"), _parameters()
    weights = {}
    for part, stage in TRAININGS.items():
        summary = read_json(METRICS / f"{stage}.json")
        if summary != read_json(MODELS / part / "summary.json"):
            raise UserError(
                f"{METRICS / stage}.json is not of the model in {MODELS / part}; run `dvc repro`, "
                "or `dvc checkout` for the models of this commit"
            )
        weights |= {part: summary["parameters"]}
    said = {name: _said(getattr(arguments, name)) for name in ("license", "data", "rights")}
    sample = parameters["source.path"] == SAMPLE
    if sample:
        said["data"] = said["data"] or "the sample cartoon that Nakawari's own code draws"
        said["rights"] = said["rights"] or "MIT licence, as the Nakawari repository"
    missing = " and ".join(f"--{name}" for name, value in said.items() if not value)
    if missing and arguments.push:
        raise UserError(f"--push {arguments.push}: expected {missing} beside it")
    if missing:
        print(f"without {missing} the card says that it is not said", file=sys.stderr)
    trained = read_json(MODELS / "vqgan/config.json")
    context = trained["vqgan"]["context"]
    warped = context == "keyframes" and trained["flow"]["method"] != "dis"
    rows = {"**model**, all clips": numbers["inbetween"]}
    rows |= {"**model**, most motion": numbers["inbetween_high_motion"]}
    rows |= numbers["baselines_high_motion"]
    card = ModelCard.from_template(
        _metadata(arguments, numbers, "sample cartoon" if sample else "test clips of the run"),
        template_str="---\n{{ card_data }}\n---\n\n" + TEMPLATE.read_text("utf-8"),
        title=arguments.push or arguments.folder.resolve().name,
        size=trained["ingest"],
        context=context,
        counts=numbers["counts"],
        rows=rows,
        names=NAMES,
        weights=weights,
        said=said,
        cost=_cost(arguments),
        beats=numbers.get("beats"),
        lock=hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        parameters={key: json.dumps(value) for key, value in parameters.items()},
        rife=RIFE.package if warped else "",
    )
    return str(card)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="new, or with an earlier export")
    add("--license", help="the hub's name of the model's licence, such as mit or cc-by-4.0")
    add("--data", help="what the model was trained on, in words")
    add("--rights", help="by what right it was trained on that and may be used, in words")
    add("--dataset", metavar="USER/DATA", help="the data's name on the hub, if it is there")
    add("--hours", type=float, help="of both trainings, if this machine has not measured them")
    add("--hardware", help="that they ran on, likewise")
    add("--push", metavar="USER/MODEL", help="uploads the folder to the hub under this name")
    add("--private", action="store_true", help="with --push: a model that only you see")
    return parser


def _check(arguments: argparse.Namespace) -> None:
    """UserError for a value that the hub or a reader could not take."""
    if arguments.license is not None:
        given, arguments.license = arguments.license, arguments.license.lower()
        if arguments.license not in LICENSES:
            words = re.sub("licen[cs]e", "", arguments.license).split()  # MIT License
            near = difflib.get_close_matches("-".join(words), LICENSES, 3, 0.5)
            expected = " or ".join([*near, "other"])
            raise UserError(f"--license {given}: not on the hub's list; expected {expected}")
        if arguments.license == "other" and not _said(arguments.rights):
            raise UserError("--license other: expected the terms beside it, in --rights")
    if arguments.dataset is not None and not hub.is_name(arguments.dataset):
        raise UserError(f"--dataset {arguments.dataset!r}: expected a name on the hub, USER/DATA")
    if arguments.hours is not None and not 0 < arguments.hours < 1e6:
        raise UserError(f"--hours {arguments.hours:g}: expected more than 0, of both trainings")
    if arguments.private and not arguments.push:
        raise UserError("--private: expected --push beside it")


def _parameters() -> dict:
    """What dvc.lock says of the run: dotted key to value."""
    require_file(LOCK)
    stages, parameters = config.read_yaml(LOCK).get("stages"), {}
    for stage in ("ingest", "clip_chunk", *TRAININGS.values()):
        try:
            parameters |= flatten(stages[stage]["params"]["params.yaml"])
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{LOCK} has no parameters of {stage}; run `dvc repro`") from None
    return dict(sorted(parameters.items()))


def _metadata(arguments: argparse.Namespace, numbers: dict, data: str) -> ModelCardData:
    results = [
        EvalResult(
            task_type="image-to-video",
            task_name="in-betweening",
            dataset_type=arguments.dataset or "nakawari",
            dataset_name=arguments.dataset or data,
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{name}{where}",
            metric_value=numbers[group][metric],
        )
        for group, where in (("inbetween", ""), ("inbetween_high_motion", ", most motion"))
        for metric, name in NAMES.items()
        if metric in numbers[group]
    ]
    return ModelCardData(
        license=arguments.license,
        library_name="nakawari",
        pipeline_tag="image-to-video",
        tags=TAGS,
        datasets=[arguments.dataset] if arguments.dataset else None,
        metrics=[metric for metric in NAMES if metric in numbers["inbetween"]],
        model_name="nakawari",
        eval_results=results,
    )


def _cost(arguments: argparse.Namespace) -> dict:
    """Hours and hardware of both trainings: said, or measured where they ran here."""
    costs = [tracking.read_cost(MODELS / part / "model.safetensors") for part in TRAININGS]
    hours, hardware = arguments.hours, _said(arguments.hardware)
    if all(costs):
        hours = hours or sum(cost["seconds"] for cost in costs) / 3600
        hardware = hardware or " and ".join(dict.fromkeys(cost["hardware"] for cost in costs))
    if not (hours and hardware):
        print("how long the trainings took is not known; add --hours, --hardware", file=sys.stderr)
    return {"hours": hours, "hardware": hardware}


def _said(text: str | None) -> str:
    """On one line, so that it does not change the layout of the card."""
    return " ".join((text or "").split())
