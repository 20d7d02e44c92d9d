"""The maths: tensors and numbers in, tensors out; torch only."""
