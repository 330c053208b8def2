"""Values, protocols, errors and files that every floor shares."""
