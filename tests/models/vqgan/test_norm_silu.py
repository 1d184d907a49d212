"""Group norm and SiLU as one operation."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.models.vqgan.norm_silu import SMALL, NormSilu

GROUPS, CHANNELS = 2, 6


def made(dtype: torch.dtype = torch.float32) -> NormSilu:
    torch.manual_seed(0)
    layer = NormSilu(GROUPS, CHANNELS, eps=1e-6, dtype=dtype)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer


def plainly(x: torch.Tensor, layer: NormSilu) -> torch.Tensor:
    return F.silu(F.group_norm(x, GROUPS, layer.weight, layer.bias, layer.eps))


def test_gradients_are_those_of_finite_differences():
    layer = made(torch.float64)
    x = 3 + torch.randn(2, CHANNELS, 3, 5, dtype=torch.float64)

    def given(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x,))

    leaves = [x.requires_grad_(), *(p.detach().requires_grad_() for p in layer.parameters())]
    assert torch.autograd.gradcheck(given, leaves)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("width", [5, SMALL])
def test_bf16_is_float32_but_for_rounding(layout, width):
    layer = made()
    x = torch.randn(2, CHANNELS, 2, width).bfloat16().contiguous(memory_format=layout)
    gradient = torch.randn(2, CHANNELS, 2, width).bfloat16()
    found, wanted = (
        [drawn, *torch.autograd.grad(drawn, [leaf, *layer.parameters()], gradient.to(drawn.dtype))]
        for leaf, function in (
            (x.clone().requires_grad_(), layer),
            (x.float().requires_grad_(), lambda x: plainly(x, layer)),
        )
        for drawn in (function(leaf),)
    )
    assert found[0].dtype == torch.bfloat16
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.float() - theirs).abs().max() < 0.02 * theirs.abs().max()


def test_only_the_input_is_kept_for_the_way_back():
    layer, kept = made(), []
    x = torch.randn(2, CHANNELS, 4, 4).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert [t.data_ptr() for t in kept if t.shape == x.shape] == [x.data_ptr()]
