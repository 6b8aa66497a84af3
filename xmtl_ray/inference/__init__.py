"""Documents to events with a trained model. Imports data, models, evaluation and below; no Ray."""
