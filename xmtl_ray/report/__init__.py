"""The HTML that a person looks at. Imports records and numbers, no torch."""
