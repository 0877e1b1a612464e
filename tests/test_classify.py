"""Errors of a network whose answers are known, against a loop over the images."""

import dataclasses

import pytest
import torch

from lpa_core.data import Dataset, build_preprocess
from lpa_core.networks import AttentionOutput, Network, build_network
from lpa_core.tasks.classify import predict, probabilities, top1_error
from lpa_core.training import Trained

CLASSES = ["red", "green", "blue", "grey"]


class Brightest(Network):
    """Its logits are the mean of each colour, and a constant for the fourth class."""

    image_size = 32

    def attend(self, images, query=None):
        means = images.mean(dim=(2, 3))
        return AttentionOutput(
            torch.cat([means, torch.full((len(means), 1), 0.55)], 1), means, means
        )


def trained():
    preprocess = build_preprocess("mean-std")  # unfitted: mean 0, deviation 1
    return Trained(Brightest().eval(), preprocess.eval(), CLASSES, {})


def some_data(count=37):
    random = torch.Generator().manual_seed(0)
    level = torch.randint(0, 200, (count, 1, 1, 3), generator=random)
    noise = torch.randint(0, 56, (count, 32, 32, 3), generator=random)
    labels = torch.randint(0, 4, (count,), generator=random)
    return Dataset((level + noise).to(torch.uint8), labels, CLASSES, None, "")


def answers(data):
    """The class of each image, by a loop."""
    found = []
    for image in data.images:
        means = [image[..., colour].double().mean().item() / 255 for colour in range(3)]
        logits = [*means, 0.55]
        found.append(logits.index(max(logits)))
    return found


def test_predictions_are_those_of_each_image_alone():
    data = some_data()
    assert predict(trained(), data.images).tolist() == answers(data)
    assert len(set(answers(data))) == 4


def test_top1_error_is_the_share_that_is_wrong():
    data = some_data()
    wrong = sum(a != b for a, b in zip(answers(data), data.labels.tolist(), strict=True))
    assert 0 < wrong < len(data)
    assert top1_error(trained(), data) == pytest.approx(100 * wrong / len(data))


@pytest.mark.parametrize("batch_size", [1, 10, 37, 1000])
def test_probabilities_do_not_depend_on_the_batch(batch_size):
    data = some_data()
    found = probabilities(trained(), data.images, batch_size)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(37))
    torch.testing.assert_close(found, probabilities(trained(), data.images))
    logits = Brightest().attend(data.images.permute(0, 3, 1, 2) / 255).logits
    torch.testing.assert_close(found, logits.softmax(dim=1))


def test_images_are_resized_to_what_the_network_takes():
    data = some_data(3)
    large = data.images.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
    network = build_network("vgg-att-dp", num_classes=4, width=1 / 32).eval()
    preprocess = build_preprocess("mean-std").eval()
    seen = Trained(network, preprocess, CLASSES, {}).attend(large)
    assert seen.maps["layer13"].shape == (3, 8, 8)


@pytest.mark.parametrize("classes", [CLASSES[:3], ["a", "b", "c", "d"], CLASSES[::-1]])
def test_data_of_other_classes_is_refused(classes):
    data = dataclasses.replace(some_data(), labels=torch.zeros(37).long(), classes=classes)
    said = rf"knows 4 classes \(red, green, blue, …\), but the data has {len(classes)}"
    with pytest.raises(ValueError, match=said):
        top1_error(trained(), data)
