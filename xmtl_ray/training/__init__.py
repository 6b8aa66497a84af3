"""The loop, its engines and how Ray runs it. Imports everything below except inference's siblings."""
