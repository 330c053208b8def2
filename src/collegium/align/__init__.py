"""Moving a language model to a reward or to a distribution, without losing what it was."""
