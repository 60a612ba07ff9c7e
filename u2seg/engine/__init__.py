"""Composition root of the training half: settings, training, prediction, evaluation."""
