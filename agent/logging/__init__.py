"""How what is logged gets out: events with fields, to journald or as lines. Who logs does so by structlog."""
