"""What an attacker, or a reader of logs, must never get."""
