"""The connection to Ray and what its jobs share, for every room that runs on it. Imports nothing of this project."""
