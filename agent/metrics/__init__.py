"""What the agent exposes to monitoring: series in Prometheus' text form, and whether it lives and is ready."""
