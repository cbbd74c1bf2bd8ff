"""Address management over etcd in Calico's layout; it knows nothing of the kernel, of CNI or of BGP."""
