"""Encoders, heads and X-MTL as torch modules, and their weights on disk. Imports events and config; no Ray."""

import logging

# When it is imported, by PEFT, it tells on some CPUs that its kernels can be had from a hub, which nothing here asks.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
