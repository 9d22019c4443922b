"""Requests in, images out: conditioning, passes, the sampler, the pipeline."""
