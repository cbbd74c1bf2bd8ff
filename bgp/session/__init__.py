"""One session with one neighbour: its state machine, timers, connections and when to call again."""
