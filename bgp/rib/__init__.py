"""The routing information bases of RFC 4271 section 3.2, the decision between paths, graceful restart."""
