"""Training beyond the Trainer: starts, stages, samplers."""
