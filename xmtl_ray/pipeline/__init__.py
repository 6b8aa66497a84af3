"""Stages that run when what they depend on has changed, X-MTL as such stages, and the paper's tables made of them."""
