"""The connection to Ray, for every room that runs on it. Imports nothing of this project."""
