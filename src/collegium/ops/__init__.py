"""Pure tensor maths; imports torch and nothing of ours."""
