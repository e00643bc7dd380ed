"""What made the numbers in the documentation; each folder is a small package of its own."""
