"""Questions with known answers, searches over them, and what can be said of the outcome."""
