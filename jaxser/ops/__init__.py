"""Pure jittable functions, each with its formula."""
