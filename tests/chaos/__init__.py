"""Random faults on a lab, and what must hold all the same: `python -m tests.chaos --seconds 1800`, or `make chaos`."""
