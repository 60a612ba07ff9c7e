"""Masks and patch features -> the same id for similar objects: descriptors, K-means."""
