"""What goes wrong with real workers on a real broker, and a checker that says what it cost."""
