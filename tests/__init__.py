"""Everything that proves the product: cores by tables and properties, outsides by contracts, the whole by labs."""
