"""Ordinary LightningModules and DataModules to train; they know nothing of gdp.

Only the two programs beside them do: `demo`, and `train`, which adds GDPCallback as a config says.
"""

from lightning_modules.classification import Classification
from lightning_modules.data import CIFAR10Data, DigitsData, ImageFolderData

__all__ = ["CIFAR10Data", "Classification", "DigitsData", "ImageFolderData"]
