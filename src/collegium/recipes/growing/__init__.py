"""Libraries that grow as domains arrive: a new expert, or the nearest one extended; consolidated, retired, told."""
