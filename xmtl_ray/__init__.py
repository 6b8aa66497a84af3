"""Multimedia event extraction on Ray: files become records, records tensors, tensors scores, scores events."""

__version__ = "0.1.0"
