"""What data is there, and is it sound."""
