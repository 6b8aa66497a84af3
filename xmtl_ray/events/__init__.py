"""Labels and records: what an event is. Imports config only; no torch."""
