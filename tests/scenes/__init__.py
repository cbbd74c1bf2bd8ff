"""What several tests start from: clusters, nodes, labs, programs at work; nothing here is a test."""
