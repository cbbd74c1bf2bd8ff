"""The CNI side under test."""
