# SPDX-License-Identifier: Apache-2.0

"""Linear probe of few_labels.py: how well do frozen features segment, before any fine-tuning?

A linear classifier reads the feature maps of all levels of encoder and decoder. It alone is trained, on one crop of
each labelled patient. What it reaches on pre-trained features and on those of new weights tells what pre-training
learnt for the task (Alain and Bengio, arXiv 1610.01644).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from few_labels_patients import StudyError
from monai.bundle import ConfigParser
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from monai.transforms import Compose, ResizeWithPadOrCropd, SpatialCropd
from monai.utils import set_determinism
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, linear

from hybridmim_components.networks.backbones import backbone_of
from hybridmim_components.networks.execution import outermost

__all__ = ["LinearClassifier", "best_penalty", "feature_maps", "labelled_crops", "probe_dice", "read_train"]

PENALTIES, ITERATIONS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3), 60
Case = Mapping[str, Any]


def feature_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the maps (B, C_i, *spatial_i) of the encoder's levels and of the blocks that run in the decoder.

    Args:
        network: a stock network that :func:`.backbone_of` knows.
        images: (B, C, *spatial).

    Example:
        >>> len(feature_maps(BasicUNet(features=(4, 4, 4, 4, 4, 4)), torch.rand(1, 1, 32, 32, 32)))
        9
    """
    backbone, maps = backbone_of(network), []
    with torch.no_grad():
        features = backbone.encode(network, images)
        hooks = [
            block.register_forward_hook(lambda *call: maps.append(call[-1]))
            for block in outermost(network, backbone.blocks)
        ]
        try:
            backbone.decode(network, features)
        finally:
            for hook in hooks:
                hook.remove()
    return [*features, *maps]


class LinearClassifier:
    """Linear classifier of voxels by feature maps, with a penalty on its squared weights.

    The features are standardized. In the loss, a cross-entropy, all classes weigh the same.

    Args:
        maps: maps of the labelled crops, level by level, each (B, C_i, *spatial_i).
        labels: classes (B, *spatial).
        classes: number of classes.
        penalty: factor of the sum of the squared weights.
    """

    def __init__(self, maps: Sequence[Tensor], labels: Tensor, classes: int, penalty: float) -> None:
        voxels = [level.movedim(1, -1).flatten(0, -2) for level in maps]
        self.means = [values.mean(0) for values in voxels]
        self.scales = [values.std(0) + 1e-4 for values in voxels]
        self.weights = [torch.zeros(classes, values.shape[1], requires_grad=True) for values in voxels]
        self.bias = torch.zeros(classes, requires_grad=True)
        parameters = [*self.weights, self.bias]
        optimizer = torch.optim.LBFGS(parameters, max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")
        rarity = 1 / labels.flatten().bincount(minlength=classes).clamp_min(1)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(self(maps, labels.shape[1:]), labels, rarity)
            loss = loss + penalty * sum(weight.square().sum() for weight in self.weights)
            loss.backward()
            return loss

        optimizer.step(closure)
        for parameter in parameters:
            parameter.requires_grad_(False)

    def __call__(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return logits (B, classes, *size). Maps are classified before they are upsampled, which is the same."""
        logits = self.bias.view(1, -1, *[1] * len(size))
        for level, mean, scale, weight in zip(maps, self.means, self.scales, self.weights, strict=True):
            own = linear((level.movedim(1, -1) - mean) / scale, weight).movedim(-1, 1)
            logits = logits + interpolate(own, list(size), mode="trilinear")
        return logits


def read_train(path: Path, overrides: Mapping[str, Any]) -> ConfigParser:
    """Return a bundle's train.json with overrides."""
    parser = ConfigParser()
    parser.read_config(str(path))
    parser.update(dict(overrides))
    return parser


def labelled_crops(train: ConfigParser) -> tuple[Tensor, Tensor]:
    """Return a crop of each training case, images (B, C, *spatial) and classes (B, *spatial).

    It lies around the labelled voxel that is nearest to the mean of all labelled voxels.

    Raises:
        StudyError: when classes overlap, so that a voxel has several, or when a label is empty.
    """
    preprocess = Compose(train.get_parsed_content("deterministic_transforms"))
    roi_size, keys = train.get_parsed_content("roi_size"), ("image", "label")
    images, labels = [], []
    for case in train.get_parsed_content("train#dataset#data"):
        item = preprocess(dict(case))
        if len(item["label"]) > 1:
            raise StudyError(f"probe needs one class for each voxel, got a label of {len(item['label'])} channels")
        labelled = (item["label"].as_tensor()[0] > 0).nonzero().float()
        if not len(labelled):
            raise StudyError(f"probe needs a label in each labelled case, got none in {case['label']}")
        centre = labelled[(labelled - labelled.mean(0)).square().sum(1).argmin()].int().tolist()
        crop = Compose([SpatialCropd(keys, centre, roi_size), ResizeWithPadOrCropd(keys, roi_size)])(item)
        images.append(crop["image"].as_tensor())
        labels.append(crop["label"].as_tensor()[0].long())
    return torch.stack(images), torch.stack(labels)


def probe_dice(
    train: Path, overrides: Mapping[str, Any], tuning: Sequence[Case], scored: Mapping[str, Sequence[Case]]
) -> list[float]:
    """Fit a classifier to the training cases of a bundle's train.json; return the Dice of each patient.

    Weights, preprocessing and sliding window are those of train.json. The penalty is chosen by the Dice of the tuning
    cases. A class that the truth of a case lacks is left out, and so is a patient without any.

    Args:
        train: train.json.
        overrides: its overrides, with the training cases and the pre-trained weights.
        tuning: cases that choose the penalty.
        scored: the cases of each patient to score.

    Raises:
        StudyError: see :func:`labelled_crops`, or when no tuning case has a label.
    """
    parser = read_train(train, overrides)
    set_determinism(parser.get_parsed_content("seed"))
    network = parser.get_parsed_content("network_def").eval()
    if overrides["pretrained"]:
        parser.get_parsed_content("pretrained_report")
    preprocess = Compose(parser.get_parsed_content("deterministic_transforms"))
    images, labels = labelled_crops(parser)
    inferer, classes = (parser.get_parsed_content(name) for name in ("validate#inferer", "num_classes"))
    maps = feature_maps(network, images)
    fitted = [LinearClassifier(maps, labels, classes, penalty) for penalty in PENALTIES]

    def dice(case: Case, classifiers: Sequence[LinearClassifier]) -> list[float]:
        item = preprocess(dict(case))

        def logits(windows: Tensor) -> Tensor:
            found = feature_maps(network, windows)
            return torch.cat([classifier(found, windows.shape[2:]) for classifier in classifiers], 1)

        truth = one_hot(item["label"].as_tensor()[None], classes)
        answers = inferer(item["image"].as_tensor()[None], logits)[0].split(classes)
        masks = [one_hot(answer.argmax(0)[None, None], classes) for answer in answers]
        return [float(compute_dice(mask, truth, include_background=False).nanmean()) for mask in masks]

    best = fitted[best_penalty([dice(case, fitted) for case in tuning])]
    found = [[value for case in cases if not isnan(value := dice(case, [best])[0])] for cases in scored.values()]
    return [fmean(values) for values in found if values]


def best_penalty(scores: Sequence[Sequence[float]]) -> int:
    """Return the place of the best penalty, by the mean Dice of cases (rows) for each penalty (columns)."""
    means = torch.tensor(scores).nanmean(0)
    if means.isnan().any():
        raise StudyError("probe needs a label in some tuning case, got none")
    best = int(means.argmax())
    print(f"Dice of the tuning cases by penalty: {dict(zip(PENALTIES, means.tolist(), strict=True))}")
    if best in (0, len(means) - 1):
        print(f"The best penalty, {PENALTIES[best]}, is at an end of the list: PENALTIES needs others beyond it")
    return best
