"""The measures, a module each: the work, who does it, and the goal beside it; letters are those of the table."""
