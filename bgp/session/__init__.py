"""One session with one peer: its state machine and timers, ConnectRetry, and collisions of two connections."""
