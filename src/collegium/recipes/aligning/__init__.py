"""`align run / eval / sample`: moving a model to a target."""
