"""Encoders, heads and X-MTL as torch modules, and their weights on disk. Imports events and config; no Ray."""
