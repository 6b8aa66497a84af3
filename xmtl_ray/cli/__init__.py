"""The verbs, a file per group. Arguments are parsed first; heavy imports live inside the verb that needs them."""
