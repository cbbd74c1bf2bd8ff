"""Labs of one question: whether a node stays what it is."""
