"""A cluster on one machine: real agents in network namespaces behind a fabric, with a real etcd."""
