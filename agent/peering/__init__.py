"""This node as a BGP speaker: its peers, their policies, the prefixes it originates, the next hops it learned."""
