"""The connection to Ray, jobs on a cluster, and what all rooms that run on it share."""
