"""What is handed to strangers: programs that import nothing of ours."""
