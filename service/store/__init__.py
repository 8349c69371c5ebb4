"""The database. Only this room speaks SQL."""
