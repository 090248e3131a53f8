"""Personal data in text: found by form and checksum, masked or counted."""
