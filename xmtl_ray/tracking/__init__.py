"""MLflow, and what happens while it is down. Imports events and config."""
