"""Fully connected CRF with Gaussian edge potentials, in compiled loops over a lattice."""

from u2seg.crf.dense_crf import CrfKernels, DenseCrf

__all__ = ["CrfKernels", "DenseCrf"]
