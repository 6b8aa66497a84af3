"""The four tasks, the mixture of their examples and the objective. Imports data, models, evaluation and below."""
