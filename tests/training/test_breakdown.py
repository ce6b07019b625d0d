import pytest
import torch

from sslkit import RunFailedError
from sslkit.training.device import explaining_breakdown

CUDA = torch.device("cuda")
WORK = "stage 'probe' (batch_size 512, images of 32 x 32 pixels)"

OUT_OF_MEMORY = (
    f"out of memory on cuda in {WORK}; lower batch_size or image_size, or take a smaller backbone; checkpoints are kept",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
NOT_DETERMINISTIC = (
    f"adaptive_avg_pool2d_backward_cuda has no deterministic kernel on cuda, in {WORK}; set deterministic = false there",
    [
        RuntimeError(
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set"
            " 'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation"
        )
    ],
)
TOO_LATE = (
    f"deterministic matrix products are not available on cuda any more, in {WORK}: this process has multiplied there before;"
    " set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment",
    [
        RuntimeError(
            "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or"
            " `at::Context::setDeterministicAlgorithms(true)`, but this operation is not deterministic because it uses CuBLAS and you have"
            " CUDA >= 10.2. To enable deterministic behavior in this case, you must set an environment variable before running your"
            " PyTorch application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or CUBLAS_WORKSPACE_CONFIG=:16:8."
        )
    ],
)
FAILED = (
    f'cuda failed in {WORK}: device-side assert triggered; often an index or a label out of range, which device = "cpu" names;'
    " checkpoints are kept",
    [RuntimeError("CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in https://docs.nvidia.com")],
)
TOO_FEW = (
    f"BatchNorm cannot normalise one value per channel in {WORK}; raise batch_size to 2 or more",
    [ValueError("Expected more than 1 value per channel when training, got input size torch.Size([1, 200])")],
)
WORKER_DIED = (  # torch raises it out of its handler of SIGCHLD, in the middle of anything: of ``backward()``, for one
    f"a process of a torch DataLoader died, which the system ends when memory is short, in {WORK};"
    " the same command resumes from the last checkpoint; lower the number of workers if it happens again",
    [RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")],
)
KINDS = (OUT_OF_MEMORY, NOT_DETERMINISTIC, TOO_LATE, FAILED, TOO_FEW, WORKER_DIED)
CASES = [(error, message) for message, errors in KINDS for error in errors]


@pytest.mark.parametrize(("error", "message"), CASES, ids=[str(error)[:40] for error, _ in CASES])
def test_what_a_device_broke_down_on_is_one_line(error: Exception, message: str):
    with pytest.raises(RunFailedError) as raised, explaining_breakdown(WORK, CUDA):
        raise error
    assert str(raised.value) == message
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")])
def test_other_errors_pass(error: Exception):
    with pytest.raises(type(error)) as raised, explaining_breakdown(WORK, CUDA):
        raise error
    assert raised.value is error
