"""Tables of (our module's path as a pattern, TensorFlow's scope): see `names`."""
