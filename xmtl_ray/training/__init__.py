"""The loop, its engines and how Ray runs it. The only room that knows Ray and DeepSpeed."""
