"""The kernel's side: which objects should exist, which do, and how the difference is carried out."""
