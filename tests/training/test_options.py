from collections.abc import Callable
from functools import partial

import pytest

from sslkit import SGD, AdamW, Constant, Cosine, MultiStep, OnNan, OptionError, TrainingOptions


def test_one_optimizer_serves_every_phase():
    optimizer = SGD()
    training = TrainingOptions(optimizer=optimizer)
    found = training.optimizers_for(["main", "generator"])
    assert found["main"] is found["generator"] is optimizer


def test_optimizers_by_phase():
    training = TrainingOptions(optimizer={"discriminator": SGD(), "generator": AdamW()})
    assert training.optimizers_for(["generator", "discriminator"])["generator"] == AdamW()
    with pytest.raises(OptionError, match=r"^optimizer: no optimizer for phase 'main'; found \['discriminator', 'generator'\]"):
        training.optimizers_for(["main", "generator", "discriminator"])


def test_a_batch_fits_into_the_data():
    TrainingOptions(batch_size=100).check_batch_size(100)
    with pytest.raises(OptionError, match=r"^batch_size: is larger than the data \(99 images\); found 100; allowed: 1 to 99"):
        TrainingOptions(batch_size=100).check_batch_size(99)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TrainingOptions(epochs=0), r"epochs: must be positive; found 0; allowed: 1 or more$"),
        (lambda: TrainingOptions(batch_size=0), r"batch_size: must be positive; found 0; allowed: 1 or more images$"),
        (lambda: TrainingOptions(clip_grad_norm=0.0), r"clip_grad_norm: must be positive; found 0\.0"),
        (lambda: TrainingOptions(clip_grad_norm=-1.0), r"clip_grad_norm: must be positive; found -1\.0"),
        (lambda: OnNan(retries=-1), r"retries: must not be negative; found -1"),
        (lambda: OnNan(lr_factor=1.0), r"lr_factor: must lower the learning rate; found 1\.0; allowed: 0 < lr_factor < 1"),
        (lambda: OnNan(lr_factor=0.0), r"lr_factor: must lower"),
        (lambda: SGD(lr=0.0), r"lr: must be positive; found 0\.0; allowed: a number above 0"),
        (lambda: SGD(lr=-1.0), r"lr: must be positive; found -1\.0"),
        (lambda: SGD(weight_decay=-0.1), r"weight_decay: must not be negative; found -0\.1; allowed: 0 or more"),
        (lambda: SGD(momentum=1.0), r"momentum: is out of range; found 1\.0; allowed: 0 <= momentum < 1"),
        (lambda: SGD(momentum=-0.1), r"momentum: is out of range"),
        (lambda: SGD(momentum=0.0), r"nesterov: needs momentum; found True; set momentum above 0 or nesterov = false"),
        (lambda: AdamW(lr=0.0), r"lr: must be positive"),
        (lambda: AdamW(weight_decay=-0.1), r"weight_decay: must not be negative"),
        (lambda: AdamW(betas=(0.9, 1.0)), r"betas: are out of range; found \(0\.9, 1\.0\); allowed: 0 <= beta < 1"),
        (lambda: AdamW(betas=(-0.1, 0.9)), r"betas: are out of range"),
        (lambda: AdamW(eps=0.0), r"eps: must be positive; found 0\.0"),
        *(
            (lambda milestones=milestones: MultiStep(milestones=milestones), r"milestones: must increase and be positive; found \[")
            for milestones in ((60, 30), (30, 30), (0, 10), (-1,))
        ),
        *(
            (
                lambda gamma=gamma: MultiStep(milestones=(1,), gamma=gamma),
                rf"gamma: is out of range; found {gamma}; allowed: 0 < gamma <= 1",
            )
            for gamma in (0.0, -0.1, 1.5)
        ),
        *(
            (lambda final=final: Cosine(final=final), rf"final: is out of range; found {final}; allowed: 0 <= final <= 1")
            for final in (-0.1, 1.1)
        ),
        *(
            (lambda kind=kind: kind(warmup_epochs=-1), r"warmup_epochs: must not be negative; found -1; allowed: 0 or more epochs")
            for kind in (partial(MultiStep, milestones=(1,)), Cosine, Constant)
        ),
    ],
)
def test_a_wrong_option_is_refused_by_name(build: Callable[[], object], message: str):
    with pytest.raises(OptionError, match=f"^{message}"):
        build()
