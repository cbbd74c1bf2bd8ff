"""Everything that proves the product: cores by tables and properties, outsides by contracts, the whole by labs."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout."""
