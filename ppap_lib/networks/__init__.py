"""Networks whose state-dict keys are those of the public checkpoints."""
