"""What is wrong with what is stored, how it is mended, and how full pools and blocks are."""
