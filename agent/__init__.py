"""The node agent: facts from etcd, BGP and the kernel become the desired state, and that becomes kernel objects."""
