# SPDX-License-Identifier: Apache-2.0

"""Trainers for nnU-Net, which imports every module of the folder in the environment variable ``nnUNet_extTrainer``."""
