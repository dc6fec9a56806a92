# SPDX-License-Identifier: Apache-2.0

"""Command line: ``python -m hybridmim_components COMMAND``; training and inference are ``python -m monai.bundle``."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import fire

from hybridmim_components.data.case_table import case_rows, format_row
from hybridmim_components.data.download import download_msd
from hybridmim_components.data.volumes import quieten_readers
from hybridmim_components.deployment import export
from hybridmim_components.nnunet import convert_to_dynunet, pretrain, read_plan, training_command
from hybridmim_components.phantoms import write_phantoms
from hybridmim_components.report import draw_overview, summary, write_report
from hybridmim_components.store import StoreSettings, prepare_store
from hybridmim_components.weights.hub import pull, push

__all__ = ["main"]


def download(
    task: str, output_dir: str, url: str | None = None, md5: str | None = None, sha256: str | None = None
) -> str:
    """Download a task of the Medical Segmentation Decathlon, or continue a partial download, then verify and unpack it.

    Args:
        task: such as Task09_Spleen, or msd_spleen.
        output_dir: folder in which the task's folder is created.
        url: another source of the same archive.
        md5: checksum of the archive; default: that of MSD's publishers.
        sha256: checksum that is checked instead of the md5 that MSD's publishers give.
    """
    return str(download_msd(task, output_dir, url, md5, sha256))


def phantoms(
    output_dir: str,
    dataset: str = "msd_spleen",
    num_training: int = 20,
    num_test: int = 2,
    num_unlabelled: int = 8,
    seed: int = 0,
) -> str:
    """Write phantoms in the layout of a data set, and unlabelled ones; print dataset_dir, image_dir, unlabelled_dirs.

    Args:
        output_dir: folder that they are written to.
        dataset: brats2020, btcv, msd_hippocampus, msd_liver or msd_spleen.
        num_training: labelled cases.
        num_test: cases without labels, to infer on.
        num_unlabelled: cases in the folder for pre-training.
        seed: seed of everything.
    """
    folders = write_phantoms(dataset, output_dir, num_training, num_test, num_unlabelled, seed)
    return "\n".join(str(folder) for folder in folders)


def check(dataset: str, dataset_dir: str, modalities: list | None = None, num_workers: int = 2) -> None:
    """Print a table of the labelled cases with a verdict on each; end with status 1 if one of them cannot be used.

    If a case is unusual, for example in its spacing, the verdict names the value and the usual range.

    Args:
        dataset: brats2020, btcv, msd_hippocampus, msd_liver, msd_spleen, or msd_NAME for another task of MSD.
        dataset_dir: folder of the unpacked download.
        modalities: for brats2020, the sequences to use, such as "['flair','t1ce']".
        num_workers: threads that read.
    """
    print(format_row())
    wrong = unusual = total = 0
    for row in case_rows(dataset, dataset_dir, modalities, num_workers):
        print(format_row(row), flush=True)
        total, wrong, unusual = total + 1, wrong + bool(row.problem), unusual + bool(row.doubts)
    if wrong:
        raise ValueError(f"{wrong} of {total} row(s) cannot be used, see the verdicts above")
    if unusual:
        print(f"{total} row(s) can be used, {unusual} of them are unusual: look at the verdicts above")
    else:
        print(f"all {total} cases can be used")


def prepare(
    images: str | list,
    store: str,
    spacing: list | None = None,
    intensity_range: list | None = None,
    modalities: list | None = None,
    clip_percentiles: list | None = None,
    num_workers: int = 2,
    skip_unreadable: bool = False,
    verify: bool = False,
    part: str | None = None,
) -> str:
    """Pre-process volumes once, for pre-training with `--cache store --store STORE`; a second call does what is left.

    Use the same spacing and intensity_range, modalities or clip_percentiles as at the top of the run's pretrain.json.

    Args:
        images: folder, or list of folders such as "['/scans/a','/scans/b']", that hold the volumes.
        store: folder, or fsspec URL such as s3://bucket/store, to write the store to.
        spacing: mm; default: 1.5, 1.5 and 2 for CT, 1 for MRI.
        intensity_range: for CT, in HU; default: -175 to 250.
        modalities: for MRI, such as "['flair','t1','t1ce','t2']"; makes it a store of MRI.
        clip_percentiles: for MRI with one channel, such as "[0.5,99.5]"; makes it a store of such MRI.
        num_workers: number of processes.
        skip_unreadable: leave out volumes that cannot be used, instead of ending with an error that names them.
        verify: compare the volumes in the store with their checksums, and repair them.
        part: such as 2/4, the second of four shares that four machines prepare; then run it once without part.
    """
    if modalities is None and clip_percentiles is None:
        settings = StoreSettings(spacing or (1.5, 1.5, 2.0), intensity_range or (-175, 250))
    else:
        settings = StoreSettings(spacing or (1.0, 1.0, 1.0), intensity_range, modalities, clip_percentiles)
    number = prepare_store(images, store, settings, num_workers, skip_unreadable, verify, part)
    return f"{number} volume(s) in {f'part {part} of ' if part else ''}{store}"


def overview(
    run_dir: str,
    dataset_dir: str,
    dataset: str = "msd_spleen",
    window: tuple | None = None,
    title: str = "",
    modalities: list | None = None,
) -> str:
    """Draw overview.png of a run and print its table.

    Args:
        run_dir: folder with the outputs of pretrain, train and evaluate.
        dataset_dir: folder of the labelled data set.
        dataset: name of the data set.
        window: display window, in HU for CT; default: from 1 to 99 % of what is drawn.
        title: headline of the picture.
        modalities: for brats2020, the sequences that were used.
    """
    draw_overview(run_dir, dataset, dataset_dir, window, title, modalities)
    return summary(run_dir)


def report(*run_dirs: str, output: str | None = None, title: str = "", max_mib: float = 25) -> str:
    """Write report.html: what a run learnt and how well it segments, with the volumes of its cases in 3D.

    The page needs no network and can be sent to a colleague. It shows the cases of the first run. Further runs are
    compared with it.

    Args:
        run_dirs: folders of runs; each is the output of a step, or holds outputs of steps.
        output: target file; default: report.html in the first folder.
        title: headline.
        max_mib: size of viewer, previews and volumes in MiB. If they do not fit, the best cases have no volumes.
    """
    return str(write_report([str(folder) for folder in run_dirs], output, title, max_mib))


def nnunet(
    dataset: str | int,
    output: str,
    plans: str = "nnUNetPlans",
    configuration: str = "3d_fullres",
    fold: int | str = 0,
    also: str | list | tuple = (),
    **settings: Any,
) -> str:
    """Pre-train the network of nnU-Net's plans on a fold's training cases, and print the command for training it.

    Needs nnunetv2 2.8 (the extra `nnunet`) and its environment variable nnUNet_preprocessed. Repeat the command to
    continue an interrupted run. OUTPUT/pretrain.json lists further settings to set by name, such as `--epochs 100`.

    Args:
        dataset: number or name of the data set, such as 4 or Dataset004_Hippocampus.
        output: folder of the run; checkpoint_pretrained.pth in it is for `nnUNetv2_train -pretrained_weights`.
        plans: name of the plans, such as nnUNetResEncUNetLPlans.
        configuration: 3d_fullres or 3d_lowres.
        fold: fold that nnU-Net will train. Its validation cases are never seen. With all, no case is held out.
        also: folder, or list of folders such as "['/a','/b']", of images preprocessed with the same plans.
        settings: further settings, by name.
    """
    checkpoint = pretrain(dataset, output, plans, configuration, fold, also, **settings)
    return training_command(read_plan(dataset, plans, configuration), fold, Path(checkpoint))


def from_nnunet(checkpoint: str, output: str) -> str:
    """Write weights of nnU-Net's PlainConvUNet for a bundle with DynUNet; print the settings to train the bundle with.

    Args:
        checkpoint: checkpoint_final.pth of nnU-Net's default plans, 3D.
        output: target file, for the bundle's `pretrained`.
    """
    settings = convert_to_dynunet(checkpoint, output)
    of_bundle = ("kernel_size", "strides", "upsample_kernel_size", "filters")
    values = [f"--network_def#{name} '{json.dumps(settings[name], separators=(',', ':'))}'" for name in of_bundle]
    return " ".join([f"--pretrained {shlex.quote(str(Path(output).resolve()))}", *values])


def main() -> None:
    """Run one command; print only one line for an error whose message names the cause."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quieten_readers()
    try:
        commands = {
            "check": check,
            "download": download,
            "export": export,
            "from_nnunet": from_nnunet,
            "nnunet": nnunet,
            "overview": overview,
            "phantoms": phantoms,
            "prepare": prepare,
            "pull": pull,
            "push": push,
            "report": report,
        }
        fire.Fire(commands, name="hybridmim_components")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
