"""What a trained classifier does: its predictions with their uncertainty, and one review word by word."""
