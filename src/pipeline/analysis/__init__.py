"""Why transfer helped or did not: measurements of finished runs that training itself does not need."""
