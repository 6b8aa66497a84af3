"""The only F1, and the protocols that count for it. Imports events and config; no torch."""
