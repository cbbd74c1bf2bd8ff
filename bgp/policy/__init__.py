"""What is configured of a neighbour: whom we peer with, what is accepted, what is announced and how."""
