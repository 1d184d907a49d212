"""ComfyUI's nodes against a stand-in of its V3 interface; ComfyUI itself is not needed.

The stand-in takes the arguments of comfy_api.latest of ComfyUI 0.3.64 (_io.py), and no others.
"""

import asyncio
import dataclasses
import importlib.util
import inspect
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.models.flow import Easing

PACKAGE = Path(__file__).parents[2] / "integrations/comfyui"
WORKFLOWS = sorted((PACKAGE / "example_workflows").glob("*.json"))


def stand_in_io() -> SimpleNamespace:
    """io of comfy_api.latest: as much as these nodes use."""

    def kind(io_type: str, *options: str) -> SimpleNamespace:
        """A type with its Input and Output; `options` beside those that every input has."""

        allowed = {"display_name", "optional", "tooltip", "lazy", *options}

        class Input:
            def __init__(self, id: str, **given: object) -> None:
                assert id.isidentifier() and given.keys() <= allowed, (id, given)
                self.id, self.io_type, self.given = id, io_type, given
                if "default" in given and io_type in ("INT", "FLOAT"):
                    assert given["min"] <= given["default"] <= given["max"]
                    assert type(given["default"]) is {"INT": int, "FLOAT": float}[io_type]
                if io_type == "COMBO":
                    assert given["options"] and all(type(x) is str for x in given["options"])
                    assert given.get("default", given["options"][0]) in given["options"]

        class Output:
            def __init__(self, id=None, display_name=None, tooltip=None) -> None:
                self.io_type, self.name = io_type, display_name

        return SimpleNamespace(Input=Input, Output=Output)

    @dataclasses.dataclass
    class Schema:
        node_id: str
        display_name: str
        category: str
        inputs: list
        outputs: list
        description: str = ""

    class NodeOutput:
        def __init__(self, *args: object) -> None:
            self.args = args

    widget = ("default", "socketless", "force_input")
    number = (*widget, "min", "max", "step", "display_mode")
    return SimpleNamespace(
        ComfyNode=type("ComfyNode", (), {}),
        Schema=Schema,
        NodeOutput=NodeOutput,
        Custom=kind,
        Image=kind("IMAGE"),
        Int=kind("INT", *number, "control_after_generate"),
        Float=kind("FLOAT", *number, "round"),
        String=kind("STRING", *widget, "multiline", "placeholder", "dynamic_prompts"),
        Combo=kind("COMBO", *widget, "options", "control_after_generate"),
    )


@pytest.fixture
def comfy(tmp_path, monkeypatch, saved_models):
    """The package, loaded as ComfyUI does through a link in custom_nodes, with one model there."""
    places: dict[str, list[str]] = {}
    saved_models(tmp_path / "models/nakawari/cartoon")
    saved_models(tmp_path / "models/nakawari/thesis", {"vqgan.context": "none"})
    (tmp_path / "models/nakawari/empty").mkdir()

    class ComfyExtension: ...

    steps = []
    bar = type("ProgressBar", (), {"__init__": lambda self, total: steps.append(total),
                                   "update": lambda self, value: steps.append(-value)})  # fmt: skip
    modules = {
        "comfy": {"utils": SimpleNamespace(ProgressBar=bar)},
        "comfy.utils": {"ProgressBar": bar},
        "comfy_api": {},
        "comfy_api.latest": {"ComfyExtension": ComfyExtension, "io": stand_in_io()},
        "folder_paths": {
            "models_dir": str(tmp_path / "models"),
            "add_model_folder_path": lambda name, path: places.setdefault(name, []).append(path),
            "get_folder_paths": lambda name: places[name],
        },
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    link = tmp_path / "custom_nodes/nakawari"
    link.parent.mkdir()
    link.symlink_to(PACKAGE)
    spec = importlib.util.spec_from_file_location("linked_nakawari", link / "__init__.py")
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "linked_nakawari", package)
    spec.loader.exec_module(package)
    extension = asyncio.run(package.comfy_entrypoint())
    assert isinstance(extension, ComfyExtension)
    nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
    yield SimpleNamespace(nodes=nodes, steps=steps, models=tmp_path / "models/nakawari")
    sys.modules.pop("linked_nakawari.nodes", None)


@pytest.fixture
def run(comfy):
    """Runs a node with defaults where nothing is given; its only output."""

    def execute(node: str, folder: str = "cartoon", **given: object) -> torch.Tensor:
        schema = comfy.nodes[node].define_schema()
        values = {i.id: i.given["default"] for i in schema.inputs if "default" in i.given}
        if node != "NakawariLoader":
            given = {"model": execute("NakawariLoader", folder=folder)} | given
        else:
            given = {"folder": folder} | given
        with torch.inference_mode():  # as ComfyUI
            (output,) = comfy.nodes[node].execute(**(values | given)).args
        return output

    return execute


def picture(seed: int, height: int = 30, width: int = 50, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, height, width, channels, generator=torch.Generator().manual_seed(seed))


A, B, C = (picture(seed) for seed in range(3))


def test_schemas_fit_the_nodes(comfy):
    assert [*comfy.nodes] == ["NakawariLoader", "NakawariInbetween", "NakawariKeyframes"]
    for node in comfy.nodes.values():
        schema = node.define_schema()
        ids = [i.id for i in schema.inputs]
        assert len({*ids}) == len(ids) and schema.category == "Nakawari"
        parameters = inspect.signature(node.execute).parameters.values()
        named = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        assert named <= {*ids} and (len(named) == len(ids) or len(parameters) > len(named))
    (folder, _) = comfy.nodes["NakawariLoader"].define_schema().inputs
    assert folder.given["options"] == ["cartoon", "thesis"]


@pytest.mark.parametrize("folder", ["cartoon", "thesis"])
def test_a_batch_of_images_begins_and_ends_with_the_given_ones(run, comfy, folder):
    frames = run("NakawariInbetween", folder, first=A, last=B, n_frames=6)
    assert frames.dtype == torch.float32 and frames.shape == (6, 30, 50, 3)
    assert frames.min() >= 0 and frames.max() <= 1 and not torch.equal(frames[1], frames[0])
    for shown, given in ((frames[0], A[0]), (frames[-1], B[0])):
        assert (shown - given).abs().max() <= 0.5 / 255 + 1e-6
    assert comfy.steps[0] == 4 == -sum(comfy.steps[1:])


def test_keyframes_stand_at_their_numbers(run):
    batch = torch.cat([A, B, C])
    frames = run("NakawariKeyframes", keyframes=batch, indices="0; 3 8", on=2)
    assert len(frames) == 9
    assert (frames[[0, 3, 8]] - batch).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(frames[4], frames[3]) and torch.equal(frames[5], frames[6])
    two = run("NakawariKeyframes", keyframes=torch.cat([A, B]), indices="0,5")
    assert torch.equal(two, run("NakawariInbetween", first=A, last=B, n_frames=6))


def test_the_seed_counts_at_a_temperature_only(run):
    def clip(**options: float) -> torch.Tensor:
        return run("NakawariInbetween", "thesis", first=A, last=B, n_frames=5, **options)

    assert torch.equal(clip(seed=1), clip(seed=2**64 - 1))
    assert torch.equal(clip(seed=1, temperature=2.0), clip(seed=1, temperature=2.0))
    assert not torch.equal(clip(seed=1, temperature=2.0), clip(seed=2, temperature=2.0))


def test_a_timing_is_of_its_node_only(run):
    model = run("NakawariLoader")
    model.easing = Easing.fixed(3.0)
    clips = [
        run("NakawariInbetween", model=model, first=A, last=B, n_frames=7, ease=ease)
        for ease in (0.0, 1.0, 3.0, 0.0)
    ]
    assert torch.equal(clips[0], clips[2]) and torch.equal(clips[0], clips[3])
    assert not torch.equal(clips[0], clips[1])


@pytest.mark.parametrize(
    ("last", "shown"),
    [
        (torch.cat([torch.zeros(1, 30, 50, 3), torch.full((1, 30, 50, 1), 0.4)], -1), 0.6),
        (torch.full((1, 30, 50, 1), 0.2), 0.2),
        (torch.full((1, 60, 100, 3), 7.0), 1.0),
        (torch.full((1, 9, 90, 3), torch.nan), 0.0),
    ],
    ids=["transparent", "grey", "too bright", "no numbers"],
)
def test_other_pictures_are_read(run, last, shown):
    frames = run("NakawariInbetween", first=A, last=last, n_frames=3)
    assert np.allclose(frames[-1], shown, atol=0.002) and frames.shape == (3, 30, 50, 3)


@pytest.mark.parametrize(
    ("node", "given", "words"),
    [
        ("NakawariLoader", {"folder": "nothing"}, "no model 'nothing'; expected a folder with"),
        ("NakawariLoader", {"folder": "empty"}, "no model 'empty'"),
        ("NakawariLoader", {"folder": "../cartoon"}, "no model '../cartoon'"),
        ("NakawariLoader", {"device": "cuda:77"}, "PyTorch sees"),
        ("NakawariInbetween", {"first": torch.cat([A, B])}, "first holds 2 pictures; expected one"),
        ("NakawariInbetween", {"last": A[:0]}, "last holds 0 pictures"),
        (
            "NakawariInbetween",
            {"first": picture(0, 8, 50)},
            "is 8x50 pixels; expected at least 16x16",
        ),
        ("NakawariInbetween", {"ease": 0.5}, "ease 0.5: expected from 1, even"),
        (
            "NakawariInbetween",
            {"ease": 2.0, "folder": "thesis"},
            "ease 2: this model warps no keyframes",
        ),
        ("NakawariKeyframes", {"indices": "0, 5, 9"}, "for 2 keyframes: expected a number for"),
        ("NakawariKeyframes", {"indices": "5, 0"}, "rising from 0"),
        ("NakawariKeyframes", {"indices": "1, 5"}, "rising from 0"),
        ("NakawariKeyframes", {"indices": "0, 0"}, "rising from 0"),
        ("NakawariKeyframes", {"indices": "0, -5"}, "rising from 0"),
        ("NakawariKeyframes", {"indices": "0, 5.5"}, "rising from 0"),
        ("NakawariKeyframes", {"indices": "0, 10000"}, "below 10000"),
        ("NakawariKeyframes", {"indices": ""}, "indices '' for 2 keyframes"),
        ("NakawariKeyframes", {"indices": "0", "keyframes": A}, "at least two"),
    ],
)
def test_wrong_input_is_one_sentence(run, node, given, words):
    pictures = {"NakawariInbetween": {"first": A, "last": B},
                "NakawariKeyframes": {"keyframes": torch.cat([A, B])}}  # fmt: skip
    with pytest.raises(UserError, match=re.compile(words)):
        run(node, **(pictures.get(node, {}) | given))


def test_another_model_in_the_same_folder_is_loaded_again(comfy, saved_models):
    print_of = comfy.nodes["NakawariLoader"].fingerprint_inputs
    before = print_of("cartoon", "cpu")
    assert print_of("cartoon", "cpu") == before and print_of("nothing", "cpu")
    saved_models(comfy.models / "cartoon", {"base.seed": 5})
    assert print_of("cartoon", "cpu") != before


@pytest.mark.parametrize(
    ("copied", "words"),
    [
        (True, "link integrations/comfyui of a clone"),
        (False, "another package of the name pipeline"),
    ],
)
def test_what_cannot_find_its_code_says_why(comfy, tmp_path, monkeypatch, copied, words):
    source = shutil.copy(PACKAGE / "nodes.py", tmp_path) if copied else PACKAGE / "nodes.py"
    other = ModuleType("pipeline")
    other.__file__ = "/custom_nodes/other/pipeline/__init__.py"
    monkeypatch.setitem(sys.modules, "pipeline", other)
    spec = importlib.util.spec_from_file_location("nodes_alone", source)
    with pytest.raises(ImportError, match=words):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_example_workflow_fits_the_nodes(comfy, path):
    workflow = json.loads(path.read_text())
    by_id = {node["id"]: node for node in workflow["nodes"]}
    for number, start, output, end, input_, io_type in workflow["links"]:
        source, target = by_id[start]["outputs"][output], by_id[end]["inputs"][input_]
        assert number in source["links"] and target["link"] == number
        assert source["type"] == target["type"] == io_type
    own = [node for node in by_id.values() if node["type"] in comfy.nodes]
    assert {node["type"] for node in own} == {"NakawariLoader", "NakawariInbetween"}
    for node in own:
        schema = comfy.nodes[node["type"]].define_schema()
        sockets = [
            (i.id, i.io_type) for i in schema.inputs if i.io_type in ("IMAGE", "NAKAWARI_MODEL")
        ]
        assert [(i["name"], i["type"]) for i in node["inputs"]] == sockets
        assert [o["type"] for o in node["outputs"]] == [o.io_type for o in schema.outputs]
        seeds = sum("control_after_generate" in i.given for i in schema.inputs)  # a widget more
        assert len(node["widgets_values"]) == len(schema.inputs) - len(sockets) + seeds


def test_the_package_says_what_the_registry_asks():
    content = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
    assert {"name", "version", "license", "dependencies"} <= content["project"].keys()
    assert {"PublisherId", "DisplayName", "Icon"} == content["tool"]["comfy"].keys()
    lines = (PACKAGE / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert packages == content["project"]["dependencies"] and "torch" not in packages
