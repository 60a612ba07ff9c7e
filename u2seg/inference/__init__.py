"""Trained models at work: a model loaded, its predictions, and what is written of them."""
