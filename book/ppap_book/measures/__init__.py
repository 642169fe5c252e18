"""Measures of images, of models and of trainings."""
