"""What the tests of the law of troubles share."""
