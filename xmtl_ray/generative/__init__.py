"""Conversations become tokens, tokens are learnt from and written, answers are scored.

Imports models, data, evaluation, events, config; no ray, no mlflow.
"""
