"""`library update`: incoming documents to their experts."""
