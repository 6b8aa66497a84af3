"""Ray Data jobs that see many images or pairs once: detections now, pseudo-labels next. Imports data and models."""
