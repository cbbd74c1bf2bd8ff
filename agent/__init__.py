"""The node agent: facts from etcd, BGP and the kernel become wishes, and wishes become kernel objects."""
