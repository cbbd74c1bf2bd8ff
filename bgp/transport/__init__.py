"""The speaker's shell: TCP, listening sockets, the loop that moves octets and deadlines."""
