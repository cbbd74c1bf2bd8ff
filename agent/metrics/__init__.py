"""What the agent tells of itself to monitoring: series in Prometheus' text form, and whether it lives and is ready."""
