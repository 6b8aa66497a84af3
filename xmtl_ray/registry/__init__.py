"""Models as MLflow versions: registering, gates, promotion, what answers when one is loaded."""
