import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

import views
from measurement.gate import Gate, Measured, Slice
from measurement.interleave import Record
from measurement.results import JobResult
from measurement.simclr_views import ENTRIES, PEERS, Views, missing, run_pictures, run_sslkit, run_tensors
from measurement.view_share import cases, view_percent

TINY = Views(size=16, canvas=20, batch_size=4, num_images=8, cores=1)


def record(*rates: float) -> Record:
    return Record(slices=[Measured(round(rate), 1, 1.0, 0, 0) for rate in rates])


def test_the_faster_of_the_two_ways_counts() -> None:
    ways = {"torchvision, PIL": record(100, 200, 300), "torchvision, tensors": record(150, 150, 150)}
    result = JobResult("32 px", {"sslkit": record(1000, 1000, 1500), **ways})
    faster = views.over_per_image(result)
    assert faster is not None
    assert (faster.median, faster.min, faster.max) == (5, 5, 10)
    report = views.build_report({"32 px": result}, {"rounds": 3})
    assert report["over_per_image"]["32 px"]["median"] == 5
    assert report["sizes"]["32 px"]["sslkit"]["over_torchvision, tensors"]["max"] == 10
    assert views.over_per_image(JobResult("32 px", {"sslkit": record(1)})) is None


def test_what_is_not_installed_keeps_its_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("measurement.simclr_views.find_spec", lambda _: None)
    assert {name: bool(missing(name)) for name in ENTRIES} == {name: name in PEERS for name in ENTRIES}
    assert views.main(["--variant", "kornia", "--variant", "lightly", "--only", "32 px", "--json", str(tmp_path / "v.json")]) == 0
    assert "not installed: pip install kornia" in capsys.readouterr().out
    assert json.loads((tmp_path / "v.json").read_text())["sizes"]["32 px"]["lightly"]["problem"] == "not installed: pip install lightly"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_there_is_one_line(capsys: pytest.CaptureFixture) -> None:
    assert views.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "error: torch sees no CUDA device; allowed: --device cpu\n"


@pytest.mark.parametrize(
    "run", [run_sslkit, pytest.param(run_pictures, marks=pytest.mark.slow), pytest.param(run_tensors, marks=pytest.mark.slow)]
)
def test_batches_pass_the_gate(run) -> None:
    here, there = multiprocessing.Pipe()
    here.send(Slice(steps=3))
    here.close()
    with pytest.raises((SystemExit, BrokenPipeError)):  # nobody asks for more
        run(TINY, Gate(there))


def test_views_are_a_part_of_a_step() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert view_percent(TINY, network, steps=2, rounds=1) < 100
    shapes = {name: network(torch.zeros(2, 3, 32, 32)).shape for name, (_, network) in cases(TINY.device).items()}
    assert shapes == {"32 px, ResNet-18": (2, 128), "224 px, ResNet-50": (2, 128)}
