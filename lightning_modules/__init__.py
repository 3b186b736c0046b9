"""Ordinary LightningModules and DataModules; they know nothing of gdp."""

from lightning_modules.classification import Classification
from lightning_modules.data import CIFAR10Data, DigitsData, ImageFolderData

__all__ = ["CIFAR10Data", "Classification", "DigitsData", "ImageFolderData"]
