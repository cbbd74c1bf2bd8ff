"""The kernel's own protocols: netlink, nf_tables, ethtool, sysctls. It knows nothing of pods, pools or Calico."""
