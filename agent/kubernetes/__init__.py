"""The API server of Kubernetes: what is read there, what is said there, and what follows from a deleted Node."""
