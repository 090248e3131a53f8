"""What ends a run whose gradients are not numbers any more."""


class TrainingDiverged(RuntimeError):
    """More steps than allowed had gradients that were not finite."""
