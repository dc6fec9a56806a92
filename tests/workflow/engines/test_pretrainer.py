# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.networks.nets import BasicUNet
from torch.utils._python_dispatch import TorchDispatchMode

from hybridmim_components.method import HybridMIM
from hybridmim_components.method.losses import LOSS_TERMS, HybridMIMLoss, guessing, location_loss, number_loss
from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask
from hybridmim_components.method.partial_region import full_region
from hybridmim_components.weights import read_weights
from hybridmim_components.workflow.engines import (
    FixedMaskBatch,
    HybridMIMTrainer,
    MaskedBatch,
    loss_metric,
    lower_is_better,
    masked_error_metric,
    perception_figures,
    term_metrics,
    unchanged_share,
    validation_metrics,
)
from hybridmim_components.workflow.handlers import BestWeights, History, ReconstructionPreview

GRID = MaskGrid(32, 16, 8)
GUESSES = guessing(GRID, 0.4, "hierarchical", 2)
ACCURACIES = ("number_accuracy", "number_within_one", "location_accuracy")


def crops(count: int = 4, offset: float = 0.0) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(1, 32, 32, 32, generator=generator) + offset, "volume": i} for i in range(count)]


def model() -> HybridMIM:
    torch.manual_seed(0)
    return HybridMIM(BasicUNet(features=(4, 4, 8, 8, 16, 4), dropout=0.1), GRID, mask_fill="zero")


def trainer(network: HybridMIM, data: list[dict[str, Any]], **kwargs: Any) -> HybridMIMTrainer:
    arguments: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 2,
        "train_data_loader": DataLoader(Dataset(data), batch_size=2),
        "network": network,
        "optimizer": torch.optim.AdamW(network.parameters(), lr=1e-3),
        "loss_function": HybridMIMLoss(),
        "prepare_batch": MaskedBatch(GRID),
        "key_train_metric": loss_metric(),
        "additional_metrics": term_metrics(HybridMIMLoss(), GUESSES),
        "metric_cmp_fn": lower_is_better,
    }
    return HybridMIMTrainer(**{**arguments, **kwargs})


def test_one_epoch_reports_every_term_and_moves_the_weights(tmp_path) -> None:
    network = model()
    before = {n: p.clone() for n, p in network.named_parameters()}
    history = History(tmp_path / "training.csv")
    engine = trainer(network, crops(), train_handlers=[history])
    engine.run()
    metrics = {name: float(value) for name, value in engine.state.metrics.items()}
    shares = {f"{name}_share" for name in LOSS_TERMS}
    assert set(metrics) == {"train_loss", "unchanged", *LOSS_TERMS, *shares, *ACCURACIES}
    for name in LOSS_TERMS[1:]:
        assert metrics[f"{name}_share"] == pytest.approx(metrics[name] / GUESSES[name], rel=1e-5)
    weights = (1.0, 0.1, 0.1, 0.01, 0.1)
    total = sum(w * metrics[name] for w, name in zip(weights, LOSS_TERMS, strict=True))
    assert metrics["train_loss"] == pytest.approx(total, rel=1e-4)
    moved = {n for n, p in network.named_parameters() if not torch.equal(p, before[n])}
    assert {"network.conv_0.conv_0.conv.weight", "network.upcat_1.convs.conv_1.conv.weight"} <= moved
    assert not any(n.startswith("network.final_conv") for n in moved)
    # as MONAI's MLFlowHandler takes the loss from an output
    assert from_engine(["loss"], first=True)(engine.state.output).ndim == 0
    lines = (tmp_path / "training.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("epoch,iteration,train_loss")


def test_images_outside_0_to_1_are_refused_for_a_sigmoid() -> None:
    with pytest.raises(ValueError, match=r"output_activation sigmoid needs images in 0\.\.1, got"):
        trainer(model(), crops(offset=1.0)).run()


class Looks(TorchDispatchMode):
    """Operations that need a value, or a count of values, on the host: each would wait for a GPU."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or name in self.WAITING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_looks_at_no_value() -> None:
    """From the second on; the first checks the images' range."""
    network, loss, prepare = model(), HybridMIMLoss(), MaskedBatch(GRID)
    for _ in range(2):
        image = torch.rand(2, 1, *GRID.image_size)
        _, targets, arguments, _ = prepare({"image": image, "volume": torch.arange(2)}, torch.device("cpu"))
        with Looks() as looks:
            loss(network(image, *arguments), **targets)["loss"].backward()
    assert not looks.found
    with Looks() as looks:
        bool(image.sum() > 0)
    assert looks.found == ["_local_scalar_dense"], "the test itself can see one"


def test_masks_differ_between_batches_and_follow_the_seed() -> None:
    batch = {"image": MetaTensor(torch.rand(2, 1, 32, 32, 32)), "volume": torch.tensor([0, 1])}
    prepare, again = (MaskedBatch(GRID, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    first, second = prepare(batch), prepare(batch)
    assert not isinstance(first[0], MetaTensor)
    assert not torch.equal(first[1]["mask"], second[1]["mask"])
    assert torch.equal(first[1]["mask"], again(batch)[1]["mask"])
    assert not torch.equal(
        first[1]["mask"], MaskedBatch(GRID, generator=torch.Generator().manual_seed(4))(batch)[1]["mask"]
    )


def test_validation_masks_are_fixed_for_each_volume() -> None:
    prepare = FixedMaskBatch(GRID)
    image = torch.rand(2, 1, 32, 32, 32)
    first = prepare({"image": image, "volume": torch.tensor([4, 9])})[1]
    later = prepare({"image": image, "volume": torch.tensor([9, 4])})[1]
    assert torch.equal(first["mask"], later["mask"].flip(0))
    assert not torch.equal(first["mask"][0], first["mask"][1])
    assert first["region"] == full_region(GRID)


@pytest.mark.parametrize(
    "wrong", [{"mask_ratio": 2.0}, {"mask_strategy": "x"}, {"region": "x"}], ids=lambda w: next(iter(w))
)
def test_wrong_settings_are_found_before_the_first_batch(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        MaskedBatch(GRID, **wrong)


@pytest.mark.parametrize("dims", [2, 3])
def test_unchanged_share_counts_masked_patches_that_look_as_before(dims: int) -> None:
    grid = MaskGrid((32,) * dims, 16, 8)
    image = torch.rand(1, 1, *grid.image_size) + 0.1
    mask = sample_mask(grid, 1, generator=torch.Generator().manual_seed(0))
    hidden = expand_mask(mask, grid)

    def share(image: torch.Tensor, **kwargs: float) -> float:
        return float(unchanged_share(image, image.masked_fill(hidden, 0), mask, grid, **kwargs))

    assert share(image) == 0
    assert share(image.masked_fill(hidden, 0.04)) == 1 and share(image.masked_fill(hidden, 0.06)) == 0
    assert share(image.masked_fill(hidden, 0.06), tolerance=0.1) == 1
    # one voxel that changes is enough, and visible patches do not count
    first = tuple(hidden.nonzero()[0])
    changed = image.masked_fill(hidden, 0)
    changed[first] = 1
    assert share(changed) == pytest.approx(1 - 1 / int(mask.sum()))


def test_a_fill_outside_the_images_range_leaves_no_patch_unchanged() -> None:
    """Where air and tissue are 0, the released fill hides a mask in them."""
    image = torch.zeros(1, 1, *GRID.image_size)
    mask = sample_mask(GRID, 1, generator=torch.Generator().manual_seed(0))
    for fill, share in (("zero", 1), ("constant", 0)):
        network = HybridMIM(BasicUNet(features=(4, 4, 4, 4, 4, 4)), GRID, mask_fill=fill, contrast=False)
        assert unchanged_share(image, network.apply_mask(image, mask), mask, GRID) == share


def test_terms_without_a_weight_are_not_reported() -> None:
    """A column of zeros would look like a term that is learned perfectly."""
    found = set(term_metrics(HybridMIMLoss(1, 0, 0, 0, 0.1), GUESSES))
    assert found == {"partial_region", "partial_region_share", "contrast", "contrast_share", "unchanged"}
    assert set(validation_metrics(HybridMIMLoss(1, 0, 0, 0, 0.1), GUESSES)) == {"val_masked_error_share"}
    assert set(ACCURACIES) <= set(term_metrics(HybridMIMLoss(0, 0, 0, 1, 0), GUESSES))


def test_perception_figures_need_the_heads() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    assert perception_figures({"masked": torch.zeros(1)}, mask) == {}
    number = torch.nn.functional.one_hot(torch.full((1, 8), 1), 9).float()
    figures = perception_figures({"number": number, "location": torch.full((1, 8, 8), -1.0)}, mask)
    assert {name: float(value) for name, value in figures.items()} == {
        "number_accuracy": 0,
        "number_within_one": 1,
        "location_accuracy": 0.5,
    }


def test_validation_measures_masked_voxels_keeps_the_best_and_draws(tmp_path) -> None:
    network = model()
    data = crops(3)
    best = BestWeights(network.network, tmp_path / "model.pt", {"spacing": [1, 1, 1]})
    engine = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=network,
        prepare_batch=FixedMaskBatch(GRID),
        key_val_metric=masked_error_metric(),
        additional_metrics=validation_metrics(HybridMIMLoss(), GUESSES),
        metric_cmp_fn=lower_is_better,
        val_handlers=[History(tmp_path / "validation.csv"), best, ReconstructionPreview(tmp_path / "previews")],
        decollate=False,
    )
    engine.run(1)
    errors, guessed, numbers, locations = [], [], [], []
    with torch.no_grad():
        for item in data:
            image, targets, arguments, _ = FixedMaskBatch(GRID)(
                {"image": item["image"][None], "volume": torch.tensor([item["volume"]])}
            )
            output, hidden = network.eval()(image, *arguments), expand_mask(targets["mask"], GRID)
            errors.append((output["reconstruction"] - image)[hidden].square().mean().item())
            guessed.append((image[~hidden].mean() - image)[hidden].square().mean().item())
            numbers.append(number_loss(output["number"], targets["mask"]).item())
            locations.append(location_loss(output["location"], targets["mask"]).item())
    expected = {
        "val_masked_error": sum(errors) / 3,
        "val_masked_error_share": sum(errors) / sum(guessed),
        "val_number": sum(numbers) / 3,
        "val_number_share": sum(numbers) / 3 / GUESSES["number"],
        "val_location": sum(locations) / 3,
        "val_location_share": sum(locations) / 3 / GUESSES["location"],
    }
    metrics = {name: float(value) for name, value in engine.state.metrics.items()}
    assert set(metrics) == set(expected) | {f"val_{name}" for name in ACCURACIES}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    with open(tmp_path / "validation.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert {name: float(row[name]) for name in metrics} == pytest.approx(metrics)
    state, recipe = read_weights(tmp_path / "model.pt")
    assert set(state) == set(network.network.state_dict())
    assert recipe["spacing"] == [1, 1, 1] and recipe["best"]["epoch"] == 1
    with torch.no_grad():
        network.reconstruction_head.bias.fill_(9)
    engine.run(2)
    assert read_weights(tmp_path / "model.pt")[1]["best"]["epoch"] == 1
    names = sorted(p.name for p in (tmp_path / "previews").iterdir())
    assert names == ["epoch_0001.png", "epoch_0002.png"]
