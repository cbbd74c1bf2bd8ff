"""Labs beside what is not ours: reflectors, routers of a rack, Docker and firewalld."""
