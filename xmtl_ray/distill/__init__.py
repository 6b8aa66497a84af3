"""Ray Data jobs that see many images or pairs once: detections, pseudo-labels. Imports data, models and inference."""
