import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import sslkit.kernels.batch_norm_relu as module
from sslkit.kernels.batch_norm_relu import BatchNormReLU, batch_norm_relu, describe_kernels, library
from sslkit.kernels.native import NativeBuildError

needs_kernels = pytest.mark.skipif(library() is None, reason=f"no compiled kernels here: {describe_kernels()}")

SHAPES = [
    (2, 3, 5, 7),  # nothing divides anything
    (4, 24, 8, 8),  # several pixels in a row of the kernel
    (3, 40, 9, 1),
    (2, 192, 16, 16),  # several slices and blocks
    (70, 1, 33, 3),  # one channel
    (1, 700, 1, 2),  # two values a channel
    (1, 4096, 3, 1),  # as wide as it gets
]


def make_input(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, mean: float = 3.0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + mean
    return x.to(dtype).to(memory_format=torch.channels_last)


def make_norm(num_chs: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(num_chs, eps=1e-3, momentum=0.3)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(num_chs, generator=generator) - 0.3)  # negative ones too
        norm.bias.copy_(torch.randn(num_chs, generator=generator))
    return norm


def naive(x: Tensor, norm: nn.BatchNorm2d, gradient: Tensor) -> dict:
    """Written out in float64, with autograd for the gradients."""
    x, weight, bias = (tensor.detach().double().requires_grad_() for tensor in (x, norm.weight, norm.bias))
    mean = x.mean(dim=(0, 2, 3))
    variance = (x - mean[:, None, None]).square().mean(dim=(0, 2, 3))
    normalised = (x - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
    z = normalised * weight[:, None, None] + bias[:, None, None]
    y = torch.where(z > 0, z, 0.0)
    y.backward(gradient.double())
    return {
        "y": y.detach(),
        "z": z.detach(),
        "dx": x.grad,
        "dweight": weight.grad,
        "dbias": bias.grad,
        "mean": 0.3 * mean.detach(),
        "var": 0.7 + 0.3 * variance.detach() * (x[:, 0].numel() / (x[:, 0].numel() - 1)),
    }


def ours(x: Tensor, norm: nn.BatchNorm2d, gradient: Tensor) -> dict:
    x = x.detach().requires_grad_()
    y = batch_norm_relu(x, norm)
    assert "BatchNormReLU" in type(y.grad_fn).__name__, "this was to be the fused operation"
    y.backward(gradient)
    found = {"y": y.detach(), "dx": x.grad, "dweight": norm.weight.grad, "dbias": norm.bias.grad}
    return {**found, "mean": norm.running_mean, "var": norm.running_var}


def make_gradient(z: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero where rounding decides on which side of the ReLU a value lies."""
    gradient = torch.randn(z.shape, generator=torch.Generator().manual_seed(3)) * (z.abs() > 1e-4)
    return gradient.to(dtype).to(memory_format=torch.channels_last)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
def test_float32_equals_the_formula_in_float64(shape: tuple[int, ...]):
    x, norm = make_input(shape), make_norm(shape[1])
    gradient = make_gradient(naive(x, norm, torch.zeros(shape))["z"], torch.float32)
    expected, found = naive(x, norm, gradient), ours(x, norm, gradient)
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=2e-5, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert norm.num_batches_tracked == 1


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_rounded_once(shape: tuple[int, ...]):
    x, norm = make_input(shape, torch.bfloat16), make_norm(shape[1])
    gradient = make_gradient(naive(x, norm, torch.zeros(shape))["z"], torch.bfloat16)
    expected, found = naive(x, norm, gradient), ours(x, norm, gradient)
    assert found["y"].dtype == found["dx"].dtype == torch.bfloat16
    for name in ("y", "dx"):
        torch.testing.assert_close(found[name].double(), expected[name], rtol=2**-8, atol=1e-5)
    for name in ("dweight", "dbias", "mean", "var"):
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), expected[name], rtol=2e-5, atol=2e-4)


@needs_kernels
def test_a_mean_far_from_zero_costs_no_digits_of_the_variance():
    x, norm = make_input((8, 16, 16, 16), mean=5000.0), make_norm(16)
    batch_norm_relu(x, norm)
    exact = x.double().var(dim=(0, 2, 3))
    torch.testing.assert_close((norm.running_var.double() - 0.7) / 0.3, exact, rtol=1e-5, atol=0)


@needs_kernels
@pytest.mark.parametrize("outlier", [300.0, 1e4])
def test_an_outlier_costs_no_digits_either(outlier: float):
    x, norm = make_input((16, 16, 32, 32), mean=0.0), make_norm(16)
    x[0, :, 0, 0] = outlier
    batch_norm_relu(x, norm)
    torch.testing.assert_close((norm.running_var.double() - 0.7) / 0.3, x.double().var(dim=(0, 2, 3)), rtol=1e-5, atol=0)


@needs_kernels
def test_whole_numbers_as_options_are_numbers_too():
    norm, plain = make_norm(4), make_norm(4)
    for one in (norm, plain):
        one.eps, one.momentum = 1, 1
    x = make_input((2, 4, 3, 3))
    torch.testing.assert_close(batch_norm_relu(x, norm), plain_operation(x, plain))
    torch.testing.assert_close(norm.running_var, plain.running_var)


@needs_kernels
def test_a_gradient_with_a_pending_sign_is_resolved():
    x, gradient = make_input((2, 24, 4, 4)), torch.randn(2, 24, 4, 4).to(memory_format=torch.channels_last)
    expected = ours(x, make_norm(24), -gradient)
    x.requires_grad_()
    batch_norm_relu(x, make_norm(24)).backward(torch._neg_view(gradient))
    assert torch.equal(x.grad, expected["dx"])


@needs_kernels
def test_a_constant_channel_becomes_its_bias():
    norm = make_norm(8)
    y = batch_norm_relu(torch.full((4, 8, 4, 4), 3.7).to(memory_format=torch.channels_last), norm)
    torch.testing.assert_close(y, norm.bias.detach().relu()[:, None, None].expand(4, 8, 4, 4))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_do_not_depend_on_the_number_of_threads(dtype: torch.dtype):
    x, threads = make_input((8, 48, 16, 16), dtype), torch.get_num_threads()
    gradient = torch.randn(x.shape).to(dtype)
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(ours(x, make_norm(48), gradient))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(other[name], value) for name, value in found[0].items())


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_is_seen(dtype: torch.dtype):
    x = make_input((2, 4, 3, 3), dtype)
    x[1, 2, 0, 0] = float("nan")
    y = batch_norm_relu(x, make_norm(4))
    assert y[:, 2].isnan().all()
    assert y[:, [0, 1, 3]].isfinite().all()


@needs_kernels
def test_a_gradient_in_any_layout_will_do():
    x = make_input((4, 24, 8, 8))
    expected = ours(x, make_norm(24), torch.full((4, 24, 8, 8), 1 / 64))
    found = ours(x, make_norm(24), torch.full((4, 24, 1, 1), 1 / 64).expand(4, 24, 8, 8))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@needs_kernels
@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_of_the_gradient_is_torchs(frozen: bool):
    def penalty(operation, x: Tensor) -> tuple[Tensor, ...]:
        x, norm = x.clone().requires_grad_(), make_norm(6)
        norm.weight.requires_grad_(not frozen)
        (dx,) = torch.autograd.grad(operation(x, norm).sigmoid().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), (x, norm.bias) if frozen else (x, norm.weight, norm.bias))

    x = make_input((4, 6, 5, 5))
    found = penalty(batch_norm_relu, x)
    expected = penalty(lambda x, norm: F.relu(norm(x)), x)
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-5)


@needs_kernels
def test_parameters_that_are_not_trained_and_no_gradient_at_all_will_do():
    x, norm = make_input((4, 24, 8, 8)), make_norm(24).requires_grad_(False)
    with torch.no_grad():
        expected = batch_norm_relu(x, norm)
    x.requires_grad_()
    y = batch_norm_relu(x, norm)
    y.sum().backward()
    assert torch.equal(y, expected)
    assert x.grad is not None
    assert norm.weight.grad is None


@needs_kernels
def test_the_input_stays_as_it_is_and_training_moves_only_what_it_should():
    x, norm = make_input((4, 24, 8, 8)), make_norm(24)
    before, state = x.clone(), copy.deepcopy(norm.state_dict())
    y = batch_norm_relu(x, norm)
    assert torch.equal(x, before)
    assert y.is_contiguous(memory_format=torch.channels_last)
    changed = {name for name, value in norm.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


# ----------------------------------------------------------------------------------------------------------- left to torch


def plain_operation(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return F.relu(norm(x))


@pytest.mark.parametrize(
    ("x", "change"),
    [
        (make_input((2, 4, 3, 3)), {"training": False}),
        (make_input((2, 4, 3, 3)), {"momentum": None}),
        (make_input((2, 4, 3, 3)).contiguous(), {}),
        (make_input((2, 4100, 1, 3)), {}),
    ],
    ids=["eval mode", "cumulative average", "contiguous", "too wide"],
)
def test_everything_else_is_left_to_torch(x: Tensor, change: dict):
    norms = [make_norm(x.shape[1]), make_norm(x.shape[1])]
    for norm in norms:
        for name, value in change.items():
            setattr(norm, name, value)
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = batch_norm_relu(x, norms[0])
    assert "BatchNormReLU" not in type(y.grad_fn).__name__
    assert torch.equal(y, plain_operation(x, norms[1]))
    for (name, value), other in zip(norms[0].state_dict().items(), norms[1].state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
@pytest.mark.parametrize("change", [lambda t: t.double(), lambda t: t.repeat(2)[::2], lambda t: t.to("meta"), lambda t: t.repeat(2)])
def test_numbers_that_c_could_not_read_are_left_to_torch(name: str, change: Callable[[Tensor], Tensor]):
    norm = make_norm(4)
    value = change(getattr(norm, name).detach())
    setattr(norm, name, nn.Parameter(value) if name in {"weight", "bias"} else value)
    assert not module._can_fuse(make_input((2, 4, 3, 3)), norm)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is (deprecated|not supported)", "ignore::torch.jit.TracerWarning")
def test_whoever_records_or_transforms_gets_torchs_operations():
    x, norm = make_input((2, 4, 3, 3)), make_norm(4)
    expected = plain_operation(x, make_norm(4))
    norm.requires_grad_(False)  # a tracer takes no constants that are trained
    traced = torch.jit.trace(lambda x: batch_norm_relu(x, norm), x, check_trace=False)
    torch.testing.assert_close(traced(x), expected.detach())
    graph = make_fx(lambda x: batch_norm_relu(x, norm))(x)
    torch.testing.assert_close(graph(x), expected.detach())
    seen = []
    torch.func.grad(lambda x: (seen.append(module._can_fuse(x, norm)), x.sum())[1])(x)
    assert seen == [False]
    assert not module._can_fuse(torch._neg_view(x), norm)
    with forward_ad.dual_level():
        assert not module._can_fuse(x, norm)


def test_without_affine_parameters_or_statistics_it_is_left_to_torch():
    x = make_input((2, 4, 3, 3))
    norm = nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    assert torch.equal(batch_norm_relu(x, norm), plain_operation(x, norm))


def test_one_value_a_channel_is_refused_as_torch_does():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        batch_norm_relu(make_input((1, 4, 1, 1)), make_norm(4))


def test_without_a_compiler_it_is_left_to_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_built", lambda: NativeBuildError("no C compiler"))
    x = make_input((2, 4, 3, 3)).requires_grad_()
    y = batch_norm_relu(x, make_norm(4))
    assert not isinstance(y.grad_fn, BatchNormReLU)
    assert torch.equal(y, plain_operation(x, make_norm(4)))
    assert describe_kernels() == "torch's (no C compiler)"


def test_a_compiled_network_leaves_it_to_the_compiler():
    norm = make_norm(4)
    x = make_input((2, 4, 3, 3))
    compiled = torch.compile(lambda x: batch_norm_relu(x, norm), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), plain_operation(x, make_norm(4)))
