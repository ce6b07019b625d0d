import pytest

from sslkit import SGD, AdamW, OptionError, TrainingOptions


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


def test_numbers_must_be_positive():
    with pytest.raises(OptionError, match=r"^epochs: must be positive; found 0; allowed: 1 or more"):
        TrainingOptions(epochs=0)
    with pytest.raises(OptionError, match=r"^batch_size: must be positive; found 0; allowed: 1 or more images"):
        TrainingOptions(batch_size=0)
