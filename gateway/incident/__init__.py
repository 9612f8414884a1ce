"""What people do about an incident: name it, read what happened, go back, and have it on the record."""
