"""Numbers for maps, against sums by hand; and what each level of a network looks at."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from scipy.stats import pearsonr

from lpa_core import build_network
from lpa_core.data import Dataset, build_preprocess, load
from lpa_core.maps import density_on, diversity, entropy, similarity
from lpa_core.tasks.levels import all_maps, describe_levels
from lpa_core.training import Trained


def maps_of(count=5, height=4, width=6):
    return torch.rand(count, height, width) ** 3


# ------------------------------------------------------------------------------- numbers


def test_entropy_is_scipys_over_that_of_the_uniform_map():
    maps = maps_of()
    wanted = [scipy_entropy(m.flatten()) / math.log(24) for m in maps.double().numpy()]
    assert entropy(maps).tolist() == pytest.approx(wanted)
    assert entropy(3 * maps).tolist() == pytest.approx(wanted)  # it need not sum to one


def test_a_flat_map_has_entropy_one_and_a_single_position_none():
    single = torch.zeros(4, 4)
    single[1, 2] = 1
    found = entropy(torch.stack([torch.full((4, 4), 0.3), single]))
    assert found.tolist() == pytest.approx([1, 0])


def test_diversity_of_two_maps_is_their_jensen_shannon_divergence():
    a, b = maps_of(2).double()
    wanted = jensenshannon(a.flatten(), b.flatten()) ** 2 / math.log(24)
    assert diversity(torch.stack([a, b])) == pytest.approx(wanted)


def test_diversity_is_never_below_zero_by_rounding():
    one_map_each = torch.rand(50, 1, 5, 5).expand(-1, 7, -1, -1)
    found = [diversity(maps) for maps in one_map_each]
    assert min(found) >= 0 and max(found) < 1e-6


def test_diversity_runs_from_one_map_for_all_to_each_image_its_own_position():
    assert diversity(maps_of(1).repeat(7, 1, 1)) == pytest.approx(0, abs=1e-12)
    assert diversity(torch.eye(16).view(16, 4, 4)) == pytest.approx(1)


@pytest.mark.parametrize(
    "maps", [torch.zeros(1, 2, 2), torch.tensor([[[1.0, -0.1]]]), torch.ones(3, 1, 1)]
)
def test_what_is_no_distribution_is_refused(maps):
    with pytest.raises(ValueError, match="a map with one position|at least 0 everywhere"):
        entropy(maps)


def test_density_is_the_share_of_attention_over_the_share_of_the_image():
    maps = torch.full((3, 8, 8), 0.1)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :2, :4] = True
    masks[1, 3, 3] = True
    maps[1, 3, 3] = 6.4 - 6.3 + 2  # so that it holds 2.1 of 8.4, a quarter
    maps[1] = maps[1] / maps[1].sum()
    found = density_on(maps, masks)
    assert found[:2].tolist() == pytest.approx([1, 0.25 * 64], rel=1e-5)
    assert found[2].isnan()


def test_similarity_is_pearsons_correlation():
    maps, others = maps_of(), maps_of()
    wanted = [
        pearsonr(a.flatten(), b.flatten()).statistic
        for a, b in zip(maps.double().numpy(), others.double().numpy(), strict=True)
    ]
    assert similarity(maps, others).tolist() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="resize them to one size first"):
        similarity(maps, others[:, :2])


# --------------------------------------------------------------------------- the levels


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(1)
    net = build_network("vgg-att2-concat-dp", num_classes=10, width=1 / 32).eval()
    return Trained(net, build_preprocess("mean-std"), [str(i) for i in range(10)], {})


@pytest.fixture(scope="module")
def some():
    return load("embedded", "test").take(torch.arange(0, 2000, 100))


def test_levels_are_described_by_their_maps(trained, some):
    table = describe_levels(trained, some, batch_size=7, progress=False)
    assert table[["kind", "layer", "positions"]].values.tolist() == [
        ["attention", "layer10", 256],
        ["attention", "layer13", 64],
        ["activation", "layer10", 256],
        ["activation", "layer13", 64],
    ]
    maps = trained.attend(some.images).maps["layer13"]
    row = table.iloc[1]
    each = entropy(maps)
    assert row["entropy"] == pytest.approx(each.mean().item(), rel=1e-5)
    assert row["entropy sem"] == pytest.approx(each.std().item() / 20**0.5, rel=1e-3)
    assert row["diversity"] == pytest.approx(diversity(maps), abs=1e-6)
    density = density_on(maps, some.masks)
    assert row["density"] == pytest.approx(density.mean().item(), rel=1e-4)
    both = all_maps(trained, some.images, progress=False)
    like = similarity(both["attention", "layer13"], both["activation", "layer13"])
    assert row["likeness"] == pytest.approx(like.mean().item(), rel=1e-4)
    assert np.isnan(table.iloc[3]["likeness"])


def test_images_without_masks_have_no_density_and_empty_masks_do_not_count(trained, some):
    plain = Dataset(some.images, some.labels, some.classes, None, "")
    assert "density" not in describe_levels(trained, plain, progress=False)
    masks = some.masks.clone()
    masks[5:] = False
    five = describe_levels(
        trained, Dataset(some.images, some.labels, some.classes, masks, ""), progress=False
    )
    first = describe_levels(trained, some.take(torch.arange(5)), progress=False)
    assert five["density"].tolist() == pytest.approx(first["density"].tolist(), rel=1e-5)


def test_a_network_without_attention_and_no_images_are_refused(trained, some):
    plain = Trained(
        build_network("vgg", num_classes=10, width=1 / 32).eval(),
        trained.preprocess, trained.classes, {},
    )  # fmt: skip
    with pytest.raises(ValueError, match="no attention, so it has no levels"):
        all_maps(plain, some.images, progress=False)
    with pytest.raises(ValueError, match="no images to look at"):
        all_maps(trained, some.images[:0], progress=False)
    with pytest.raises(ValueError, match="batch_size 0: give at least 1"):
        all_maps(trained, some.images, 0, progress=False)
