"""Kinds of kernel object, a file for each: how it is read, compared, written, removed and explained."""
